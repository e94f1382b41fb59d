//! Takes in what the service tells.

use std::collections::HashSet;

use crate::model::container::Container;
use crate::model::event::Event;
use crate::model::id::ConnectionId;
use crate::model::untrusted::SafeText;
use crate::model::update::{ConnectionRow, MappingRow, Update};

use super::super::state::event_line::event_line;
use super::super::state::world::{self, EventItem, Moment, Severity};
use super::super::state::{ConnectionItem, Listed, MappingItem, Paint, State, World};
use super::lists;

/// Counters that change after a silence are taken to have changed within so long.
const QUIET_MS: u64 = 1_000;

/// Applies an update to the live world, and to the lists unless they are frozen.
pub(super) fn apply(state: &mut State, update: Update) {
    let world = &mut state.live;
    // Who has nothing to tell sends nothing: what changed now has changed within the last moment.
    let before_ms = world.at.service_ms.max(update.at_ms.saturating_sub(QUIET_MS));
    if update.is_full {
        let events = std::mem::take(&mut world.events);
        *world =
            World { events, event_count: world.event_count, errors_unseen: world.errors_unseen, ..World::default() };
    }
    world.at = Moment { service_ms: update.at_ms, screen_ms: state.now_ms };
    // A row or a word changed, not only a counter.
    let mut is_news = update.is_full || update.overview.is_some() || !update.mappings_removed.is_empty();
    if let Some(overview) = update.overview {
        world.overview = overview;
    }
    for id in &update.mappings_removed {
        world.mappings.remove(id);
        state.marks.remove(id);
        state.baselines.remove(id);
    }
    // Which mappings there are, or where they listen.
    let mut is_other_list = is_news;
    for row in update.mappings {
        let (is_other, changed) = take_mapping(world, row, update.at_ms, before_ms);
        is_other_list |= is_other;
        is_news |= is_other || changed;
    }
    let mut arrivals = Vec::new();
    for row in update.connections {
        let (is_new, changed) = take_connection(world, row, update.at_ms, before_ms, &mut arrivals);
        is_news |= is_new || changed;
    }
    let is_other_order = remove_connections(world, &update.connections_removed);
    bound_history(world);
    is_news |= is_other_order;
    let has_containers = !update.containers.is_empty() || !update.containers_removed.is_empty();
    take_containers(state, update.containers, &update.containers_removed);
    if !update.events.is_empty() || update.lost > 0 {
        is_news = true;
        take_events(state, update.events, update.lost);
    }
    state.is_unsorted = true;
    if update.is_full {
        let now_ms = state.now_ms;
        state.live.take_figures(now_ms);
    }
    if let Some(frozen) = &mut state.frozen {
        frozen.new += arrivals.len() as u64;
        // Only the line that says FROZEN changes, and it does so once a second.
        return;
    }
    if update.is_full {
        lists::rebuild(state);
        state.last_sort_ms = state.now_ms;
        if state.connections.position().is_none() {
            state.connections.select(0);
        }
    } else {
        if is_other_list {
            lists::rebuild_mappings(state);
        }
        if is_other_order {
            let world = &state.live;
            state.connections.order.retain(|id| world.connections.contains_key(id));
        }
        append(state, &arrivals);
        if has_containers {
            lists::merge_containers(state);
            is_news = true;
        }
    }
    if is_news {
        state.paint = state.paint.max(Paint::Soon);
    }
}

/// Whether it is new or another mapping than before, and whether more than counters changed.
fn take_mapping(world: &mut World, row: MappingRow, at_ms: u64, before_ms: u64) -> (bool, bool) {
    let now = (row.bytes_in, row.bytes_out);
    if let Some(item) = world.mappings.get_mut(&row.id) {
        let before = (item.row.bytes_in, item.row.bytes_out);
        let is_other = item.row.mapping != row.mapping || item.row.name != row.name;
        let changed = item.row.state != row.state
            || item.row.reason != row.reason
            || item.row.listeners != row.listeners
            || item.row.connections != row.connections
            || item.row.owner != row.owner
            || item.row.last_result != row.last_result;
        item.meters.sample(at_ms, before_ms, before, now);
        item.row = row;
        (is_other, changed)
    } else {
        let mut item = MappingItem::new(row);
        item.meters.sample(at_ms, 0, now, now);
        world.mappings.insert(item.row.id, item);
        (true, true)
    }
}

/// Whether it is new, and whether more than counters changed.
fn take_connection(
    world: &mut World,
    row: ConnectionRow,
    at_ms: u64,
    before_ms: u64,
    arrivals: &mut Vec<ConnectionId>,
) -> (bool, bool) {
    let id = row.connection.id;
    let now = (row.connection.bytes_in, row.connection.bytes_out);
    if let Some(item) = world.connections.get_mut(&id) {
        let before = (item.row.connection.bytes_in, item.row.connection.bytes_out);
        let was_closed = item.row.is_closed();
        let changed = item.row.connection.state != row.connection.state
            || item.row.process != row.process
            || item.row.observed != row.observed;
        item.meters.sample(at_ms, before_ms, before, now);
        if !was_closed {
            item.stood = item.row.connection.state;
        }
        item.row = row;
        if item.row.is_closed() && !was_closed {
            // Its last figures are those that stay.
            (item.figures.bytes_in, item.figures.bytes_out) = now;
            world.closed.push_back(id);
        }
        (false, changed)
    } else {
        let mut item = ConnectionItem::new(row);
        item.meters.sample(at_ms, 0, now, now);
        if item.row.is_closed() {
            world.closed.push_back(id);
        }
        world.connections.insert(id, item);
        arrivals.push(id);
        (true, true)
    }
}

/// Sessions that are gone without a last row of their own; true when there were any.
fn remove_connections(world: &mut World, removed: &[ConnectionId]) -> bool {
    let mut any = false;
    for id in removed {
        any |= world.connections.remove(id).is_some();
    }
    if any {
        let connections = &world.connections;
        world.closed.retain(|id| connections.contains_key(id));
    }
    any
}

/// What was known of the inside of a container that is not what it was is forgotten.
fn take_containers(state: &mut State, changed: Vec<Container>, removed: &[SafeText]) {
    for id in removed {
        state.live.containers.remove(id);
        state.insides.forget(id);
    }
    for container in changed {
        let is_same = state
            .live
            .containers
            .get(&container.id)
            .is_some_and(|before| before.state == container.state && before.addresses == container.addresses);
        if !is_same {
            state.insides.forget(&container.id);
        }
        state.live.containers.insert(container.id.clone(), container);
    }
}

/// Keeps the last closed connections, no more.
fn bound_history(world: &mut World) {
    while world.closed.len() > world::HISTORY {
        if let Some(id) = world.closed.pop_front() {
            world.connections.remove(&id);
        }
    }
}

fn take_events(state: &mut State, events: Vec<Event>, lost: u64) {
    let world = &mut state.live;
    let mut add = |event: Event, severity: Severity| {
        world.event_count += 1;
        world.errors_unseen += u64::from(severity == Severity::Error);
        if world.events.len() == world::EVENTS {
            world.events.pop_front();
        }
        world.events.push_back(EventItem { number: world.event_count, event });
    };
    if lost > 0
        && let Some(first) = events.first()
    {
        let kind = crate::model::event::EventKind::Lost { count: lost };
        add(Event::new(first.time, kind), Severity::Warn);
    }
    for event in events {
        if let Some((severity, _)) = event_line(&event) {
            add(event, severity);
        }
    }
    if state.frozen.is_none() {
        lists::append_events(state);
    }
}

/// New rows go to the end until the list is sorted again.
fn append(state: &mut State, arrivals: &[ConnectionId]) {
    // Rows that history dropped must leave the list, too; a list longer than the world is the sign.
    if state.connections.order.len() + arrivals.len() > state.live.connections.len() {
        let world = &state.live;
        state.connections.order.retain(|id| world.connections.contains_key(id));
    }
    if arrivals.is_empty() || state.listed == Listed::Nothing {
        return;
    }
    let known: HashSet<ConnectionId> = arrivals.iter().copied().collect();
    let mut rows: Vec<_> = known
        .into_iter()
        .filter(|id| state.live.connections.get(id).is_some_and(|item| lists::lists(state, item)))
        .collect();
    rows.sort_unstable();
    state.connections.order.extend(rows);
}
