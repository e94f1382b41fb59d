//! Mappings: listed, added, replaced, removed, started, stopped, and the last change taken back.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Answer, Desk, Done, Expects, says};
use crate::control::document::Tag;
use crate::control::extract::{At, Body, Params};
use crate::control::refused::May::{Clash, Invalid, Missing};
use crate::control::rows;
use crate::model::id::Revision;
use crate::model::profile::WrittenMapping;
use crate::model::request::Request;
use crate::model::update::MappingRow;

pub(super) fn resources() -> ApiRouter<Desk> {
    let says_list = says("list_mappings", Tag::Mappings, "Every mapping, in the order of the profile", &[]);
    let says_add = says("add_mapping", Tag::Mappings, "Adds a mapping", &[Clash, Invalid]);
    let says_add_all = says("add_mappings", Tag::Mappings, "Adds several mappings, all or none", &[Clash, Invalid]);
    let says_get = says("get_mapping", Tag::Mappings, "A mapping, by its name or id", &[Missing]);
    let changes = |id, summary| says(id, Tag::Mappings, summary, &[Missing, Clash, Invalid]);
    let says_undo = says("undo", Tag::Mappings, "Takes the last change back", &[Clash, Invalid]);
    ApiRouter::new()
        .api_route("/v1/mappings", get_with(list, says_list).post_with(add, says_add))
        .api_route("/v1/mappings:batch", post_with(add_all, says_add_all))
        .api_route(
            "/v1/mappings/{mapping}",
            get_with(get, says_get)
                .put_with(edit, changes("edit_mapping", "Replaces a mapping"))
                .delete_with(remove, changes("remove_mapping", "Removes a mapping, resetting its connections")),
        )
        .api_route("/v1/mappings/{mapping}/start", post_with(start, changes("start_mapping", "Starts a mapping")))
        .api_route(
            "/v1/mappings/{mapping}/stop",
            post_with(stop, changes("stop_mapping", "Stops a mapping, resetting its connections")),
        )
        .api_route("/v1/undo", post_with(undo, says_undo))
}

/// How a mapping is added or replaced.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Changing {
    /// Refuse (409) unless the desired state stands at this revision.
    revision: Option<Revision>,
    /// Keep the mapping although its port is in use: it is `failed` then, and retried.
    #[serde(default)]
    even_if_busy: bool,
}

#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct MappingPath {
    /// Its name, or its id.
    pub(super) mapping: String,
}

/// The mappings at one moment.
#[derive(Debug, Serialize, JsonSchema)]
struct MappingList {
    /// Of the desired state: a change made from this list names it.
    revision: Revision,
    /// In the order of the profile.
    mappings: Vec<MappingRow>,
}

/// Which mappings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// List what Docker itself publishes, too.
    #[serde(default)]
    published: bool,
}

async fn list(State(desk): State<Desk>, Params(query): Params<Listing>) -> Answer<MappingList> {
    let (update, mappings) = rows::mappings(&desk.handle, query.published).await?;
    let revision = update.overview.map(|overview| overview.revision).unwrap_or_default();
    Ok(Json(MappingList { revision, mappings }))
}

async fn add(
    State(desk): State<Desk>,
    Params(query): Params<Changing>,
    Body(mapping): Body<WrittenMapping>,
) -> Answer<Done> {
    desk.change(query.revision, Request::Add { mapping, even_if_busy: query.even_if_busy }).await
}

/// Several mappings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = json!({ "mappings": [{ "listen": "auto", "target": "web_1:80" }] }))]
struct Several {
    /// In the order in which they are added.
    mappings: Vec<WrittenMapping>,
}

async fn add_all(
    State(desk): State<Desk>,
    Params(query): Params<Changing>,
    Body(several): Body<Several>,
) -> Answer<Done> {
    let request = Request::AddAll { mappings: several.mappings, even_if_busy: query.even_if_busy };
    desk.change(query.revision, request).await
}

async fn get(State(desk): State<Desk>, At(place): At<MappingPath>) -> Answer<MappingRow> {
    Ok(Json(rows::mapping(&desk.handle, &place.mapping).await?.1))
}

async fn edit(
    State(desk): State<Desk>,
    At(place): At<MappingPath>,
    Params(query): Params<Changing>,
    Body(mapping): Body<WrittenMapping>,
) -> Answer<Done> {
    let (_, row) = rows::mapping(&desk.handle, &place.mapping).await?;
    let request = Request::Edit { id: row.id, mapping, even_if_busy: query.even_if_busy };
    desk.change(query.revision, request).await
}

async fn remove(State(desk): State<Desk>, At(place): At<MappingPath>, Params(query): Params<Expects>) -> Answer<Done> {
    let ids = vec![rows::mapping(&desk.handle, &place.mapping).await?.1.id];
    desk.change(query.revision, Request::Remove { ids }).await
}

async fn start(State(desk): State<Desk>, At(place): At<MappingPath>, Params(query): Params<Expects>) -> Answer<Done> {
    let ids = vec![rows::mapping(&desk.handle, &place.mapping).await?.1.id];
    desk.change(query.revision, Request::Start { ids }).await
}

async fn stop(State(desk): State<Desk>, At(place): At<MappingPath>, Params(query): Params<Expects>) -> Answer<Done> {
    let ids = vec![rows::mapping(&desk.handle, &place.mapping).await?.1.id];
    desk.change(query.revision, Request::Stop { ids }).await
}

async fn undo(State(desk): State<Desk>, Params(query): Params<Expects>) -> Answer<Done> {
    desk.change(query.revision, Request::Undo).await
}
