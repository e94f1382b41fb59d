//! Connecting to the target: each address once, and closed in order at once, because the user asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::libc;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::finding::Finding;
use super::subject::Subject;
use crate::model::mapping::{Family, Protocol};
use crate::model::report::{CauseKind, StepKind, Verdict};
use crate::model::update::LastOutcome;

/// How long an address may take. Longer than an answer takes across the world, shorter than anybody waits for a report.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// What came of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) address: SocketAddr,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    /// Our own address towards it, where it is known.
    pub(super) source: Option<SocketAddr>,
}

/// What came of connecting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answers.
    Connected,
    /// It refuses.
    Refused,
    /// There is no way, or somebody on the way says so.
    Unreachable(String),
    /// No answer in time.
    TimedOut,
    /// Anything else, such as a want of descriptors.
    Failed(String),
}

/// Starts connecting to all of them; from an address of this host, if one is named.
pub(super) fn start(addresses: impl Iterator<Item = SocketAddr>, from: Option<IpAddr>) -> JoinSet<Attempt> {
    addresses.map(|address| attempt(address, from)).collect()
}

async fn attempt(address: SocketAddr, from: Option<IpAddr>) -> Attempt {
    let started = Instant::now();
    let (outcome, source) = match timeout(PATIENCE, connect(address, from)).await {
        Err(_) => (Outcome::TimedOut, None),
        Ok(Err(error)) => (outcome_of(&error), None),
        Ok(Ok(stream)) => {
            let source = stream.local_addr().ok();
            // The kernel picked the very port that was dialled, so the socket met itself: nobody listens there.
            let met_itself = source == Some(address);
            (if met_itself { Outcome::Refused } else { Outcome::Connected }, source)
        }
    };
    Attempt { address, outcome, took: started.elapsed(), source }
}

async fn connect(address: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(from) = from else { return TcpStream::connect(address).await };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if from.is_ipv6() {
        // IPv6 binds to addresses of interfaces alone, whatever is local by a route.
        SockRef::from(&socket).set_freebind_v6(true)?;
    }
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(address).await
}

fn outcome_of(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Outcome::Refused,
        Some(libc::ETIMEDOUT) => Outcome::TimedOut,
        Some(
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::EHOSTDOWN
            | libc::EACCES
            | libc::EPERM
            | libc::EAFNOSUPPORT
            | libc::EADDRNOTAVAIL
            | libc::ENODEV
            // A route that swallows.
            | libc::EINVAL,
        ) => Outcome::Unreachable(plain(error)),
        // It has accepted, and then reset: somebody is there.
        Some(libc::ECONNRESET) => Outcome::Connected,
        _ => Outcome::Failed(plain(error)),
    }
}

/// The system's word for it, without its number.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    words.to_lowercase()
}

/// The steps: one for each address, the last real attempts where nothing can be tried.
pub(super) fn judge(subject: &Subject, attempts: &[Attempt]) -> Finding {
    let mut finding = Finding::default();
    let last = subject.engine.as_ref().and_then(|engine| engine.last_result);
    if subject.protocol() == Protocol::Udp {
        let (verdict, text) = match last.map(|last| last.outcome) {
            Some(LastOutcome::Refused) => (Verdict::Bad, "the last datagrams were refused"),
            Some(LastOutcome::Unreachable) => (Verdict::Bad, "the last datagrams found no way"),
            _ => (Verdict::Skipped, "only an answer shows that somebody takes datagrams"),
        };
        finding.add(StepKind::Connect, None, verdict, text);
        return finding;
    }
    let is_reached = attempts.iter().any(|attempt| attempt.outcome == Outcome::Connected);
    for Attempt { address, outcome, took, .. } in attempts {
        let tally = last.filter(|last| last.failures > 0);
        let tally = tally.map(|last| format!(", {} of the last {} failed", last.failures, last.attempts));
        let tally = tally.filter(|_| !is_reached).unwrap_or_default();
        let (mut verdict, text) = match outcome {
            Outcome::Connected => (Verdict::Ok, format!("{address} answers in {:.1} ms", took.as_secs_f64() * 1000.0)),
            Outcome::Refused => (Verdict::Bad, format!("{address} refuses{tally}")),
            Outcome::Unreachable(why) => (Verdict::Bad, format!("{address}: {why}{tally}")),
            Outcome::TimedOut => {
                (Verdict::Bad, format!("{address} has not answered within {} s{tally}", PATIENCE.as_secs_f32()))
            }
            // It says nothing of the target.
            Outcome::Failed(why) => (Verdict::Unknown, format!("{address} could not be tried: {why}")),
        };
        // Addresses are tried in turn, so one that answers is enough.
        let mut text = text;
        if is_reached && verdict == Verdict::Bad {
            (verdict, text) = (Verdict::Ok, format!("{text}; another address answers"));
        }
        finding.add(StepKind::Connect, Some(Family::of(address.ip())), verdict, &text);
    }
    finding
}

/// What is wrong where no other step has found more: the outcome that says most.
pub(super) fn bare_cause(subject: &Subject, attempts: &[Attempt], finding: &mut Finding) {
    let target = &subject.config.mapping.target;
    let of = |fits: fn(&Outcome) -> bool| attempts.iter().find(|attempt| fits(&attempt.outcome));
    let refused_datagrams = subject.protocol() == Protocol::Udp
        && finding.steps.iter().any(|step| step.kind == StepKind::Connect && step.verdict == Verdict::Bad);
    if let Some(Attempt { address, .. }) = of(|outcome| *outcome == Outcome::Refused) {
        finding.cause(
            CauseKind::TargetRefused,
            &format!("{target} refuses connections ({address})."),
            &["see that the application runs and listens on that port, on all its addresses"],
        );
    } else if refused_datagrams {
        finding.cause(
            CauseKind::TargetRefused,
            &format!("{target} refused the last datagrams."),
            &["see that the application runs and listens on that port"],
        );
    } else if let Some(Attempt { address, .. }) = of(|outcome| *outcome == Outcome::TimedOut) {
        finding.cause(
            CauseKind::TargetTimedOut,
            &format!("{target} does not answer ({address})."),
            &["see that its host is up and that no firewall between drops packets"],
        );
    } else if let Some(Attempt { address, outcome: Outcome::Unreachable(why), .. }) =
        of(|outcome| matches!(outcome, Outcome::Unreachable(_)))
    {
        finding.cause(
            CauseKind::TargetUnreachable,
            &format!("There is no way to {target} ({address}: {why})."),
            &["ip route get shows the way that the kernel would take"],
        );
    }
}
