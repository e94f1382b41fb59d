//! Turns a captured terminal screen (text with SGR sequences, on stdin) into an SVG picture on stdout.
//!
//! `assets/make-picture` feeds it with the real program's screen.

use std::io::{self, Read, Write};

use vt100::{Cell, Color, Parser};

const CELL_WIDTH: f32 = 8.4;
const CELL_HEIGHT: f32 = 18.0;
const MARGIN: f32 = 14.0;
const PAPER: &str = "#1e1e1e";
const INK: &str = "#d8dee4";
/// The 16 colours, as the dark roles of the screen look on [`PAPER`].
const PALETTE: [&str; 16] = [
    "#1e1e1e", "#ff7b5c", "#2fbf8f", "#e69f00", "#0068a3", "#e08cc0", "#56b4e9", "#d8dee4", //
    "#5c6670", "#ff7b5c", "#2fbf8f", "#e69f00", "#56b4e9", "#e08cc0", "#56b4e9", "#ffffff",
];

fn main() -> io::Result<()> {
    let mut text = String::new();
    io::stdin().read_to_string(&mut text)?;
    let lines: Vec<&str> = text.trim_end_matches('\n').split('\n').collect();
    let columns = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(80);
    let rows = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let mut screen = Parser::new(rows, columns, 0);
    screen.process(lines.join("\r\n").as_bytes());
    io::stdout().write_all(svg(screen.screen(), rows, columns).as_bytes())
}

fn svg(screen: &vt100::Screen, rows: u16, columns: u16) -> String {
    let width = f32::from(columns) * CELL_WIDTH + 2.0 * MARGIN;
    let height = f32::from(rows) * CELL_HEIGHT + 2.0 * MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-size=\"14\" \
         font-family=\"ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{PAPER}\"/>\n"
    );
    for row in 0..rows {
        let mut column = 0;
        while column < columns {
            let Some(first) = screen.cell(row, column) else { break };
            let style = Style::of(first);
            let start = column;
            let mut run = String::new();
            while let Some(cell) = screen.cell(row, column).filter(|cell| Style::of(cell) == style) {
                if !cell.is_wide_continuation() {
                    run.push_str(if cell.has_contents() { cell.contents() } else { " " });
                }
                column += 1;
            }
            out.push_str(&style.draw(&run, start, column - start, row));
        }
    }
    out.push_str("</svg>\n");
    out
}

#[derive(PartialEq)]
struct Style {
    ink: String,
    paper: Option<String>,
    bold: bool,
}

impl Style {
    fn of(cell: &Cell) -> Self {
        let mut ink = color(cell.fgcolor()).unwrap_or_else(|| INK.to_owned());
        let mut paper = color(cell.bgcolor());
        if cell.dim() {
            "#9aa4ad".clone_into(&mut ink);
        }
        if cell.inverse() {
            let old = paper.replace(ink);
            ink = old.unwrap_or_else(|| PAPER.to_owned());
        }
        Self { ink, paper, bold: cell.bold() }
    }

    fn draw(&self, text: &str, column: u16, width: u16, row: u16) -> String {
        let (x, y) = (MARGIN + f32::from(column) * CELL_WIDTH, MARGIN + f32::from(row) * CELL_HEIGHT);
        let length = f32::from(width) * CELL_WIDTH;
        let paper = self.paper.as_ref().map_or_else(String::new, |paper| {
            format!(
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{CELL_HEIGHT}\" fill=\"{paper}\"/>\n"
            )
        });
        if text.trim().is_empty() {
            return paper;
        }
        let weight = if self.bold { " font-weight=\"bold\"" } else { "" };
        let (ink, baseline) = (&self.ink, y + CELL_HEIGHT - 5.0);
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!(
            "{paper}<text x=\"{x:.1}\" y=\"{baseline:.1}\" fill=\"{ink}\"{weight} textLength=\"{length:.1}\" \
             xml:space=\"preserve\">{text}</text>\n"
        )
    }
}

fn color(color: Color) -> Option<String> {
    match color {
        Color::Default => None,
        Color::Idx(index) => Some(PALETTE.get(usize::from(index)).copied().unwrap_or(INK).to_owned()),
        Color::Rgb(r, g, b) => Some(format!("#{r:02x}{g:02x}{b:02x}")),
    }
}
