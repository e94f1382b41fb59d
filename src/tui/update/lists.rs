//! Makes the order of the lists: filtered, sorted, and re-sorted no oftener than eyes can follow.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;

use crate::model::container::Container;
use crate::model::mapping::HostPort;
use crate::model::untrusted::SafeText;

use super::super::state::event_line::event_line;
use super::super::state::world::World;
use super::super::state::{ConnectionItem, ConnectionSort, ContainerSort, Listed, MappingItem, MappingSort, State};

/// Lists are sorted again at most this often,
const SORT_EVERY_MS: u64 = 2_000;
/// and not so soon after a key.
const CALM_AFTER_KEY_MS: u64 = 3_000;

/// Makes every list anew.
pub(super) fn rebuild(state: &mut State) {
    rebuild_mappings(state);
    rebuild_connections(state);
    rebuild_containers(state);
    rebuild_events(state);
}

/// Makes the list of mappings anew.
pub(super) fn rebuild_mappings(state: &mut State) {
    let world = state.world();
    let list = &state.mappings;
    // Rates that look the same move no row.
    let places = match list.sort {
        MappingSort::In | MappingSort::Out => places(&list.order),
        _ => HashMap::new(),
    };
    let mut items: Vec<&MappingItem> =
        world.mappings.values().filter(|item| list.filter.takes_mapping(&item.row)).collect();
    items.sort_by(|a, b| {
        let ordering = compare_mappings(world, list.sort, a, b);
        // What Docker publishes stands below what is ours, however it is sorted.
        a.row
            .is_docker()
            .cmp(&b.row.is_docker())
            .then(if list.descending { ordering.reverse() } else { ordering })
            .then_with(|| place(&places, a.row.id).cmp(&place(&places, b.row.id)))
            .then_with(|| by_listen(a, b))
            .then(a.row.id.cmp(&b.row.id))
    });
    state.mappings.order = items.into_iter().map(|item| item.row.id).collect();
}

fn compare_mappings(world: &World, sort: MappingSort, a: &MappingItem, b: &MappingItem) -> Ordering {
    let place = |item: &MappingItem| world.overview.order.iter().position(|id| *id == item.row.id);
    match sort {
        MappingSort::Listen => by_listen(a, b),
        MappingSort::Profile => place(a).unwrap_or(usize::MAX).cmp(&place(b).unwrap_or(usize::MAX)),
        MappingSort::State => (a.severity(), a.row.state as u8).cmp(&(b.severity(), b.row.state as u8)),
        MappingSort::Target => a.row.mapping.target.to_string().cmp(&b.row.mapping.target.to_string()),
        MappingSort::Connections => a.row.connections.cmp(&b.row.connections),
        MappingSort::In => compare_rates(a.figures.in_rate, b.figures.in_rate),
        MappingSort::Out => compare_rates(a.figures.out_rate, b.figures.out_rate),
        MappingSort::Errors => a.row.errors.cmp(&b.row.errors),
    }
}

fn compare_rates(a: Option<f64>, b: Option<f64>) -> Ordering {
    as_shown(a).total_cmp(&as_shown(b))
}

/// A rate to the three digits that are shown of it.
fn as_shown(rate: Option<f64>) -> f64 {
    let rate = rate.unwrap_or(0.0).round();
    format!("{rate:.2e}").parse().unwrap_or(rate)
}

/// Where each row stands now.
fn places<I: Copy + Eq + Hash>(order: &[I]) -> HashMap<I, usize> {
    order.iter().enumerate().map(|(place, id)| (*id, place)).collect()
}

/// New rows come after those that have a place.
fn place<I: Copy + Eq + Hash>(places: &HashMap<I, usize>, id: I) -> usize {
    places.get(&id).copied().unwrap_or(usize::MAX)
}

fn by_listen(a: &MappingItem, b: &MappingItem) -> Ordering {
    let key = |item: &MappingItem| {
        let port = match item.row.mapping.listen.port {
            HostPort::Ports(range) => range.first(),
            HostPort::Auto => 0,
        };
        (port, item.row.mapping.listen.address.clone(), item.row.mapping.protocol)
    };
    key(a).cmp(&key(b))
}

/// Lists other connections, or in another order: where they stood before means nothing.
pub(super) fn list_connections_anew(state: &mut State) {
    state.connections.order.clear();
    rebuild_connections(state);
}

/// Makes the list of connections anew.
pub(super) fn rebuild_connections(state: &mut State) {
    let world = state.world();
    let list = &state.connections;
    let places = places(&list.order);
    let now_ms = state.shown_ms();
    let mut rows: Vec<_> = world
        .connections
        .values()
        .filter(|item| lists(state, item))
        .map(|item| {
            let is_past = !world.is_fresh(item, now_ms);
            let key = connection_key(item, is_past, list.sort, list.descending);
            (key, place(&places, item.id()), item.id())
        })
        .collect();
    rows.sort_unstable();
    state.connections.order = rows.into_iter().map(|(_, _, id)| id).collect();
}

/// One that has just closed stays where its last figures have put it. Those that closed long ago come last, and
/// where figures of the moment count, the latest of them first. Equal ones stand as they stood.
fn connection_key(item: &ConnectionItem, is_past: bool, sort: ConnectionSort, descending: bool) -> (bool, u128) {
    use ConnectionSort::{Age, InRate, OutRate, State};
    let connection = &item.row.connection;
    if let (true, Some(at_ms), OutRate | InRate | Age | State) = (is_past, item.row.closed_at_ms(), sort) {
        return (true, u128::MAX - u128::from(at_ms));
    }
    let rate = |rate: Option<f64>| as_shown(rate).to_bits();
    let value = match sort {
        ConnectionSort::OutRate => u128::from(rate(item.figures.out_rate)),
        ConnectionSort::InRate => u128::from(rate(item.figures.in_rate)),
        ConnectionSort::Out => u128::from(item.figures.bytes_out),
        ConnectionSort::In => u128::from(item.figures.bytes_in),
        ConnectionSort::Age => u128::from(u64::MAX - item.row.opened_at_ms),
        ConnectionSort::Client => match item.row.client().map(|client| client.ip()) {
            Some(IpAddr::V4(ip)) => u128::from(u32::from(ip)),
            Some(IpAddr::V6(ip)) => u128::from(ip),
            None => u128::MAX,
        },
        ConnectionSort::State if item.row.is_closed() => item.stood as u128,
        ConnectionSort::State => connection.state as u128,
    };
    (is_past, if descending { u128::MAX - value } else { value })
}

/// Makes the list of containers anew.
pub(super) fn rebuild_containers(state: &mut State) {
    let world = state.world();
    let list = &state.containers;
    let mut items: Vec<&Container> =
        world.containers.values().filter(|container| list.filter.takes_container(container)).collect();
    items.sort_by(|a, b| {
        let ordering = compare_containers(list.sort, a, b);
        let ordering = if list.descending { ordering.reverse() } else { ordering };
        ordering.then_with(|| a.name.cmp(&b.name)).then_with(|| a.id.cmp(&b.id))
    });
    state.containers.order = items.into_iter().map(|container| container.id.clone()).collect();
}

/// Containers came, went or changed: they leave the list at once, and new ones go to its end until it is sorted again.
pub(super) fn merge_containers(state: &mut State) {
    let before = std::mem::take(&mut state.containers.order);
    rebuild_containers(state);
    let now: HashSet<SafeText> = state.containers.order.iter().cloned().collect();
    let mut order: Vec<SafeText> = before.into_iter().filter(|id| now.contains(id)).collect();
    if order.is_empty() {
        return;
    }
    let kept: HashSet<SafeText> = order.iter().cloned().collect();
    order.extend(state.containers.order.drain(..).filter(|id| !kept.contains(id)));
    state.containers.order = order;
}

fn compare_containers(sort: ContainerSort, a: &Container, b: &Container) -> Ordering {
    // Those that can be used first.
    let rank = |container: &Container| match container.state.as_str() {
        "running" => 0,
        "paused" => 1,
        "restarting" => 2,
        "created" => 3,
        _ => 4,
    };
    match sort {
        ContainerSort::State => rank(a).cmp(&rank(b)),
        ContainerSort::Name => a.name.cmp(&b.name),
        ContainerSort::Image => a.image.cmp(&b.image),
        // Without an address, last.
        ContainerSort::Address => {
            let key = |container: &Container| (container.addresses.is_empty(), container.addresses.first().copied());
            key(a).cmp(&key(b))
        }
    }
}

/// Whether a connection belongs on the list now.
pub(super) fn lists(state: &State, item: &ConnectionItem) -> bool {
    let of_mapping = match state.listed {
        Listed::All => true,
        Listed::Of(id) => item.row.mapping_id == id,
        Listed::Nothing => false,
    };
    of_mapping
        && (state.show_closed || state.world().is_fresh(item, state.shown_ms()))
        && state.connections.filter.takes_connection(&item.row)
}

/// Takes rows off that closed long enough ago, or are gone; true when there were any.
pub(super) fn drop_stale(state: &mut State) -> bool {
    let before = state.connections.order.len();
    let (world, show_closed, now_ms) = (&state.live, state.show_closed, state.now_ms);
    state
        .connections
        .order
        .retain(|id| world.connections.get(id).is_some_and(|item| show_closed || world.is_fresh(item, now_ms)));
    state.connections.order.len() != before
}

/// Sorts again if rows may have changed places, it is time and nobody is pressing keys.
pub(super) fn sort_if_due(state: &mut State) -> bool {
    let is_calm = state.now_ms >= state.last_key_ms + CALM_AFTER_KEY_MS || state.last_key_ms == 0;
    // The first time there is nothing yet that could be moved from under anybody's eyes.
    let is_time = state.now_ms >= state.last_sort_ms + SORT_EVERY_MS || !state.has_sorted;
    if !state.is_unsorted || !is_calm || !is_time {
        return false;
    }
    state.is_unsorted = false;
    state.last_sort_ms = state.now_ms;
    let order =
        |state: &State| (state.mappings.order.clone(), state.connections.order.clone(), state.containers.order.clone());
    let before = order(state);
    rebuild_mappings(state);
    rebuild_connections(state);
    rebuild_containers(state);
    // Nobody has chosen a row yet: the detail shows the busiest.
    if !state.has_sorted && state.last_key_ms == 0 {
        state.connections.select(0);
    }
    // Without a rate there was nothing to sort by.
    state.has_sorted |= state.live.connections.values().any(|item| item.figures.out_rate.is_some());
    before != order(state)
}

/// Makes the list of events anew.
pub(super) fn rebuild_events(state: &mut State) {
    let filter = &state.events.filter;
    state.events.order = state
        .world()
        .events
        .iter()
        .filter(|item| {
            filter.is_empty() || event_line(&item.event).is_some_and(|(_, text)| filter.takes_event(&item.event, &text))
        })
        .map(|item| item.number)
        .collect();
}

/// Follows the events: whoever stands on the last one goes on to the newest.
pub(super) fn append_events(state: &mut State) {
    let follows = state.events.selected.is_none() || state.events.selected == state.events.order.last().copied();
    rebuild_events(state);
    if follows {
        state.events.select(usize::MAX);
    }
}
