//! Profiles of the config folder.

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, put_with};
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Desk, Done, Expects, says, unexpected};
use crate::control::document::Tag;
use crate::control::extract::{Body, Params};
use crate::control::refused::May::{Clash, Invalid, Missing};
use crate::control::refused::Refused;
use crate::model::name;
use crate::model::request::{Reply, Request};

pub(super) fn resources() -> ApiRouter<Desk> {
    let says_list = says("list_profiles", Tag::Profiles, "Names of the profiles, and which is open", &[Clash]);
    let summary = "Writes the mappings to a new profile, and opens that";
    let says_save = says("save_as", Tag::Profiles, summary, &[Clash, Invalid]);
    let says_open = says("open_profile", Tag::Profiles, "Opens another profile", &[Missing, Clash, Invalid]);
    ApiRouter::new()
        .api_route("/v1/profiles", get_with(list, says_list).post_with(save_as, says_save))
        .api_route("/v1/profile", put_with(open, says_open))
}

/// Profiles of the config folder.
#[derive(Debug, Serialize, JsonSchema)]
struct ProfileList {
    /// Names, sorted.
    names: Vec<String>,
    /// The open one.
    open: Option<String>,
}

async fn list(State(desk): State<Desk>) -> Answer<ProfileList> {
    match desk.ask(Request::Profiles).await? {
        Reply::Profiles { names, open } => Ok(Json(ProfileList { names, open })),
        other => Err(unexpected(&other)),
    }
}

/// A profile by its name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ProfileName {
    /// Letters, digits, `.`, `_` and `-`, up to 64.
    #[schemars(regex(pattern = name::PATTERN))]
    name: String,
}

async fn save_as(
    State(desk): State<Desk>,
    Params(query): Params<Expects>,
    Body(profile): Body<ProfileName>,
) -> Answer<Done> {
    desk.change(query.revision, Request::SaveAs { name: profile.name }).await
}

/// Which profile.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Opening {
    /// Letters, digits, `.`, `_` and `-`, up to 64.
    #[schemars(regex(pattern = name::PATTERN))]
    name: String,
    /// Begin one of that name, without mappings, if there is none. Else that is refused: the mappings that run would
    /// all end.
    #[serde(default)]
    new: bool,
}

async fn open(
    State(desk): State<Desk>,
    Params(query): Params<Expects>,
    Body(Opening { name, new }): Body<Opening>,
) -> Answer<Done> {
    if !new
        && name::check_name(&name).is_ok()
        && let Reply::Profiles { names, open } = desk.ask(Request::Profiles).await?
        && !names.contains(&name)
        && open.as_ref() != Some(&name)
    {
        return Err(Refused::not_found(&format!("profile {name} (\"new\": true begins one)")));
    }
    desk.change(query.revision, Request::OpenProfile { name }).await
}
