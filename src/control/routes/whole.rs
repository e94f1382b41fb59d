//! The engine as a whole: its state, its counters, its end.

use aide::OperationOutput;
use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Described};
use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::{JsonSchema, json_schema};
use serde::{Deserialize, Serialize};

use super::{Answer, Desk, Done, says};
use crate::control::document::{Tag, described};
use crate::control::extract::Params;
use crate::control::metrics_port;
use crate::control::refused::Refused;
use crate::control::rows;
use crate::metrics::Format;
use crate::model::request::Request;
use crate::model::update::{Interest, Overview};

pub(super) fn resources() -> ApiRouter<Desk> {
    ApiRouter::new()
        .api_route("/v1/engine", get_with(engine, says("engine", Tag::Engine, "State of the whole", &[])))
        .api_route("/v1/shutdown", post_with(shutdown, says("shutdown", Tag::Engine, "Ends the engine", &[])))
        .api_route(
            "/metrics",
            get_with(exposition, says("metrics", Tag::Engine, "What is counted, as Prometheus reads it", &[])),
        )
}

/// What runs.
#[derive(Debug, Serialize, JsonSchema)]
struct Engine {
    /// Release of the program.
    version: String,
    /// Its process.
    pid: u32,
    /// State of the whole.
    #[serde(flatten)]
    overview: Overview,
}

async fn engine(State(desk): State<Desk>) -> Answer<Engine> {
    let overview = rows::look(&desk.handle, Interest { mappings: true, ..Interest::default() }).await?.overview;
    Ok(Json(Engine {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: std::process::id(),
        overview: overview.unwrap_or_default(),
    }))
}

/// How to end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Ending {
    /// How long connections may finish, in milliseconds. Without it they are reset at once; `portolan shutdown` lets
    /// them finish for 5 s.
    #[serde(default)]
    drain_ms: u64,
}

async fn shutdown(State(desk): State<Desk>, Params(ending): Params<Ending>) -> Answer<Done> {
    desk.change(None, Request::Shutdown { drain_ms: ending.drain_ms }).await
}

async fn exposition(State(desk): State<Desk>, headers: HeaderMap) -> Result<Exposition, Refused> {
    let format = metrics_port::format(&headers);
    Ok(Exposition(metrics_port::text(&desk.handle, format).await?, format))
}

/// What is counted, as text.
#[derive(Debug)]
struct Exposition(String, Format);

impl IntoResponse for Exposition {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, self.1.content_type())], self.0).into_response()
    }
}

impl OperationOutput for Exposition {
    type Inner = Self;

    fn operation_response(_: &mut GenContext, _: &mut Operation) -> Option<Described> {
        let text = "OpenMetrics 1.0 if `Accept` names it (and does not prefer plain text), else Prometheus' text format 0.0.4.";
        let [mut both, older] = [Format::OpenMetrics, Format::Prometheus]
            .map(|format| described(text, format.content_type(), json_schema!({ "type": "string" })));
        both.content.extend(older.content);
        Some(both)
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<u16>, Described)> {
        Self::operation_response(ctx, operation).map(|described| (Some(200), described)).into_iter().collect()
    }
}
