//! What every panel draws with: text at a place, rules with titles, graphs, and the last look at each cell.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use super::theme::{Role, style};
use crate::model::format;
use crate::model::untrusted::{MAX_MARKS, acts_on_a_terminal};
use crate::tui::state::State;

/// Eighths of a cell, from the bottom.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same by density, for terminals that have only ASCII.
const DENSITIES: [&str; 9] = [" ", ".", ":", "-", "=", "+", "*", "#", "@"];

/// The buffer with the state's look.
pub(crate) struct Canvas<'a> {
    /// What is drawn into.
    pub(crate) buffer: &'a mut Buffer,
    /// What is drawn.
    pub(crate) state: &'a State,
}

impl Canvas<'_> {
    /// Columns of the screen.
    pub(crate) fn width(&self) -> u16 {
        self.buffer.area.width
    }

    /// A role's style.
    pub(crate) fn style(&self, role: Role) -> Style {
        style(self.state.look, role)
    }

    /// Writes text, cut at the right edge; says where it ended.
    pub(crate) fn text(&mut self, x: u16, y: u16, text: &str, style: Style) -> u16 {
        self.cut(x, y, text, u16::MAX, style)
    }

    /// Writes at most so many columns of text; says where it ended.
    pub(crate) fn cut(&mut self, x: u16, y: u16, text: &str, columns: u16, style: Style) -> u16 {
        if x >= self.buffer.area.width || y >= self.buffer.area.height {
            return x;
        }
        self.buffer.set_stringn(x, y, text, usize::from(columns), style).0
    }

    /// Writes text whose last column is before `end`.
    pub(crate) fn right(&mut self, end: u16, y: u16, text: &str, style: Style) {
        let width = u16::try_from(format::width(text)).unwrap_or(u16::MAX);
        self.text(end.saturating_sub(width), y, text, style);
    }

    /// A rule across the screen with a title at its left and something at its right.
    pub(crate) fn rule(&mut self, y: u16, title: &str, rest: &str, right: &str, has_focus: bool) {
        let width = usize::from(self.width());
        self.text(0, y, &"─".repeat(width), self.style(Role::Muted));
        let title_style = if has_focus { self.style(Role::Accent) } else { Style::new() };
        let mut x = self.text(1, y, title, title_style);
        let room = width.saturating_sub(usize::from(x) + 1);
        if !rest.is_empty() {
            x = self.cut(
                x,
                y,
                &format!(" {}", format::elide_end(rest, room.saturating_sub(2))),
                u16::MAX,
                Style::new(),
            );
        }
        x = self.text(x, y, " ", Style::new());
        let needed = format::width(right) + 4;
        if !right.is_empty() && usize::from(x) + needed <= width {
            self.right(self.width() - 2, y, &format!(" {right} "), Style::new());
        }
    }

    /// One row of a graph of values up to `peak`.
    pub(crate) fn graph(&mut self, x: u16, y: u16, values: &[f64], peak: f64) {
        let accent = style(self.state.look, Role::Accent).remove_modifier(ratatui::style::Modifier::BOLD);
        for (at, value) in values.iter().enumerate() {
            let Ok(at) = u16::try_from(at) else { break };
            let level = level(*value, peak, 8);
            self.text(x + at, y, BLOCKS[level].encode_utf8(&mut [0; 4]), accent);
        }
    }

    /// A graph of several rows; `y` is the top one.
    pub(crate) fn tall_graph(&mut self, x: u16, y: u16, rows: u16, values: &[f64], peak: f64) {
        let accent = style(self.state.look, Role::Accent).remove_modifier(ratatui::style::Modifier::BOLD);
        for (at, value) in values.iter().enumerate() {
            let Ok(at) = u16::try_from(at) else { break };
            let eighths = level(*value, peak, 8 * usize::from(rows));
            for row in 0..rows {
                let below = 8 * usize::from(rows - 1 - row);
                let block = BLOCKS[eighths.saturating_sub(below).min(8)];
                self.text(x + at, y + row, block.encode_utf8(&mut [0; 4]), accent);
            }
        }
    }

    /// Reverses a line, or lets a pane without the focus say it by `>` alone.
    pub(crate) fn select(&mut self, y: u16, has_focus: bool) {
        if has_focus {
            let area = Rect { x: 0, y, width: self.width(), height: 1 };
            self.buffer.set_style(area, style(self.state.look, Role::Selected));
        }
    }

    /// The last look at every cell: nothing that acts on a terminal, and with `--ascii` nothing above 0x7f.
    pub(crate) fn purify(&mut self) {
        let ascii = self.state.look.ascii;
        for cell in &mut self.buffer.content {
            let symbol = cell.symbol();
            if let [byte] = symbol.as_bytes()
                && (0x20..0x7f).contains(byte)
            {
                continue;
            }
            if symbol.chars().any(acts_on_a_terminal) || has_heap_of_marks(symbol) {
                cell.set_symbol("?");
            } else if ascii && !symbol.is_ascii() {
                let plain = plain(symbol);
                cell.set_symbol(plain);
            }
        }
    }
}

/// Any value above zero shows at least the lowest level.
fn level(value: f64, peak: f64, levels: usize) -> usize {
    if value < 0.5 || peak <= 0.0 {
        return 0;
    }
    let share = (value / peak).clamp(0.0, 1.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the levels")]
    let level = (share * levels as f64).round() as usize;
    level.max(1)
}

/// Whether a letter carries more marks than any script needs, as typed or pasted text can.
fn has_heap_of_marks(symbol: &str) -> bool {
    let letters: usize = symbol.chars().filter(|c| format::width(c.encode_utf8(&mut [0; 4])) > 0).count();
    symbol.chars().count() > letters + MAX_MARKS
}

fn plain(symbol: &str) -> &'static str {
    match symbol {
        "─" => "-",
        "…" => "~",
        _ => {
            let block = symbol.chars().next().and_then(|c| BLOCKS.iter().position(|block| *block == c));
            block.map_or("?", |level| DENSITIES[level])
        }
    }
}
