//! What goes on, and what screens in other processes ask.

use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Answer, Desk, says};
use crate::control::document::Tag;
use crate::control::extract::{Body, Params};
use crate::control::refused::May::{Clash, Invalid, Missing};
use crate::control::refused::Refused;
use crate::control::stream::{self, Lines};
use crate::model::duration::{self, parse_timeout};
use crate::model::event::Event;
use crate::model::problem::Problem;
use crate::model::request::{Call, Reply, RequestError};
use crate::model::update::{Interest, Update};

/// Time between two `traffic` events, unless the query says otherwise.
const INTERVAL: Duration = Duration::from_secs(1);
/// The shortest.
const SHORTEST: Duration = Duration::from_millis(20);

pub(super) fn resources() -> ApiRouter<Desk> {
    let says_events = says("events", Tag::Engine, "What happens, and traffic between it, as it comes", &[Invalid]);
    let says_updates = says(
        "updates",
        Tag::Screens,
        "Rows and events as they change, for screens; an empty line now and then, and long ones in pieces",
        &[],
    );
    let says_call = says("call", Tag::Screens, "A request as it is, for screens", &[Missing, Clash, Invalid]);
    ApiRouter::new()
        .api_route("/v1/events", get_with(events, says_events))
        .api_route("/v1/updates", post_with(updates, says_updates))
        .api_route("/v1/call", post_with(call, says_call))
}

/// How events are told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Telling {
    /// Time between two `traffic` events, such as `1s` (default); at least 20ms.
    #[schemars(with = "Option<String>", regex(pattern = duration::PATTERN))]
    interval: Option<String>,
}

async fn events(State(desk): State<Desk>, Params(query): Params<Telling>) -> Result<Lines<Event>, Refused> {
    let every = query.interval.as_deref().map_or(Ok(INTERVAL), interval);
    let every = every.map_err(|problem| RequestError::Invalid { problems: vec![problem] })?;
    let sample_ms = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).min(250);
    let interest = Interest { mappings: true, connections: true, events: true, sample_ms, ..Interest::default() };
    let place = desk.place()?;
    Ok(stream::events(desk.handle.subscribe_on_demand(interest).await?, every, place))
}

fn interval(text: &str) -> Result<Duration, Problem> {
    let every = parse_timeout("interval", text)?;
    if every < SHORTEST {
        return Err(Problem::new("interval", "the shortest is 20ms"));
    }
    Ok(every)
}

async fn updates(State(desk): State<Desk>, Body(interest): Body<Interest>) -> Result<Lines<Update>, Refused> {
    let place = desk.place()?;
    Ok(stream::updates(desk.handle.subscribe_on_demand(interest).await?, place))
}

async fn call(State(desk): State<Desk>, Body(call): Body<Call>) -> Answer<Reply> {
    Ok(Json(desk.handle.call(call).await?))
}
