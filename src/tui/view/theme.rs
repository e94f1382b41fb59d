//! Colour roles as the terminal's own 16 colours; the background is never painted.

use ratatui::style::{Color, Modifier, Style};

use crate::tui::state::{ColorMode, Look, Severity};

/// What a colour stands for; each role is also told by a word or a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Fine.
    Ok,
    /// `!`
    Warn,
    /// `!!`
    Error,
    /// Titles, graphs, keys.
    Accent,
    /// Other machines can connect.
    Exposed,
    /// Closed, secondary.
    Muted,
    /// The selected row of the pane with the focus.
    Selected,
    /// Body text.
    Plain,
}

/// The style of a role.
pub(crate) fn style(look: Look, role: Role) -> Style {
    let color = |dark: Color, light: Color| match look.color {
        ColorMode::Dark => Style::new().fg(dark),
        ColorMode::Light => Style::new().fg(light),
        ColorMode::None => Style::new(),
    };
    match role {
        Role::Ok => color(Color::Green, Color::Green),
        Role::Warn => color(Color::Yellow, Color::Yellow),
        Role::Error => color(Color::Red, Color::Red).add_modifier(Modifier::BOLD),
        Role::Accent => color(Color::Cyan, Color::Blue).add_modifier(Modifier::BOLD),
        Role::Exposed => color(Color::Magenta, Color::Magenta),
        Role::Muted => Style::new().add_modifier(Modifier::DIM),
        Role::Selected => Style::new().add_modifier(Modifier::REVERSED),
        Role::Plain => Style::new(),
    }
}

/// The style of a severity.
pub(crate) fn severity(look: Look, severity: Severity) -> Style {
    style(
        look,
        match severity {
            Severity::None => Role::Plain,
            Severity::Warn => Role::Warn,
            Severity::Error => Role::Error,
        },
    )
}

/// The mark of a severity, for those who see no colour.
pub(crate) fn mark(severity: Severity) -> &'static str {
    match severity {
        Severity::None => "",
        Severity::Warn => "!",
        Severity::Error => "!!",
    }
}
