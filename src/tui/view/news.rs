//! The last line: the latest news, else what is wrong now, else the hint.

use super::canvas::Canvas;
use super::theme;
use crate::model::container::{DockerState, EnginePlace};
use crate::model::count::count;
use crate::tui::format;
use crate::tui::state::{MappingItem, Overlay, Severity, State, View};

/// One line: the latest news, else what is wrong, else the hint.
pub(super) fn draw(canvas: &mut Canvas<'_>, y: u16) {
    let state = canvas.state;
    let (severity, text) = if let Some(note) = &state.note {
        (note.severity, note.text.to_string())
    } else if let Some(hint) = &state.hint {
        (Severity::None, hint.to_string())
    } else if let Some(problem) = standing_problem(state, usize::from(canvas.width().saturating_sub(3)))
        // The form and the pages say themselves what concerns them.
        && !matches!(state.overlay, Overlay::Form(_) | Overlay::Import(_) | Overlay::Why(_))
    {
        problem
    } else {
        return;
    };
    let mark = theme::mark(severity);
    let style = theme::severity(state.look, severity);
    let mut x = 1;
    if !mark.is_empty() {
        x = canvas.text(x, y, mark, style) + 1;
    }
    let room = usize::from(canvas.width().saturating_sub(x));
    canvas.text(x, y, &format::elide_end(&text, room), style);
}

/// What is wrong now: with the profile, the selected mapping, Docker, or the worst mapping.
fn standing_problem(state: &State, room: usize) -> Option<(Severity, String)> {
    let world = state.world();
    if let Some(profile) = &world.overview.profile
        && let Some(problem) = &profile.problem
    {
        let text = problem.as_str();
        // Which file it is, one knows; where in it and what, one wants to.
        let short = || text.replace(profile.path.as_str(), format::file_name(profile.path.as_str()));
        let text = if format::width(text) > room { short() } else { text.to_owned() };
        return Some((Severity::Error, text));
    }
    if state.view == View::Containers {
        if let EnginePlace::Elsewhere { reason, .. } = &world.overview.engine_place {
            return Some((Severity::Warn, format!("{reason}: its published ports are offered instead")));
        }
    } else if let Some((severity, text)) = state.selected_mapping().and_then(mapping_problem) {
        let says_why = state.view == View::Mappings && format::width(&text) + 9 <= room;
        return Some((severity, if says_why { format!("{text}: press w") } else { text }));
    }
    if let DockerState::Unavailable { reason } = &world.overview.docker {
        return Some((Severity::Warn, docker_words(reason.as_str(), room)));
    }
    let mut problems: Vec<_> = world
        .mappings
        .values()
        .filter_map(|item| {
            mapping_problem(item).map(|(severity, text)| (std::cmp::Reverse(severity), item.row.id, text))
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

/// Why Docker cannot be reached, in the longest words that there is room for.
fn docker_words(reason: &str, room: usize) -> String {
    let short = reason.trim_start_matches("cannot open ");
    let why = short.rsplit(": ").next().unwrap_or(short);
    [
        format!("docker: {reason}; mappings by address still work"),
        format!("docker: {short}; mappings by address still work"),
        format!("docker: {why}; mappings by address still work"),
        format!("docker: {short}"),
    ]
    .into_iter()
    .find(|text| format::width(text) <= room)
    .unwrap_or_else(|| format!("docker: {why}"))
}

fn mapping_problem(item: &MappingItem) -> Option<(Severity, String)> {
    let severity = item.severity();
    if severity == Severity::None {
        return None;
    }
    let row = &item.row;
    let head = format!("{} -> {}", row.mapping.listen, row.mapping.target);
    if let Some(reason) = &row.reason {
        return Some((severity, format!("{head} {}: {reason}", format::mapping_state_word(row.state))));
    }
    let result = row.last_result?;
    let attempts = count(u64::from(result.attempts), "connection");
    Some((severity, format!("{head} {}, {} of {attempts}", format::outcome(result.outcome), result.failures)))
}
