//! Text that means ill, and the judge of what the program makes of it: no byte of theirs acts.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use portolan::model::untrusted::{MAX_MARKS, acts_on_a_terminal};
use serde_json::{Value, json};

/// What moves a cursor, sets a title or a clipboard, switches modes, hides, reorders, heaps up or breaks lines. None
/// of the sequences is one that the program sends itself, so that theirs can be told from its own.
const ACTS: &[&str] = &[
    "\x1b[3J",
    "\x1b[41m",
    "\x1b[777;1H",
    "\x1b[?1047h",
    "\x1b[?1003h",
    "\x1b[6n",
    "\x1b[5i",
    "\x1b]0;title\x07",
    "\x1b]52;c;b3duZWQ=\x07",
    "\x1b]8;;http://x\x1b\\",
    "\x1bP+q544e\x1b\\",
    "\x1b_x\x1b\\",
    "\x1b^x\x1b\\",
    "\x1bc",
    "\x1b",
    "\x1b[",
    "\u{9b}3J",
    "\u{9d}0;t\u{9c}",
    "\u{90}x\u{9c}",
    "\u{85}",
    "\u{7f}",
    "\0",
    "\x07",
    "\x08\x08\x08",
    "\t",
    "\n",
    "\r",
    "\nFORGED",
    "\r\nFORGED",
    "\x0b",
    "\x0c",
    "\x0e",
    "\x18",
    "\u{ad}",
    "\u{200b}",
    "\u{200e}",
    "\u{202a}",
    "\u{202e}",
    "\u{2028}",
    "\u{2029}",
    "\u{2066}",
    "\u{feff}",
    "\u{e0041}",
    "o\u{301}\u{302}\u{303}\u{304}\u{305}\u{306}",
];

/// Bytes that are no UTF-8, some of which a terminal would take for what they are not.
const NO_TEXT: &[&[u8]] = &[
    b"\xff",
    b"web\xfe\xff",
    b"\x9b3J",
    b"\xc0\x9b3J",
    b"\xc1\x9d0;t\x07",
    b"\xe2\x80",
    b"\xed\xa0\x80",
    b"\xf0\x9f",
    b"\xf8\x88\x80\x80\x80",
    b"\xff\x1b[3J\xff",
    b"\x80\x1b]0;t\x07",
    b"\xe2\x80\nFORGED",
];

/// Two hundred and more: each act alone, before, behind and amid plain text, and so often that it is long.
pub fn texts() -> Vec<String> {
    let placed: [fn(&str) -> String; 5] = [
        |act| act.to_owned(),
        |act| format!("{act}web"),
        |act| format!("web{act}"),
        |act| format!("we{act}b{act}"),
        |act| act.repeat(100),
    ];
    let texts: Vec<String> = ACTS.iter().flat_map(|act| placed.iter().map(move |place| place(act))).collect();
    assert!(texts.len() >= 200);
    texts
}

/// One text for each act: where each of them costs a run of the program.
pub fn acts() -> Vec<String> {
    ACTS.iter().map(|act| format!("we{act}b{act}")).collect()
}

/// Containers, as `/containers/json` lists them, in which everything that Docker tells is hostile.
pub fn containers() -> Vec<Value> {
    let container = |(at, text): (usize, String)| {
        let text = text.as_str();
        json!({
            "Id": format!("{at:064x}"), "Names": [format!("/{text}")], "Image": text, "State": text, "Status": text,
            "Labels": { text: text, "com.docker.compose.project": text, "com.docker.compose.service": text,
                "com.docker.compose.container-number": text },
            "Ports": [{ "PrivatePort": 80, "Type": text, "IP": text }], "HostConfig": { "NetworkMode": text },
            "NetworkSettings": { "Networks": { text: { "IPAddress": text, "GlobalIPv6Address": text } } },
        })
    };
    texts().into_iter().enumerate().map(container).collect()
}

/// The same as bytes, with those that are no text.
pub fn bytes() -> Vec<Vec<u8>> {
    texts().into_iter().map(String::into_bytes).chain(NO_TEXT.iter().map(|bytes| bytes.to_vec())).collect()
}

/// Fails unless nothing in what was shown acts: no control but the ends of lines, no line that was forged, no heap of
/// marks, nothing that is no UTF-8. `is_ours` knows the sequences that the program may send, such as `[1m`.
#[track_caller]
pub fn assert_harmless(shown: &[u8], is_ours: impl Fn(&str) -> bool, input: &dyn std::fmt::Debug) {
    if let Some(found) = acting(shown, is_ours) {
        let shown = String::from_utf8_lossy(shown);
        let shown: String = shown.chars().take(2_000).collect();
        panic!("{found}; {input:?} gave {shown:?}");
    }
}

/// As [`assert_harmless`], for text without any sequence.
#[track_caller]
pub fn assert_plain(shown: &str, input: &dyn std::fmt::Debug) {
    assert_harmless(shown.as_bytes(), |_| false, input);
}

/// As [`assert_plain`], for every name and text of an event: whoever reads JSON has it as safe.
#[track_caller]
pub fn assert_plain_json(value: &Value, input: &dyn std::fmt::Debug) {
    match value {
        Value::String(text) => {
            assert_plain(text, input);
            assert!(!text.contains('\n'), "{input:?} gave more than one line: {text:?}");
        }
        Value::Array(values) => values.iter().for_each(|value| assert_plain_json(value, input)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            assert_plain(name, input);
            assert_plain_json(value, input);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// What acts first, in words.
pub fn acting(shown: &[u8], is_ours: impl Fn(&str) -> bool) -> Option<String> {
    let text = match std::str::from_utf8(shown) {
        Ok(text) => text,
        Err(error) => return Some(format!("no UTF-8 at byte {}", error.valid_up_to())),
    };
    let mut chars = text.char_indices().peekable();
    let mut marks = 0;
    while let Some((at, c)) = chars.next() {
        match c {
            '\n' => {
                let line = text[at + 1..].trim_start();
                if line.starts_with("FORGED") {
                    return Some(format!("a forged line at byte {at}"));
                }
            }
            // A terminal has its lines end so.
            '\r' if chars.peek().is_some_and(|(_, next)| *next == '\n') => {}
            '\x1b' => {
                let sequence = sequence(&text[at + 1..]);
                if !is_ours(sequence) {
                    return Some(format!("{sequence:?} after an escape at byte {at}"));
                }
                while chars.peek().is_some_and(|(next, _)| *next < at + 1 + sequence.len()) {
                    chars.next();
                }
            }
            _ if acts_on_a_terminal(c) => return Some(format!("{c:?} at byte {at}")),
            '\u{300}'..='\u{36f}' => {
                marks += 1;
                if marks > MAX_MARKS {
                    return Some(format!("a heap of marks at byte {at}"));
                }
                continue;
            }
            _ => {}
        }
        marks = 0;
    }
    None
}

/// The rest of a sequence whose escape has been read: `[2J`, `]52;c;YQ==` with its end, or one character.
fn sequence(rest: &str) -> &str {
    let end = match rest.as_bytes().first() {
        Some(b'[') => rest[1..].find(|c: char| ('@'..='~').contains(&c)).map(|at| at + 2),
        Some(b']') => rest.find('\x07').map(|at| at + 1),
        _ => rest.chars().next().map(char::len_utf8),
    };
    &rest[..end.unwrap_or(rest.len())]
}
