//! The lines above and below the panels: sums, views, badges; keys that work now, and news.

use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use super::theme::{self, Role};
use crate::model::container::DockerState;
use crate::model::count::count;
use crate::tui::format;
use crate::tui::keymap::{self, Action, Binding, Scope};
use crate::tui::state::{MappingItem, Overlay, Severity, State, View, with_port_taken};

/// Below the smallest size: one line.
pub(super) fn tiny(canvas: &mut Canvas<'_>) {
    let state = canvas.state;
    if canvas.buffer.area.height == 0 {
        return;
    }
    let columns = usize::from(canvas.width());
    let text = if let Overlay::Confirm(confirm) = &state.overlay {
        // Whoever is asked must see what to press.
        let keys = format!("{} esc {}", question_key(confirm), confirm.no);
        if canvas.buffer.area.height > 1 {
            canvas.text(0, 1, &keys, Style::new());
            confirm.question.clone()
        } else {
            let room = columns.saturating_sub(format::width(&keys) + 1);
            format!("{} {keys}", format::elide_end(&confirm.question, room))
        }
    } else {
        let world = state.world();
        let mapping = if canvas.width() < 34 { "map" } else { "mapping" };
        let mappings = count(world.mappings.len() as u64, mapping);
        let q = if matches!(state.overlay, Overlay::None) { "q quit" } else { "q back" };
        format!("portolan {mappings} {} {q}", count(world.open(), "conn"))
    };
    canvas.text(0, 0, &format::elide_end(&text, columns), Style::new());
}

fn question_key(confirm: &crate::tui::state::dialog::Confirm) -> String {
    format!("{} {}", confirm.key, confirm.yes)
}

/// Sums and views.
pub(super) fn head(canvas: &mut Canvas<'_>) {
    sums(canvas);
    views(canvas);
}

fn sums(canvas: &mut Canvas<'_>) {
    let state = canvas.state;
    let world = state.world();
    let mut x = canvas.text(1, 0, "portolan", canvas.style(Role::Accent));
    let profile = world.overview.profile.as_ref().map_or("(no profile)", |profile| profile.name.as_str());
    x = canvas.text(x + 1, 0, &format::elide_end(profile, 20), Style::new().add_modifier(Modifier::BOLD));
    let sums = world.sums;
    let mut parts = vec![count(world.mappings.len() as u64, "mapping")];
    // Counted with the families, once a second, so that the three figures agree.
    let open = sums.v6 + sums.v4;
    if open > 0 {
        parts.push(format!("{} ({} v6, {} v4)", count(open, "conn"), sums.v6, sums.v4));
    } else {
        parts.push("0 conns".to_owned());
    }
    // Both ways or neither: one alone would be taken for all there is.
    parts.push(format!("in {}  out {}", format::rate_long(sums.in_rate), format::rate_long(sums.out_rate)));
    let needs = |parts: &[String]| usize::from(x) + parts.iter().map(|part| format::width(part) + 2).sum::<usize>();
    let width = usize::from(canvas.width());
    if needs(&parts) > width {
        parts[1] = count(open, "conn");
    }
    if needs(&parts) > width {
        parts[2] = format!("in {}  out {}", format::rate(Some(sums.in_rate)), format::rate(Some(sums.out_rate)));
    }
    // What does not fit is left out whole, and what comes after it, too.
    for part in parts {
        if usize::from(x) + 2 + format::width(&part) > width {
            break;
        }
        x = canvas.text(x + 2, 0, &part, Style::new());
    }
}

fn views(canvas: &mut Canvas<'_>) {
    let state = canvas.state;
    let badges = badges(state);
    let badge_width: usize = badges.iter().map(|(text, _)| format::width(text) + 2).sum();
    let mut end = canvas.width();
    for (text, style) in badges.iter().rev() {
        canvas.right(end, 1, text, *style);
        end = end.saturating_sub(u16::try_from(format::width(text) + 2).unwrap_or(0));
    }
    let room = usize::from(canvas.width()).saturating_sub(badge_width);
    let errors = match state.live.errors_unseen {
        0 => "4 Events".to_owned(),
        errors => format!("4 Events ({})", count(errors, "error")),
    };
    let long = [
        (View::Mappings, "1 Mappings".to_owned()),
        (View::Connections, "2 Connections".to_owned()),
        (View::Events, errors.clone()),
    ];
    let short = [
        (View::Mappings, "1 Map".to_owned()),
        (View::Connections, "2 Conn".to_owned()),
        (View::Events, if state.live.errors_unseen > 0 { "4 Ev !!".to_owned() } else { "4 Ev".to_owned() }),
    ];
    let width = |views: &[(View, String)]| views.iter().map(|(_, name)| name.len() + 2).sum::<usize>() + 1;
    let views = if width(&long) <= room { long } else { short };
    let mut x = 1;
    for (view, name) in views {
        let style = if view == state.view {
            canvas.style(Role::Accent).add_modifier(Modifier::UNDERLINED)
        } else if view == View::Events && state.live.errors_unseen > 0 {
            canvas.style(Role::Error)
        } else {
            Style::new()
        };
        if usize::from(x) + name.len() < room {
            x = canvas.text(x, 1, &name, style) + 2;
        }
    }
}

fn badges(state: &State) -> Vec<(String, Style)> {
    let look = state.look;
    let narrow = state.size.0 < 60;
    let mut badges = Vec::new();
    let docker = match &state.world().overview.docker {
        DockerState::Connected => Some(("docker ok", Role::Ok)),
        DockerState::Unavailable { .. } if narrow => Some(("no docker", Role::Warn)),
        DockerState::Unavailable { .. } => Some(("! docker not reachable", Role::Warn)),
        DockerState::Unknown => None,
    };
    if let Some((text, role)) = docker {
        badges.push((text.to_owned(), theme::style(look, role)));
    }
    if state.is_gone {
        badges.push(("!! ENGINE ENDED".to_owned(), theme::style(look, Role::Error)));
    } else if let Some(frozen) = &state.frozen {
        let text = format!("FROZEN {}, {} new", format::age(state.now_ms.saturating_sub(frozen.since_ms)), frozen.new);
        if narrow {
            badges.clear();
        }
        badges.push((text, theme::style(look, Role::Warn).add_modifier(Modifier::REVERSED)));
    } else {
        badges.push(("LIVE".to_owned(), theme::style(look, Role::Ok)));
    }
    badges
}

/// Keys and news; says where the cursor stands in a filter line.
pub(super) fn foot(canvas: &mut Canvas<'_>) -> Option<(u16, u16)> {
    let height = canvas.buffer.area.height;
    let news = news(canvas);
    // News of two lines take one of the panes above.
    let lines = u16::try_from(news.as_ref().map_or(1, |(_, lines)| lines.len())).unwrap_or(1).max(1);
    for y in height - 1 - lines..height - 2 {
        let width = usize::from(canvas.width());
        canvas.text(0, y, &" ".repeat(width), Style::reset());
    }
    keys(canvas, height - 1 - lines);
    match &canvas.state.overlay {
        Overlay::Filter(line) => {
            let style = canvas.style(Role::Accent);
            let x = canvas.text(1, height - 1, "filter /", style);
            if line.input.value().is_empty() {
                let examples = format::elide_end(FILTER_EXAMPLES, usize::from(canvas.width().saturating_sub(x + 2)));
                canvas.text(x + 2, height - 1, &examples, canvas.style(Role::Muted));
            }
            let scroll = line.input.visual_scroll(usize::from(canvas.width().saturating_sub(x + 1)));
            let shown: String = line.input.value().chars().skip(scroll).collect();
            canvas.text(x, height - 1, &shown, Style::new());
            let cursor = line.input.visual_cursor().saturating_sub(scroll);
            Some((x + u16::try_from(cursor).unwrap_or(0), height - 1))
        }
        Overlay::Confirm(confirm) => {
            let style = canvas.style(Role::Warn).add_modifier(Modifier::BOLD);
            let keys = format!("{}  esc {}", question_key(confirm), confirm.no);
            let width = usize::from(canvas.width());
            // The line of the keys is empty meanwhile, so a question that is too long for one line takes both.
            let fits = format::width(&confirm.question) + format::width(&keys) + 3 <= width;
            let y = if fits { height - 1 } else { height - 2 };
            let x = canvas.text(1, y, &format::elide_end(&confirm.question, width - 1), style);
            canvas.text(if fits { x + 2 } else { 1 }, height - 1, &keys, canvas.style(Role::Accent));
            None
        }
        _ => {
            if let Some((severity, lines)) = news {
                draw_news(canvas, severity, &lines);
            }
            None
        }
    }
}

fn keys(canvas: &mut Canvas<'_>, y: u16) {
    let state = canvas.state;
    let scopes: &[Scope] = match &state.overlay {
        Overlay::None => keymap::SCREEN,
        Overlay::Form(_) => &[Scope::Form],
        // The question itself names its keys.
        Overlay::Confirm(_) => &[],
        _ => &[Scope::Dialog],
    };
    let mut shown: Vec<&Binding> = keymap::table()
        .iter()
        .filter(|binding| binding.footer > 0 && scopes.contains(&binding.scope) && binding.works(state))
        .filter(|binding| in_dialog(&state.overlay, binding.action).is_none_or(|name| !name.is_empty()))
        .collect();
    shown.sort_by_key(|binding| binding.footer);
    let texts: Vec<_> =
        shown.iter().map(|binding| (binding.keys[0].to_string(), contextual_name(state, binding))).collect();
    let width = |(key, name): &(String, &str)| format::width(key) + 1 + name.len() + 2;
    // `? help` and `q quit` stand last and stay; of the others, the later ones give way first.
    let staying = if scopes == keymap::SCREEN { 2 } else { 0 };
    let mut keep: Vec<bool> = vec![true; texts.len()];
    let room = usize::from(canvas.width());
    for at in (0..texts.len().saturating_sub(staying)).rev() {
        let sum: usize = texts.iter().zip(&keep).filter(|(_, keep)| **keep).map(|(text, _)| width(text)).sum();
        if sum <= room {
            break;
        }
        keep[at] = false;
    }
    let mut x = 1;
    for ((key, name), keep) in texts.iter().zip(keep) {
        if keep {
            x = canvas.text(x, y, key, canvas.style(Role::Accent));
            x = canvas.text(x + 1, y, name, Style::new()) + 2;
        }
    }
}

fn contextual_name(state: &State, binding: &Binding) -> &'static str {
    match binding.action {
        Action::Freeze if state.frozen.is_some() => "resume",
        action => in_dialog(&state.overlay, action).unwrap_or(binding.name),
    }
}

/// What a key of a dialog is called in this one; nothing where it does nothing.
fn in_dialog(overlay: &Overlay, action: Action) -> Option<&'static str> {
    Some(match (overlay, action) {
        (Overlay::Filter(_), Action::DialogAccept) => "keep filter",
        (Overlay::Filter(_), Action::DialogDismiss) => "as before",
        (Overlay::Palette(_), Action::DialogAccept) => "do",
        (Overlay::CopyAs(_), Action::DialogAccept) => "copy",
        (Overlay::Profiles(_), Action::DialogAccept) => "open",
        (Overlay::Palette(_), _) => return None,
        (Overlay::Help(_), Action::DialogAccept) | (_, Action::DialogComplete) => "",
        _ => return None,
    })
}

/// What goes on while Docker is out of reach.
const COMFORT: &str = "mappings by address still work";
/// From this height on news may take two lines.
const HIGH: u16 = 16;

/// What can be typed into a filter.
const FILTER_EXAMPLES: &str = "words, or port:8080 fam:6 state:open";

/// The latest news, else the hint, else what is wrong: one line, and of Docker out of reach two, where that takes
/// two to be said.
fn news(canvas: &Canvas<'_>) -> Option<(Severity, Vec<String>)> {
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
        // The form says itself what concerns it.
        && !matches!(state.overlay, Overlay::Form(_))
    {
        problem
    } else {
        return None;
    };
    let is_high = state.size.1 >= HIGH;
    let lines = if is_high && text.ends_with(COMFORT) { format::wrap(&text, room) } else { Vec::new() };
    Some((severity, if lines.len() == 2 { lines } else { vec![text] }))
}

fn draw_news(canvas: &mut Canvas<'_>, severity: Severity, lines: &[String]) {
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
    if let Some(problem) = state.selected_mapping().and_then(|item| mapping_problem(item, room)) {
        return Some(problem);
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
    problems.into_iter().next().map(|(severity, _, text)| (severity.0, text))
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
    let listen = with_port_taken(row.mapping.listen.to_string(), item);
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
