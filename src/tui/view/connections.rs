//! A list of connections: of the selected mapping, or all.

use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use super::mappings::{arrow, goes_on, heading, rest};
use super::theme::Role;
use crate::model::event::ConnectionState;
use crate::model::format;
use crate::tui::state::columns::{self, ConnectionColumn, Placed};
use crate::tui::state::layout::Lines;
use crate::tui::state::{ConnectionItem, Pane, State, View};

/// Columns of the longest `x reason`.
const REASON: u16 = 17;

/// Draws the pane.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines) {
    let state = canvas.state;
    let list = &state.connections;
    let has_focus = state.focus() == Pane::Connections;
    let (name, _) = list.sort.name_and_next();
    canvas.rule(
        lines.y,
        "CONNECTIONS",
        &rest(state, Pane::Connections, &title(state)),
        &format!("{name} {}", arrow(list.descending)),
        has_focus,
    );
    let (columns, _) = columns::connections(canvas.width(), state.beside(), list.column_skip);
    let muted = canvas.style(Role::Muted);
    if list.order.is_empty() {
        let text = if list.filter.is_empty() { "no connection now" } else { "no connection passes the filter" };
        canvas.text(3, lines.y + 1, text, muted);
        return;
    }
    for column in &columns {
        heading(canvas, lines.y + 1, column, muted);
    }
    let visible = state.visible(Pane::Connections);
    for (y, id) in (lines.y + 2..).zip(list.order.iter().skip(list.offset).take(visible)) {
        if let Some(item) = state.world().connections.get(id) {
            row(canvas, y, item, &columns, has_focus);
        }
    }
    goes_on(canvas, lines, list.offset, visible, list.order.len());
}

/// `any:8080 -> web_1:80   5 open, 1 closed`.
fn title(state: &State) -> String {
    let world = state.world();
    let listed = state.connections.order.iter().filter_map(|id| world.connections.get(id));
    let closed = listed.filter(|item| item.row.is_closed()).count();
    let open = state.connections.order.len() - closed;
    let counts = if closed == 0 { format!("{open} open") } else { format!("{open} open, {closed} closed") };
    match (state.view, state.selected_mapping()) {
        (View::Mappings, Some(item)) => {
            let mapping = &item.row.mapping;
            let end = item.row.with_port_taken(mapping.listen.to_string());
            let session = if item.row.is_session { ", this session" } else { "" };
            format!("{end} -> {}{session}   {counts}", mapping.target)
        }
        _ => counts,
    }
}

fn row(canvas: &mut Canvas<'_>, y: u16, item: &ConnectionItem, columns: &[Placed<ConnectionColumn>], has_focus: bool) {
    let state = canvas.state;
    let is_closed = item.row.is_closed();
    let muted = canvas.style(Role::Muted);
    for column in columns {
        if column.id == ConnectionColumn::State {
            state_cell(canvas, y, item, columns, column);
            continue;
        }
        if is_closed && gives_way(columns) == Some(column.id) {
            // The reason needs the room.
            continue;
        }
        let text = cell(state, item, column);
        let style = if is_closed { muted } else { Style::new() };
        if column.is_right {
            canvas.right(column.x + column.width, y, &text, style);
        } else {
            canvas.text(column.x, y, &text, style);
        }
    }
    if state.connections.selected == Some(item.id()) {
        canvas.text(0, y, ">", Style::new());
        canvas.select(y, has_focus);
    }
}

/// The column before the state, whose room the reason of a closed connection takes. A list in which no column may give
/// way has a wider state.
fn gives_way(columns: &[Placed<ConnectionColumn>]) -> Option<ConnectionColumn> {
    use ConnectionColumn as C;
    let state = columns.iter().position(|column| column.id == C::State)?;
    let before = columns.get(state.checked_sub(1)?)?.id;
    matches!(before, C::Process | C::Request | C::Alias).then_some(before)
}

/// The state, or `x` and the reason, for which the column before gives its room.
fn state_cell(
    canvas: &mut Canvas<'_>,
    y: u16,
    item: &ConnectionItem,
    columns: &[Placed<ConnectionColumn>],
    column: &Placed<ConnectionColumn>,
) {
    let connection = &item.row.connection;
    if let Some(reason) = connection.reason {
        let before = columns.iter().find(|other| Some(other.id) == gives_way(columns));
        let start = before.map_or(column.x, |before| before.x);
        let end = column.x + column.width;
        // All reasons begin at one place, as far right as the longest of them can.
        let x = start.max(end.saturating_sub(REASON));
        let text = format::elide_end(&item.row.state_text(), usize::from(end - x));
        let style = if reason.is_fine() {
            canvas.style(Role::Muted)
        } else {
            canvas.style(Role::Warn).add_modifier(Modifier::DIM)
        };
        canvas.text(x, y, &text, style);
        return;
    }
    let role = match connection.state {
        ConnectionState::HalfClosed => Role::Warn,
        ConnectionState::Connecting | ConnectionState::Closing => Role::Muted,
        _ => Role::Plain,
    };
    canvas.cut(column.x, y, &item.row.state_text(), column.width, canvas.style(role));
}

fn cell(state: &State, item: &ConnectionItem, column: &Placed<ConnectionColumn>) -> String {
    use ConnectionColumn as C;
    let connection = &item.row.connection;
    let endpoint = |text: String| columns::fitted(&text, column, true);
    match column.id {
        C::Family => item.row.families_text(),
        C::Client => endpoint(format::endpoint(item.row.client())),
        C::Alias => item.row.alias_text(),
        C::Request => format::elide_end(&item.row.request_text(), usize::from(column.width)),
        C::Process => {
            let width = usize::from(column.width);
            match (&item.row.process, connection.peer) {
                (Some(process), _) => format::elide_process(process.as_str(), width),
                // Who names the client, and is no process of this machine.
                (None, Some(peer)) => {
                    let address = format::address(peer.ip());
                    let via = format!("via {address}");
                    if format::width(&via) <= width { via } else { columns::fitted(&address, column, false) }
                }
                (None, None) => String::new(),
            }
        }
        C::In => item.row.sum_text(item.figures.bytes_in),
        C::Out => item.row.sum_text(item.figures.bytes_out),
        C::InRate => item.row.rate_text(item.figures.in_rate),
        C::OutRate => item.row.rate_text(item.figures.out_rate),
        C::Age => age(state, item),
        C::Listener => endpoint(format::endpoint(item.row.listener())),
        C::Source => endpoint(format::endpoint(connection.source)),
        C::TargetAddress => endpoint(format::endpoint(connection.target_address)),
        // Drawn by the row.
        C::State => String::new(),
    }
}

/// Its age, or how long ago it ended.
pub(super) fn age(state: &State, item: &ConnectionItem) -> String {
    item.row.age_text(state.world().service_ms(state.shown_ms()))
}
