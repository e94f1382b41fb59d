//! What containers expose, to be chosen from.

use ratatui::style::Style;

use super::canvas::Canvas;
use super::dialogs::panel;
use super::mappings::goes_on;
use super::theme::Role;
use crate::model::count::count;
use crate::model::format;
use crate::tui::state::import::{Choice, Import};
use crate::tui::state::layout::Lines;

/// Lines that are no choices: the rule, and one that says that the list goes on.
const FRAME: usize = 2;
/// Lines of a remark at most.
const REMARK: usize = 3;

/// Draws it over the lower part of the screen.
pub(super) fn draw(canvas: &mut Canvas<'_>, body: Lines, import: &Import) {
    let room = usize::from(canvas.width().saturating_sub(6));
    let remarks: Vec<(String, Role)> = remarks(import)
        .into_iter()
        .flat_map(|(text, role)| format::wrap(&text, room).into_iter().take(REMARK).map(move |line| (line, role)))
        .collect();
    // Each line whose port is in use takes a second one, to say by whom.
    let rows = import.choices.len() + import.choices.iter().filter(|choice| choice.busy.is_some()).count();
    let height = rows + remarks.len() + FRAME;
    let lines = panel(canvas, body, u16::try_from(height).unwrap_or(u16::MAX));
    let right = if import.is_adding { "adding ..." } else { &marked(import) };
    canvas.rule(lines.y, "IMPORT", "what containers expose", right, true);
    let mut y = lines.y + 1;
    for (text, role) in remarks {
        let style = canvas.style(role);
        canvas.text(3, y, &text, style);
        y += 1;
    }
    let end = lines.y + lines.height;
    let visible = usize::from(end.saturating_sub(y + 1)).max(1);
    let first = first_shown(import, visible);
    let mut shown = 0;
    let widths = widths(canvas, import);
    for (at, choice) in import.choices.iter().enumerate().skip(first) {
        let needed = 1 + u16::from(choice.busy.is_some());
        if y + needed > end || y + needed == end && at + 1 < import.choices.len() {
            break;
        }
        row(canvas, y, choice, widths);
        if at == import.chosen {
            canvas.text(0, y, ">", Style::new());
            canvas.select(y, true);
        }
        y += needed;
        shown += 1;
    }
    goes_on(canvas, lines, first, shown, import.choices.len());
}

fn remarks(import: &Import) -> Vec<(String, Role)> {
    let refused = import.refused.as_ref().map(|text| (format!("!! {text}; nothing was added"), Role::Error));
    let busy = import.choices.iter().any(|choice| choice.busy.is_some());
    let busy = busy.then(|| ("!! nothing was added: a port is in use; n takes another".to_owned(), Role::Error));
    let remark = import.remark.as_ref().map(|text| {
        let role = if import.choices.is_empty() { Role::Plain } else { Role::Warn };
        (text.to_string(), role)
    });
    refused.or(busy).into_iter().chain(remark).collect()
}

fn marked(import: &Import) -> String {
    match import.choices.iter().filter(|choice| choice.is_marked).count() {
        0 => String::new(),
        marked => format!("{} of {}", marked, count(import.choices.len() as u64, "port")),
    }
}

/// The first line shown, so that the one under the cursor is among them, its second line included.
fn first_shown(import: &Import, visible: usize) -> usize {
    let height = |choice: &Choice| 1 + usize::from(choice.busy.is_some());
    let mut used = 0;
    let upto = (import.chosen + 1).min(import.choices.len());
    for (at, choice) in import.choices[..upto].iter().enumerate().rev() {
        used += height(choice);
        if used > visible {
            return at + 1;
        }
    }
    0
}

/// Columns of the container's name, and of its port.
fn widths(canvas: &Canvas<'_>, import: &Import) -> (usize, usize) {
    let widest = |text: fn(&Choice) -> String| {
        import.choices.iter().map(|choice| format::width(&text(choice))).max().unwrap_or(0)
    };
    let port = widest(|choice| format::port(choice.port, choice.protocol));
    // What follows needs: ` -> localhost:65535  mapped as any:65535`, or on narrow screens its first half.
    let rest = if canvas.width() < 60 { 22 } else { 44 };
    let room = usize::from(canvas.width()).saturating_sub(6 + port + rest).max(8);
    (widest(|choice| choice.container.to_string()).min(room), port)
}

fn row(canvas: &mut Canvas<'_>, y: u16, choice: &Choice, (name, port): (usize, usize)) {
    let muted = canvas.style(Role::Muted);
    let accent = canvas.style(Role::Accent);
    let style = if choice.mapped.is_some() && !choice.is_marked { muted } else { Style::new() };
    if choice.is_marked {
        canvas.text(2, y, "*", accent);
    }
    canvas.text(4, y, &format::elide_middle(choice.container.as_str(), name), style);
    let mut x = 5 + u16::try_from(name).unwrap_or(0);
    let words = format::port(choice.port, choice.protocol);
    canvas.text(x, y, &words, style);
    x += u16::try_from(port).unwrap_or(0) + 1;
    let x = canvas.text(x, y, "-> ", muted);
    // `localhost:32768` of an engine elsewhere is not what the line begins with.
    let by = format!("{}:{}", choice.container, choice.port);
    let is_other = choice.target != by && !choice.target.ends_with(&format!("/{by}"));
    let target = if is_other { format!(" (by {})", choice.target) } else { String::new() };
    let x = canvas.text(x, y, &choice.listen(), style);
    let more = match (&choice.mapped, choice.published) {
        (Some(listen), _) => format!("{target}  mapped as {listen}"),
        (None, Some(at)) if target.is_empty() => format!("  docker publishes {at}"),
        (None, _) => target,
    };
    let room = usize::from(canvas.width().saturating_sub(x));
    canvas.text(x, y, &format::elide_end(&more, room), muted);
    if let Some((holder, free)) = &choice.busy {
        let free = free.map(|port| format!("; n takes {port}")).unwrap_or_default();
        let text = format!("!! in use by {holder}{free}");
        let room = usize::from(canvas.width().saturating_sub(7));
        let error = canvas.style(Role::Error);
        canvas.text(6, y + 1, &format::elide_end(&text, room), error);
    }
}
