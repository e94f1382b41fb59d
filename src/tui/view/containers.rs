//! The list of containers.

use ratatui::style::Style;

use super::canvas::Canvas;
use super::mappings::{arrow, goes_on, heading, rest};
use super::theme::Role;
use crate::model::container::{Container, DockerState, Publication};
use crate::model::format;
use crate::tui::state::columns::{self, ContainerColumn, Placed};
use crate::tui::state::layout::Lines;
use crate::tui::state::{Pane, State, offer};

/// Hex digits of an id that people write.
const SHORT_ID: usize = 12;

/// Draws the pane.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines) {
    let state = canvas.state;
    let list = &state.containers;
    let (name, _) = list.sort.name_and_next();
    let title = rest(state, Pane::Containers, &counts(state));
    canvas.rule(lines.y, "CONTAINERS", &title, &format!("{name} {}", arrow(list.descending)), true);
    if list.order.is_empty() {
        empty(canvas, lines);
        return;
    }
    let (columns, _) = columns::containers(canvas.width(), list.column_skip);
    let muted = canvas.style(Role::Muted);
    for column in &columns {
        heading(canvas, lines.y + 1, column, muted);
    }
    let visible = state.visible(Pane::Containers);
    for (y, id) in (lines.y + 2..).zip(list.order.iter().skip(list.offset).take(visible)) {
        if let Some(container) = state.world().containers.get(id) {
            row(canvas, y, container, &columns);
        }
    }
    goes_on(canvas, lines, list.offset, visible, list.order.len());
}

/// `4 running, 1 not`.
fn counts(state: &State) -> String {
    let world = state.world();
    let running = world.containers.values().filter(|container| container.is_running()).count();
    let counted = match world.containers.len() - running {
        0 => format!("{running} running"),
        others => format!("{running} running, {others} not"),
    };
    // Nobody has seen since whether they still do.
    match &world.overview.docker {
        DockerState::Unavailable { .. } => format!("{counted}, as last seen"),
        _ => counted,
    }
}

fn empty(canvas: &mut Canvas<'_>, lines: Lines) {
    let state = canvas.state;
    let (text, role) = match &state.world().overview.docker {
        _ if !state.containers.filter.is_empty() => ("no container passes the filter".to_owned(), Role::Muted),
        DockerState::Unavailable { reason } => {
            (format!("! docker: {reason}; mappings by address still work"), Role::Warn)
        }
        DockerState::Unknown => ("docker has not answered yet".to_owned(), Role::Muted),
        DockerState::Connected => ("no container yet".to_owned(), Role::Muted),
    };
    let style = canvas.style(role);
    let room = usize::from(canvas.width().saturating_sub(4));
    for (y, line) in (lines.y + 1..lines.y + lines.height).zip(format::wrap(&text, room)) {
        canvas.text(3, y, &line, style);
    }
}

fn row(canvas: &mut Canvas<'_>, y: u16, container: &Container, columns: &[Placed<ContainerColumn>]) {
    let state = canvas.state;
    for column in columns {
        let (text, role) = cell(state, container, column);
        let role = if container.is_running() { role } else { Role::Muted };
        let style = canvas.style(role);
        canvas.text(column.x, y, &text, style);
    }
    if state.containers.selected.as_ref() == Some(&container.id) {
        canvas.text(0, y, ">", Style::new());
        canvas.select(y, true);
    }
}

fn cell(state: &State, container: &Container, column: &Placed<ContainerColumn>) -> (String, Role) {
    use ContainerColumn as C;
    let width = usize::from(column.width);
    let end = |text: &str| format::elide_end(text, width);
    let text = match column.id {
        C::State => {
            let role = match container.state.as_str() {
                "running" => Role::Ok,
                "paused" | "restarting" => Role::Warn,
                _ => Role::Muted,
            };
            return (end(container.state.as_str()), role);
        }
        C::Name => format::elide_middle(container.name.as_str(), width),
        C::Address if state.size.0 < 120 => several(&offer::addresses(container, |_| true), container, width),
        C::Address => several(&offer::addresses(container, std::net::IpAddr::is_ipv4), container, width),
        C::AddressV6 => several(&offer::addresses(container, std::net::IpAddr::is_ipv6), container, width),
        C::Image => end(container.image.as_str()),
        C::Ports => fitting(&offer::exposed(container), width),
        C::Published => published(container, width),
        C::Networks => {
            let names: Vec<_> = container.networks.iter().map(|network| network.name.to_string()).collect();
            if container.host_network && names.is_empty() { end("host") } else { fitting(&names, width) }
        }
        C::Service => end(container.compose.as_ref().map_or("-", |label| label.service.as_str())),
        C::Id => container.id.as_str().chars().take(SHORT_ID).collect(),
    };
    (text, Role::Plain)
}

/// The first address, and how many more there are.
fn several(addresses: &[String], container: &Container, width: usize) -> String {
    match addresses {
        [] if container.host_network => format::elide_end("host network", width),
        [] => "-".to_owned(),
        [first] => format::elide_address(first, width),
        [first, more @ ..] => {
            let more = format!(" +{}", more.len());
            format!("{}{more}", format::elide_address(first, width.saturating_sub(more.len())))
        }
    }
}

/// `any:8080->80`: on every address of both families; `0.0.0.0:8080->80`: on those of one.
fn published(container: &Container, width: usize) -> String {
    let all = &container.publications;
    let ports_at = |host: &str, of: &Publication| {
        let inside = format::port(of.port, of.protocol);
        format!("{host}:{}->{}", of.host.port(), inside.trim_end_matches("/tcp"))
    };
    let mut words = Vec::new();
    for of in all {
        let twin = |other: &&Publication| {
            let alike = |of: &Publication| (of.port, of.protocol, of.host.port(), of.host.ip().is_unspecified());
            alike(other) == alike(of) && other.host.is_ipv4() != of.host.is_ipv4()
        };
        match all.iter().find(twin) {
            Some(_) if of.host.ip().is_unspecified() && of.host.is_ipv6() => {}
            Some(_) if of.host.ip().is_unspecified() => words.push(ports_at("any", of)),
            _ => words.push(ports_at(&format::address(of.host.ip()), of)),
        }
    }
    match words.as_slice() {
        // Without room for the address, the ports stay.
        [only] if format::width(only) > width => ports_at("", &all[0]),
        _ => fitting(&words, width),
    }
}

/// As many as there is room for, whole: of a port that is cut nobody knows which it is.
pub(super) fn fitting(words: &[String], width: usize) -> String {
    let Some(first) = words.first() else { return "-".to_owned() };
    let all = words.join(" ");
    if format::width(&all) <= width {
        return all;
    }
    for count in (1..words.len()).rev() {
        let text = format!("{} +{}", words[..count].join(" "), words.len() - count);
        if format::width(&text) <= width {
            return text;
        }
    }
    format::elide_middle(first, width)
}
