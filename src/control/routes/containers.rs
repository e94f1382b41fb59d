//! Containers, and who listens inside one.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Desk, says, unexpected};
use crate::control::document::Tag;
use crate::control::extract::At;
use crate::control::refused::May::Missing;
use crate::model::container::{Container, DockerState, InsideListener};
use crate::model::request::{Reply, Request};
use crate::model::untrusted::SafeText;

pub(super) fn resources() -> ApiRouter<Desk> {
    let says_list = says("list_containers", Tag::Containers, "The containers known now", &[]);
    let says_inside = says("list_listeners", Tag::Containers, "Who listens inside a container", &[Missing]);
    ApiRouter::new()
        .api_route("/v1/containers", get_with(list, says_list))
        .api_route("/v1/containers/{container}/listeners", get_with(listeners, says_inside))
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ContainerPath {
    /// Its full id.
    container: String,
}

/// Containers.
#[derive(Debug, Serialize, JsonSchema)]
struct ContainerList {
    /// Running ones first, by name.
    containers: Vec<Container>,
    /// Whether the list can be trusted.
    docker: DockerState,
}

async fn list(State(desk): State<Desk>) -> Answer<ContainerList> {
    match desk.ask(Request::Containers).await? {
        Reply::Containers { containers, docker } => Ok(Json(ContainerList { containers, docker })),
        other => Err(unexpected(&other)),
    }
}

/// Who listens inside a container.
#[derive(Debug, Serialize, JsonSchema)]
struct Listeners {
    /// Lowest port first.
    listeners: Vec<InsideListener>,
    /// Why they cannot be seen, and what that needs.
    unseen: Option<SafeText>,
}

async fn listeners(State(desk): State<Desk>, At(place): At<ContainerPath>) -> Answer<Listeners> {
    match desk.ask(Request::Inside { container: SafeText::new(&place.container) }).await? {
        Reply::Inside { listeners, unseen } => Ok(Json(Listeners { listeners, unseen })),
        other => Err(unexpected(&other)),
    }
}
