//! Connections and UDP flows: listed, looked at, reset; and who is behind an alias.

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Desk, Done, says, unexpected};
use crate::control::document::Tag;
use crate::control::extract::{At, Params};
use crate::control::refused::May::{Invalid, Missing};
use crate::control::rows;
use crate::model::alias::WhoIs;
use crate::model::id::ConnectionId;
use crate::model::problem::Problem;
use crate::model::request::{Reply, Request, RequestError};
use crate::model::untrusted::SafeText;
use crate::model::update::ConnectionRow;

pub(super) fn resources() -> ApiRouter<Desk> {
    let says = |id, summary| says(id, Tag::Connections, summary, &[Missing]);
    let who = "The client behind an alias, or a client's alias, with who had it before";
    let says_whois = super::says("whois", Tag::Connections, who, &[Missing, Invalid]);
    ApiRouter::new()
        .api_route("/v1/aliases/{address}", get_with(whois, says_whois))
        .api_route(
            "/v1/connections",
            get_with(list, says("list_connections", "Connections and UDP flows, oldest first")),
        )
        .api_route(
            "/v1/connections/{id}",
            get_with(get, says("get_connection", "A connection, open or closed lately"))
                .delete_with(kill, says("kill_connection", "Resets a connection")),
        )
}

#[derive(Debug, Deserialize, JsonSchema)]
struct AliasPath {
    /// An alias, or the address of a client; of that, the zone is passed over.
    address: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
struct ConnectionPath {
    /// Its id.
    id: ConnectionId,
}

/// Which connections.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Connecting {
    /// Those that closed lately, too.
    #[serde(default)]
    closed: bool,
    /// Of this mapping alone: its name, or its id.
    mapping: Option<String>,
}

/// Connections at one moment.
#[derive(Debug, Serialize, JsonSchema)]
struct ConnectionList {
    /// Oldest first.
    connections: Vec<ConnectionRow>,
}

async fn list(State(desk): State<Desk>, Params(query): Params<Connecting>) -> Answer<ConnectionList> {
    let of = match &query.mapping {
        Some(mapping) => Some(rows::mapping(&desk.handle, mapping).await?.1.id),
        None => None,
    };
    let mut connections = rows::connections(&desk.handle, query.closed).await?;
    connections.retain(|row| of.is_none_or(|of| row.mapping_id == of));
    Ok(Json(ConnectionList { connections }))
}

async fn get(State(desk): State<Desk>, At(place): At<ConnectionPath>) -> Answer<ConnectionRow> {
    Ok(Json(rows::connection(&desk.handle, place.id).await?))
}

async fn whois(State(desk): State<Desk>, At(place): At<AliasPath>) -> Answer<WhoIs> {
    let (plain, _) = place.address.split_once('%').unwrap_or((&place.address, ""));
    let address = plain.parse().map_err(|_| {
        let text = format!("\"{}\" is no address", SafeText::quoted(&place.address));
        let problem = Problem::new("address", text).with_hint("write it as 198.18.3.7 or 2001:db8::7");
        RequestError::Invalid { problems: vec![problem] }
    })?;
    match desk.ask(Request::Whois { address }).await? {
        Reply::Whois(found) => Ok(Json(*found)),
        other => Err(unexpected(&other)),
    }
}

async fn kill(State(desk): State<Desk>, At(place): At<ConnectionPath>) -> Answer<Done> {
    desk.change(None, Request::Kill { id: place.id }).await
}
