//! Lists: what there is now, once.

use std::io::Write;

use serde::Serialize;

use super::table::{self, Line, Rate, Rates};
use super::world::World;
use super::{Failure, Output, Remark};
use crate::model::container::DockerState;
use crate::model::event::Connection;
use crate::model::filter::Filter;
use crate::model::id::MappingId;
use crate::model::request::{Reply, Request};
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, Interest, MappingRow, Observed};
use crate::service::Handle;

/// What `ls` lists.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    /// What the screen's `/` would take.
    pub filter: String,
    /// What Docker publishes, too.
    pub published: bool,
}

/// What `connections` lists.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// What the screen's `/` would take.
    pub filter: String,
    /// Those that have ended, too, as far as the engine remembers them.
    pub closed: bool,
    /// Those of what Docker publishes, too.
    pub published: bool,
}

/// What `profiles` says.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(tag = "reply", rename = "profiles")]
pub struct Profiles {
    /// All, sorted.
    pub names: Vec<String>,
    /// The one that the engine that was asked has open.
    pub open: Option<String>,
    /// Those that an engine runs.
    pub running: Vec<String>,
}

/// A connection as the event stream tells of it, and what a row knows beside that.
#[derive(Debug, Serialize)]
pub(super) struct Told<'a> {
    #[serde(flatten)]
    connection: Connection,
    mapping_id: MappingId,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<&'a SafeText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed: Option<&'a Observed>,
}

/// `ls`: the mappings, in the order of the profile.
///
/// # Errors
/// When the engine is gone, or the answer cannot be written.
pub async fn mappings(handle: &Handle, what: &Mappings, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let interest = Interest { mappings: true, published: what.published, ..Interest::default() };
    let world = World::once(handle, interest).await?;
    let filter = Filter::parse(&what.filter);
    let rows: Vec<&MappingRow> = world.mappings().filter(|row| filter.takes_mapping(row)).collect();
    if out.json {
        out.value(&rows)?;
    } else if !rows.is_empty() {
        out.text(&table::mappings(&lines(rows.iter().copied(), &world), Rates::Unknown))?;
    }
    let said = match world.mappings().next() {
        _ if world.overview.is_ending => Some("the engine is ending: nothing listens, and connections may finish"),
        None => Some("no mapping yet: `portolan add 8080:web:80` adds one"),
        Some(_) if rows.is_empty() => Some("no mapping passes the filter"),
        Some(_) => None,
    };
    Ok(remark(said, &world, what.published))
}

/// `connections`: those that are open, the oldest first.
///
/// # Errors
/// When the engine is gone, or the answer cannot be written.
pub async fn connections(handle: &Handle, what: &Connections, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let interest = Interest {
        // Docker's are known once its mappings are.
        mappings: what.published,
        connections: true,
        processes: true,
        published: what.published,
        ..Interest::default()
    };
    let mut world = World::once(handle, interest).await?;
    if !what.closed {
        world.forget_closed();
    }
    let filter = Filter::parse(&what.filter);
    let rows: Vec<&ConnectionRow> = world.connections.values().filter(|row| filter.takes_connection(row)).collect();
    if out.json {
        out.value(&rows.iter().map(|row| told(row, world.now_ms())).collect::<Vec<_>>())?;
    } else if !rows.is_empty() {
        out.text(&table::connections(&lines(rows.iter().copied(), &world), Rates::Unknown))?;
    }
    let none = if world.connections.is_empty() { "no connection now" } else { "no connection passes the filter" };
    Ok(remark(rows.is_empty().then_some(none), &world, what.published))
}

/// `profiles`: those that there are, which one the engine has open, and which other ones are running.
///
/// # Errors
/// When the engine is gone, the folder cannot be read, or the answer cannot be written.
pub async fn profiles(
    handle: &Handle,
    running: impl AsyncFnOnce(&[String]) -> Vec<String>,
    out: &mut Output<impl Write>,
) -> Result<Remark, Failure> {
    let Reply::Profiles { names, open } = handle.request(Request::Profiles).await? else { return Ok(None) };
    let mut running = running(&names).await;
    // That it runs is known, whoever has not found it.
    if let Some(open) = open.as_ref().filter(|open| !running.contains(open)) {
        running.push(open.clone());
        running.sort();
    }
    say_profiles(&Profiles { names, open, running }, out)
}

/// `profiles` for who knows them without an engine.
///
/// # Errors
/// When the answer cannot be written.
pub fn say_profiles(profiles: &Profiles, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    if out.json {
        out.value(profiles)?;
    } else if !profiles.names.is_empty() {
        out.text(&table::profiles(profiles))?;
    }
    Ok(profiles.names.is_empty().then(|| "no profile yet: the first mapping that is added makes one".to_owned()))
}

fn lines<'a, R>(rows: impl Iterator<Item = &'a R>, world: &'a World) -> Vec<Line<'a, R>> {
    let (now_ms, profile) = (world.now_ms(), world.profile());
    rows.map(|row| Line { row, rate: Rate::default(), now_ms, profile }).collect()
}

/// A connection as it is told in JSON. Its age counts on while nothing else of it changes.
pub(super) fn told(row: &ConnectionRow, now_ms: u64) -> Told<'_> {
    let mut connection = row.connection.clone();
    if !row.is_closed() {
        connection.duration_ms = connection.duration_ms.max(now_ms.saturating_sub(row.opened_at_ms));
    }
    Told { connection, mapping_id: row.mapping_id, process: row.process.as_ref(), observed: row.observed.as_ref() }
}

/// That nothing is listed, and why nothing of Docker's can be.
fn remark(none: Option<&str>, world: &World, published: bool) -> Remark {
    let docker = match &world.overview.docker {
        DockerState::Unavailable { reason } if published => Some(format!("docker: {reason}")),
        _ => None,
    };
    let remarks: Vec<String> = none.map(str::to_owned).into_iter().chain(docker).collect();
    (!remarks.is_empty()).then(|| remarks.join("\n"))
}
