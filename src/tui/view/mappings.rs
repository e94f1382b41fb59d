//! The list of mappings.

use ratatui::style::Style;

use super::canvas::Canvas;
use super::theme::{self, Role};
use crate::model::event::MappingState;
use crate::model::format;
use crate::model::mapping::Protocol;
use crate::model::row::LastWords;
use crate::model::update::{LastOutcome, ListenerRow, Owner};
use crate::tui::state::columns::{self, MappingColumn, Placed};
use crate::tui::state::layout::Lines;
use crate::tui::state::{MappingItem, Pane, Severity, State};

/// Draws the pane.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines) {
    let state = canvas.state;
    let list = &state.mappings;
    let has_focus = state.focus() == Pane::Mappings;
    if state.world().mappings.is_empty() {
        first_run(canvas, lines);
        return;
    }
    let (name, _) = list.sort.name_and_next();
    let rest = rest(state, Pane::Mappings, "(bytes/s)");
    canvas.rule(lines.y, "MAPPINGS", &rest, &format!("{name} {}", arrow(list.descending)), has_focus);
    let (columns, _) = columns::mappings(canvas.width(), state.wanted(), list.column_skip);
    let muted = canvas.style(Role::Muted);
    for column in &columns {
        heading(canvas, lines.y + 1, column, muted);
    }
    let visible = state.visible(Pane::Mappings);
    for (y, id) in (lines.y + 2..).zip(list.order.iter().skip(list.offset).take(visible)) {
        if let Some(item) = state.world().mappings.get(id) {
            row(canvas, y, item, &columns, has_focus);
        }
    }
    goes_on(canvas, lines, list.offset, visible, list.order.len());
}

/// `^` or `v`.
pub(super) fn arrow(descending: bool) -> char {
    if descending { 'v' } else { '^' }
}

/// What stands beside the title: the filter, else what the pane says of itself.
pub(super) fn rest(state: &State, pane: Pane, otherwise: &str) -> String {
    let filter = state.filter(pane);
    if filter.is_empty() {
        otherwise.to_owned()
    } else {
        format!("{otherwise} /{}", filter.text()).trim_start().to_owned()
    }
}

/// The name of a column.
pub(super) fn heading<C>(canvas: &mut Canvas<'_>, y: u16, column: &Placed<C>, style: Style) {
    let title = format::elide_end(column.title, usize::from(column.width));
    if column.is_right {
        canvas.right(column.x + column.width, y, &title, style);
    } else {
        canvas.text(column.x, y, &title, style);
    }
}

/// `4 of 5`, where a list goes on.
pub(super) fn goes_on(canvas: &mut Canvas<'_>, lines: Lines, offset: usize, visible: usize, len: usize) {
    if visible == 0 || len <= visible {
        return;
    }
    let text = if offset == 0 {
        format!("{visible} of {len}")
    } else {
        format!("{}-{} of {len}", offset + 1, (offset + visible).min(len))
    };
    let style = canvas.style(Role::Muted);
    canvas.right(canvas.width() - 1, lines.y + lines.height - 1, &text, style);
}

fn row(canvas: &mut Canvas<'_>, y: u16, item: &MappingItem, columns: &[Placed<MappingColumn>], has_focus: bool) {
    let state = canvas.state;
    let id = item.row.id;
    let is_selected = state.mappings.selected == Some(id);
    let severity = item.severity();
    let mark = if state.marks.contains(&id) {
        if severity == Severity::None { "*" } else { "*!" }
    } else {
        theme::mark(severity)
    };
    canvas.text(1, y, mark, theme::severity(state.look, severity));
    let is_stopped = item.row.state == MappingState::Stopped;
    for column in columns {
        if column.id == MappingColumn::Graph {
            let now_ms = state.world().service_ms(state.shown_ms());
            let values = item.meters.out.history(now_ms, 3_000, usize::from(column.width));
            let peak = values.iter().copied().fold(0.0, f64::max);
            canvas.graph(column.x, y, &values, peak);
            continue;
        }
        let (text, role) = cell(state, item, column);
        let mut style = canvas.style(role);
        if is_stopped {
            style = canvas.style(Role::Muted);
        }
        if column.is_right {
            canvas.right(column.x + column.width, y, &text, style);
        } else {
            canvas.text(column.x, y, &text, style);
        }
    }
    if is_selected {
        canvas.text(0, y, ">", Style::new());
        canvas.select(y, has_focus);
    }
}

fn cell(state: &State, item: &MappingItem, column: &Placed<MappingColumn>) -> (String, Role) {
    use MappingColumn as C;
    let row = &item.row;
    let is_stopped = row.state == MappingState::Stopped;
    let plain = |text: String| (text, Role::Plain);
    match column.id {
        C::State if item.row.is_docker() && row.state == MappingState::Up => {
            (format::elide_end(row.state_word(), usize::from(column.width)), Role::Muted)
        }
        C::State => {
            let role = match row.state {
                MappingState::Up => Role::Ok,
                MappingState::Half | MappingState::Waiting | MappingState::Degraded => Role::Warn,
                MappingState::Failed => Role::Error,
                MappingState::Starting | MappingState::Stopped => Role::Muted,
            };
            (row.state_word().to_owned(), role)
        }
        C::Listen => plain(columns::fitted(&state.listen_text(item), column, true)),
        C::Who if row.mapping.is_exposed() => (row.who_word().to_owned(), Role::Exposed),
        C::Who => plain(row.who_word().to_owned()),
        C::Target => plain(columns::fitted(&row.mapping.target.to_string(), column, true)),
        C::Connections => plain(row.open_text()),
        C::InRate => plain(row.rate_text(item.figures.in_rate)),
        C::OutRate => plain(row.rate_text(item.figures.out_rate)),
        C::LastResult => last_result(item, column),
        C::In => plain(row.sum_text(state.counters(item).bytes_in)),
        C::Out => plain(row.sum_text(state.counters(item).bytes_out)),
        C::TargetAddress => {
            let text = match row.target_addresses.as_slice() {
                [] if is_stopped => "-".to_owned(),
                [] => "??".to_owned(),
                [first] => format::elide_address(&format::address(*first), usize::from(column.width)),
                [first, more @ ..] => {
                    let more = format!(" +{}", more.len());
                    let room = usize::from(column.width).saturating_sub(more.len());
                    format!("{}{more}", format::elide_address(&format::address(*first), room))
                }
            };
            plain(text)
        }
        C::Errors => {
            let errors = state.counters(item).errors;
            (errors.to_string(), if errors > 0 { Role::Warn } else { Role::Plain })
        }
        C::ConnectTime => plain(row.connect_p50_us.map_or_else(|| "-".to_owned(), format::latency)),
        C::Profile => {
            let profile = state.world().overview.profile.as_ref().map_or("-", |profile| profile.name.as_str());
            let profile = match &row.owner {
                _ if row.is_session => "session",
                Owner::Docker { .. } => "docker",
                Owner::Portolan => profile,
            };
            plain(format::elide_end(profile, usize::from(column.width)))
        }
        // Drawn by the row.
        C::Graph => plain(String::new()),
    }
}

fn last_result(item: &MappingItem, column: &Placed<MappingColumn>) -> (String, Role) {
    let row = &item.row;
    let role = match item.severity() {
        Severity::None => Role::Plain,
        Severity::Warn => Role::Warn,
        Severity::Error => Role::Error,
    };
    let width = usize::from(column.width);
    let words = row.last_words();
    let text = match &words {
        LastWords::Missing(listener, why) => missing(listener, why, width),
        LastWords::Target(result) if result.outcome != LastOutcome::Ok && !row.is_docker() => {
            // Where it failed, `w` says why.
            let with_key = format!("{}: w", words.text());
            if format::width(&with_key) <= width { with_key } else { words.text() }
        }
        words => words.text(),
    };
    let role = if text.starts_with("ok") && role == Role::Plain { Role::Ok } else { role };
    (format::elide_process(&text, width), role)
}

/// The family that is missing and why: by its address, as much of that as leaves room for the reason, else by a
/// word.
fn missing(listener: &ListenerRow, error: &str, columns: usize) -> String {
    let address = listener.host();
    let room = columns.saturating_sub(format::width(error) + 1);
    if format::width(address) <= room {
        format!("{address} {error}")
    } else if room >= 9 {
        format!("{} {error}", format::elide_address(address, room))
    } else {
        format!("{} {error}", listener.family)
    }
}

/// No mapping yet: what to do.
fn first_run(canvas: &mut Canvas<'_>, lines: Lines) {
    canvas.rule(lines.y, "MAPPINGS", "", "", true);
    let accent = canvas.style(Role::Accent);
    let end = lines.y + lines.height;
    let is_low = lines.height < 14;
    let mut y = lines.y + if is_low { 1 } else { 2 };
    // The text hangs beside its key, in as many lines as it takes.
    let mut line = |canvas: &mut Canvas<'_>, key: &str, text: &str| {
        let x = if key.is_empty() { 3 } else { 5 + u16::try_from(format::width(key)).unwrap_or(0) };
        for (at, text) in
            format::wrap(text, usize::from(canvas.width().saturating_sub(x + 1)).min(72)).iter().enumerate()
        {
            if y < end {
                if at == 0 {
                    canvas.text(3, y, key, accent);
                }
                canvas.text(x, y, text, Style::new());
            }
            y += 1;
        }
    };
    if is_low {
        line(canvas, "", "No mapping yet.");
        line(canvas, "a", "adds one");
        line(canvas, "i", "imports what containers expose");
        line(canvas, "o", "opens another profile");
        line(canvas, "portolan try", "shows it at work");
        return;
    }
    line(
        canvas,
        "",
        "No mapping yet. A mapping listens on a port of this machine and forwards to a container, over IPv6 and IPv4.",
    );
    line(canvas, "", "");
    line(canvas, "a", "adds a mapping; a pasted docker run -p or ssh -L fills the form");
    line(canvas, "i", "imports: makes ports that containers expose into mappings");
    line(canvas, "o", "opens a profile: mappings that were saved under another name");
    line(canvas, "?", "says what every key does");
    line(canvas, "", "");
    line(
        canvas,
        "portolan try",
        "shows all of it at once: a small IPv4-only web page, mapped, and the command that reaches it over IPv6",
    );
}

/// The protocol of a mapping has no connections to reset, only flows.
pub(super) fn unit(protocol: Protocol) -> &'static str {
    if protocol == Protocol::Udp { "flow" } else { "connection" }
}
