//! Help with search: the key table as people read it.

use ratatui::style::Style;

use super::canvas::Canvas;
use super::theme::Role;
use crate::model::format;
use crate::tui::keymap::{self, Binding, Scope};
use crate::tui::state::dialog::Help;
use crate::tui::state::layout::Lines;

/// What the words and marks of the screen mean.
const LEGEND: [(&str, &str); 12] = [
    ("in", "bytes from the client to the container"),
    ("out", "bytes back from the container to the client"),
    ("WHO", "who can connect: me is this machine alone, net is others too"),
    ("v6-v4", "the client came over IPv6, the target is reached over IPv4"),
    ("STATE", "of the listener: up, half (one family), wait, fail, degr, stop"),
    ("s", "behind LISTEN: for this session alone, not in the profile; :saveas keeps it"),
    ("docker", "a port that Docker publishes: only looked at, not in the sums"),
    ("LAST RESULT", "of the target: the outcome of the last real connection"),
    ("- 0 ??", "idle, measured zero, unknown"),
    ("! !!", "look at it; it does not work"),
    ("x", "a closed connection and why it ended; stays 10 s, then x shows it"),
    ("k M G", "thousands, millions, billions of bytes (SI)"),
];

/// Draws the page; says where the cursor stands.
pub(super) fn draw(canvas: &mut Canvas<'_>, lines: Lines, help: &Help) -> (u16, u16) {
    canvas.rule(lines.y, "HELP", "", "type to search  esc back", true);
    let accent = canvas.style(Role::Accent);
    let x = canvas.text(1, lines.y + 1, "search ", accent);
    let scroll = help.input.visual_scroll(usize::from(canvas.width().saturating_sub(x + 1)));
    let shown: String = help.input.value().chars().skip(scroll).collect();
    canvas.text(x, lines.y + 1, &shown, Style::new());
    let rows = rows(help.input.value());
    let room = usize::from(lines.height.saturating_sub(2));
    let visible = if rows.len() > room { room - 1 } else { room };
    let first = help.offset.min(rows.len().saturating_sub(visible));
    let muted = canvas.style(Role::Muted);
    let is_narrow = canvas.width() < 60;
    let (key_x, text_x) = if is_narrow { (1, 14) } else { (13, 29) };
    for (y, row) in (lines.y + 2..).zip(rows.iter().skip(first).take(visible)) {
        if !is_narrow {
            canvas.text(1, y, row.scope, muted);
        }
        let works = row.binding.is_none_or(|binding| binding.works(canvas.state) || !is_screen(binding));
        let style = if works { accent } else { muted };
        canvas.cut(key_x, y, &row.key, text_x - key_x - 1, style);
        let text_style = if works { Style::new() } else { muted };
        let room = usize::from(canvas.width().saturating_sub(text_x));
        canvas.text(text_x, y, &format::elide_end(row.text, room), text_style);
    }
    if rows.is_empty() {
        canvas.text(3, lines.y + 2, "nothing found", muted);
    }
    super::mappings::goes_on(canvas, lines, first, visible, rows.len());
    let cursor = help.input.visual_cursor().saturating_sub(scroll);
    (x + u16::try_from(cursor).unwrap_or(0), lines.y + 1)
}

struct Row {
    scope: &'static str,
    key: String,
    text: &'static str,
    binding: Option<&'static Binding>,
}

/// Bindings of forms and dialogs are no less true for not being open now.
fn is_screen(binding: &Binding) -> bool {
    keymap::SCREEN.contains(&binding.scope)
}

fn rows(search: &str) -> Vec<Row> {
    let bindings = keymap::table().iter().map(|binding| {
        (
            Row { scope: scope(binding.scope), key: binding.keys_text(), text: binding.help, binding: Some(binding) },
            binding.name,
        )
    });
    let legend =
        LEGEND.iter().map(|(key, text)| (Row { scope: "legend", key: (*key).to_owned(), text, binding: None }, ""));
    let words: Vec<_> = search.split_whitespace().map(str::to_lowercase).collect();
    bindings
        .chain(legend)
        .filter(|(row, name)| {
            words.iter().all(|word| {
                row.text.to_lowercase().contains(word)
                    || name.contains(word.as_str())
                    || row.key.to_lowercase().split(' ').any(|key| key == word)
                    || row.scope == word
            })
        })
        .map(|(row, _)| row)
        .collect()
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Move => "move",
        Scope::Mappings => "mappings",
        Scope::Connections => "connections",
        Scope::Containers => "containers",
        Scope::Lists => "lists",
        Scope::Live => "live",
        Scope::Global => "global",
        Scope::Form => "form",
        Scope::Import => "import",
        Scope::Why => "why",
        Scope::Dialog => "dialog",
    }
}
