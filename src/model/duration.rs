//! Durations as the profile holds them: `5s`, `200ms`, `2m`, `1h30m`, `1.5s`.
//!
//! A number without a unit is refused, since its reader would have to guess. jiff does the arithmetic; it
//! accepts much more (`5 seconds`, `PT5S`, `1:00`), and one spelling is enough for a file format.

use std::time::Duration;

use jiff::fmt::friendly::{Designator, Spacing, SpanParser, SpanPrinter};

use super::problem::Problem;
use super::untrusted::SafeText;

/// As a regular expression, for the schema: each unit once, the largest first, and only the last one in fractions.
pub const PATTERN: &str = concat!(
    r"^(([0-9]+h)?([0-9]+m)?([0-9]+s)?[0-9]+(\.[0-9]+)?ms|([0-9]+h)?([0-9]+m)?[0-9]+(\.[0-9]+)?s",
    r"|([0-9]+h)?[0-9]+(\.[0-9]+)?m|[0-9]+(\.[0-9]+)?h)$"
);

/// A longer timeout is taken for a mistake.
const LONGEST: Duration = Duration::from_hours(24 * 366);

/// Reads a timeout: positive, in whole milliseconds, at most a year.
pub fn parse_timeout(path: &str, text: &str) -> Result<Duration, Problem> {
    let quoted = SafeText::quoted(text);
    let refused =
        |problem: &str, hint: &str| Err(Problem::new(path, format!("\"{quoted}\" {problem}")).with_hint(hint));
    if !has_units(text) {
        return refused("is no duration", "give a unit: 5s, 200ms, 2m");
    }
    let Ok(duration) = SpanParser::new().parse_unsigned_duration(text) else {
        return refused("cannot be read as a duration", "each unit once, the largest first: 1h30m");
    };
    if duration.is_zero() {
        return refused("is no time at all", "leave the field out for the default");
    }
    if duration > LONGEST {
        return refused("is longer than a year", "leave the field out for the default");
    }
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return refused("is finer than a millisecond", "round it to whole milliseconds");
    }
    Ok(duration)
}

/// The text that reads back as the same duration.
pub fn show_timeout(duration: Duration) -> String {
    SpanPrinter::new().spacing(Spacing::None).designator(Designator::Compact).unsigned_duration_to_string(&duration)
}

/// Whether the text is a row of numbers, each with a unit.
fn has_units(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let Some(after_number) = skip_number(rest) else { return false };
        let Some(after_unit) = ["h", "ms", "m", "s"].iter().find_map(|unit| after_number.strip_prefix(unit)) else {
            return false;
        };
        rest = after_unit;
    }
    !text.is_empty()
}

fn skip_number(text: &str) -> Option<&str> {
    let after_digits = |text: &str| {
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        (rest.len() < text.len()).then_some(text.len() - rest.len())
    };
    let whole = &text[after_digits(text)?..];
    match whole.strip_prefix('.') {
        None => Some(whole),
        Some(fraction) => Some(&fraction[after_digits(fraction)?..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_write_durations_in_these_ways() {
        for (text, millis, shown) in [
            ("5s", 5_000, "5s"),
            ("200ms", 200, "200ms"),
            ("2m", 120_000, "2m"),
            ("1h", 3_600_000, "1h"),
            ("1.5s", 1_500, "1s500ms"),
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("0.5h", 1_800_000, "30m"),
        ] {
            let duration = parse_timeout("", text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(show_timeout(duration), shown);
            assert_eq!(parse_timeout("", shown), Ok(duration));
        }
    }

    #[test]
    fn what_is_no_duration_is_asked_for_a_unit() {
        for text in ["5", "5 parsecs", "-1s", "", "s", "5S", "1e3s", "5s ", " 5s", ".5s", "5.s", "PT5S", "５s", "5d"] {
            let problem = parse_timeout("idle_timeout", text).unwrap_err();
            assert_eq!(problem.hint.as_deref(), Some("give a unit: 5s, 200ms, 2m"), "{text:?}");
        }
    }

    #[test]
    fn senseless_durations_are_refused() {
        for (text, said) in [
            ("0s", "no time at all"),
            ("0h0m0ms", "no time at all"),
            ("9000h", "longer than a year"),
            ("0.5ms", "finer than a millisecond"),
            ("5s1h", "cannot be read"),
            ("1s1s", "cannot be read"),
            ("99999999999999999999999999h", "cannot be read"),
        ] {
            let problem = parse_timeout("", text).unwrap_err().to_string();
            assert!(problem.contains(said), "{text}: {problem}");
        }
    }
}
