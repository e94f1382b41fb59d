//! The palette, over the lower part of the screen.

use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use super::dialogs;
use super::theme::Role;
use crate::model::format;
use crate::tui::state::dialog::Palette;
use crate::tui::state::layout::Lines;
use crate::tui::state::suggest::suggestions;

/// Suggestions shown at most.
const ROWS: usize = 10;

/// Draws it; says where the cursor stands.
pub(super) fn draw(canvas: &mut Canvas<'_>, body: Lines, palette: &Palette) -> (u16, u16) {
    let suggestions = suggestions(canvas.state);
    let room = usize::from(body.height.saturating_sub(3)).min(ROWS);
    let rows = suggestions.len().min(room).max(1);
    let lines = dialogs::panel(canvas, body, u16::try_from(rows + 2).unwrap_or(u16::MAX));
    canvas.rule(lines.y, "PALETTE", "", "tab complete  enter do  esc back", true);
    let accent = canvas.style(Role::Accent);
    let x = canvas.text(1, lines.y + 1, ":", accent);
    let scroll = palette.input.visual_scroll(usize::from(canvas.width().saturating_sub(x + 1)));
    let shown: String = palette.input.value().chars().skip(scroll).collect();
    canvas.text(x, lines.y + 1, &shown, Style::new());
    let mut y = lines.y + 2;
    if let Some(error) = &palette.error {
        let style = canvas.style(Role::Error);
        let room = usize::from(canvas.width().saturating_sub(4));
        canvas.text(3, y, &format::elide_end(&format!("!! {error}"), room), style);
        y += 1;
    }
    let muted = canvas.style(Role::Muted);
    let first = (palette.chosen + 1).saturating_sub(rows);
    for (at, suggestion) in suggestions.iter().enumerate().skip(first).take(rows) {
        if y >= lines.y + lines.height {
            break;
        }
        let x = canvas.text(3, y, &suggestion.text, Style::new().add_modifier(Modifier::BOLD)).max(22) + 1;
        let x = canvas.text(x, y, &suggestion.key, accent).max(35) + 1;
        let room = usize::from(canvas.width().saturating_sub(x));
        canvas.text(x, y, &format::elide_end(&suggestion.help, room), muted);
        if at == palette.chosen {
            canvas.text(1, y, ">", Style::new());
            canvas.select(y, true);
        }
        y += 1;
    }
    let cursor = palette.input.visual_cursor().saturating_sub(scroll);
    (x + u16::try_from(cursor).unwrap_or(0), lines.y + 1)
}
