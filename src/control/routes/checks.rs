//! Questions about a mapping before it is made, and about one that does not work.

use std::fmt::Display;
use std::str::FromStr;

use aide::axum::ApiRouter;
use aide::axum::routing::post_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mappings::MappingPath;
use super::{Answer, Desk, says, unexpected};
use crate::control::document::Tag;
use crate::control::extract::{At, Body};
use crate::control::refused::May::{Clash, Invalid, Missing};
use crate::control::rows;
use crate::model::id::MappingId;
use crate::model::mapping::{Listen, Protocol, Target};
use crate::model::problem::Problem;
use crate::model::profile::WrittenMapping;
use crate::model::report::Report;
use crate::model::request::{PortReport, ProbeResult, Reply, Request, RequestError};
use crate::model::untrusted::SafeText;

pub(super) fn resources() -> ApiRouter<Desk> {
    let says = |id, summary, refusals| says(id, Tag::Checks, summary, refusals);
    let says_why = says("why", "Why it does not work: its target is connected to once for each address", &[Missing]);
    let says_validate = says("validate", "Checks a mapping without adding it", &[Invalid]);
    let says_ports = says("who_holds", "Who holds these ports, and which is free", &[Clash, Invalid]);
    let says_probe = says("probe", "Connects to each address of a target once", &[Invalid]);
    ApiRouter::new()
        .api_route("/v1/mappings/{mapping}/why", post_with(why, says_why))
        .api_route("/v1/validate", post_with(validate, says_validate))
        .api_route("/v1/ports", post_with(who_holds, says_ports))
        .api_route("/v1/probe", post_with(probe, says_probe))
}

async fn why(State(desk): State<Desk>, At(place): At<MappingPath>) -> Answer<Report> {
    let (_, row) = rows::mapping(&desk.handle, &place.mapping).await?;
    match desk.ask(Request::Why { id: row.id }).await? {
        Reply::Why(report) => Ok(Json(*report)),
        other => Err(unexpected(&other)),
    }
}

/// A mapping to be checked.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Checking {
    /// The mapping.
    mapping: WrittenMapping,
    /// The mapping that it would replace.
    #[serde(default)]
    replaces: Option<MappingId>,
}

/// A mapping that is fine.
#[derive(Debug, Serialize, JsonSchema)]
struct Valid {
    /// The name that it would get.
    name: String,
    /// What to know of it.
    notes: Vec<SafeText>,
    /// Where clients will find it, best first.
    places: Vec<SafeText>,
}

async fn validate(State(desk): State<Desk>, Body(checking): Body<Checking>) -> Answer<Valid> {
    let Checking { mapping, replaces } = checking;
    match desk.ask(Request::Validate { mapping, replaces }).await? {
        Reply::Valid { name, notes, places, .. } => Ok(Json(Valid { name, notes, places })),
        other => Err(unexpected(&other)),
    }
}

/// Ports to be looked at.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ports {
    /// The listen side of a mapping.
    #[schemars(with = "Listen")]
    listen: String,
    /// By which protocol.
    #[serde(default)]
    protocol: Protocol,
    /// A mapping that may hold it already.
    #[serde(default)]
    except: Option<MappingId>,
}

async fn who_holds(State(desk): State<Desk>, Body(ports): Body<Ports>) -> Answer<PortReport> {
    let Ports { listen, protocol, except } = ports;
    let listen = read("listen", &listen)?;
    match desk.ask(Request::WhoHolds { listen, protocol, except }).await? {
        Reply::Port(report) => Ok(Json(report)),
        other => Err(unexpected(&other)),
    }
}

/// A target to be tried.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Trying {
    /// Whom.
    #[schemars(with = "Target")]
    target: String,
    /// By what.
    #[serde(default)]
    protocol: Protocol,
}

/// What came of it.
#[derive(Debug, Serialize, JsonSchema)]
struct Tried {
    /// In the order of trying.
    results: Vec<ProbeResult>,
    /// Why there is none.
    reason: Option<SafeText>,
}

async fn probe(State(desk): State<Desk>, Body(trying): Body<Trying>) -> Answer<Tried> {
    let target = read("target", &trying.target)?;
    match desk.ask(Request::Probe { target, protocol: trying.protocol }).await? {
        Reply::Probed { results, reason } => Ok(Json(Tried { results, reason })),
        other => Err(unexpected(&other)),
    }
}

/// Reads text whose grammar knows more than a pattern can say, such as that a range does not end before it starts. It
/// is invalid then, as in a mapping, and not unreadable.
fn read<T: FromStr<Err: Display>>(path: &str, text: &str) -> Result<T, RequestError> {
    text.parse()
        .map_err(|error: T::Err| RequestError::Invalid { problems: vec![Problem::new(path, error.to_string())] })
}
