//! What a row shows that is made of more than one piece of state.

use super::world::MappingItem;
use super::{Baseline, State, columns};
use crate::model::format;
use crate::model::mapping::{HostPort, ListenAddress, Protocol, TargetHost};

impl State {
    /// How wide the list's columns would have to be for nothing to be cut.
    pub fn wanted(&self) -> columns::Wanted {
        let items = || self.mappings.order.iter().filter_map(|id| self.world().mappings.get(id));
        let widest = |text: fn(&Self, &MappingItem) -> String| {
            let widest = items().map(|item| format::width(&text(self, item))).max().unwrap_or(0);
            u16::try_from(widest).unwrap_or(u16::MAX)
        };
        columns::Wanted {
            state: if items().any(|item| item.row.is_docker()) { 6 } else { 5 },
            listen: widest(Self::listen_text),
            target: widest(|_, item| item.row.mapping.target.to_string()),
            target_numbers: widest(|_, item| match &item.row.mapping.target.host {
                TargetHost::Ip(ip) if ip.ip.is_ipv4() => item.row.mapping.target.to_string(),
                _ => String::new(),
            }),
        }
    }

    /// The listen side as its column says it: narrow screens leave `/tcp` out, and `auto` says which port it took.
    /// What is there for this session alone has an `s` behind it, where no column says so.
    pub fn listen_text(&self, item: &MappingItem) -> String {
        let text = item.row.listen_text(self.size.0 >= 80);
        if item.row.is_session && self.size.0 < columns::WITH_PROFILE { format!("{text} s") } else { text }
    }

    /// Where a browser finds the selected mapping.
    pub fn url(&self) -> Option<String> {
        url_of(self.selected_mapping()?)
    }

    /// Counters of a mapping as shown: from its baseline on.
    pub fn counters(&self, item: &MappingItem) -> Baseline {
        let from = self.baselines.get(&item.row.id).copied().unwrap_or_default();
        Baseline {
            bytes_in: item.figures.bytes_in.saturating_sub(from.bytes_in),
            bytes_out: item.figures.bytes_out.saturating_sub(from.bytes_out),
            errors: item.row.errors.saturating_sub(from.errors),
        }
    }
}

/// `http://[::1]:8080/`: a loopback address where the mapping has one, IPv6 first; TCP only.
pub fn url_of(item: &MappingItem) -> Option<String> {
    if item.row.mapping.protocol != Protocol::Tcp {
        return None;
    }
    let bound = item.row.listeners.iter().rev().find_map(|listener| listener.bound);
    let port = match (bound, item.row.mapping.listen.port) {
        (Some(bound), _) => bound.port(),
        (None, HostPort::Ports(range)) => range.first(),
        (None, HostPort::Auto) => return None,
    };
    let host = match (&item.row.mapping.listen.address, bound) {
        (ListenAddress::Ip(ip), _) if !ip.ip.is_unspecified() => ip.to_string(),
        (_, Some(bound)) if bound.is_ipv4() => "127.0.0.1".to_owned(),
        (ListenAddress::Ip(ip), None) if ip.ip.is_ipv4() => "127.0.0.1".to_owned(),
        _ => "[::1]".to_owned(),
    };
    let scheme = format::scheme(item.row.mapping.target.ports.first());
    Some(format!("{scheme}://{host}:{port}/"))
}
