//! Changes: what shall be, and what shall end.
//!
//! A change is carried out once it is in the profile; whether a mapping listens is another matter, since the engine
//! tries again. So what does not listen after a moment is a remark.

use std::io::Write;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};

use super::world::World;
use super::{Failure, Output, Remark};
use crate::model::count::there_are;
use crate::model::event::MappingState;
use crate::model::id::{ConnectionId, MappingId};
use crate::model::identity::{Identity, Inspect};
use crate::model::mapping::Mapping;
use crate::model::problem::Problem;
use crate::model::profile::WrittenMapping;
use crate::model::request::{Call, Reply, Request, RequestError};
use crate::model::untrusted::SafeText;
use crate::model::update::{Interest, MappingRow};
use crate::service::Handle;

/// A mapping that does not listen may still come to it within so long,
const PATIENCE: Duration = Duration::from_secs(2);
/// but no longer when nothing more is heard of it.
const CALM: Duration = Duration::from_millis(250);

/// The fields of a mapping that have a default, as typed; those that are left out stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Its name; empty: made from the listen side.
    pub name: Option<String>,
    /// The network by which its container is reached, or `default`.
    pub network: Option<String>,
    /// A duration or `default`.
    pub connect_timeout: Option<String>,
    /// A duration or `default`.
    pub idle_timeout: Option<String>,
    /// A duration or `default`.
    pub half_close_timeout: Option<String>,
    /// A number or `default`.
    pub max_connections: Option<String>,
    /// The word of an identity.
    pub identity: Option<String>,
    /// A network or `default`.
    pub alias_pool: Option<String>,
    /// `true` or `false`.
    pub accept_proxy: Option<String>,
    /// Networks, or `default`.
    pub trusted_cidrs: Option<Vec<String>>,
    /// `http` or `default`.
    pub inspect: Option<String>,
}

/// What `add` adds.
#[derive(Clone, Debug, Default)]
pub struct Add {
    /// As mapping text.
    pub mapping: String,
    /// The rest of it.
    pub fields: Fields,
    /// It does not listen yet.
    pub stopped: bool,
    /// Keep it although its port is in use.
    pub even_if_busy: bool,
}

/// What `edit` changes.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// A name or an id.
    pub which: String,
    /// As mapping text, where that changes.
    pub mapping: Option<String>,
    /// What else changes.
    pub fields: Fields,
    /// Change it although its port is in use.
    pub even_if_busy: bool,
}

/// Several mappings.
#[derive(Clone, Debug)]
pub enum Which {
    /// Each of them.
    All,
    /// Names or ids.
    These(Vec<String>),
}

/// `add`: adds a mapping to the profile.
///
/// # Errors
/// When it is not valid, its port is in use, or it cannot be saved.
pub async fn add(handle: &Handle, what: &Add, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let mut mapping = WrittenMapping::from(parsed(&what.mapping)?);
    mapping.enabled = what.stopped.then_some(false);
    what.fields.apply(&mut mapping)?;
    let reply = handle.request(Request::Add { mapping, even_if_busy: what.even_if_busy }).await?;
    listening(handle, &reply, out).await
}

/// `edit`: changes what is given, and leaves the rest as it is.
///
/// # Errors
/// When it would not be valid, its port is in use, or it cannot be saved.
pub async fn edit(handle: &Handle, what: &Edit, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    if what.mapping.is_none() && what.fields == Fields::default() {
        let problem = Problem::new("", "there is nothing to change");
        return Err(Failure::invalid(problem.with_hint("give a MAPPING, or an option such as --name")));
    }
    let reply = match edit_once(handle, what).await? {
        // Somebody else was faster; what they changed is kept.
        Err(RequestError::Stale { .. }) => edit_once(handle, what).await?,
        answer => answer,
    };
    listening(handle, &reply?, out).await
}

/// Makes the change from how the mapping stands, provided that it still stands so.
async fn edit_once(handle: &Handle, what: &Edit) -> Result<Result<Reply, RequestError>, Failure> {
    let world = World::of_mappings(handle).await?;
    let row = world.find(&what.which).ok_or_else(|| no_mapping(&world, &[&what.which]))?;
    let mut mapping = row.written.clone();
    if let Some(text) = &what.mapping {
        let WrittenMapping { listen, target, protocol, .. } = parsed(text)?.into();
        mapping = WrittenMapping { listen, target, protocol, ..mapping };
    }
    what.fields.apply(&mut mapping)?;
    let request = Request::Edit { id: row.id, mapping, even_if_busy: what.even_if_busy };
    Ok(handle.call(Call { expected: Some(world.overview.revision), request }).await)
}

/// `rm`: removes mappings, resetting their connections.
///
/// # Errors
/// When one of them is not there, or the profile cannot be saved.
pub async fn remove(handle: &Handle, which: &[String], out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let Some(ids) = ids(handle, &Which::These(which.to_vec())).await? else { return Ok(None) };
    out.reply(&handle.request(Request::Remove { ids }).await?)?;
    Ok(None)
}

/// `start`: lets mappings listen.
///
/// # Errors
/// When one of them is not there, or the profile cannot be saved.
pub async fn start(handle: &Handle, which: &Which, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let Some(ids) = ids(handle, which).await? else { return nothing_there(out) };
    listening(handle, &handle.request(Request::Start { ids }).await?, out).await
}

/// `stop`: closes the listeners of mappings, and resets their connections.
///
/// # Errors
/// When one of them is not there, or the profile cannot be saved.
pub async fn stop(handle: &Handle, which: &Which, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let Some(ids) = ids(handle, which).await? else { return nothing_there(out) };
    out.reply(&handle.request(Request::Stop { ids }).await?)?;
    Ok(None)
}

/// `kill`: resets connections, each for itself.
///
/// # Errors
/// When one of them is not there; the others are reset all the same.
pub async fn kill(handle: &Handle, ids: &[u64], out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let mut unknown = Vec::new();
    for id in ids {
        match handle.request(Request::Kill { id: ConnectionId(*id) }).await {
            Ok(reply) => out.reply(&reply)?,
            Err(RequestError::NotFound { .. }) => unknown.push(format!("there is no open connection {id}")),
            Err(error) => return Err(error.into()),
        }
    }
    if unknown.is_empty() {
        return Ok(None);
    }
    let interest = Interest { connections: true, ..Interest::default() };
    let (mut world, _) = World::follow(handle, interest).await?;
    world.forget_closed();
    let open: Vec<String> = world.connections.keys().map(ToString::to_string).collect();
    let open = there_are(&open).unwrap_or_else(|| "none is open".to_owned());
    Err(Failure::Failed(format!("{} ({open})", unknown.join("; "))))
}

/// `undo`: takes the last change of the profile back.
///
/// # Errors
/// When there is none, or the profile cannot be saved.
pub async fn undo(handle: &Handle, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    let reply = handle.request(Request::Undo).await?;
    listening(handle, &reply, out).await
}

/// `open`: runs another profile instead of the open one; one that is not there only where it is to be `new`.
///
/// # Errors
/// When there is no such profile, it is not valid, or another engine runs it.
pub async fn open(handle: &Handle, name: &str, new: bool, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    if !new
        && let Reply::Profiles { names, open } = handle.request(Request::Profiles).await?
        && !names.iter().any(|known| known == name)
        && open.as_deref() != Some(name)
    {
        let known = there_are(&names).map(|names| format!("{names}; ")).unwrap_or_default();
        let text = format!("there is no profile \"{}\" ({known}--new makes it)", SafeText::quoted(name));
        return Err(Failure::Failed(text));
    }
    out.reply(&handle.request(Request::OpenProfile { name: name.to_owned() }).await?)?;
    Ok(None)
}

/// `saveas`: writes what there is, mappings of the session included, to a new profile and runs that.
///
/// # Errors
/// When there is such a profile, or it cannot be written.
pub async fn save_as(handle: &Handle, name: &str, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    out.reply(&handle.request(Request::SaveAs { name: name.to_owned() }).await?)?;
    Ok(None)
}

/// There is no mapping that `--all` could mean. That is a remark; in JSON it is an answer, too, since each command has one.
fn nothing_there(out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    const NOTHING_THERE: &str = "there is no mapping";
    if out.json {
        out.reply(&Reply::Done { ids: Vec::new(), message: SafeText::new(NOTHING_THERE), keys: None })?;
    }
    Ok(Some(NOTHING_THERE.to_owned()))
}

/// The ids of mappings; `None`: there is not one.
async fn ids(handle: &Handle, which: &Which) -> Result<Option<Vec<MappingId>>, Failure> {
    let world = World::of_mappings(handle).await?;
    let ids = match which {
        Which::All => world.mappings().map(|row| row.id).collect(),
        Which::These(names) => {
            let unknown: Vec<&str> = names.iter().map(String::as_str).filter(|n| world.find(n).is_none()).collect();
            if !unknown.is_empty() {
                return Err(no_mapping(&world, &unknown));
            }
            let mut ids: Vec<MappingId> = Vec::new();
            for row in names.iter().filter_map(|name| world.find(name)) {
                // By its name and by its id, perhaps.
                if !ids.contains(&row.id) {
                    ids.push(row.id);
                }
            }
            ids
        }
    };
    Ok(Some(ids).filter(|ids| !ids.is_empty()))
}

fn no_mapping(world: &World, unknown: &[&str]) -> Failure {
    let unknown: Vec<String> =
        unknown.iter().map(|name| format!("there is no mapping \"{}\"", SafeText::quoted(name))).collect();
    let known: Vec<&str> = world.mappings().map(|row| row.name.as_str()).collect();
    let known = there_are(&known).unwrap_or_else(|| "there is none yet".to_owned());
    Failure::Failed(format!("{} ({known})", unknown.join("; ")))
}

fn parsed(text: &str) -> Result<Mapping, Failure> {
    text.parse().map_err(|error| Failure::invalid(Problem::new(SafeText::quoted(text), format!("{error}"))))
}

impl Fields {
    /// Sets what is given; the engine judges it. `default` leaves a field out of the file.
    fn apply(&self, mapping: &mut WrittenMapping) -> Result<(), Failure> {
        let set = |field: &mut Option<String>, given: &Option<String>, default: &str| {
            if let Some(given) = given {
                *field = (given != default).then(|| given.clone());
            }
        };
        set(&mut mapping.name, &self.name, "");
        set(&mut mapping.network, &self.network, DEFAULT);
        set(&mut mapping.connect_timeout, &self.connect_timeout, DEFAULT);
        set(&mut mapping.idle_timeout, &self.idle_timeout, DEFAULT);
        set(&mut mapping.half_close_timeout, &self.half_close_timeout, DEFAULT);
        set(&mut mapping.alias_pool, &self.alias_pool, DEFAULT);
        if let Some(word) = &self.identity {
            let known = Identity::ALL.into_iter().find(|identity| identity.word() == word);
            let unknown = || Problem::new("identity", format!("unknown identity \"{}\"", SafeText::quoted(word)));
            let identity = known.ok_or_else(|| Failure::invalid(unknown()))?;
            mapping.identity = (identity != Identity::None).then_some(identity);
        }
        if let Some(accepts) = &self.accept_proxy {
            mapping.accept_proxy = (accepts == "true").then_some(true);
        }
        if let Some(networks) = &self.trusted_cidrs {
            mapping.trusted_cidrs = (*networks != [DEFAULT]).then(|| networks.clone());
        }
        if let Some(what) = &self.inspect {
            mapping.inspect = (what != DEFAULT).then_some(Inspect::Http);
        }
        match self.max_connections.as_deref() {
            None => {}
            Some(DEFAULT) => mapping.max_connections = None,
            Some(text) => {
                let expected = || format!("expected a whole number from 1, found \"{}\"", SafeText::quoted(text));
                let number = text.parse().map_err(|_| Failure::invalid(Problem::new("max_connections", expected())))?;
                mapping.max_connections = Some(number);
            }
        }
        Ok(())
    }
}

/// What a field says that is left out of the file.
const DEFAULT: &str = "default";

/// Prints the answer, and says what of the mappings that it concerns does not listen after a moment.
async fn listening(handle: &Handle, reply: &Reply, out: &mut Output<impl Write>) -> Result<Remark, Failure> {
    out.reply(reply)?;
    let Reply::Done { ids, .. } = reply else { return Ok(None) };
    if ids.is_empty() {
        return Ok(None);
    }
    let interest = Interest { mappings: true, sample_ms: 20, ..Interest::default() };
    let (mut world, mut subscription) = match World::follow(handle, interest).await {
        Ok(followed) => followed,
        // The change is made all the same.
        Err(failure) => return Ok(Some(format!("it is not known whether it listens: {failure}"))),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<&MappingRow> =
            ids.iter().filter_map(|id| world.mapping(*id)).filter(|row| !is_as_wished(row)).collect();
        if left.is_empty() {
            return Ok(None);
        }
        let remark = || left.iter().map(|row| not_up(row)).collect::<Vec<_>>().join("\n");
        let next = timeout_at(deadline, timeout(CALM, subscription.next())).await;
        match next {
            Ok(Ok(Some(update))) => world.take(update),
            // One that is being bound says nothing until it is.
            Ok(Err(_)) if left.iter().any(|row| row.state == MappingState::Starting) => {}
            _ => return Ok(Some(remark())),
        }
    }
}

fn is_as_wished(row: &MappingRow) -> bool {
    matches!(row.state, MappingState::Up | MappingState::Stopped)
}

/// `web is failed: 127.0.0.1:8080 is in use by nginx (pid 812)`.
fn not_up(row: &MappingRow) -> String {
    let reason = row.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{} is {}{reason}", row.name, row.state)
}
