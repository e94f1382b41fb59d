//! Rows as columns of text, in the screen's words, whole: nothing is cut or broken, however wide it gets.
//!
//! An empty cell is `-`, so that each line has as many words as there are columns to whoever counts them.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::Profiles;
use crate::model::format;
use crate::model::untrusted::one_line;
use crate::model::update::{ConnectionRow, MappingRow, Owner};

/// Bytes a second, where two looks have told them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    /// From the client.
    pub(super) r#in: Option<f64>,
    /// To the client.
    pub(super) out: Option<f64>,
}

/// A row with what its columns need beside it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a, R> {
    pub(super) row: &'a R,
    pub(super) rate: Rate,
    /// The engine's clock.
    pub(super) now_ms: u64,
    /// The open profile.
    pub(super) profile: &'a str,
}

/// Whether a table says what flows each second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rates {
    Shown,
    Unknown,
}

struct Column<L> {
    title: &'static str,
    kind: Kind,
    text: fn(&L) -> String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Figure,
    Rate,
}

/// The table of mappings.
pub(super) fn mappings(lines: &[Line<'_, MappingRow>], rates: Rates) -> String {
    let columns: [Column<Line<'_, MappingRow>>; 13] = [
        text("STATE", |line| line.row.state_word().to_owned()),
        text("LISTEN", |line| line.row.listen_text(true)),
        text("WHO", |line| line.row.who_word().to_owned()),
        text("TARGET", |line| line.row.mapping.target.to_string()),
        figure("CONNS", |line| line.row.open_text()),
        rate("IN/s", |line| line.row.rate_text(line.rate.r#in)),
        rate("OUT/s", |line| line.row.rate_text(line.rate.out)),
        figure("IN", |line| line.row.sum_text(line.row.bytes_in)),
        figure("OUT", |line| line.row.sum_text(line.row.bytes_out)),
        text("LAST RESULT", |line| line.row.last_words().text()),
        text("NAME", |line| line.row.name.clone()),
        text("PROFILE", |line| match line.row.owner {
            _ if line.row.is_session => "session".to_owned(),
            Owner::Docker { .. } => "docker".to_owned(),
            Owner::Portolan => line.profile.to_owned(),
        }),
        figure("ID", |line| if line.row.is_docker() { String::new() } else { line.row.id.to_string() }),
    ];
    table(&columns, lines, rates)
}

/// The table of connections.
pub(super) fn connections(lines: &[Line<'_, ConnectionRow>], rates: Rates) -> String {
    let is_told = |told: fn(&ConnectionRow) -> bool| lines.iter().any(|line| told(line.row));
    let mut columns: Vec<Column<Line<'_, ConnectionRow>>> = vec![
        text("FAMILY", |line| line.row.families_text()),
        text("CLIENT", |line| format::endpoint(line.row.client())),
        text("PROCESS", |line| line.row.process.as_ref().map(ToString::to_string).unwrap_or_default()),
        text("STATE", |line| line.row.state_text()),
        rate("IN/s", |line| line.row.rate_text(line.rate.r#in)),
        rate("OUT/s", |line| line.row.rate_text(line.rate.out)),
        figure("IN", |line| line.row.sum_text(line.row.connection.bytes_in)),
        figure("OUT", |line| line.row.sum_text(line.row.connection.bytes_out)),
        figure("AGE", |line| line.row.age_text(line.now_ms)),
        figure("ID", |line| line.row.connection.id.to_string()),
        text("MAPPING", |line| line.row.connection.mapping.clone()),
        text("TARGET ADDRESS", |line| format::endpoint(line.row.connection.target_address)),
    ];
    // What hardly a mapping has takes no room from the others.
    if is_told(|row| !row.exchanges.is_empty()) {
        columns.insert(2, text("LAST REQUEST", |line| line.row.request_text()));
        columns.insert(2, figure("REQUESTS", |line| line.row.connection.requests.unwrap_or_default().to_string()));
    }
    if is_told(|row| row.connection.alias.is_some()) {
        columns.insert(2, text("ALIAS", |line| line.row.alias_text()));
    }
    if is_told(|row| row.connection.peer.is_some()) {
        columns.insert(2, text("PEER", |line| line.row.peer_text()));
    }
    table(&columns, lines, rates)
}

/// The table of profiles.
pub(super) fn profiles(profiles: &Profiles) -> String {
    let state = |name: &String| match profiles {
        Profiles { open: Some(open), .. } if open == name => "open",
        Profiles { running, .. } if running.contains(name) => "running",
        _ => "",
    };
    let lines: Vec<(&str, &str)> = profiles.names.iter().map(|name| (name.as_str(), state(name))).collect();
    let columns = [
        text("PROFILE", |line: &(&str, &str)| line.0.to_owned()),
        text("STATE", |line: &(&str, &str)| line.1.to_owned()),
    ];
    table(&columns, &lines, Rates::Unknown)
}

const fn text<L>(title: &'static str, text: fn(&L) -> String) -> Column<L> {
    Column { title, kind: Kind::Text, text }
}

const fn figure<L>(title: &'static str, text: fn(&L) -> String) -> Column<L> {
    Column { title, kind: Kind::Figure, text }
}

const fn rate<L>(title: &'static str, text: fn(&L) -> String) -> Column<L> {
    Column { title, kind: Kind::Rate, text }
}

fn table<L>(columns: &[Column<L>], lines: &[L], rates: Rates) -> String {
    let columns: Vec<&Column<L>> =
        columns.iter().filter(|column| column.kind != Kind::Rate || rates == Rates::Shown).collect();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(columns.iter().map(|column| cell(column.kind, column.title)).collect::<Vec<_>>());
    for line in lines {
        table.add_row(columns.iter().map(|column| cell(column.kind, &(column.text)(line))).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names are safe to show where they are made; a line that breaks or moves what stands around it would be worse than one
/// that is looked at once more.
fn cell(kind: Kind, text: &str) -> Cell {
    let text = if text.is_empty() { "-".to_owned() } else { one_line(text, usize::MAX) };
    let alignment = if kind == Kind::Text { CellAlignment::Left } else { CellAlignment::Right };
    Cell::new_owned(text).set_alignment(alignment)
}
