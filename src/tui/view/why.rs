//! The page that says why a mapping does not work.

use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use super::mappings::goes_on;
use super::theme::Role;
use crate::tui::state::layout::Lines;
use crate::tui::state::why::{Tone, Why};

/// Draws the page.
pub(super) fn draw(canvas: &mut Canvas<'_>, body: Lines, why: &Why) {
    let width = canvas.width();
    canvas.rule(body.y, "WHY", &why.title, &why.state(canvas.state.now_ms), true);
    let lines = why.lines(width);
    let room = usize::from(body.height.saturating_sub(1));
    let visible = why.visible(width, room);
    if lines.is_empty() {
        let muted = canvas.style(Role::Muted);
        canvas.text(1, body.y + 1, "checking ...", muted);
    }
    let offset = why.offset.min(lines.len().saturating_sub(visible));
    for (y, line) in (body.y + 1..).zip(lines.iter().skip(offset).take(visible)) {
        for (x, text, tone) in &line.0 {
            let style = match tone {
                Tone::Plain => Style::new(),
                Tone::Muted => canvas.style(Role::Muted),
                Tone::Ok => canvas.style(Role::Ok),
                Tone::Bad => canvas.style(Role::Error),
                Tone::Unknown => canvas.style(Role::Warn),
                Tone::Remedy => canvas.style(Role::Accent).add_modifier(Modifier::BOLD),
            };
            canvas.text(*x, y, text, style);
        }
    }
    goes_on(canvas, body, offset, visible, lines.len());
}
