//! What happened: the view, and the last few lines of it on a tall screen.

use ratatui::style::Style;

use super::canvas::Canvas;
use super::mappings::{goes_on, rest};
use super::theme::{self, Role};
use crate::model::format;
use crate::tui::state::event_line::{event_line, short_line};
use crate::tui::state::layout::Lines;
use crate::tui::state::world::EventItem;
use crate::tui::state::{Pane, View};

/// Draws the pane.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines) {
    let state = canvas.state;
    let is_view = state.view == View::Events;
    canvas.rule(lines.y, "EVENTS", &rest(state, Pane::Events, "(UTC)"), "", is_view);
    let room = usize::from(lines.height.saturating_sub(1));
    if state.events.order.is_empty() {
        let text =
            if state.events.filter.is_empty() { "nothing has happened yet" } else { "no event passes the filter" };
        let muted = canvas.style(Role::Muted);
        canvas.text(3, lines.y + 1, text, muted);
        return;
    }
    let world = state.world();
    let (first, visible) = if is_view {
        (state.events.offset, state.visible(Pane::Events))
    } else {
        (state.events.order.len().saturating_sub(room), room)
    };
    for (y, number) in (lines.y + 1..).zip(state.events.order.iter().skip(first).take(visible)) {
        // Numbers are consecutive, so the place is known.
        let front = world.events.front().map_or(0, |item| item.number);
        let at = usize::try_from(number.saturating_sub(front)).unwrap_or(usize::MAX);
        if let Some(item) = world.events.get(at) {
            row(canvas, y, item, is_view);
        }
    }
    if is_view {
        goes_on(canvas, lines, first, visible, state.events.order.len());
    }
}

fn row(canvas: &mut Canvas<'_>, y: u16, item: &EventItem, is_view: bool) {
    let Some((severity, text)) = event_line(&item.event) else { return };
    let muted = canvas.style(Role::Muted);
    let time = item.event.time.strftime("%H:%M:%S").to_string();
    canvas.text(3, y, &time, muted);
    let style = theme::severity(canvas.state.look, severity);
    canvas.text(12, y, theme::mark(severity), style);
    let room = usize::from(canvas.width().saturating_sub(15));
    let text = if format::width(&text) > room { short_line(&item.event).unwrap_or(text) } else { text };
    canvas.text(15, y, &format::elide_end(&text, room), style);
    if is_view && canvas.state.events.selected == Some(item.number) {
        canvas.text(0, y, ">", Style::new());
        canvas.select(y, true);
    }
}
