//! The table itself: every binding of this release, and when each works.

use super::Action as A;
use super::Key::{BackTab, Char, Ctrl, Down, End, Enter, Esc, Home, Left, PageDown, PageUp, Right, Tab, Up};
use super::Scope as S;
use super::{Action, Binding, Key, Scope};
use crate::model::container::Container;
use crate::tui::state::why::Why;
use crate::tui::state::{Overlay, Pane, State, View, Zoom};

const fn bind(
    scope: Scope,
    keys: &'static [Key],
    action: Action,
    footer: u8,
    name: &'static str,
    help: &'static str,
    works: fn(&State) -> bool,
) -> Binding {
    Binding { scope, keys, action, name, help, footer, works }
}

fn always(_: &State) -> bool {
    true
}

fn has_rows(state: &State) -> bool {
    state.focused_len() > 0
}

fn several_panes(state: &State) -> bool {
    state.panes().len() > 1
}

fn on_mapping(state: &State) -> bool {
    state.focus() == Pane::Mappings && state.selected_mapping().is_some()
}

fn on_ours(state: &State) -> bool {
    on_mapping(state) && state.selected_mapping().is_some_and(|item| !item.row.is_docker())
}

fn can_say_why(state: &State) -> bool {
    state.view == View::Mappings && state.selected_mapping().is_some_and(|item| !item.row.is_docker())
}

fn can_import(state: &State) -> bool {
    matches!(state.view, View::Mappings | View::Containers)
}

fn on_container(state: &State) -> bool {
    state.view == View::Containers && state.selected_container().is_some()
}

fn can_look_inside(state: &State) -> bool {
    on_container(state) && state.selected_container().is_some_and(Container::is_running)
}

fn on_connection(state: &State) -> bool {
    state.focus() == Pane::Connections && state.selected_connection().is_some()
}

fn shows_connections(state: &State) -> bool {
    state.panes().contains(&Pane::Connections)
}

fn on_table(state: &State) -> bool {
    state.focus() != Pane::Events
}

fn can_go_back(state: &State) -> bool {
    state.can_go_back()
}

fn can_undo(state: &State) -> bool {
    state.live.overview.undo.is_some()
}

fn can_browse(state: &State) -> bool {
    on_mapping(state) && state.url().is_some() && state.look.can_browse
}

fn can_try(state: &State) -> bool {
    on_mapping(state) && state.selected_mapping().is_some_and(|item| item.row.is_tcp())
}

fn can_take_port(state: &State) -> bool {
    state.form().is_some_and(|form| form.free_port().is_some())
}

fn why(state: &State) -> Option<&Why> {
    match &state.overlay {
        Overlay::Why(why) => Some(why),
        _ => None,
    }
}

/// Bindings of a page that is not open are offered by the help as they will be.
fn why_is_there(state: &State) -> bool {
    why(state).is_none_or(|why| state.live.mappings.contains_key(&why.id))
}

fn has_report(state: &State) -> bool {
    why(state).is_none_or(|why| why.report.is_some())
}

pub(super) const TABLE: &[Binding] = &[
    bind(S::Move, &[Char('j'), Down], A::Down, 0, "down", "next row", has_rows),
    bind(S::Move, &[Char('k'), Up], A::Up, 0, "up", "row above", has_rows),
    bind(S::Move, &[Char('g'), Home], A::Top, 0, "top", "first row", has_rows),
    bind(S::Move, &[Char('G'), End], A::Bottom, 0, "bottom", "last row", has_rows),
    bind(S::Move, &[Ctrl('d'), PageDown], A::PageDown, 0, "page down", "a page down", has_rows),
    bind(S::Move, &[Ctrl('u'), PageUp], A::PageUp, 0, "page up", "a page up", has_rows),
    bind(S::Move, &[Tab], A::NextPane, 0, "next pane", "to the next pane", several_panes),
    bind(S::Move, &[BackTab], A::PreviousPane, 0, "previous pane", "to the pane before", several_panes),
    bind(S::Move, &[Char('h'), Left], A::ScrollLeft, 0, "columns left", "scroll the columns back", |state| {
        on_table(state) && state.column_skip() > 0
    }),
    bind(
        S::Move,
        &[Char('l'), Right],
        A::ScrollRight,
        0,
        "columns right",
        "scroll to columns that have no room",
        |state| on_table(state) && state.can_scroll_columns(),
    ),
    bind(S::Move, &[Char('1')], A::ViewMappings, 0, "mappings", "view: mappings and their connections", always),
    bind(S::Move, &[Char('2')], A::ViewConnections, 0, "connections", "view: every connection", always),
    bind(
        S::Move,
        &[Char('3')],
        A::ViewContainers,
        0,
        "containers",
        "view: every container, its ports and who listens",
        always,
    ),
    bind(S::Move, &[Char('4')], A::ViewEvents, 0, "events", "view: what happened", always),
    bind(S::Move, &[Enter], A::Open, 10, "open", "open the row: everything about it, exact counters", |state| {
        on_table(state) && has_rows(state) && state.zoom != Zoom::Detail
    }),
    bind(S::Move, &[Esc], A::Back, 11, "back", "back; clears a filter and marks", can_go_back),
    bind(S::Move, &[Char('z')], A::Zoom, 0, "zoom", "the pane alone on the screen, and back", always),
    bind(S::Mappings, &[Char('a')], A::Add, 12, "add", "add a mapping", |state| state.view == View::Mappings),
    bind(S::Mappings, &[Char('e')], A::Edit, 17, "edit", "edit the mapping", on_ours),
    bind(S::Mappings, &[Char('c')], A::CopyAsNew, 0, "copy as new", "add another mapping like this one", on_mapping),
    bind(
        S::Mappings,
        &[Char('d')],
        A::Delete,
        13,
        "delete",
        "delete the mapping, or the marked ones; asks while connections are open",
        on_ours,
    ),
    bind(
        S::Mappings,
        &[Char('w')],
        A::Why,
        13,
        "why",
        "why does it not work: checked step by step, then the cause and what to try",
        can_say_why,
    ),
    bind(
        S::Mappings,
        &[Char('i')],
        A::Import,
        17,
        "import",
        "import: make ports that containers expose into mappings",
        can_import,
    ),
    bind(
        S::Mappings,
        &[Char('u')],
        A::Undo,
        0,
        "undo",
        "take the last change back: listeners return, dropped connections do not",
        can_undo,
    ),
    bind(
        S::Mappings,
        &[Char('t')],
        A::StartStop,
        0,
        "start/stop",
        "start or stop the mapping, or the marked ones; asks while connections are open",
        on_ours,
    ),
    bind(S::Mappings, &[Char(' ')], A::Mark, 0, "mark", "mark the mapping, for d and t", on_ours),
    bind(S::Mappings, &[Char('r')], A::TryTarget, 0, "try target", "connect to the target once, now", can_try),
    bind(S::Mappings, &[Char('O')], A::Browse, 0, "browser", "open the mapping in the browser", can_browse),
    bind(
        S::Mappings,
        &[Char('0')],
        A::ZeroCounters,
        0,
        "zero counters",
        "count bytes and errors from here; again: from the start",
        on_mapping,
    ),
    bind(S::Connections, &[Char('K')], A::ResetConnection, 13, "reset", "reset the connection (asks)", |state| {
        on_connection(state)
            && state.selected_connection().is_some_and(|item| !item.row.is_closed() && !item.row.is_docker())
    }),
    bind(
        S::Connections,
        &[Char('x')],
        A::ShowClosed,
        0,
        "closed",
        "show and hide the connections that have closed (the last 5,000)",
        shows_connections,
    ),
    bind(S::Containers, &[Char('a')], A::Add, 12, "add", "add a mapping to the container", on_container),
    bind(
        S::Containers,
        &[Char('r')],
        A::LookInside,
        0,
        "look inside",
        "look again who listens inside the container",
        can_look_inside,
    ),
    bind(
        S::Lists,
        &[Char('/')],
        A::Filter,
        15,
        "filter",
        "filter the list: words, and port:8080 fam:6 state:open",
        |state| has_rows(state) || !state.focused_filter().is_empty(),
    ),
    bind(S::Lists, &[Char('s')], A::SortColumn, 0, "sort", "sort by the next column", on_table),
    bind(S::Lists, &[Char('S')], A::SortDirection, 0, "reverse", "sort the other way round", on_table),
    bind(S::Lists, &[Char('y')], A::CopyRow, 16, "copy", "copy the row", has_rows),
    bind(S::Lists, &[Char('Y')], A::CopyAs, 0, "copy as", "copy the row as URL, JSON, curl or netstat line", |state| {
        on_table(state) && has_rows(state)
    }),
    bind(
        S::Live,
        &[Char('f')],
        A::Freeze,
        14,
        "freeze",
        "freeze the screen, and resume; forwarding goes on",
        |state| state.frozen.is_some() || !state.live.mappings.is_empty() || !state.live.containers.is_empty(),
    ),
    bind(S::Global, &[Char(':'), Ctrl('p')], A::Palette, 0, "palette", "every action by name, and commands", always),
    bind(S::Global, &[Char('?')], A::Help, 18, "help", "help with search", always),
    bind(S::Global, &[Char('o')], A::Profiles, 0, "profiles", "open another profile", always),
    bind(S::Global, &[Ctrl('l')], A::Redraw, 0, "redraw", "draw everything anew", always),
    bind(S::Global, &[Ctrl('z')], A::Suspend, 0, "suspend", "suspend the program; forwarding stops too", always),
    bind(S::Global, &[Char('q')], A::Quit, 19, "quit", "back, then quit; asks while something listens", always),
    bind(S::Global, &[Ctrl('c')], A::Cancel, 0, "cancel", "cancel; twice: quit at once", always),
    bind(S::Form, &[Enter], A::FormSave, 1, "save", "form: save", always),
    bind(S::Form, &[Esc], A::FormCancel, 2, "cancel", "form: leave without saving", always),
    bind(S::Form, &[Tab], A::FormNext, 3, "next field", "form: next field; takes the chosen container", always),
    bind(S::Form, &[BackTab], A::FormPrevious, 0, "field before", "form: field before", always),
    bind(S::Form, &[Down], A::FormDown, 0, "down", "form: next container in the list, else next field", always),
    bind(S::Form, &[Up], A::FormUp, 0, "up", "form: container above in the list, else field before", always),
    bind(S::Form, &[Ctrl('n')], A::TakeFreePort, 4, "free port", "form: take the next free port", can_take_port),
    bind(S::Dialog, &[Enter], A::DialogAccept, 1, "choose", "dialog: do it, choose, keep the filter", always),
    bind(S::Dialog, &[Esc], A::DialogDismiss, 2, "close", "dialog: close and change nothing", always),
    bind(S::Dialog, &[Down, Ctrl('n')], A::DialogDown, 0, "down", "dialog: next line", always),
    bind(S::Dialog, &[Up, Ctrl('p')], A::DialogUp, 0, "up", "dialog: line above", always),
    bind(S::Dialog, &[Tab], A::DialogComplete, 3, "complete", "palette: complete the word", always),
    bind(S::Import, &[Char(' ')], A::ImportMark, 1, "mark", "import: choose the port, or leave it", always),
    bind(S::Import, &[Char('a')], A::ImportMarkAll, 1, "all", "import: choose all that are not mapped yet", always),
    bind(
        S::Import,
        &[Char('n')],
        A::ImportOtherPort,
        1,
        "port",
        "import: another port of this host, a free one",
        always,
    ),
    bind(S::Why, &[Char('r')], A::WhyAgain, 1, "rerun", "why: check again", always),
    bind(S::Why, &[Char('e')], A::WhyEdit, 1, "edit", "why: edit the mapping", why_is_there),
    bind(S::Why, &[Char('y')], A::WhyCopy, 1, "copy report", "why: copy the report", has_report),
];
