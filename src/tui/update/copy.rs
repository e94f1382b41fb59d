//! Rows as text for the clipboard.

use std::net::SocketAddr;

use crate::model::container::Container;
use crate::model::format;
use crate::model::mapping::Protocol;

use super::super::state::dialog::{CopyAs, Overlay};
use super::super::state::event_line::event_line;
use super::super::state::{ConnectionItem, MappingItem, Pane, State, offer, url_of};

/// The selected row, as one line.
pub(super) fn row(state: &State) -> Option<String> {
    match state.focus() {
        Pane::Mappings => state.selected_mapping().map(|item| item.row.mapping.to_string()),
        Pane::Connections => state.selected_connection().map(netstat),
        Pane::Containers => state.selected_container().map(container_line),
        Pane::Events => {
            let item = state.selected_event()?;
            let (_, text) = event_line(&item.event)?;
            Some(format!("{:.3} {text}", item.event.time))
        }
    }
}

/// Asks in which form to copy the selected row.
pub(super) fn open(state: &mut State) {
    let choices = match state.focus() {
        Pane::Mappings => state.selected_mapping().map(of_mapping),
        Pane::Connections => state.selected_connection().map(|item| {
            let mapping = state.world().mappings.get(&item.row.mapping_id);
            of_connection(item, mapping)
        }),
        Pane::Containers => state.selected_container().map(of_container),
        Pane::Events => None,
    };
    if let Some(choices) = choices {
        state.overlay = Overlay::CopyAs(CopyAs { choices, chosen: 0 });
    }
}

fn of_mapping(item: &MappingItem) -> Vec<(char, &'static str, String)> {
    let mut choices = web(item);
    choices.push(('j', "JSON", json(&item.row)));
    let lines: Vec<_> = item
        .row
        .listeners
        .iter()
        .map(|listener| {
            format!(
                "{} {} LISTEN",
                wire_name(item.row.mapping.protocol, listener.address.starts_with('[')),
                listener.address
            )
        })
        .collect();
    choices.push(('n', "netstat line", lines.join("\n")));
    choices
}

fn of_connection(item: &ConnectionItem, mapping: Option<&MappingItem>) -> Vec<(char, &'static str, String)> {
    let mut choices = mapping.map(web).unwrap_or_default();
    // What is known of a session of Docker's is not in the connection alone.
    let json = if item.row.is_docker() { json(&item.row) } else { json(&item.row.connection) };
    choices.push(('j', "JSON", json));
    choices.push(('n', "netstat line", netstat(item)));
    choices
}

/// `web_1 nginx:1.27 running 172.17.0.2 fd00::2 80/tcp`.
fn container_line(container: &Container) -> String {
    let mut words = vec![container.name.to_string(), container.image.to_string(), container.state.to_string()];
    words.extend(offer::addresses(container, |_| true));
    words.extend(container.ports.iter().map(|port| format::port(port.port, port.protocol)));
    words.join(" ")
}

fn of_container(container: &Container) -> Vec<(char, &'static str, String)> {
    let mut choices = Vec::new();
    // IPv4 has no brackets to be quoted.
    let address = container.addresses.iter().find(|ip| ip.is_ipv4()).or(container.addresses.first());
    if let Some(address) = address {
        let port = container.ports.iter().find(|port| port.protocol == Protocol::Tcp);
        if let Some(port) = port {
            let url = format::place(SocketAddr::new(*address, port.port), Protocol::Tcp, port.port);
            choices.push(('c', "curl", format!("curl '{url}'")));
            choices.insert(0, ('u', "URL", url));
        }
        choices.push(('a', "address", address.to_string()));
    }
    choices.push(('i', "id", container.id.to_string()));
    choices.push(('j', "JSON", json(container)));
    choices
}

fn web(item: &MappingItem) -> Vec<(char, &'static str, String)> {
    url_of(item).map_or_else(Vec::new, |url| {
        let curl = format!("curl '{url}'");
        vec![('u', "URL", url), ('c', "curl", curl)]
    })
}

fn json(row: &impl serde::Serialize) -> String {
    serde_json::to_string(row).unwrap_or_default()
}

/// Both legs, as `netstat` would write them, on one line.
fn netstat(item: &ConnectionItem) -> String {
    let connection = &item.row.connection;
    let leg = |from: String, to: String, is_v6: bool| format!("{} {from} {to}", wire_name(connection.protocol, is_v6));
    let client = match (item.row.client(), item.row.listener()) {
        (Some(client), Some(listener)) => leg(client.to_string(), listener.to_string(), client.is_ipv6()),
        _ => format!("{} ?? ??", connection.protocol),
    };
    let target = match (connection.source, connection.target_address) {
        (Some(source), Some(target)) => leg(source.to_string(), target.to_string(), target.is_ipv6()),
        _ => format!("{} ?? {}", connection.protocol, connection.target),
    };
    let state = connection.reason.map_or(format::connection_state(connection.state), format::close_reason);
    let bytes = |bytes: u64| if item.row.counts_bytes() { bytes.to_string() } else { "??".to_owned() };
    format!("{client} | {target} | {state} in {} out {}", bytes(connection.bytes_in), bytes(connection.bytes_out))
}

fn wire_name(protocol: Protocol, is_v6: bool) -> String {
    if is_v6 { format!("{protocol}6") } else { protocol.to_string() }
}
