//! The detail of the selected connection, both legs as `netstat` would show them; without one, of the mapping.

use ratatui::style::Style;

use super::canvas::Canvas;
use super::connections::age;
use super::container_detail;
use super::mappings::unit;
use super::theme::{self, Role};
use crate::model::count::count;
use crate::model::event::{ConnectionState, Side};
use crate::model::format;
use crate::model::rate::RateMeter;
use crate::model::update::Way;
use crate::tui::state::event_line::event_line;
use crate::tui::state::layout::Lines;
use crate::tui::state::world::Meters;
use crate::tui::state::{ConnectionItem, MappingItem, Severity, View, Zoom};

/// The graph shows at most this many seconds.
const GRAPH_SECONDS: usize = 60;

/// Draws the pane.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines) {
    let state = canvas.state;
    let is_zoomed = state.zoom == Zoom::Detail;
    if state.view == View::Events && !is_zoomed {
        event(canvas, lines);
        return;
    }
    if state.view == View::Containers {
        container_detail::draw(canvas, lines);
        return;
    }
    let connection = state.selected_connection();
    let mapping = match connection {
        Some(item) => state.world().mappings.get(&item.row.mapping_id),
        None => state.selected_mapping(),
    };
    canvas.rule(lines.y, "DETAIL", "", "", is_zoomed);
    let mut pen = Pen { canvas, y: lines.y + 1, end: lines.y + lines.height };
    if is_zoomed {
        if let Some(item) = connection {
            whole_connection(&mut pen, item);
        }
        if let Some(item) = mapping {
            pen.y += 1;
            whole_mapping(&mut pen, item);
        }
        let meters = connection.map(|item| &item.meters).or(mapping.map(|item| &item.meters));
        if let Some(meters) = meters {
            pen.y += 1;
            graphs(&mut pen, meters);
        }
        return;
    }
    match (connection, mapping) {
        (Some(item), _) => {
            legs(&mut pen, item);
            unseen(&mut pen, mapping.filter(|_| item.row.is_docker()));
            // Where there is room for one line, the latest request is worth more than a graph.
            let room = usize::from(pen.end.saturating_sub(pen.y));
            exchanges(&mut pen, item, room.div_ceil(3));
            graphs(&mut pen, &item.meters);
        }
        (None, Some(item)) => {
            ends(&mut pen, item);
            unseen(&mut pen, Some(item));
            graphs(&mut pen, &item.meters);
        }
        (None, None) => {}
    }
}

/// All of the selected event, which the list has to cut on most screens.
fn event(canvas: &mut Canvas<'_>, lines: Lines) {
    canvas.rule(lines.y, "DETAIL", "", "", false);
    let Some(item) = canvas.state.selected_event() else { return };
    let Some((severity, text)) = event_line(&item.event) else { return };
    let style = theme::severity(canvas.state.look, severity);
    let room = usize::from(canvas.width().saturating_sub(2));
    for (y, line) in (lines.y + 1..lines.y + lines.height).zip(format::wrap(&text, room)) {
        canvas.text(1, y, &line, style);
    }
}

/// Writes line after line, as far as the pane goes.
pub(super) struct Pen<'a, 'b> {
    pub(super) canvas: &'a mut Canvas<'b>,
    pub(super) y: u16,
    pub(super) end: u16,
}

impl Pen<'_, '_> {
    /// A name, a text, and what stands at the right if there is room for it.
    fn line(&mut self, name: &str, text: &str, right: &str) {
        self.styled(name, text, &[right], Style::new());
    }

    /// A name, and a text on as many lines as it takes.
    fn wrapped(&mut self, name: &str, text: &str, style: Style) {
        let room = usize::from(self.canvas.width().saturating_sub(10));
        for (at, line) in format::wrap(text, room).iter().enumerate() {
            self.styled(if at == 0 { name } else { "" }, line, &[], style);
        }
    }

    /// Of what could stand at the right, the first that there is room for.
    pub(super) fn styled(&mut self, name: &str, text: &str, rights: &[&str], style: Style) {
        if self.y >= self.end {
            return;
        }
        let width = self.canvas.width();
        self.canvas.text(1, self.y, name, self.canvas.style(Role::Muted));
        let room = usize::from(width.saturating_sub(10));
        let x = self.canvas.text(9, self.y, &format::elide_end(text, room), style);
        let room = usize::from(width.saturating_sub(x + 3));
        if let Some(right) = rights.iter().find(|right| format::width(right) <= room) {
            self.canvas.right(width - 1, self.y, right, Style::new());
        }
        self.y += 1;
    }
}

/// Two lines: client to listener, source to target.
fn legs(pen: &mut Pen<'_, '_>, item: &ConnectionItem) {
    let connection = &item.row.connection;
    let client_leg = leg(pen, &format::endpoint(item.row.client()), &format::endpoint(item.row.listener()));
    let target_leg = leg(pen, &format::endpoint(connection.source), &format::endpoint(connection.target_address));
    // Figures stand one below the other, so that they can be compared.
    let bytes = |bytes: u64| if item.row.counts_bytes() { bytes.to_string() } else { "??".to_owned() };
    let bytes = (bytes(connection.bytes_in), bytes(connection.bytes_out));
    let digits = bytes.0.len().max(bytes.1.len());
    let process = match (connection.alias, &item.row.process) {
        (Some(alias), _) => format!("as {alias}  "),
        (None, Some(process)) => format!("{process}  "),
        (None, None) => String::new(),
    };
    let via = connection.peer.map(|peer| format!("via {}  ", format::address(peer.ip()))).unwrap_or_default();
    let age = if item.row.is_closed() {
        format!("lived {}", format::age(connection.duration_ms))
    } else {
        age(pen.canvas.state, item)
    };
    let plain = Style::new();
    let (bytes_in, bytes_out) = (format!("in  {:>digits$} B", bytes.0), format!("out {:>digits$} B", bytes.1));
    // Of a session of Docker's the kernel's words for each leg are all that is known of its state.
    let (state, other) = match &item.row.observed {
        Some(observed) if !item.row.is_closed() => (observed.states[0].to_string(), observed.states[1].to_string()),
        _ => (state_words(item), connection.target.clone()),
    };
    let state_and_bytes = format!("{state} {age}   {bytes_in}");
    let rights = [
        format!("{via}{process}{state_and_bytes}"),
        format!("{process}{state_and_bytes}"),
        state_and_bytes,
        format!("{state}  {bytes_in}"),
        bytes_in,
    ];
    pen.styled("client", &client_leg, &rights.each_ref().map(String::as_str), plain);
    let rights = [format!("{other}   {bytes_out}"), format!("{other}  {bytes_out}"), bytes_out];
    pen.styled("target", &target_leg, &rights.each_ref().map(String::as_str), plain);
}

/// What of the sessions of a port of Docker's cannot be seen, and what that needs.
fn unseen(pen: &mut Pen<'_, '_>, item: Option<&MappingItem>) {
    for text in item.iter().flat_map(|item| item.row.unseen()) {
        let room = usize::from(pen.canvas.width().saturating_sub(10));
        let style = pen.canvas.style(Role::Muted);
        for (at, line) in format::wrap(&format!("?? {text}"), room).iter().enumerate() {
            pen.styled(if at == 0 { "unseen" } else { "" }, line, &[], style);
        }
    }
}

/// A leg, its addresses cut where the screen is too narrow for both; ports never.
fn leg(pen: &Pen<'_, '_>, from: &str, to: &str) -> String {
    let room = usize::from(pen.canvas.width().saturating_sub(10)).saturating_sub(4);
    let (a, b) = (format::width(from), format::width(to));
    if a + b <= room {
        return format!("{from} -> {to}");
    }
    let half = room / 2;
    let (first, second) = if a <= half {
        (a, room - a)
    } else if b <= half {
        (room - b, b)
    } else {
        (half, room - half)
    };
    format!("{} -> {}", format::elide_endpoint(from, first), format::elide_endpoint(to, second))
}

fn state_words(item: &ConnectionItem) -> String {
    let connection = &item.row.connection;
    match (connection.reason, connection.state, connection.closed_side) {
        (Some(reason), ..) => format!("x {}", format::close_reason(reason)),
        (None, ConnectionState::HalfClosed, Some(Side::Client)) => "half, client has finished".to_owned(),
        (None, ConnectionState::HalfClosed, Some(Side::Target)) => "half, target has finished".to_owned(),
        (None, state, _) => format::connection_state(state).to_owned(),
    }
}

/// Two lines of a mapping without connections: its listeners, its target.
fn ends(pen: &mut Pen<'_, '_>, item: &MappingItem) {
    let row = &item.row;
    let listeners: Vec<_> = row.listeners.iter().map(listener_words).collect();
    let listeners = if listeners.is_empty() { "not listening".to_owned() } else { listeners.join("   ") };
    let since_start = format!("{} since start", count(row.connections_total, unit(row.mapping.protocol)));
    let with_session = format!("this session, {since_start}");
    let rights = if row.is_session { [with_session.as_str(), "this session"] } else { [since_start.as_str(), ""] };
    pen.styled("listen", &listeners, &rights, Style::new());
    pen.line("target", &target_words(item), &row.last_result.map(format::last_result).unwrap_or_default());
}

fn listener_words(listener: &crate::model::update::ListenerRow) -> String {
    match (&listener.error, listener.bound) {
        (Some(error), _) => format!("! {} {}", listener.address, format::short_error(error.as_str())),
        (None, Some(_)) => format!("{} bound", listener.address),
        (None, None) => format!("{} not bound", listener.address),
    }
}

fn target_words(item: &MappingItem) -> String {
    let row = &item.row;
    let addresses: Vec<_> = row.target_addresses.iter().map(|ip| format::address(*ip)).collect();
    let addresses = if addresses.is_empty() { "??".to_owned() } else { addresses.join(" ") };
    let target = row.mapping.target.to_string();
    if target.starts_with(&addresses) { target } else { format!("{target} -> {addresses}") }
}

/// Everything about a connection.
fn whole_connection(pen: &mut Pen<'_, '_>, item: &ConnectionItem) {
    let connection = &item.row.connection;
    let client_leg = leg(pen, &format::endpoint(item.row.client()), &format::endpoint(item.row.listener()));
    let target_leg = leg(pen, &format::endpoint(connection.source), &format::endpoint(connection.target_address));
    let observed = item.row.observed.as_ref().filter(|_| !item.row.is_closed());
    let kernel = |leg: usize| observed.map(|observed| observed.states[leg].to_string()).unwrap_or_default();
    pen.line("client", &client_leg, &kernel(0));
    if let Some(peer) = connection.peer {
        pen.line("peer", &format!("{}, whose PROXY header names the client", format::endpoint(Some(peer))), "");
    }
    if let Some(alias) = connection.alias {
        pen.line("alias", &format!("the container sees {alias}"), "");
    }
    pen.line("target", &target_leg, &if observed.is_some() { kernel(1) } else { connection.target.clone() });
    if let Some(observed) = &item.row.observed {
        let way = match observed.way {
            Way::Proxy => "through docker-proxy",
            Way::Dnat => "rewritten by the packet filter (DNAT), past every process",
        };
        pen.line("way", way, "");
    }
    pen.line("state", &state_words(item), &format!("{} {}", connection.protocol, connection.id));
    if let Some(error) = &connection.error {
        pen.styled("error", error.as_str(), &[], theme::severity(pen.canvas.state.look, Severity::Error));
    }
    if let Some(process) = &item.row.process {
        pen.line("process", process.as_str(), "");
    }
    let age = age(pen.canvas.state, item);
    let lived =
        if item.row.is_closed() { format!(", lived {}", format::age(connection.duration_ms)) } else { String::new() };
    let is_older = item.row.observed.as_ref().is_some_and(|observed| observed.is_older);
    let opened = format!("{}{:.3}", if is_older { "before " } else { "" }, connection.opened_at);
    pen.line("opened", &opened, &format!("{age}{lived}"));
    let datagrams = |number: Option<u64>| number.map(|number| count(number, "datagram")).unwrap_or_default();
    let bytes = |bytes: u64| if item.row.counts_bytes() { bytes.to_string() } else { "??".to_owned() };
    let (bytes_in, bytes_out) = (bytes(connection.bytes_in), bytes(connection.bytes_out));
    pen.line("in", &format!("{bytes_in} B  client to container"), &datagrams(connection.datagrams_in));
    pen.line("out", &format!("{bytes_out} B  container to client"), &datagrams(connection.datagrams_out));
    exchanges(pen, item, usize::MAX);
}

/// Its latest HTTP requests, the newest first, and how many there have been.
fn exchanges(pen: &mut Pen<'_, '_>, item: &ConnectionItem, most: usize) {
    if let Some(why) = &item.row.exchanges_end {
        pen.line("http", &format!("no more requests are listed: {why}"), "");
    }
    for (nth, exchange) in item.row.exchanges.iter().rev().take(most).enumerate() {
        let (status, time) = exchange.outcome();
        let all = count(item.row.connection.requests.unwrap_or_default(), "request");
        let (name, with_all) = if nth == 0 { ("http", format!("{time}, {all}")) } else { ("", time.clone()) };
        let style = match exchange.status {
            Some(500..) => theme::severity(pen.canvas.state.look, Severity::Error),
            Some(400..) => theme::severity(pen.canvas.state.look, Severity::Warn),
            _ => Style::new(),
        };
        let text = format!("{status} {} {}", exchange.method, exchange.path);
        pen.styled(name, &text, &[with_all.trim_start_matches(", "), &time], style);
    }
}

/// Everything about a mapping.
fn whole_mapping(pen: &mut Pen<'_, '_>, item: &MappingItem) {
    let state = pen.canvas.state;
    let row = &item.row;
    let style = theme::severity(state.look, item.severity());
    let reason = row.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let session = if row.is_session { ", for this session alone" } else { "" };
    pen.line("mapping", &row.mapping.to_string(), &format!("{}{session}", row.name));
    pen.wrapped("state", &format!("{}{reason}", format::mapping_state_word(row.state)), style);
    for listener in &row.listeners {
        pen.line("listen", &listener_words(listener), "");
    }
    pen.line("target", &target_words(item), &row.last_result.map(format::last_result).unwrap_or_default());
    let who = if row.mapping.is_exposed() { "other machines can connect" } else { "only this machine can connect" };
    pen.line("who", who, "");
    if let Some(told) = state.whereabouts.as_ref().filter(|told| told.id == row.id) {
        let port = row.mapping.target.ports.first();
        let places = told.will_be_at.iter().map(|at| format::place(*at, row.mapping.protocol, port));
        let places = places.collect::<Vec<_>>().join("  ");
        if !places.is_empty() {
            pen.wrapped("be at", &places, Style::new());
        }
        for note in &told.notes {
            pen.wrapped("", note.as_str(), Style::new());
        }
    }
    if item.row.is_docker() {
        pen.line("owner", "docker publishes it; it is only looked at", "");
        unseen(pen, Some(item));
    }
    let from = state.baselines.get(&row.id).copied().unwrap_or_default();
    let since = if state.baselines.contains_key(&row.id) { "from your 0 on" } else { "since start" };
    let (bytes_in, bytes_out) =
        (row.bytes_in.saturating_sub(from.bytes_in), row.bytes_out.saturating_sub(from.bytes_out));
    let bytes = if item.row.counts_bytes() {
        format!("in {bytes_in} B, out {bytes_out} B {since}")
    } else {
        "in ?? B, out ?? B".to_owned()
    };
    let text = format!(
        "{} open, {} in all, {} failed; {bytes}",
        row.connections,
        row.connections_total,
        row.errors.saturating_sub(from.errors)
    );
    pen.line("count", &text, "");
}

/// The graph of the rate to the client; where there is room, taller ones of both ways.
fn graphs(pen: &mut Pen<'_, '_>, meters: &Meters) {
    let rows = pen.end.saturating_sub(pen.y);
    if rows == 0 {
        return;
    }
    if rows < 4 {
        graph(pen, "out/s", &meters.out, 1);
        if rows > 1 {
            graph(pen, "in/s", &meters.r#in, 1);
        }
        return;
    }
    let each = (rows.saturating_sub(1) / 2).min(8);
    graph(pen, "out/s", &meters.out, each);
    if rows > 2 * each {
        pen.y += 1;
    }
    graph(pen, "in/s", &meters.r#in, each);
}

fn graph(pen: &mut Pen<'_, '_>, name: &str, meter: &RateMeter, rows: u16) {
    const LEFT: u16 = 9;
    const RIGHT: u16 = 20;
    let state = pen.canvas.state;
    let width = pen.canvas.width();
    let seconds = usize::from(width.saturating_sub(LEFT + RIGHT)).min(GRAPH_SECONDS);
    // Wide screens give a second two columns, or three.
    let per_second = (usize::from(width.saturating_sub(LEFT + RIGHT)) / GRAPH_SECONDS).clamp(1, 4);
    let now_ms = state.world().service_ms(state.shown_ms());
    let history = meter.history(now_ms, 1_000, seconds);
    let peak = history.iter().copied().fold(0.0, f64::max);
    let values: Vec<f64> = history.iter().flat_map(|value| std::iter::repeat_n(*value, per_second)).collect();
    let y = pen.y;
    pen.canvas.text(1, y, name, pen.canvas.style(Role::Muted));
    if rows == 1 {
        pen.canvas.graph(LEFT, y, &values, peak);
    } else {
        pen.canvas.tall_graph(LEFT, y, rows, &values, peak);
    }
    let x = LEFT + u16::try_from(values.len()).unwrap_or(0) + 1;
    let peak = if peak < 0.5 { "idle".to_owned() } else { format!("peak {}", format::si_bytes(peak)) };
    pen.canvas.text(x, y, &format!("{seconds}s {peak}"), Style::new());
    pen.y += rows;
}
