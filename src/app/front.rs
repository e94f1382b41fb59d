//! The process in front of the engine: the one that the shell started, and waits for.
//!
//! An engine that is left running must give the shell its prompt back without ending. So the program with a screen is
//! two processes from the start: this one, which does nothing but stand in for the other towards the shell, and the
//! engine with its screen, a child of the same program in the same process group. Leaving it running is then no more
//! than the end of this one: the engine keeps its process, its sockets and every connection.
//!
//! What the shell and the user do to this process is passed on: signals, the stop of `^z`, the end. If it is killed, the
//! engine is told so as if its terminal had hung up; if the engine is killed, this process gives the terminal back.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, getppid, pipe2, setsid};
use tokio::signal::unix::{SignalKind, signal};

use crate::tui;

/// Says to the engine that somebody stands in front of it, and who.
const VARIABLE: &str = "PORTOLAN_FRONT";
/// From the engine: it goes on without a screen.
const LEFT: Signal = Signal::SIGUSR1;
/// How long an engine that was told to stop may take to.
const STOPS_BY_ITSELF: Duration = Duration::from_millis(400);
const STOP_RETRY: Duration = Duration::from_millis(5);
/// Exit status of a program that a signal has ended, as shells have it: so much and the signal.
const SIGNALLED: u8 = 128;

/// Which of the two processes this is.
#[derive(Debug)]
pub(super) enum Stand {
    /// The one in front; it is done, with this status.
    Front(ExitCode),
    /// The engine, behind the one in front; alone where there can be no other.
    Engine(Option<Front>),
}

/// The process in front of this one.
#[derive(Debug)]
pub(super) struct Front(Pid);

/// Puts a process in front of the engine; returns in both. Call it before there is any thread.
pub(super) fn stand() -> Stand {
    let parent = getppid();
    // What systemd hands in is for the process that it has started.
    if env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string()) {
        return Stand::Engine(None);
    }
    if env::var(VARIABLE).is_ok_and(|pid| pid == parent.to_string()) {
        // The one in front has blocked what it waits for, and a child inherits that.
        if let Err(error) = heard().thread_unblock() {
            tracing::warn!(%error, "signals stay blocked");
        }
        return Stand::Engine(Front::of(parent));
    }
    match in_front() {
        Ok(Ok(status)) => Stand::Front(status),
        Ok(Err(error)) => {
            super::complain(format_args!("portolan: the engine cannot be looked after: {error}"));
            Stand::Front(ExitCode::FAILURE)
        }
        // Without it, the program cannot be left running; that is all.
        Err(error) => {
            tracing::debug!(%error, "no process stands in front of the engine");
            Stand::Engine(None)
        }
    }
}

impl Front {
    fn of(parent: Pid) -> Option<Self> {
        // As if the terminal had hung up.
        set_pdeathsig(Signal::SIGHUP).ok()?;
        // It may have died before that was set; then somebody else is the parent.
        (getppid() == parent).then_some(Self(parent))
    }

    /// Lets it go, and with it the shell and the terminal: this process goes on alone, in a session of its own. Call it
    /// on the main thread, when the terminal has been given back and everything is said.
    pub(super) fn leave(self) -> io::Result<Left> {
        let nothing = File::options().read(true).write(true).open("/dev/null")?;
        // Nothing comes, and no end either: the thread that has read the terminal's keys reads once more, and an end it
        // would read again and again.
        let (silence, source) = pipe2(OFlag::O_CLOEXEC)?;
        setsid()?;
        // Of the thread that has set it.
        set_pdeathsig(None)?;
        dup2_stdin(&silence)?;
        dup2_stdout(&nothing)?;
        dup2_stderr(&nothing)?;
        self.wake();
        match kill(self.0, LEFT) {
            // It was killed, which is why the engine goes on alone.
            Ok(()) | Err(Errno::ESRCH) => Ok(Left { _source: source }),
            Err(error) => Err(error.into()),
        }
    }

    /// Lets it go on if it stands still, that it hears of the end.
    pub(super) fn wake(&self) {
        // If it is gone, it hears nothing any more.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// What an engine without a terminal has instead of one.
#[derive(Debug)]
pub(super) struct Left {
    _source: OwnedFd,
}

/// The signals that the one in front waits for.
fn heard() -> SigSet {
    SigSet::from_iter([
        Signal::SIGCHLD,
        Signal::SIGCONT,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGTSTP,
        LEFT,
    ])
}

/// Starts the engine, and stands in for it until it ends or is left running.
///
/// # Errors
/// The outer one: there is no engine, so this process may be it. The inner one: there is, and this process has lost it.
fn in_front() -> io::Result<io::Result<ExitCode>> {
    // A parent that ignores the ends of its children has us inherit that; then nothing would be heard of the engine's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _minded = runtime.block_on(async { signal(SignalKind::child()) })?;
    let heard = heard();
    let before = heard.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
    let started = SignalFd::with_flags(&heard, SfdFlags::SFD_CLOEXEC).map_err(io::Error::from).and_then(|signals| {
        let terminal = tcgetattr(io::stdin()).ok();
        // The program's own path, since its name is what others see of it.
        let mut command = Command::new(env::current_exe()?);
        let mut arguments = env::args_os();
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        let engine = command.args(arguments).env(VARIABLE, std::process::id().to_string()).spawn()?;
        let pid = i32::try_from(engine.id()).map_err(io::Error::other)?;
        Ok((signals, terminal, Pid::from_raw(pid)))
    });
    match started {
        Ok((signals, terminal, engine)) => Ok(stand_in(&signals, terminal.as_ref(), engine)),
        Err(error) => {
            before.thread_set_mask()?;
            Err(error)
        }
    }
}

fn stand_in(signals: &SignalFd, terminal: Option<&Termios>, engine: Pid) -> io::Result<ExitCode> {
    loop {
        let Some(heard) = signals.read_signal()? else { continue };
        let Ok(signal) =
            i32::try_from(heard.ssi_signo).map_err(|_| ()).and_then(|n| Signal::try_from(n).map_err(|_| ()))
        else {
            continue;
        };
        let is_of_engine = i32::try_from(heard.ssi_pid).is_ok_and(|pid| pid == engine.as_raw());
        match signal {
            Signal::SIGCHLD => {
                if let Seen::Ended(status) = looked_after(engine, terminal)? {
                    return Ok(status);
                }
            }
            LEFT if is_of_engine => return Ok(ExitCode::SUCCESS),
            // The engine stops its whole process group, and itself when it has given the terminal back.
            Signal::SIGTSTP if is_of_engine => raise(Signal::SIGSTOP)?,
            // Whoever stops the group has stopped the engine, too, which takes a moment to give the terminal back. One that
            // does not stop has not heard of it. Told twice, it would stop again as soon as it goes on.
            Signal::SIGTSTP => {
                let start = Instant::now();
                loop {
                    match looked_after(engine, terminal)? {
                        Seen::Ended(status) => return Ok(status),
                        Seen::Stopped => break,
                        Seen::Running if start.elapsed() < STOPS_BY_ITSELF => sleep(STOP_RETRY),
                        Seen::Running => {
                            let _ = kill(engine, signal);
                            break;
                        }
                    }
                }
            }
            // The kernel has told the engine, too: they have the terminal in common. Of a hangup it tells nobody but the
            // leader of the session, which this process may be.
            _ if heard.ssi_code == libc::SI_KERNEL && signal != Signal::SIGHUP => {}
            _ => {
                // It may have just ended, which is heard next.
                let _ = kill(engine, signal);
            }
        }
    }
}

/// What was seen of the engine.
enum Seen {
    /// It runs.
    Running,
    /// It had stopped, and goes on.
    Stopped,
    /// It has ended; the status to end with.
    Ended(ExitCode),
}

/// Looks what has become of the engine. If it has stopped, so does this process, that
/// the shell sees it.
fn looked_after(engine: Pid, terminal: Option<&Termios>) -> io::Result<Seen> {
    let mut has_stopped = false;
    loop {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        let status = match waitpid(engine, Some(flags)) {
            // It was waited for by nobody and is gone.
            Err(Errno::ECHILD) => return Ok(Seen::Ended(ExitCode::SUCCESS)),
            status => status?,
        };
        match status {
            WaitStatus::Exited(_, status) => {
                return Ok(Seen::Ended(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX))));
            }
            WaitStatus::Signaled(_, signal, _) => {
                give_back(terminal);
                let signal = u8::try_from(signal as i32).unwrap_or_default();
                return Ok(Seen::Ended(ExitCode::from(SIGNALLED.saturating_add(signal))));
            }
            WaitStatus::Stopped(..) => {
                raise(Signal::SIGSTOP)?;
                let _ = kill(engine, Signal::SIGCONT);
                has_stopped = true;
            }
            _ => return Ok(if has_stopped { Seen::Stopped } else { Seen::Running }),
        }
    }
}

/// Gives the terminal back for an engine that could not.
fn give_back(terminal: Option<&Termios>) {
    // What cannot be given back is not there any more.
    if io::stdout().is_terminal() {
        let _ = io::stdout().write_all(&tui::leave_sequence()).and_then(|()| io::stdout().flush());
    }
    if let Some(terminal) = terminal {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, terminal);
    }
}
