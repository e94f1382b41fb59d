//! Where the mappings come from: a profile, `-p`, or the sample page of `try`.

use std::net::IpAddr;

use anyhow::Context;
use tokio::runtime::Runtime;

use crate::cli::Source;
use crate::host::addresses::OwnAddresses;
use crate::host::{holders, limits};
use crate::model::assemble::Origin;
use crate::model::count::{count, there_are};
use crate::model::mapping::{HostPort, Listen, ListenAddress, Mapping, PortRange, Protocol, Target, TargetHost};
use crate::model::problem::Problem;
use crate::model::profile::{MappingConfig, Problems, Profile};
use crate::model::untrusted::SafeText;
use crate::sample::Sample;
use crate::service::{OpenError, OpenedProfile};
use crate::store::ProfileSource;

/// The port of `portolan try`, if it is free.
const TRY_PORT: u16 = 8080;

/// What the service starts with.
pub(super) struct Sources {
    pub(super) profile: Option<OpenedProfile>,
    pub(super) session: Vec<MappingConfig>,
    /// The sample page of `try`, to be served while the engine runs.
    pub(super) sample: Option<Sample>,
}

impl Sources {
    /// What to say where the default profile is not there: that is no mistake, but nothing is mapped then.
    pub(super) fn missing_profile(&self) -> Option<String> {
        let profile = self.profile.as_ref().filter(|profile| !profile.existed())?;
        Some(format!("{} is not there yet: nothing is mapped until it is", profile.path()))
    }
}

/// What came of opening what the arguments name.
pub(super) enum Opened {
    /// It can be run.
    Ready(Box<Sources>),
    /// Every problem.
    Wrong(Problems),
    /// Another engine runs the profile; which.
    Runs(SafeText),
}

/// Opens the profile (claiming it) and reads `-p`; every problem of both. `must_exist`: a profile that was named has
/// to be there, since nobody would notice that it is not.
pub(super) fn open(source: &Source, must_exist: bool) -> anyhow::Result<Opened> {
    let (session, mut problems) = session(&source.mappings);
    let mut profile = None;
    if let Some(from) = profile_source(source) {
        match OpenedProfile::open_blocking(from) {
            Ok(opened) if must_exist && is_named(source) && !opened.existed() => {
                problems.insert(0, no_such_file(opened.path()));
            }
            Ok(opened) => profile = Some(opened),
            Err(OpenError::Invalid(found)) => drop(problems.splice(0..0, found)),
            Err(OpenError::Running(message)) if problems.is_empty() => return Ok(Opened::Runs(message)),
            Err(OpenError::Running(_)) => {}
            Err(OpenError::Failed(message)) => anyhow::bail!("{message}"),
        }
    }
    let mappings = profile.as_ref().map(OpenedProfile::mappings).unwrap_or_default();
    Ok(match together(mappings, session, problems) {
        Ok(session) => Opened::Ready(Box::new(Sources { profile, session, sample: None })),
        Err(problems) => Opened::Wrong(problems),
    })
}

/// What `check` has to say of what is valid.
pub(super) struct Checked {
    /// That it is fine.
    pub(super) text: String,
    /// What its user should know all the same, a line each.
    pub(super) warnings: Vec<String>,
}

/// Reads what `open` would open, and says that it is fine or every problem.
pub(super) fn check(source: &Source) -> anyhow::Result<Result<Checked, Problems>> {
    let (session, mut problems) = session(&source.mappings);
    let mut mappings = Vec::new();
    let mut place = String::from("the command line");
    if let Some(from) = profile_source(source) {
        match OpenedProfile::read_blocking(from) {
            Ok(read) if is_named(source) && !read.exists => problems.insert(0, no_such_file(read.path)),
            Ok(read) => {
                place = format!("{}{}", read.path, if read.exists { "" } else { ", which is not there yet" });
                mappings = read.mappings;
            }
            Err(OpenError::Invalid(found)) => drop(problems.splice(0..0, found)),
            Err(OpenError::Running(message) | OpenError::Failed(message)) => anyhow::bail!("{message}"),
        }
    }
    let all = count((mappings.len() + session.len()) as u64, "mapping");
    let warnings: Vec<String> = mappings
        .iter()
        .chain(session.iter().map(|(_, config)| config))
        .flat_map(|config| config.warnings().into_iter().map(|text| format!("warning: {}: {text}", config.name)))
        .collect();
    let checked = Checked { text: format!("ok: {all} in {place}\n"), warnings };
    Ok(together(&mappings, session, problems).map(|_| checked))
}

/// Whether the user named a profile or a file.
fn is_named(source: &Source) -> bool {
    source.profile.is_some() || source.file.is_some()
}

fn no_such_file(path: SafeText) -> Problem {
    let problem = Problem::new("", "there is no such file");
    Problem { file: Some(path), ..problem }.with_hint("the screen makes it with the first mapping that is added")
}

/// The mappings that `doctor` is asked about: one as text, one by its name, or all that `open` would open. What
/// mappings have wrong only together is for the doctor to say.
pub(super) fn chosen(source: &Source, which: Option<&str>) -> anyhow::Result<Result<Vec<MappingConfig>, Problems>> {
    // No name has a colon, and no mapping is without.
    if let Some(text) = which.filter(|which| which.contains(':')) {
        return Ok(MappingConfig::from_argument(text)
            .map(|config| vec![named(config)])
            .map_err(|problem| vec![problem]));
    }
    let (session, mut problems) = session(&source.mappings);
    let mut configs = Vec::new();
    if let Some(from) = profile_source(source) {
        match OpenedProfile::read_blocking(from) {
            Ok(read) if is_named(source) && !read.exists => problems.insert(0, no_such_file(read.path)),
            Ok(read) => configs = read.mappings,
            Err(OpenError::Invalid(found)) => drop(problems.splice(0..0, found)),
            Err(OpenError::Running(message) | OpenError::Failed(message)) => anyhow::bail!("{message}"),
        }
    }
    if !problems.is_empty() {
        return Ok(Err(problems));
    }
    configs.extend(session.into_iter().map(|(_, config)| named(config)));
    let Some(name) = which else { return Ok(Ok(configs)) };
    let found: Vec<MappingConfig> = configs.iter().filter(|config| config.name == name).cloned().collect();
    if !found.is_empty() {
        return Ok(Ok(found));
    }
    let names: Vec<&str> = configs.iter().map(|config| config.name.as_str()).collect();
    let none = "the profile has none; a mapping is written [ADDRESS:]PORT:TARGET:PORT";
    let hint = there_are(&names).unwrap_or_else(|| none.to_owned());
    let text = format!("there is no mapping \"{}\"", SafeText::quoted(name));
    Ok(Err(vec![Problem { hint: Some(hint), ..Problem::new("", &text) }]))
}

/// A mapping of the command line gets the name that it would have.
fn named(config: MappingConfig) -> MappingConfig {
    let origin = Origin::argument(&config.mapping.to_string());
    let kept = config.clone();
    let named = Profile::from_located(vec![(origin, config)], &[]).ok().and_then(|mut profile| profile.mappings.pop());
    named.unwrap_or(kept)
}

/// Starts the page of `try` and maps it; with the line that says what to run.
pub(super) fn sample(runtime: &Runtime) -> anyhow::Result<(Sources, SafeText)> {
    let sample = runtime.block_on(Sample::bind()).context("cannot start the sample page on 127.0.0.1")?;
    let page = sample.address().context("the sample page has no address")?;
    let ports = PortRange::single(page.port()).context("the sample page has no port")?;
    let mut port = PortRange::single(TRY_PORT).context("the port of try is no port")?;
    let listen = |port| Listen { address: ListenAddress::Localhost, port: HostPort::Ports(port) };
    let report = holders::report(&listen(port), Protocol::Tcp, &[]).context("cannot read which ports are in use")?;
    if !report.conflicts.is_empty() {
        port = report.next_free.and_then(PortRange::single).context("no port is free for the sample mapping")?;
    }
    let target = Target { host: TargetHost::Ip(page.ip().into()), ports };
    let config = MappingConfig::new("try", Mapping { listen: listen(port), target, protocol: Protocol::Tcp });
    let hint = if limits::has_ipv6() {
        format!("try it:  curl 'http://[::1]:{port}/'   (an IPv4-only page, over IPv6)")
    } else {
        format!("try it:  curl 'http://127.0.0.1:{port}/'   (over IPv4, since this host has no IPv6)")
    };
    Ok((Sources { profile: None, session: vec![config], sample: Some(sample) }, SafeText::new(&hint)))
}

/// `-p` alone opens no profile, like `ssh -L`.
pub(super) fn profile_source(source: &Source) -> Option<ProfileSource> {
    match (&source.file, &source.profile) {
        (Some(path), _) => Some(ProfileSource::File(path.clone())),
        (None, Some(name)) => Some(ProfileSource::Named(name.clone())),
        (None, None) => source.mappings.is_empty().then(ProfileSource::default),
    }
}

/// Reads each `-p`, as typed and as usable.
fn session(texts: &[String]) -> (Vec<(Origin, MappingConfig)>, Problems) {
    let mut session = Vec::new();
    let mut problems = Vec::new();
    for text in texts {
        match MappingConfig::from_argument(text) {
            Ok(config) => session.push((Origin::argument(text), config)),
            Err(problem) => problems.push(problem),
        }
    }
    (session, problems)
}

/// Adds the problems that mappings have only together: names, listeners, cycles. Gives the session's mappings with
/// their names, if there is no problem at all.
fn together(
    profile: &[MappingConfig],
    session: Vec<(Origin, MappingConfig)>,
    mut problems: Problems,
) -> Result<Vec<MappingConfig>, Problems> {
    // Without them the check for cycles at run time remains.
    let own: Vec<IpAddr> = OwnAddresses::read().map(|own| own.0.iter().map(|own| own.ip).collect()).unwrap_or_default();
    let of_profile = profile.iter().cloned().enumerate().map(|(at, config)| (Origin::Profile(at), config));
    match Profile::from_located(of_profile.chain(session).collect(), &own) {
        Ok(all) if problems.is_empty() => Ok(all.mappings.into_iter().skip(profile.len()).collect()),
        Ok(_) => Err(problems),
        Err(found) => {
            problems.extend(found);
            Err(problems)
        }
    }
}
