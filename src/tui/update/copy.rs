//! Rows as text for the clipboard.

use crate::model::mapping::Protocol;

use super::super::format;
use super::super::state::dialog::{CopyAs, Overlay};
use super::super::state::event_line::event_line;
use super::super::state::{ConnectionItem, MappingItem, Pane, State, url_of};

/// The selected row, as one line.
pub(super) fn row(state: &State) -> Option<String> {
    match state.focus() {
        Pane::Mappings => state.selected_mapping().map(|item| item.row.mapping.to_string()),
        Pane::Connections => state.selected_connection().map(netstat),
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
    choices.push(('j', "JSON", json(&item.row.connection)));
    choices.push(('n', "netstat line", netstat(item)));
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
    let client = leg(connection.client.to_string(), connection.listener.to_string(), connection.client.is_ipv6());
    let target = match (connection.source, connection.target_address) {
        (Some(source), Some(target)) => leg(source.to_string(), target.to_string(), target.is_ipv6()),
        _ => format!("{} ?? {}", connection.protocol, connection.target),
    };
    let state = connection.reason.map_or(format::connection_state(connection.state), format::close_reason);
    format!("{client} | {target} | {state} in {} out {}", connection.bytes_in, connection.bytes_out)
}

fn wire_name(protocol: Protocol, is_v6: bool) -> String {
    if is_v6 { format!("{protocol}6") } else { protocol.to_string() }
}
