//! Draws the state. One file a panel; a view takes `&State` and decides nothing.

mod canvas;
mod connections;
mod container_detail;
mod containers;
mod detail;
mod dialogs;
mod events;
mod form;
mod frame;
mod help;
mod import;
mod mappings;
mod news;
mod palette;
mod theme;
mod why;

use ratatui::Frame;
use ratatui::layout::Position;

use super::state::{Overlay, State};
use canvas::Canvas;

/// Draws one frame.
pub fn draw(state: &State, frame: &mut Frame<'_>) {
    let mut canvas = Canvas { buffer: frame.buffer_mut(), state };
    let cursor = panels(&mut canvas);
    canvas.purify();
    if let Some((x, y)) = cursor {
        frame.set_cursor_position(Position { x, y });
    }
}

/// Draws every panel; says where the cursor stands, where text is typed.
fn panels(canvas: &mut Canvas<'_>) -> Option<(u16, u16)> {
    let state = canvas.state;
    let layout = state.layout();
    if layout.is_tiny {
        frame::tiny(canvas);
        return None;
    }
    frame::head(canvas);
    let cursor = match &state.overlay {
        Overlay::Form(form) => form::draw(canvas, layout.body, form),
        Overlay::Why(page) => {
            why::draw(canvas, layout.body, page);
            None
        }
        Overlay::Help(help) => Some(help::draw(canvas, layout.body, help)),
        _ => {
            if let Some(lines) = layout.mappings {
                mappings::draw(canvas, lines);
            }
            if let Some(lines) = layout.connections {
                connections::draw(canvas, lines);
            }
            if let Some(lines) = layout.containers {
                containers::draw(canvas, lines);
            }
            if let Some(lines) = layout.detail {
                detail::draw(canvas, lines);
            }
            if let Some(lines) = layout.events {
                events::draw(canvas, lines);
            }
            dialogs::draw(canvas, layout.body)
        }
    };
    frame::foot(canvas).or(cursor)
}
