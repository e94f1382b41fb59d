//! What the keys of the screen do, forms and dialogs aside.

use crate::model::count::count;
use crate::model::id::MappingId;
use crate::model::request::{Reply, Request, RequestError};

use super::super::keymap::{self, Action, Key};
use super::super::state::dialog::{Confirm, Confirmed, FilterLine, Help, Overlay, Palette, Profiles};
use super::super::state::form::Field;
use super::super::state::words::probe_words;
use super::super::state::{
    Baseline, Form, Frozen, MappingItem, Pane, Severity, Standing, State, View, Whereabouts, Zoom,
};
use super::{Asked, Effect, ask, change, containers, copy, go_to, import, lists, say, why};

/// Carries an action out.
pub(super) fn perform(state: &mut State, action: Action, effects: &mut Vec<Effect>) {
    if let Some(view) = keymap::view_of(action) {
        go_to(state, view);
        return;
    }
    match action {
        Action::Down => step(state, 1),
        Action::Up => step(state, -1),
        Action::Top => step(state, isize::MIN / 2),
        Action::Bottom => step(state, isize::MAX / 2),
        Action::PageDown => step(state, page(state)),
        Action::PageUp => step(state, -page(state)),
        Action::NextPane => turn(state, 1),
        Action::PreviousPane => turn(state, state.panes().len() - 1),
        Action::ScrollRight => scroll(state, 1),
        Action::ScrollLeft => scroll(state, -1),
        Action::Open => open(state, effects),
        Action::Zoom => state.zoom = if state.zoom == Zoom::None { Zoom::Pane } else { Zoom::None },
        Action::Back => back(state),
        Action::Add => containers::add(state, effects),
        Action::Edit => edit_selected(state, effects),
        Action::CopyAsNew => copy_as_new(state, effects),
        Action::Delete => delete(state, targets(state), effects),
        Action::StartStop => start_stop(state, effects),
        Action::Undo => effects.push(ask(Asked::Change, Request::Undo)),
        Action::Mark => mark(state),
        Action::TryTarget => try_target(state, effects),
        Action::Why => why::open(state, effects),
        Action::Import => import::open(state),
        Action::LookInside => containers::look_again(state, effects),
        Action::Browse => effects.extend(state.url().map(Effect::Browse)),
        Action::ZeroCounters => zero(state),
        Action::ResetConnection => reset(state),
        Action::ShowClosed => {
            state.show_closed = !state.show_closed;
            lists::rebuild_connections(state);
        }
        Action::Filter => {
            let pane = state.focus();
            let before = state.filter(pane).text().to_owned();
            state.overlay = Overlay::Filter(FilterLine { pane, input: before.clone().into(), before });
        }
        Action::SortColumn => sort_by_next(state),
        Action::SortDirection => {
            match state.focus() {
                Pane::Mappings => state.mappings.descending = !state.mappings.descending,
                Pane::Containers => state.containers.descending = !state.containers.descending,
                _ => state.connections.descending = !state.connections.descending,
            }
            state.connections.order.clear();
            lists::rebuild(state);
        }
        Action::CopyRow => {
            if let Some(text) = copy::row(state) {
                effects.push(Effect::Copy(text));
            }
        }
        Action::CopyAs => copy::open(state),
        Action::Freeze => freeze(state),
        Action::Palette => {
            state.overlay = Overlay::Palette(Palette::default());
            effects.push(ask(Asked::Profiles, Request::Profiles));
        }
        Action::Help => state.overlay = Overlay::Help(Help::default()),
        Action::Profiles => {
            state.overlay = Overlay::Profiles(Profiles::default());
            effects.push(ask(Asked::Profiles, Request::Profiles));
        }
        Action::Redraw => effects.push(Effect::Redraw),
        Action::Suspend => suspend(state, effects),
        Action::Quit => quit(state, effects),
        // The rest belongs to forms, dialogs or the dispatch itself.
        _ => {}
    }
}

fn step(state: &mut State, by: isize) {
    match state.focus() {
        Pane::Mappings => state.mappings.step(by),
        Pane::Connections => state.connections.step(by),
        Pane::Containers => state.containers.step(by),
        Pane::Events => state.events.step(by),
    }
}

fn page(state: &State) -> isize {
    isize::try_from(state.visible(state.focus())).unwrap_or(1).max(1)
}

fn turn(state: &mut State, by: usize) {
    let panes = state.panes();
    let at = panes.iter().position(|pane| *pane == state.focus()).unwrap_or(0);
    state.focus = panes[(at + by) % panes.len()];
}

fn scroll(state: &mut State, by: isize) {
    let skip = match state.focus() {
        Pane::Mappings => &mut state.mappings.column_skip,
        Pane::Connections => &mut state.connections.column_skip,
        Pane::Containers => &mut state.containers.column_skip,
        Pane::Events => return,
    };
    *skip = skip.saturating_add_signed(by);
}

fn back(state: &mut State) {
    if state.zoom != Zoom::None {
        state.zoom = Zoom::None;
    } else if !state.focused_filter().is_empty() {
        super::dialogs::set_filter(state, state.focus(), "");
    } else if state.marks.is_empty() {
        state.hint = None;
    } else {
        state.marks.clear();
    }
}

/// Opens the row; of a mapping, the service is asked where clients find it.
fn open(state: &mut State, effects: &mut Vec<Effect>) {
    state.zoom = Zoom::Detail;
    if state.view != View::Mappings {
        return;
    }
    let Some(item) = state.selected_mapping().filter(|item| !item.row.is_docker()) else { return };
    let (id, mapping) = (item.row.id, item.row.written.clone());
    effects.push(ask(Asked::Whereabouts(id), Request::Validate { mapping, replaces: Some(id) }));
}

/// Where clients find the mapping whose detail was opened.
pub(super) fn whereabouts_told(state: &mut State, id: MappingId, answer: Result<Reply, RequestError>) {
    state.whereabouts = match answer {
        Ok(Reply::Valid { notes, will_be_at, .. }) => Some(Whereabouts { id, will_be_at, notes }),
        _ => None,
    };
}

/// Opens the form and has the containers told.
pub(super) fn open_form(state: &mut State, mut form: Form, effects: &mut Vec<Effect>) {
    form.place = state.live.overview.engine_place.clone();
    form.ask_at_ms = (!form.port.value().is_empty()).then_some(state.now_ms);
    state.overlay = Overlay::Form(Box::new(form));
    effects.push(ask(Asked::Containers, Request::Containers));
}

fn edit_selected(state: &mut State, effects: &mut Vec<Effect>) {
    if let Some(id) = state.mappings.selected {
        edit(state, id, effects);
    }
}

/// Opens the form for a mapping of ours.
pub(super) fn edit(state: &mut State, id: MappingId, effects: &mut Vec<Effect>) {
    let Some(item) = state.world().mappings.get(&id).filter(|item| !item.row.is_docker()) else { return };
    let mapping = &item.row.mapping;
    let mut form = Form::of(&item.row.written, &mapping.listen, &mapping.target, mapping.protocol);
    form.edits = Some(item.row.id);
    form.was = Some(item.row.written.clone());
    open_form(state, form, effects);
}

fn copy_as_new(state: &mut State, effects: &mut Vec<Effect>) {
    let Some(item) = state.selected_mapping() else { return };
    let mapping = &item.row.mapping;
    let mut form = Form::of(&item.row.written, &mapping.listen, &mapping.target, mapping.protocol);
    form.name.reset();
    form.base.name = None;
    form.focus = Field::Port;
    open_form(state, form, effects);
}

/// The marked mappings, or the selected one; of ours alone.
fn targets(state: &State) -> Vec<MappingId> {
    let is_ours = |id: &MappingId| state.live.mappings.get(id).is_some_and(|item| !item.row.is_docker());
    if state.marks.is_empty() {
        state.mappings.selected.into_iter().filter(is_ours).collect()
    } else {
        state.marks.iter().copied().filter(is_ours).collect()
    }
}

/// `web` or `3 mappings`.
fn named(state: &State, ids: &[MappingId]) -> String {
    match ids {
        [id] => state.live.mappings.get(id).map_or_else(|| "the mapping".to_owned(), |item| item.row.name.clone()),
        _ => count(ids.len() as u64, "mapping"),
    }
}

/// Deletes, asking first while connections are open.
pub(super) fn delete(state: &mut State, ids: Vec<MappingId>, effects: &mut Vec<Effect>) {
    let open: u64 = ids.iter().map(|id| state.live.open_of(*id)).sum();
    if open == 0 {
        confirmed(state, Confirmed::Delete(ids), effects);
        return;
    }
    state.overlay = Overlay::Confirm(Confirm {
        question: format!("Delete {} and drop {}?", named(state, &ids), count(open, "open connection")),
        key: Key::Char('d'),
        yes: "delete",
        no: "keep",
        then: Confirmed::Delete(ids),
        other: None,
    });
}

fn start_stop(state: &mut State, effects: &mut Vec<Effect>) {
    let ids = targets(state);
    let runs = |id: &MappingId| {
        state.live.mappings.get(id).is_some_and(|item| item.row.state != crate::model::event::MappingState::Stopped)
    };
    // Of several, those that run are stopped first; once none runs, all are started.
    let running: Vec<_> = ids.iter().copied().filter(runs).collect();
    if running.is_empty() {
        state.marks.clear();
        effects.push(change(state, Asked::Change, Request::Start { ids }));
        return;
    }
    let open: u64 = running.iter().map(|id| state.live.open_of(*id)).sum();
    if open == 0 {
        confirmed(state, Confirmed::Stop(running), effects);
        return;
    }
    state.overlay = Overlay::Confirm(Confirm {
        question: format!("Stop {} and drop {}?", named(state, &running), count(open, "open connection")),
        key: Key::Char('t'),
        yes: "stop",
        no: "go on",
        then: Confirmed::Stop(running),
        other: None,
    });
}

/// Opens a profile. One that does not exist is empty, and nothing of what is open now would be in it: that may be
/// a name mistyped, so it is asked.
pub(super) fn open_profile(state: &mut State, name: &str, is_new: bool, effects: &mut Vec<Effect>) {
    let ends = |item: &&MappingItem| !item.row.is_session && !item.row.owner.is_docker();
    let open: u64 = state.live.mappings.values().filter(ends).map(|item| item.row.connections).sum();
    let then = Confirmed::Open(name.to_owned());
    if !is_new || open == 0 {
        confirmed(state, then, effects);
        return;
    }
    state.overlay = Overlay::Confirm(Confirm {
        question: format!("Drop {} and open {name} (new, empty)?", count(open, "open connection")),
        key: Key::Char('o'),
        yes: "open",
        no: "stay",
        then,
        other: None,
    });
}

fn reset(state: &mut State) {
    let Some(item) = state.selected_connection() else { return };
    state.overlay = Overlay::Confirm(Confirm {
        question: format!("Reset the connection from {}?", item.row.connection.client),
        key: Key::Char('K'),
        yes: "reset",
        no: "keep",
        then: Confirmed::Reset(item.id()),
        other: None,
    });
}

fn suspend(state: &mut State, effects: &mut Vec<Effect>) {
    let open = state.live.open();
    if open == 0 || state.told_of_suspend {
        effects.push(Effect::Suspend);
        return;
    }
    state.overlay = Overlay::Confirm(Confirm {
        question: format!("Suspending stops forwarding: {} will stall.", count(open, "connection")),
        key: Key::Ctrl('z'),
        yes: "suspend",
        no: "stay",
        then: Confirmed::Suspend,
        other: None,
    });
}

fn quit(state: &mut State, effects: &mut Vec<Effect>) {
    if state.zoom != Zoom::None {
        state.zoom = Zoom::None;
        return;
    }
    let listening = state.live.listening() as u64;
    let open = state.live.open();
    // One window less is no end: the engine is another process.
    if listening + open == 0 || state.is_gone || state.standing == Standing::Attached {
        effects.push(Effect::Quit);
        return;
    }
    let leave = (Key::Char('b'), "leave it running", Confirmed::Leave);
    state.overlay = Overlay::Confirm(Confirm {
        question: format!("Quit stops {}.", what_stops(state)),
        key: Key::Char('q'),
        yes: "quit",
        no: "stay",
        then: Confirmed::Quit,
        other: (state.standing == Standing::Owner { can_leave: true }).then_some(leave),
    });
}

/// Asks whether to end the engine, for every window.
pub(super) fn shut_down(state: &mut State, effects: &mut Vec<Effect>) {
    if state.standing != Standing::Attached {
        return quit(state, effects);
    }
    state.overlay = Overlay::Confirm(Confirm {
        question: format!("Ending the engine stops {}, for every window.", what_stops(state)),
        key: Key::Char('e'),
        yes: "end it",
        no: "stay",
        then: Confirmed::Shutdown,
        other: None,
    });
}

/// `4 mappings and 7 connections`.
fn what_stops(state: &State) -> String {
    let mut stopped = vec![count(state.live.listening() as u64, "mapping")];
    let open = state.live.open();
    if open > 0 {
        // With the keys, all of the question is to be read on the narrowest screen.
        stopped.push(count(open, if state.size.0 < 48 { "conn" } else { "connection" }));
    }
    stopped.join(" and ")
}

/// Does what was asked about.
pub(super) fn confirmed(state: &mut State, then: Confirmed, effects: &mut Vec<Effect>) {
    match then {
        Confirmed::Delete(ids) => {
            state.marks.clear();
            effects.push(change(state, Asked::Change, Request::Remove { ids }));
        }
        Confirmed::Stop(ids) => {
            state.marks.clear();
            effects.push(change(state, Asked::Change, Request::Stop { ids }));
        }
        Confirmed::Open(name) => effects.push(ask(Asked::Change, Request::OpenProfile { name })),
        Confirmed::Reset(id) => effects.push(ask(Asked::Change, Request::Kill { id })),
        Confirmed::Suspend => {
            state.told_of_suspend = true;
            effects.push(Effect::Suspend);
        }
        Confirmed::Quit => effects.push(Effect::Quit),
        Confirmed::Leave => effects.push(Effect::Leave),
        Confirmed::Shutdown => effects.push(ask(Asked::Change, Request::Shutdown { drain_ms: 0 })),
    }
}

fn mark(state: &mut State) {
    if let Some(id) = state.mappings.selected {
        if !state.marks.remove(&id) {
            state.marks.insert(id);
        }
        state.mappings.step(1);
    }
}

fn try_target(state: &mut State, effects: &mut Vec<Effect>) {
    let Some(item) = state.selected_mapping() else { return };
    let (target, protocol) = (item.row.mapping.target.clone(), item.row.mapping.protocol);
    let text = target.to_string();
    effects.push(ask(Asked::Try(text.clone()), Request::Probe { target, protocol }));
    say(state, Severity::None, &format!("trying {text} ..."));
}

/// How a target answered.
pub(super) fn tried(state: &mut State, target: &str, answer: Result<Reply, RequestError>) {
    match answer {
        Ok(Reply::Probed { results, reason }) => {
            let (severity, text) = probe_words(target, &results, reason.as_ref().map(AsRef::as_ref));
            say(state, severity, &text);
        }
        Ok(_) => {}
        Err(error) => say(state, Severity::Error, &format!("{target}: {error}")),
    }
}

fn zero(state: &mut State) {
    let Some(item) = state.selected_mapping() else { return };
    let (id, name) = (item.row.id, item.row.name.clone());
    let now = Baseline { bytes_in: item.row.bytes_in, bytes_out: item.row.bytes_out, errors: item.row.errors };
    let text = if state.baselines.remove(&id).is_some() {
        format!("counters of {name} from the start")
    } else {
        state.baselines.insert(id, now);
        format!("counters of {name} from here; 0 again: from the start")
    };
    say(state, Severity::None, &text);
}

fn sort_by_next(state: &mut State) {
    match state.focus() {
        Pane::Mappings => {
            let (_, next) = state.mappings.sort.name_and_next();
            (state.mappings.sort, state.mappings.descending) = (next, next.starts_descending());
        }
        Pane::Containers => {
            let (_, next) = state.containers.sort.name_and_next();
            (state.containers.sort, state.containers.descending) = (next, false);
        }
        Pane::Connections | Pane::Events => {
            let (_, next) = state.connections.sort.name_and_next();
            (state.connections.sort, state.connections.descending) = (next, next.starts_descending());
        }
    }
    state.connections.order.clear();
    lists::rebuild(state);
}

fn freeze(state: &mut State) {
    if state.frozen.take().is_some() {
        lists::rebuild(state);
    } else {
        let world = Box::new(state.live.clone());
        state.frozen = Some(Frozen { world, since_ms: state.now_ms, new: 0 });
    }
}
