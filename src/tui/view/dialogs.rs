//! Profiles and copying: short lists over the lower part of the screen.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::widgets::{Clear, Widget};

use super::canvas::Canvas;
use super::import;
use super::palette;
use super::theme::Role;
use crate::model::format;
use crate::tui::state::Overlay;
use crate::tui::state::layout::Lines;

/// Draws what lies over the panes, if it is drawn here; says where the cursor stands.
pub(super) fn draw(canvas: &mut Canvas<'_>, body: Lines) -> Option<(u16, u16)> {
    match &canvas.state.overlay {
        Overlay::Palette(palette) => return Some(palette::draw(canvas, body, palette)),
        Overlay::Profiles(profiles) => {
            let rows: Vec<_> = profiles
                .list()
                .iter()
                .map(|name| {
                    let open = if Some(name) == profiles.open.as_ref() { "open" } else { "" };
                    (String::new(), name.clone(), open.to_owned())
                })
                .collect();
            let none = if profiles.names.is_none() { "..." } else { "no profile yet; :saveas NAME makes one" };
            choices(canvas, body, ("PROFILES", "enter open  esc back"), &rows, profiles.chosen, none);
        }
        Overlay::Import(import) => import::draw(canvas, body, import),
        Overlay::CopyAs(copy) => {
            let rows: Vec<_> = copy
                .choices
                .iter()
                .map(|(letter, name, text)| (letter.to_string(), (*name).to_owned(), text.replace('\n', "; ")))
                .collect();
            choices(canvas, body, ("COPY AS", "enter copy  esc back"), &rows, copy.chosen, "");
        }
        _ => {}
    }
    None
}

/// Clears room for a panel at the foot of the body.
pub(super) fn panel(canvas: &mut Canvas<'_>, body: Lines, height: u16) -> Lines {
    let height = height.min(body.height);
    let lines = Lines { y: body.y + body.height - height, height };
    Clear.render(Rect { x: 0, y: lines.y, width: canvas.width(), height }, canvas.buffer);
    lines
}

fn choices(
    canvas: &mut Canvas<'_>,
    body: Lines,
    (title, right): (&str, &str),
    rows: &[(String, String, String)],
    chosen: usize,
    none: &str,
) {
    let room = usize::from(body.height.saturating_sub(2)).min(12);
    let shown = rows.len().min(room).max(1);
    let lines = panel(canvas, body, u16::try_from(shown + 1).unwrap_or(u16::MAX));
    canvas.rule(lines.y, title, "", right, true);
    if rows.is_empty() {
        let muted = canvas.style(Role::Muted);
        canvas.text(3, lines.y + 1, none, muted);
        return;
    }
    let accent = canvas.style(Role::Accent);
    let muted = canvas.style(Role::Muted);
    let first = (chosen + 1).saturating_sub(shown);
    for (y, (at, (key, name, more))) in (lines.y + 1..).zip(rows.iter().enumerate().skip(first).take(shown)) {
        let x = if key.is_empty() { 3 } else { canvas.text(3, y, key, accent) + 2 };
        let x = canvas.text(x, y, name, Style::new()).max(22) + 1;
        let room = usize::from(canvas.width().saturating_sub(x + 1));
        canvas.text(x, y, &format::elide_end(more, room), muted);
        if at == chosen {
            canvas.text(1, y, ">", Style::new());
            canvas.select(y, true);
        }
    }
}
