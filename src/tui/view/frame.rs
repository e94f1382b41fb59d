//! The lines above and below the panels: sums, views, badges; keys that work now, and news.

use ratatui::style::{Modifier, Style};

use super::canvas::Canvas;
use super::news;
use super::theme::{self, Role};
use crate::model::container::DockerState;
use crate::model::count::count;
use crate::model::format;
use crate::tui::keymap::{self, Action, Binding};
use crate::tui::state::{Absence, Overlay, Standing, State, View};

/// Below the smallest size: one line.
pub(super) fn tiny(canvas: &mut Canvas<'_>) {
    let state = canvas.state;
    if canvas.buffer.area.height == 0 {
        return;
    }
    let columns = usize::from(canvas.width());
    let text = if let Overlay::Confirm(confirm) = &state.overlay {
        // Whoever is asked must see what to press.
        let keys = question_keys(confirm, " ");
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
        let mappings = count(world.ours().count() as u64, mapping);
        let q = if matches!(state.overlay, Overlay::None) { "q quit" } else { "q back" };
        format!("portolan {mappings} {} {q}", count(world.open(), "conn"))
    };
    canvas.text(0, 0, &format::elide_end(&text, columns), Style::new());
}

/// The keys of a question, `gap` between them.
fn question_keys(confirm: &crate::tui::state::dialog::Confirm, gap: &str) -> String {
    let other = confirm.other.as_ref().map(|(key, does, _)| format!("{gap}{key} {does}")).unwrap_or_default();
    format!("{} {}{other}{gap}esc {}", confirm.key, confirm.yes, confirm.no)
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
    let mut parts = vec![count(world.ours().count() as u64, "mapping")];
    // Counted with the families, once a second, so that the three figures agree.
    let open = sums.v6 + sums.v4;
    if open > 0 {
        parts.push(format!("{} ({} v6, {} v4)", count(open, "conn"), sums.v6, sums.v4));
    } else {
        parts.push("0 conns".to_owned());
    }
    // Both ways or neither: one alone would be taken for all there is.
    parts.push(format!("in {}  out {}", format::rate_long(sums.in_rate), format::rate_long(sums.out_rate)));
    let ours = parts.len();
    // What goes through Docker is not part of these sums.
    let published = world.mappings.values().filter(|item| item.row.is_docker()).count();
    if published > 0 {
        let sessions = if sums.docker > 0 { format!(", {}", count(sums.docker, "conn")) } else { String::new() };
        parts.push(format!("docker {}{sessions}", count(published as u64, "port")));
    }
    let needs = |parts: &[String]| usize::from(x) + parts.iter().map(|part| format::width(part) + 2).sum::<usize>();
    let width = usize::from(canvas.width());
    if needs(&parts[..ours]) > width {
        parts[1] = count(open, "conn");
    }
    if needs(&parts[..ours]) > width {
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
        (View::Containers, "3 Containers".to_owned()),
        (View::Events, errors.clone()),
    ];
    let short = [
        (View::Mappings, "1 Map".to_owned()),
        (View::Connections, "2 Conn".to_owned()),
        (View::Containers, "3 Cont".to_owned()),
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
    // The views are named beside it.
    let is_short = state.size.0 < 100;
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
        let text = match state.standing {
            Standing::Owner { .. } => "!! ENGINE ENDED",
            Standing::Attached => match (&state.absence, is_short) {
                (Absence::Ended, _) => "!! ENGINE ENDED",
                (Absence::Lost, true) => "!! ENGINE LOST",
                (Absence::Lost, false) => "!! ENGINE LOST: looking for it",
                (Absence::Silent, true) => "!! NO ANSWER",
                (Absence::Silent, false) => "!! ENGINE DOES NOT ANSWER: is it stopped?",
                (Absence::Refuses(_), true) => "!! REFUSED",
                (Absence::Refuses(_), false) => "!! REFUSED BY THE ENGINE: asking again",
            },
        };
        badges.push((text.to_owned(), theme::style(look, Role::Error)));
    } else if let Some(frozen) = &state.frozen {
        let text = format!("FROZEN {}, {} new", format::age(state.now_ms.saturating_sub(frozen.since_ms)), frozen.new);
        if narrow {
            badges.clear();
        }
        badges.push((text, theme::style(look, Role::Warn).add_modifier(Modifier::REVERSED)));
    } else if state.live.overview.is_ending {
        badges.push(("! ENDING".to_owned(), theme::style(look, Role::Warn)));
    } else {
        badges.push(("LIVE".to_owned(), theme::style(look, Role::Ok)));
    }
    badges
}

/// Keys and news; says where the cursor stands in a filter line.
pub(super) fn foot(canvas: &mut Canvas<'_>) -> Option<(u16, u16)> {
    let height = canvas.buffer.area.height;
    let news = news::lines(canvas);
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
            let keys = question_keys(confirm, "  ");
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
                news::draw(canvas, severity, &lines);
            }
            None
        }
    }
}

fn keys(canvas: &mut Canvas<'_>, y: u16) {
    let state = canvas.state;
    let scopes = keymap::scopes(state);
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
        (Overlay::Import(_), Action::DialogAccept) => "add",
        (Overlay::Import(_) | Overlay::Why(_), Action::DialogDismiss) => "back",
        (Overlay::Palette(_), _) => return None,
        (Overlay::Help(_) | Overlay::Why(_), Action::DialogAccept) | (_, Action::DialogComplete) => "",
        _ => return None,
    })
}

/// What can be typed into a filter.
const FILTER_EXAMPLES: &str = "words, or port:8080 fam:6 state:open";
