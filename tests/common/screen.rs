//! The program's screen in a real terminal, read as a person reads it: panes by their titles, rows by their text.

use std::time::Duration;

use super::SOON;
use super::netns::Namespace;
use super::program::Home;
use super::terminal::Terminal;

/// The program with its screen.
#[derive(Debug)]
pub struct Screen {
    pub terminal: Terminal,
}

impl Screen {
    /// Opens it at 80x24 and waits for its first picture.
    #[track_caller]
    pub fn open(home: &Home, namespace: Option<&Namespace>, arguments: &[&str]) -> Self {
        Self::open_with((80, 24), home, namespace, arguments, &[])
    }

    /// Opens it at a size and with more environment.
    #[track_caller]
    pub fn open_with(
        (columns, rows): (u16, u16),
        home: &Home,
        namespace: Option<&Namespace>,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = home.command(namespace);
        command.args(arguments).envs(environment.iter().copied());
        let screen = Self { terminal: Terminal::start(columns, rows, &command) };
        screen.terminal.wait_for_text("? help");
        screen
    }

    /// Everything on the screen.
    #[track_caller]
    pub fn text(&self) -> String {
        self.terminal.screen()
    }

    /// Presses keys by tmux's names.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        self.terminal.keys(keys);
    }

    /// Types a command on the palette and runs it.
    #[track_caller]
    pub fn command(&self, command: &str) {
        self.keys(&[":"]);
        self.terminal.wait_for_text("PALETTE");
        self.terminal.type_text(command);
        self.terminal.wait_for_text(command);
        self.keys(&["Enter"]);
    }

    /// Adds a mapping on the palette and waits until its row says `state`.
    #[track_caller]
    pub fn add(&self, mapping: &str, listen: &str, state: &str) {
        self.command(&format!("add {mapping}"));
        self.wait_for_row("MAPPINGS", &[listen, state]);
    }

    /// The rows of a pane, its rule left out. Empty where it is not shown.
    #[track_caller]
    pub fn pane(&self, title: &str) -> Vec<String> {
        pane_of(&self.text(), title)
    }

    /// Waits for a row of a pane that has all of these, and gives it.
    #[track_caller]
    pub fn wait_for_row(&self, title: &str, parts: &[&str]) -> String {
        self.wait_for_row_within(SOON, title, parts)
    }

    /// As [`Self::wait_for_row`], with a deadline.
    #[track_caller]
    pub fn wait_for_row_within(&self, deadline: Duration, title: &str, parts: &[&str]) -> String {
        let what = format!("a row of {title} with {parts:?}");
        let screen = self.terminal.wait_for(&what, deadline, |screen| row_of(screen, title, parts).is_some());
        row_of(&screen, title, parts).expect("it was just there")
    }

    /// Waits until a pane has no row with all of these.
    #[track_caller]
    pub fn wait_for_no_row(&self, deadline: Duration, title: &str, parts: &[&str]) {
        let what = format!("no row of {title} with {parts:?}");
        self.terminal.wait_for(&what, deadline, |screen| row_of(screen, title, parts).is_none());
    }

    /// Asks it to quit and waits for its end.
    #[track_caller]
    pub fn quit(&self) {
        self.keys(&["q"]);
        let asks = |screen: &str| screen.contains("esc stay");
        let wait = "the question before the end, or the end";
        self.terminal.wait_for(wait, SOON, |screen| asks(screen) || self.terminal.exit_status().is_some());
        if asks(&self.text()) {
            self.keys(&["q"]);
        }
        assert_eq!(self.terminal.wait_for_end(), 0, "the screen:\n{}", self.text());
    }
}

/// The lines between the rule that has `title` and the next rule, or the two lines at the foot.
pub fn pane_of(screen: &str, title: &str) -> Vec<String> {
    let is_rule = |line: &str| line.starts_with(['-', '─', '━', '═']);
    let lines: Vec<&str> = screen.lines().collect();
    let Some(start) = lines.iter().position(|line| is_rule(line) && line.contains(title)) else { return Vec::new() };
    lines[start + 1..]
        .iter()
        .take_while(|line| !is_rule(line))
        .map(|line| line.trim_end().to_owned())
        .filter(|line| !line.is_empty())
        .collect()
}

fn row_of(screen: &str, title: &str, parts: &[&str]) -> Option<String> {
    pane_of(screen, title).into_iter().find(|row| parts.iter().all(|part| row.contains(part)))
}
