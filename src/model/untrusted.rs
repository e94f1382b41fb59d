//! Text from outside (container names, labels, host names, errors of a daemon), made safe at the entry.
//!
//! The screen, the log and stdout show only [`SafeText`], so a hostile name can neither move the cursor
//! nor reorder what is read. Escaping happens once, when the value is made.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text kept, in characters; the rest becomes `…`.
pub const MAX_CHARS: usize = 256;

/// Text that holds no control, bidi, invisible or invalid character and is at most [`MAX_CHARS`] long.
///
/// What was escaped stands as `\u{1b}`. Deserialising escapes again, so the type holds across processes.
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

    fn limited(raw: &str, max: usize) -> Self {
        let mut out = String::with_capacity(raw.len().min(max * 4));
        for (count, c) in raw.chars().enumerate() {
            if count == max {
                out.push('…');
                break;
            }
            if acts_on_a_terminal(c) {
                out.extend(c.escape_unicode());
            } else {
                out.push(c);
            }
        }
        Self(out)
    }

    /// The safe text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a character could do more than stand there: controls (C0, DEL, C1), bidi controls, zero-width
/// and other format characters, line separators, tags, noncharacters.
pub fn acts_on_a_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{fffe}' | '\u{ffff}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
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
    fn making_safe_text_safe_again_changes_nothing() {
        let once = SafeText::new(&"\x1b]0;x\x07é".repeat(200));
        assert_eq!(SafeText::new(SafeText::new("\x1b]0;x").as_str()).as_str(), "\\u{1b}]0;x");
        assert!(!once.as_str().chars().any(acts_on_a_terminal));
    }
}
