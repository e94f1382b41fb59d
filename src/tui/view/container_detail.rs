//! Everything about the selected container: addresses, who listens inside, ports, networks.

use std::net::IpAddr;

use ratatui::style::Style;

use super::canvas::Canvas;
use super::detail::Pen;
use super::theme::{self, Role};
use crate::model::container::{Container, ContainerNetwork, EnginePlace, InsideListener};
use crate::model::format;
use crate::tui::state::layout::Lines;
use crate::tui::state::{Inside, Zoom, offer};

/// Draws the pane.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines) {
    let state = canvas.state;
    let is_zoomed = state.zoom == Zoom::Detail;
    let Some(container) = state.selected_container() else {
        canvas.rule(lines.y, "DETAIL", "", "", is_zoomed);
        return;
    };
    let name = container.name.as_str();
    let all = all(canvas, container);
    let room = usize::from(lines.height.saturating_sub(1));
    // What matters most stands first; that there is more is said.
    let right = if all.len() <= room || is_zoomed { "" } else { "enter opens all of it" };
    canvas.rule(lines.y, "DETAIL", name, right, is_zoomed);
    let mut pen = Pen { canvas, y: lines.y + 1, end: lines.y + lines.height };
    for Entry { label, text, role, right } in all {
        let style = if role == Role::Plain { Style::new() } else { theme::style(state.look, role) };
        pen.styled(label, &text, &[&right], style);
    }
}

struct Entry {
    label: &'static str,
    text: String,
    role: Role,
    right: String,
}

fn entry(label: &'static str, text: String) -> Entry {
    Entry { label, text, role: Role::Plain, right: String::new() }
}

fn all(canvas: &Canvas<'_>, container: &Container) -> Vec<Entry> {
    let state = canvas.state;
    let world = state.world();
    let room = usize::from(canvas.width().saturating_sub(10));
    let mut all = Vec::new();
    let addresses = offer::addresses(container, |_| true);
    let addresses = match addresses.len() {
        0 if container.host_network => "the host's: it shares its network".to_owned(),
        0 => "none".to_owned(),
        _ => addresses.join("  "),
    };
    all.push(Entry { right: container.state.to_string(), ..entry("address", addresses) });
    if let EnginePlace::Elsewhere { reason, published_at } = &world.overview.engine_place {
        let at = match published_at {
            Some(at) => format!("{reason}; its published ports are at {at}"),
            None => format!("{reason}: it is not dialled from here"),
        };
        all.extend(wrapped("reach", &at, room, Role::Warn));
    }
    inside(&mut all, container, state.insides.of(&container.id), room);
    let exposed: Vec<_> = container.ports.iter().map(|port| format::port(port.port, port.protocol)).collect();
    let exposed = if exposed.is_empty() { "the engine tells of none".to_owned() } else { exposed.join("  ") };
    all.extend(wrapped("ports", &exposed, room, Role::Plain));
    let published: Vec<_> =
        container.publications.iter().map(|of| offer::publication(of.host, of.port, of.protocol)).collect();
    all.extend(grouped("publish", &published, room));
    let mapped: Vec<_> = container
        .ports
        .iter()
        .filter_map(|port| {
            let item = offer::mapped(world, container, port.port, port.protocol)?;
            Some(format!("{} -> {}", item.row.mapping.listen, format::port(port.port, port.protocol)))
        })
        .collect();
    all.extend(grouped("mapped", &mapped, room));
    for network in &container.networks {
        all.extend(wrapped("network", &network_words(network), room, Role::Plain));
    }
    all.extend(wrapped("image", container.image.as_str(), room, Role::Plain));
    if let Some(label) = &container.compose {
        let text = format!("project {}, service {}, number {}", label.project, label.service, label.number);
        all.extend(wrapped("compose", &text, room, Role::Plain));
    }
    all.extend(wrapped("id", container.id.as_str(), room, Role::Plain));
    all
}

/// A text in as many lines as it takes.
fn wrapped(label: &'static str, text: &str, room: usize, role: Role) -> Vec<Entry> {
    let lines = format::wrap(text, room).into_iter().enumerate();
    lines.map(|(at, text)| Entry { role, ..entry(if at == 0 { label } else { "" }, text) }).collect()
}

/// As many on a line as there is room for, none of them cut in two.
fn grouped(label: &'static str, words: &[String], room: usize) -> Vec<Entry> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if format::width(line) + 3 + format::width(word) <= room => {
                line.push_str("   ");
                line.push_str(word);
            }
            _ => lines.push(word.clone()),
        }
    }
    lines.into_iter().enumerate().map(|(at, text)| entry(if at == 0 { label } else { "" }, text)).collect()
}

fn network_words(network: &ContainerNetwork) -> String {
    let list = |ips: &[IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>().join("  ");
    let driver = network.driver.as_str();
    let driver =
        if driver.is_empty() || driver == network.name.as_str() { String::new() } else { format!(" ({driver})") };
    let internal = if network.is_internal { ", internal" } else { "" };
    let part =
        |before: &str, ips: &[IpAddr]| if ips.is_empty() { String::new() } else { format!("{before}{}", list(ips)) };
    format!(
        "{}{driver}{internal}{}{}",
        network.name,
        part(": ", &network.addresses),
        part(", gateway ", &network.gateways)
    )
}

fn inside(all: &mut Vec<Entry>, container: &Container, inside: Option<&Inside>, room: usize) {
    let muted = |text: &str| Entry { role: Role::Muted, ..entry("inside", text.to_owned()) };
    match inside {
        _ if !container.is_running() => {}
        None => all.push(muted("...")),
        Some(Inside::Asked) => all.push(muted("looking ...")),
        Some(Inside::Refused(reason)) => all.extend(wrapped("inside", &format!("?? {reason}"), room, Role::Plain)),
        Some(Inside::Told { listeners, unseen }) => {
            if let Some(reason) = unseen {
                let reason = reason.as_str();
                let text = if reason.starts_with("cannot") {
                    reason.to_owned()
                } else {
                    format!("cannot see inside: {reason}")
                };
                all.extend(wrapped("inside", &format!("?? {text}"), room, Role::Plain));
            } else if listeners.is_empty() {
                all.push(Entry { role: Role::Warn, ..entry("inside", "! nobody listens".to_owned()) });
            }
            for (at, listener) in listeners.iter().enumerate() {
                let label = if at == 0 && unseen.is_none() { "inside" } else { "" };
                let only_loopback = listener.address.ip().is_loopback() && !container.host_network;
                let (role, right) = if only_loopback { (Role::Warn, "! loopback only") } else { (Role::Plain, "") };
                let text = listener_words(listener);
                // Where there is no room for the words, the mark stays.
                let has_room = format::width(&text) + right.len() + 3 <= room;
                let text = if only_loopback && !has_room { format!("! {text}") } else { text };
                all.push(Entry { role, right: right.to_owned(), ..entry(label, text) });
            }
        }
    }
}

/// `127.0.0.1:8443/tcp nginx (pid 9)`.
fn listener_words(listener: &InsideListener) -> String {
    let process = listener.process.as_ref().map(|process| format!(" {process}")).unwrap_or_default();
    let v6_only =
        if listener.is_v6_only == Some(true) && listener.address.ip().is_unspecified() { " (IPv6 only)" } else { "" };
    format!("{}/{}{v6_only}{process}", listener.address, listener.protocol)
}
