//! The last line: the latest news, else what is wrong now, else the hint.

use super::canvas::Canvas;
use super::theme;
use crate::model::container::{DockerState, EnginePlace};
use crate::model::count::count;
use crate::model::format;
use crate::tui::state::{MappingItem, Overlay, Severity, State, View};

/// What goes on while Docker is out of reach.
const COMFORT: &str = "mappings by address still work";
/// From this height on news may take two lines.
const HIGH: u16 = 16;

/// The latest news, else the hint, else what is wrong: one line, and of Docker out of reach two, where that takes
/// two to be said.
pub(super) fn lines(canvas: &Canvas<'_>) -> Option<(Severity, Vec<String>)> {
    let state = canvas.state;
    if matches!(state.overlay, Overlay::Filter(_) | Overlay::Confirm(_)) {
        return None;
    }
    let room = usize::from(canvas.width().saturating_sub(3));
    let (severity, text) = if let Some(note) = &state.note {
        (note.severity, note.text.to_string())
    } else if let Some(hint) = &state.hint {
        (Severity::None, hint.to_string())
    } else if let Some(problem) = standing_problem(state, room)
        // The form and the pages say themselves what concerns them.
        && !matches!(state.overlay, Overlay::Form(_) | Overlay::Import(_) | Overlay::Why(_))
    {
        problem
    } else {
        return None;
    };
    let is_high = state.size.1 >= HIGH;
    let lines = if is_high && text.ends_with(COMFORT) { format::wrap(&text, room) } else { Vec::new() };
    Some((severity, if lines.len() == 2 { lines } else { vec![text] }))
}

/// Draws them at the foot of the screen.
pub(super) fn draw(canvas: &mut Canvas<'_>, severity: Severity, lines: &[String]) {
    let mark = theme::mark(severity);
    let style = theme::severity(canvas.state.look, severity);
    let first = canvas.buffer.area.height - u16::try_from(lines.len()).unwrap_or(1);
    let mut x = 1;
    if !mark.is_empty() {
        x = canvas.text(x, first, mark, style) + 1;
    }
    let room = usize::from(canvas.width().saturating_sub(x));
    for (y, line) in (first..).zip(lines) {
        canvas.text(x, y, &format::elide_end(line, room), style);
    }
}

/// What is wrong now: with the profile, the selected mapping, Docker, or the worst mapping.
fn standing_problem(state: &State, room: usize) -> Option<(Severity, String)> {
    let world = state.world();
    if let Some(profile) = &world.overview.profile
        && let Some(problem) = &profile.problem
    {
        let text = problem.as_str();
        let room = room_beside(Severity::Error, room);
        // Which file it is, one knows; where in it and what, one wants to.
        let short = || text.replace(profile.path.as_str(), format::file_name(profile.path.as_str()));
        let text = if format::width(text) > room { short() } else { text.to_owned() };
        return Some((Severity::Error, text));
    }
    if state.view == View::Containers {
        if let EnginePlace::Elsewhere { reason, .. } = &world.overview.engine_place {
            return Some((Severity::Warn, format!("{reason}: its published ports are offered instead")));
        }
    } else if let Some((severity, text)) = state.selected_mapping().and_then(|item| mapping_problem(item, room)) {
        let is_ours = state.selected_mapping().is_some_and(|item| !item.row.is_docker());
        let says_why =
            is_ours && state.view == View::Mappings && format::width(&text) + 9 <= room_beside(severity, room);
        return Some((severity, if says_why { format!("{text}: press w") } else { text }));
    }
    if let DockerState::Unavailable { reason } = &world.overview.docker {
        return Some((Severity::Warn, docker_words(reason.as_str(), room, state.size.1 >= HIGH)));
    }
    let mut problems: Vec<_> = world
        .mappings
        .values()
        .filter_map(|item| {
            mapping_problem(item, room).map(|(severity, text)| (std::cmp::Reverse(severity), item.row.id, text))
        })
        .collect();
    problems.sort();
    if let Some((severity, _, text)) = problems.into_iter().next() {
        return Some((severity.0, text));
    }
    let is_first_run = world.ours().next().is_none() && !world.mappings.is_empty();
    is_first_run.then(|| {
        let texts = [
            "no mapping of yours yet: a adds one, i imports what containers expose, o opens a profile; portolan try shows it",
            "no mapping of yours yet: a adds one, i imports, o opens a profile",
            "a adds a mapping, i imports",
        ];
        (Severity::None, texts.into_iter().find(|text| text.len() <= room).unwrap_or(texts[2]).to_owned())
    })
}

/// The mark of an error takes one column more than that of a warning.
fn room_beside(severity: Severity, room: usize) -> usize {
    room.saturating_sub(usize::from(severity == Severity::Error))
}

/// Why Docker cannot be reached, in the longest words that there is room for. A high screen has two lines for it.
fn docker_words(reason: &str, room: usize, is_high: bool) -> String {
    let short = reason.trim_start_matches("cannot open ");
    let why = short.rsplit(": ").next().unwrap_or(short);
    let all = [
        format!("docker: {reason}; {COMFORT}"),
        format!("docker: {short}; {COMFORT}"),
        format!("docker: {why}; {COMFORT}"),
    ];
    let on_one_line = all.iter().find(|text| format::width(text) <= room);
    let on_two_lines = all.last().filter(|text| is_high && format::wrap(text, room).len() <= 2);
    match (on_one_line.or(on_two_lines), format!("docker: {short}")) {
        (Some(text), _) => text.clone(),
        (None, text) if format::width(&text) <= room => text,
        (None, _) => format!("docker: {why}"),
    }
}

/// What is wrong with a mapping, so that the reason is read: where there is no room, long addresses are cut first,
/// then it goes without its target, then without all that the row says.
fn mapping_problem(item: &MappingItem, room: usize) -> Option<(Severity, String)> {
    let severity = item.severity();
    if severity == Severity::None {
        return None;
    }
    let row = &item.row;
    let listen = row.with_port_taken(row.mapping.listen.to_string());
    let what = match (&row.reason, row.last_result) {
        (Some(reason), _) => format!("{}: {reason}", format::mapping_state_word(row.state)),
        (None, Some(result)) => {
            let attempts = count(u64::from(result.attempts), "connection");
            format!("{}, {} of {attempts}", format::outcome(result.outcome), result.failures)
        }
        (None, None) => return None,
    };
    let whole = format!("{listen} -> {} {what}", row.mapping.target);
    let room = room_beside(severity, room);
    let texts = [format::elide_addresses(&whole), format!("{listen} {what}"), what];
    let texts = std::iter::once(whole).chain(texts.map(|text| format::elide_addresses(&text)));
    let mut last = String::new();
    for text in texts {
        last = text;
        if format::width(&last) <= room {
            break;
        }
    }
    Some((severity, last))
}
