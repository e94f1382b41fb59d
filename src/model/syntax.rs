//! Bytes of a file -> JSON with positions, or the one thing that keeps it from being JSON.
//!
//! Strict: no comments, no trailing commas, no bytes that are not UTF-8. jsonc-parser gives positions, and says
//! what is wrong in the words of a person who edits; `serde_json` has the last word on what JSON is.

use jsonc_parser::ast::Value;
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::{ParseError, ParseErrorKind};
use jsonc_parser::{CollectOptions, ParseOptions, ParseStringErrorKind};

use super::problem::{Position, Problem};
use super::untrusted::SafeText;

/// Largest file, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
/// Deepest nesting: a profile needs three levels, and both parsers descend a stack.
const MAX_NESTING: usize = 32;

/// A file that is JSON.
pub(super) struct Document<'a> {
    /// What it holds.
    pub root: Value<'a>,
    places: Places<'a>,
}

impl<'a> Document<'a> {
    /// Reads it; `backup` is what a cut-off file can be restored from.
    pub(super) fn parse(bytes: &'a [u8], backup: &str) -> Result<Self, Problem> {
        check_size(bytes.len() as u64)?;
        let text = decode(bytes)?;
        if text.trim().is_empty() {
            return Err(Problem::new("", format!("the file is empty; not taken as \"no mappings\"; restore {backup}")));
        }
        let places = Places::new(text);
        scan(text).map_err(|(offset, problem)| places.put(problem, offset))?;
        let options = ParseOptions {
            allow_comments: false,
            allow_loose_object_property_names: false,
            allow_trailing_commas: false,
            allow_missing_commas: false,
            allow_single_quoted_strings: false,
            allow_hexadecimal_numbers: false,
            allow_unary_plus_numbers: false,
            allow_bare_decimal_point_numbers: false,
            allow_non_finite_numbers: false,
            allow_extended_string_escapes: false,
        };
        let parsed = jsonc_parser::parse_to_ast(text, &CollectOptions::default(), &options)
            .map_err(|error| explain(&error, &places, backup))?;
        if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
            let offset = places.offset(error.line(), error.column());
            return Err(places.put(not_json(&error, text[offset..].chars().next()), offset));
        }
        match parsed.value {
            Some(root) => Ok(Self { root, places }),
            None => Err(places.put(Problem::new("", "nothing but space"), 0)),
        }
    }

    /// Where a byte of the text stands.
    pub(super) fn position(&self, offset: usize) -> Position {
        self.places.position(offset)
    }
}

/// Refuses a file that is too large, before it is read if its size is known.
pub fn check_size(bytes: u64) -> Result<(), Problem> {
    let limit = MAX_BYTES as u64;
    if bytes <= limit {
        return Ok(());
    }
    let over = bytes - limit;
    Err(Problem::new("", format!("the file has {bytes} bytes, {over} over the limit of {limit} (8 MiB)")))
}

fn decode(bytes: &[u8]) -> Result<&str, Problem> {
    let at_start = |problem: &str| {
        let problem = Problem::new("", problem).with_hint("save the file as UTF-8, without a byte order mark");
        Err(Problem { position: Some(Position { line: 1, column: 1 }), ..problem })
    };
    match bytes {
        [0xef, 0xbb, 0xbf, ..] => return at_start("the file starts with a byte order mark"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, ..] | [1..=255, 0, ..] => {
            return at_start("the file is UTF-16");
        }
        _ => {}
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = &bytes[..error.valid_up_to()];
        let valid = std::str::from_utf8(valid).expect("from_utf8 says how far it is valid");
        let byte = bytes[error.valid_up_to()];
        let problem = Problem::new("", format!("byte 0x{byte:02x} is not UTF-8")).with_hint("save the file as UTF-8");
        Places::new(valid).put(problem, valid.len())
    })
}

/// Looks at brackets and strings alone, without recursion: nesting, and strings that run over a line's end.
/// It stops at the first byte that JSON does not know outside strings: there the parser will stop too.
fn scan(text: &str) -> Result<(), (usize, Problem)> {
    let (mut depth, mut deepest, mut too_deep) = (0_usize, 0_usize, None);
    let mut string_start = None;
    let mut escaped = false;
    for (offset, byte) in text.bytes().enumerate() {
        if let Some(start) = string_start {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => string_start = None,
                b'\n' | b'\r' => {
                    return Err((
                        start,
                        Problem::new("", "a string is not closed on its line").with_hint("add the closing \""),
                    ));
                }
                0..=0x1f => {
                    let problem = Problem::new("", format!("control character 0x{byte:02x} inside a string"));
                    return Err((offset, problem.with_hint(format!("write it as \\u{byte:04x}"))));
                }
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => string_start = Some(offset),
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
                if depth > MAX_NESTING {
                    too_deep.get_or_insert(offset);
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'/' | b'\'' => break,
            _ => {}
        }
    }
    match too_deep {
        None => Ok(()),
        Some(offset) => {
            let over = deepest - MAX_NESTING;
            Err((
                offset,
                Problem::new("", format!("{deepest} levels of nesting are {over} over the limit of {MAX_NESTING}")),
            ))
        }
    }
}

/// Turns a parser's error into what to write instead.
fn explain(error: &ParseError, places: &Places<'_>, backup: &str) -> Problem {
    use ParseErrorKind as Kind;
    let start = error.range().start;
    let cut_off = || {
        let problem = Problem::new("", "the file ends too early");
        places.put(problem.with_hint(format!("write what is missing, or restore {backup}")), places.end())
    };
    let found = places.text[start..]
        .chars()
        .next()
        .map_or_else(String::new, |c| format!("\"{}\"", SafeText::quoted(&c.to_string())));
    let (problem, hint) = match error.kind() {
        Kind::UnterminatedObject
        | Kind::UnterminatedArray
        | Kind::String(ParseStringErrorKind::UnterminatedStringLiteral) => return cut_off(),
        _ if start >= places.end() => return cut_off(),
        Kind::CommentsNotAllowed | Kind::UnterminatedCommentBlock => ("a comment", "JSON has none: remove it"),
        Kind::TrailingCommasNotAllowed => ("a comma after the last value", "remove it"),
        Kind::ExpectedComma => ("a comma is missing", "write it between two values"),
        Kind::MultipleRootJsonValues => {
            ("more text after the end of the profile", "a profile is one { ... }: remove the rest")
        }
        Kind::SingleQuotedStringsNotAllowed => ("a string in single quotes", "write it in double quotes"),
        Kind::ExpectedStringObjectProperty => ("a field's name without quotes", "write it in double quotes"),
        Kind::ExpectedColonAfterObjectKey => ("a colon is missing after a field's name", "write \"field\": value"),
        Kind::UnexpectedWord => ("a word without quotes", "write it in double quotes"),
        Kind::HexadecimalNumbersNotAllowed
        | Kind::UnaryPlusNumbersNotAllowed
        | Kind::BareDecimalPointNumbersNotAllowed
        | Kind::NonFiniteNumbersNotAllowed
        | Kind::ExpectedDigit
        | Kind::ExpectedDigitFollowingNegativeSign
        | Kind::ExpectedPlusMinusOrDigitInNumberLiteral => {
            ("not a number as JSON writes it", "write digits, such as 8080")
        }
        Kind::String(_) => ("an escape that JSON does not know", "write a backslash itself as \\\\"),
        _ => {
            let problem = Problem::new("", format!("{found} has no place here"));
            return places.put(problem.with_hint("look for a bracket, comma or quote too many or too few"), start);
        }
    };
    places.put(Problem::new("", problem).with_hint(hint), start)
}

/// What only `serde_json` noticed.
fn not_json(error: &serde_json::Error, at: Option<char>) -> Problem {
    if let Some(space) = at.filter(|c| c.is_whitespace() && !c.is_ascii()) {
        let problem = Problem::new("", format!("U+{:04X} is no space to JSON", u32::from(space)));
        return problem.with_hint("write a plain space");
    }
    let said = error.to_string();
    let said = said.split(" at line ").next().unwrap_or(&said);
    Problem::new("", said).with_hint("write it as JSON defines it")
}

/// Offsets of a text as lines and columns. A line may be the whole file, and have as many problems.
struct Places<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
    /// How many characters there are before each piece of [`PIECE`] bytes.
    characters: Vec<usize>,
}

/// So many bytes are looked at to find a column.
const PIECE: usize = 1024;

impl<'a> Places<'a> {
    fn new(text: &'a str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(offset, _)| offset + 1);
        let mut characters = vec![0];
        for piece in text.as_bytes().chunks(PIECE) {
            characters.push(characters.last().unwrap_or(&0) + count_characters(piece));
        }
        Self { text, line_starts: std::iter::once(0).chain(after_breaks).collect(), characters }
    }

    /// Behind the last character that is not space.
    fn end(&self) -> usize {
        self.text.trim_end().len()
    }

    fn position(&self, offset: usize) -> Position {
        let line = self.line_starts.partition_point(|start| *start <= offset) - 1;
        let column = self.characters_before(offset) - self.characters_before(self.line_starts[line]);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Position { line: count(line + 1), column: count(column + 1) }
    }

    fn characters_before(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        let piece = offset / PIECE;
        self.characters[piece] + count_characters(&self.text.as_bytes()[piece * PIECE..offset])
    }

    /// From a line and a column in bytes, both counted from 1.
    fn offset(&self, line: usize, column: usize) -> usize {
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(self.text.len());
        let mut offset = (start + column.saturating_sub(1)).min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }

    fn put(&self, problem: Problem, offset: usize) -> Problem {
        Problem { position: Some(self.position(offset)), ..problem }
    }
}

/// Every byte but those that go on with a character.
fn count_characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

/// What a value is, for "expected …, found …".
pub(super) fn found(value: &Value<'_>) -> String {
    match value {
        Value::StringLit(text) => format!("\"{}\"", SafeText::quoted(&text.value)),
        Value::NumberLit(number) => SafeText::quoted(number.value).to_string(),
        Value::BooleanLit(flag) => flag.value.to_string(),
        Value::NullKeyword(_) => "null".into(),
        Value::Object(_) => "an object".into(),
        Value::Array(_) => "a list".into(),
    }
}

/// Where a value starts.
pub(super) fn start(value: &Value<'_>) -> usize {
    value.range().start
}
