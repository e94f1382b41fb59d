//! Text from outside (container names, labels, host names, errors of a daemon), made safe at the entry.
//!
//! The screen, the log and stdout show only [`SafeText`], so a hostile name can neither move the cursor
//! nor reorder what is read. Escaping happens once, when the value is made.

use std::fmt;

use serde::{Deserialize, Serialize};
use unicode_width::UnicodeWidthChar;

/// Longest text kept, in characters, escapes and the `…` for the rest included.
pub const MAX_CHARS: usize = 256;
/// Marks that one letter may carry, more than any script needs; a heap of them is drawn over the lines around.
pub const MAX_MARKS: usize = 4;

/// Text that holds no control, bidi, invisible or invalid character and is at most [`MAX_CHARS`] long.
///
/// What was escaped stands as `\u{1b}`. Deserialising does the same again, so the type holds across processes; what
/// is safe already stays the same, however often it crosses.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct SafeText(String);

impl SafeText {
    /// Makes `raw` safe to show.
    pub fn new(raw: &str) -> Self {
        Self::limited(raw, MAX_CHARS)
    }

    /// As [`SafeText::new`], from bytes that may not be UTF-8; invalid ones become U+FFFD.
    pub fn from_bytes(raw: &[u8]) -> Self {
        Self::new(&String::from_utf8_lossy(raw))
    }

    /// Quotes at most 80 characters of input, as error messages do.
    pub fn quoted(raw: &str) -> Self {
        Self::limited(raw, 80)
    }

    /// At most `input` characters of `raw`. What comes out is never longer than [`MAX_CHARS`], so it stays as it
    /// is when it is made safe again in another process.
    fn limited(raw: &str, input: usize) -> Self {
        Self(escaped(raw, input, MAX_CHARS))
    }

    /// The safe text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Makes text of any origin one line on which nothing acts, at most `max` characters of it: for what is longer than
/// a name or a reason, such as a record of the log. What is escaped counts as the one character that it was.
pub fn one_line(raw: &str, max: usize) -> String {
    escaped(raw, max, usize::MAX)
}

/// At most `input` characters of `raw`, made safe in at most `output` characters.
fn escaped(raw: &str, input: usize, output: usize) -> String {
    // Most of it is that plain, and requests of HTTP come by the ten thousand a second.
    if raw.len() <= input.min(output) && raw.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return raw.to_owned();
    }
    let mut out = String::with_capacity(raw.len().min(output));
    // Characters of `out`, and how many of its bytes stay when the rest has no room: whole characters and escapes,
    // with a place left for the `…`.
    let (mut length, mut fitting) = (0, 0);
    // A mark without a letter would stand on whatever is written before this text.
    let mut marks = MAX_MARKS;
    for (count, c) in raw.chars().enumerate() {
        let before = out.len();
        marks = if c.width() == Some(0) { marks + 1 } else { 0 };
        if acts_on_a_terminal(c) || marks > MAX_MARKS {
            out.extend(c.escape_unicode());
            length += out.len() - before;
        } else {
            out.push(c);
            length += 1;
        }
        if count == input || length > output {
            out.truncate(fitting.min(before));
            out.push('…');
            break;
        }
        if length < output {
            fitting = out.len();
        }
    }
    out
}

/// Whether a character could do more than stand there: controls (C0, DEL, C1), bidi controls, zero-width
/// and other format characters, line separators, tags, noncharacters.
pub fn acts_on_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}' | '\u{891}' | '\u{8e2}'
            | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
        || u32::from(c) & 0xfffe == 0xfffe
}

impl fmt::Display for SafeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<String> for SafeText {
    fn from(raw: String) -> Self {
        Self::new(&raw)
    }
}

impl From<&str> for SafeText {
    fn from(raw: &str) -> Self {
        Self::new(raw)
    }
}

impl From<SafeText> for String {
    fn from(text: SafeText) -> Self {
        text.0
    }
}

impl AsRef<str> for SafeText {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_would_obey() {
        let text = SafeText::new("a\x1b[2Jb\u{202e}c\u{9b}d\ne\u{200b}f");
        assert_eq!(text.as_str(), "a\\u{1b}[2Jb\\u{202e}c\\u{9b}d\\u{a}e\\u{200b}f");
    }

    #[test]
    fn leaves_plain_and_foreign_letters_alone() {
        assert_eq!(SafeText::new("wëb-1 コンテナ").as_str(), "wëb-1 コンテナ");
    }

    #[test]
    fn a_letter_carries_the_marks_of_any_script_and_no_heap_of_them() {
        for text in ["Việt", "Vie\u{302}\u{323}t", "שָׁלוֹם", "ภาษาไทย", "हिन्दी", "e\u{301}\u{302}\u{303}\u{304}f"]
        {
            assert_eq!(SafeText::new(text).as_str(), text);
        }
        assert_eq!(
            SafeText::new(&format!("e{}", "\u{301}".repeat(5))).as_str(),
            "e\u{301}\u{301}\u{301}\u{301}\\u{301}"
        );
        assert_eq!(SafeText::new("\u{301}e").as_str(), "\\u{301}e");
    }

    #[test]
    fn a_long_text_becomes_one_line_of_a_certain_length() {
        assert_eq!(one_line("a\r\nb\tc", 100), "a\\u{d}\\u{a}b\\u{9}c");
        assert_eq!(one_line("abc", 2), "ab…");
        assert_eq!(one_line("abc", usize::MAX), "abc");
    }

    #[test]
    fn making_safe_text_safe_again_changes_nothing() {
        let texts = [
            "\x1b]0;x\x07é".repeat(200),
            "x".repeat(MAX_CHARS),
            "é".repeat(MAX_CHARS + 1),
            "\x1b".repeat(60),
            "e\u{301}".repeat(300),
        ];
        for raw in texts.iter().flat_map(|text| [SafeText::new(text), SafeText::quoted(text)]) {
            assert!(!raw.as_str().chars().any(acts_on_a_terminal));
            assert!(raw.as_str().chars().count() <= MAX_CHARS, "{raw}");
            assert_eq!(SafeText::new(raw.as_str()), raw);
            let sent = serde_json::to_string(&raw).expect("it is data");
            assert_eq!(serde_json::from_str::<SafeText>(&sent).expect("it is text"), raw);
        }
    }

    #[test]
    fn what_is_too_long_ends_after_a_whole_character() {
        assert_eq!(SafeText::new(&"x".repeat(MAX_CHARS)).as_str(), "x".repeat(MAX_CHARS));
        assert_eq!(SafeText::new(&"x".repeat(MAX_CHARS + 1)).as_str(), "x".repeat(MAX_CHARS - 1) + "…");
        assert_eq!(SafeText::new(&"\x1b".repeat(50)).as_str(), "\\u{1b}".repeat(42) + "…");
        assert_eq!(SafeText::quoted(&"x".repeat(80)).as_str(), "x".repeat(80));
        assert_eq!(SafeText::quoted(&"x".repeat(81)).as_str(), "x".repeat(80) + "…");
    }
}
