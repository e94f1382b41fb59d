//! The resources: the requests of `model::request` under `/v1`, the same for every client.
//!
//! `/v1/call` and `/v1/updates` carry requests and updates as they are, for screens in other processes; everything else
//! says the same in the way of HTTP, for scripts. `revision` in a query names the state that a change was made from;
//! it is refused (409) when that is no longer the one that stands. What each operation is for clients is said here and
//! by the types; [`super::document`] makes the document of it.

mod checks;
mod connections;
mod containers;
mod mappings;
mod profiles;
mod streams;
mod whole;

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use aide::openapi::OpenApi;
use aide::transform::TransformOperation;
use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::document::{self, Document, Tag};
use super::refused::{May, Refused};
use crate::model::id::{MappingId, Revision};
use crate::model::request::{Call, Reply, Request, RequestError};
use crate::model::untrusted::SafeText;
use crate::service::Handle;

/// What the resources answer from.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    handle: Handle,
    streams: Arc<Semaphore>,
    most_streams: usize,
    document: Document,
}

/// Every resource, over the service of `handle`, with so many streams at once.
pub(super) fn router(handle: Handle, most_streams: usize) -> Router {
    let (resources, document) = described();
    let streams = Arc::new(Semaphore::new(most_streams));
    let document = Document::new(&document::finished(&document));
    let desk = Desk { handle, streams, most_streams, document };
    resources
        .fallback(async |request: HttpRequest| Refused::not_found(SafeText::quoted(request.uri().path()).as_str()))
        .method_not_allowed_fallback(async || Refused::with(StatusCode::METHOD_NOT_ALLOWED, "not by this method"))
        .with_state(desk)
}

/// What the control socket understands, as an `OpenAPI` 3.1 document.
pub fn openapi() -> serde_json::Value {
    document::finished(&described().1)
}

fn described() -> (Router<Desk>, OpenApi) {
    let mut document = document::empty();
    let router = resources().finish_api(&mut document);
    (router, document)
}

/// `summary`, for an operation called `id`, which may be refused in these ways beside those that each may be.
fn says(
    id: &'static str,
    tag: Tag,
    summary: &'static str,
    refusals: &'static [May],
) -> impl for<'t> FnOnce(TransformOperation<'t>) -> TransformOperation<'t> {
    move |operation| {
        let mut operation = operation.id(id).tag(tag.name()).summary(summary);
        May::describe(refusals, operation.inner_mut());
        operation
    }
}

fn resources() -> ApiRouter<Desk> {
    let document = get_with(document, says("openapi", Tag::Engine, "This document", &[]));
    whole::resources()
        .merge(mappings::resources())
        .merge(connections::resources())
        .merge(containers::resources())
        .merge(profiles::resources())
        .merge(checks::resources())
        .merge(streams::resources())
        .api_route("/openapi.json", document)
}

/// An answer: JSON, or why not.
type Answer<T> = Result<Json<T>, Refused>;

/// From which state a change was made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Expects {
    /// Refuse (409) unless the desired state stands at this revision.
    revision: Option<Revision>,
}

/// A change that was made.
#[derive(Debug, Serialize, JsonSchema)]
struct Done {
    /// The mappings it concerned.
    ids: Vec<MappingId>,
    /// One line for people.
    message: SafeText,
}

async fn document(State(desk): State<Desk>) -> Result<Document, Refused> {
    Ok(desk.document)
}

impl Desk {
    async fn ask(&self, request: Request) -> Result<Reply, Refused> {
        Ok(self.handle.request(request).await?)
    }

    async fn change(&self, expected: Option<Revision>, request: Request) -> Answer<Done> {
        match self.handle.call(Call { expected, request }).await? {
            Reply::Done { ids, message, .. } => Ok(Json(Done { ids, message })),
            other => Err(unexpected(&other)),
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            Refused::with(
                StatusCode::SERVICE_UNAVAILABLE,
                &format!("{} streams are open, as many as there may be", self.most_streams),
            )
        })
    }
}

/// The service has answered another question.
fn unexpected(reply: &Reply) -> Refused {
    tracing::error!(?reply, "an answer to another question");
    RequestError::Gone.into()
}
