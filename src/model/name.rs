//! Names of mappings and of profiles.

use super::untrusted::SafeText;

/// Longest name, in characters.
pub const MAX_NAME: usize = 64;
/// As a regular expression, for the schema.
pub const PATTERN: &str = r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$";

/// Checks a name; the error says the rule. A leading dot is refused: `.` and `..` are folders, and a profile
/// of such a name would be a hidden file.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.chars().all(allowed) {
        return Ok(());
    }
    let first = if name.starts_with('.') { ", no dot first" } else { "" };
    Err(format!(
        "\"{}\" is no name: names use letters, digits, `.`, `_` and `-`, up to {MAX_NAME}{first}",
        SafeText::quoted(name)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_short() {
        for name in ["web", "8080-tcp", "a.b_c-d", "-x", &"n".repeat(64)] {
            assert_eq!(check_name(name), Ok(()), "{name}");
        }
        for name in ["", "/", "..", ".", ".hidden", "a/b", "a b", "wëb", "a\u{202e}b", "a\x1b[2J", &"n".repeat(65)] {
            let said = check_name(name).unwrap_err();
            assert!(said.contains("names use letters, digits, `.`, `_` and `-`, up to 64"), "{said}");
            assert!(!said.chars().any(crate::model::untrusted::acts_on_a_terminal));
        }
    }
}
