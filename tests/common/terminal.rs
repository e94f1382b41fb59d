//! A real terminal for the program: tmux with a server of its own, of which the test is the user.

use std::ffi::OsStr;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::output;

/// A terminal with one program in it. Its server and all in it end on drop.
#[derive(Debug)]
pub struct Terminal {
    folder: TempDir,
    keeps_running: bool,
}

/// No status line, nothing read from the user's settings, and the last screen stays to be read. An escape is a key
/// at once. A window that nobody is attached to keeps the size that it is given.
const SETTINGS: &str = "
set -g status off
set -g remain-on-exit on
set -g default-terminal tmux-256color
set -g history-limit 2000
set -s escape-time 0
";

impl Terminal {
    /// Starts `command` in a terminal of this size. Only the environment set on the command is passed on.
    #[track_caller]
    pub fn start(columns: u16, rows: u16, command: &Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        std::fs::write(folder.path().join("settings"), SETTINGS).expect("settings can be written");
        let terminal = Self { folder, keeps_running: false };
        let mut start = terminal.tmux();
        start.args(["new-session", "-d", "-x", &columns.to_string(), "-y", &rows.to_string(), "--", "env"]);
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                start.arg([name, OsStr::new("="), value].iter().copied().collect::<std::ffi::OsString>());
            }
        }
        start.arg(command.get_program()).args(command.get_args());
        output(&mut start);
        terminal
    }

    /// What is on the screen, as text.
    #[track_caller]
    pub fn screen(&self) -> String {
        output(self.tmux().args(["capture-pane", "-p"]))
    }

    /// What is on the screen and what has scrolled out of it, with lines that were wrapped made whole.
    #[track_caller]
    pub fn scrollback(&self) -> String {
        output(self.tmux().args(["capture-pane", "-p", "-J", "-S", "-"]))
    }

    /// What is on the screen, with the sequences for its colours.
    #[track_caller]
    pub fn screen_with_escapes(&self) -> String {
        output(self.tmux().args(["capture-pane", "-p", "-e"]))
    }

    /// Presses keys by tmux's names: `Enter`, `Escape`, `C-c`, `Down`; a single letter stands for itself.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        output(self.tmux().arg("send-keys").args(keys));
    }

    /// Types text as it stands.
    #[track_caller]
    pub fn type_text(&self, text: &str) {
        output(self.tmux().args(["send-keys", "-l", "--", text]));
    }

    /// Makes the terminal another size.
    #[track_caller]
    pub fn resize(&self, columns: u16, rows: u16) {
        output(self.tmux().args(["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]));
    }

    /// Waits until the screen fits and gives it. When the deadline passes, the failure shows the screen.
    #[track_caller]
    pub fn wait_for(&self, what: &str, deadline: Duration, fits: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + deadline;
        loop {
            let screen = self.screen();
            if fits(&screen) {
                return screen;
            }
            assert!(Instant::now() < end, "not within {deadline:?}: {what}; the screen:\n{screen}");
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    /// Waits until the screen holds a text.
    #[track_caller]
    pub fn wait_for_text(&self, text: &str) -> String {
        self.wait_for(&format!("{text:?} on the screen"), super::SOON, |screen| screen.contains(text))
    }

    /// The exit status of the program, once it has ended; as a shell has it, 128 and the signal after a signal.
    pub fn exit_status(&self) -> Option<i32> {
        let format = "#{pane_dead} #{pane_dead_status} #{pane_dead_signal}";
        let text = output(self.tmux().args(["display-message", "-p", format]));
        let mut words = text.trim_end_matches('\n').split(' ');
        if words.next() != Some("1") {
            return None;
        }
        let mut number = || words.next().and_then(|word| word.parse::<i32>().ok());
        let (status, signal) = (number(), number());
        let ended = signal.map(|signal| 128 + signal).or(status);
        if ended.is_none() {
            // tmux 3.3 can miss the end of a program that came with its last output; the end of another child of
            // its makes it look again.
            output(self.tmux().args(["run-shell", "-b", "true"]));
        }
        ended
    }

    /// Waits until the program has ended and gives its exit status.
    #[track_caller]
    pub fn wait_for_end(&self) -> i32 {
        super::wait_for("the program ends", super::SOON, || self.exit_status())
    }

    /// The process that was started.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pid = output(self.tmux().args(["display-message", "-p", "#{pane_pid}"]));
        pid.trim().parse().expect("a pid")
    }

    /// The process with the engine and its screen: the program stands in front of it in another.
    #[track_caller]
    pub fn engine(&self) -> u32 {
        let front = self.pid();
        super::wait_for("the engine", super::SOON, || super::child_of(front))
    }

    /// Closes the window, and leaves alone what goes on without it.
    pub fn close(mut self) {
        self.keeps_running = true;
    }

    /// Any other tmux command, to this server.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> String {
        output(self.tmux().args(arguments))
    }

    fn tmux(&self) -> Command {
        let mut command = Command::new("tmux");
        // The socket lies in the test's own folder: no other server can be met, nor stopped.
        command.arg("-S").arg(self.folder.path().join("socket")).arg("-f").arg(self.folder.path().join("settings"));
        command.arg("-u").env_remove("TMUX").env("LC_ALL", "C.UTF-8").env("SHELL", "/bin/sh");
        command
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let panes = self.tmux().args(["list-panes", "-a", "-F", "#{pane_pid}"]).output();
        let started = panes.map(|panes| String::from_utf8_lossy(&panes.stdout).into_owned()).unwrap_or_default();
        let started: Vec<u32> = started.lines().filter_map(|pid| pid.parse().ok()).flat_map(super::family_of).collect();
        let _ = self.tmux().arg("kill-server").output();
        if self.keeps_running {
            return;
        }
        // An engine with a profile goes on when its window closes: not after a test.
        for pid in started {
            let is_ours =
                std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "portolan");
            if let (true, Ok(pid)) = (is_ours, i32::try_from(pid)) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}
