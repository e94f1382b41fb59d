//! What holds for text of any origin: mappings, pasted lines, profiles, words, and what crosses to clients.
//!
//! See [`crate::fuzzing`], which is the door to it.

use std::collections::HashSet;
use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::cidr::parse_cidr;
use super::duration::{parse_timeout, show_timeout};
use super::event::Event;
use super::grammar::GrammarError;
use super::mapping::{HostPort, Listen, Mapping, Protocol, Target};
use super::name::check_name;
use super::paste::read_paste;
use super::problem::Problem;
use super::profile::{MappingConfig, Profile, WrittenMapping, WrittenProfile};
use super::profile_read::read_profile;
use super::request::{Call, Reply, RequestError};
use super::speech::{Conversation, Said};
use super::untrusted::{MAX_CHARS, MAX_MARKS, SafeText, acts_on_a_terminal, one_line};
use super::update::{Interest, Update};

/// No refusal of one text is longer, in characters, since each quotes a part of it alone.
const LONGEST_REFUSAL: usize = 10 * MAX_CHARS;
/// Most problems of one profile, that of how many more there are included.
const MOST_PROBLEMS: usize = 1_001;

/// Nothing in `text` acts on a terminal.
pub(crate) fn assert_plain(text: &str) {
    assert!(!text.chars().any(acts_on_a_terminal), "{text:?} acts on a terminal");
}

/// It is what its type says, so that making it safe once more changes nothing.
pub(crate) fn assert_safe(text: &SafeText) {
    assert_plain(text.as_str());
    assert!(text.as_str().chars().count() <= MAX_CHARS, "{text} is too long");
    assert_eq!(SafeText::new(text.as_str()), *text);
}

/// What is told of an input that is no good: something, on one line, and not too much.
fn assert_refusal(said: &str) {
    assert!(!said.is_empty(), "a refusal says why");
    assert_plain(said);
    assert!(said.chars().count() <= LONGEST_REFUSAL, "{said} is too long");
}

/// What crosses as data comes out as it went in.
pub(crate) fn assert_crosses<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> Value {
    let sent = serde_json::to_value(value).expect("it is data");
    let received = T::deserialize(&sent).expect("what was sent is understood");
    assert_eq!(received, *value);
    sent
}

/// Every text in it is safe.
pub(crate) fn assert_all_plain(value: &Value) {
    match value {
        Value::String(text) => assert_plain(text),
        Value::Array(list) => list.iter().for_each(assert_all_plain),
        Value::Object(fields) => {
            for (name, value) in fields {
                assert_plain(name);
                assert_all_plain(value);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text that is read shows itself so that it reads as the same; one that is not says why.
fn assert_reads_itself<T>(text: &str) -> Option<T>
where
    T: FromStr<Err = GrammarError> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            assert_plain(&shown);
            assert_eq!(shown.parse::<T>().as_ref(), Ok(&value), "{shown}");
            Some(value)
        }
        Err(GrammarError(said)) => {
            assert_refusal(&said);
            None
        }
    }
}

/// The grammar of mappings and its halves.
pub(crate) fn mapping(bytes: &[u8]) {
    let text = &String::from_utf8_lossy(bytes);
    assert_reads_itself::<Listen>(text);
    assert_reads_itself::<Target>(text);
    assert_reads_itself::<Protocol>(text);
    let mapping = assert_reads_itself::<Mapping>(text);
    match (mapping, MappingConfig::from_argument(text)) {
        (Some(mapping), Ok(config)) => {
            assert_eq!(mapping.listen.to_string().parse().as_ref(), Ok(&mapping.listen));
            assert_eq!(mapping.target.to_string().parse().as_ref(), Ok(&mapping.target));
            if let HostPort::Ports(ports) = mapping.listen.port {
                assert_eq!(ports.count(), mapping.target.ports.count());
            }
            assert_crosses(&mapping);
            assert_eq!(config.mapping, mapping);
            assert_eq!(check_name(&config.name), Ok(()));
            assert_is_written(&config);
        }
        (None, Err(problem)) => assert_refusal(&problem.to_string()),
        (mapping, config) => panic!("read as {mapping:?} and as {config:?}"),
    }
}

/// It is read as the same from how it is written.
fn assert_is_written(config: &MappingConfig) {
    let read = MappingConfig::from_written(&config.to_written()).expect("what is written is usable");
    let name = if config.name_is_given { read.name.clone() } else { config.name.clone() };
    assert_eq!(MappingConfig { name, ..read }, *config);
}

/// Command lines that are pasted into the form.
pub(crate) fn paste(bytes: &[u8]) {
    let text = &String::from_utf8_lossy(bytes);
    match read_paste(text) {
        None => {}
        Some(Ok(mappings)) => {
            // Each takes an option of its own.
            assert!((1..=text.len() / 2).contains(&mappings.len()), "{}", mappings.len());
            for written in &mappings {
                assert_crosses(written);
                let config = MappingConfig::from_written(written).expect("what a paste gives is usable");
                assert_is_written(&config);
            }
        }
        Some(Err(GrammarError(said))) => assert_refusal(&said),
    }
}

/// Files of profiles.
pub(crate) fn profile(bytes: &[u8]) {
    let own: [IpAddr; 2] = [[192, 0, 2, 7].into(), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7].into()];
    let file = SafeText::new("/etc/a.json");
    match read_profile(bytes, &file, &own) {
        Ok(profile) => {
            serde_json::from_slice::<WrittenProfile>(bytes).expect("what is read has the form of the schema");
            let names: HashSet<&String> = profile.mappings.iter().map(|config| &config.name).collect();
            assert_eq!(names.len(), profile.mappings.len(), "names are unique");
            for config in &profile.mappings {
                assert_plain(&config.name);
                assert_is_written(config);
            }
            let text = profile.to_text();
            assert_eq!(read_profile(text.as_bytes(), &file, &own).as_ref(), Ok(&profile), "{text}");
            assert_eq!(Profile::from_configs(profile.mappings.clone()).as_ref(), Ok(&profile));
        }
        Err(problems) => {
            assert!((1..=MOST_PROBLEMS).contains(&problems.len()), "{}", problems.len());
            let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
            for problem in &problems {
                assert_eq!(problem.file.as_ref(), Some(&file));
                assert_stands_in(problem, &lines);
                assert_plain(&problem.to_string());
                assert!(!problem.problem.is_empty());
                assert_crosses(problem);
            }
            // The one of how many more there are stands last, and nowhere.
            let placed = &problems[..problems.len().min(MOST_PROBLEMS - 1)];
            assert!(placed.is_sorted_by_key(|problem| problem.position));
        }
    }
}

/// A problem's place is one of the file, if only behind its last byte.
fn assert_stands_in(problem: &Problem, lines: &[&[u8]]) {
    let Some(position) = problem.position else { return };
    let (line, column) = (position.line as usize, position.column as usize);
    assert!((1..=lines.len()).contains(&line), "{problem}: of {} lines", lines.len());
    assert!((1..=lines[line - 1].len() + 1).contains(&column), "{problem}: of {} bytes", lines[line - 1].len());
}

/// Single words: text to be shown, durations, networks, names, and what a side of a connection says first.
pub(crate) fn words(bytes: &[u8]) {
    let text = &*String::from_utf8_lossy(bytes);
    safe_text(text);
    assert_safe(&SafeText::from_bytes(bytes));
    match parse_timeout("idle_timeout", text) {
        Ok(duration) => {
            assert!(!duration.is_zero());
            let shown = show_timeout(duration);
            assert_eq!(parse_timeout("", &shown).as_ref(), Ok(&duration), "{shown}");
        }
        Err(problem) => assert_refusal(&problem.to_string()),
    }
    if let Err(said) = parse_cidr(text) {
        assert_refusal(&said);
        if let Some((_, meant)) = said.split_once("did you mean ") {
            assert!(parse_cidr(meant.trim_end_matches('?')).is_ok(), "{said}");
        }
    }
    match check_name(text) {
        Ok(()) => assert_plain(text),
        Err(said) => assert_refusal(&said),
    }
    form(text);
    speech(bytes);
}

fn safe_text(text: &str) {
    let (new, quoted) = (SafeText::new(text), SafeText::quoted(text));
    for safe in [&new, &quoted] {
        assert_safe(safe);
        assert_crosses(safe);
    }
    let is_plain = !text.chars().any(acts_on_a_terminal) && text.chars().count() <= MAX_CHARS;
    let has_marks = one_line(text, usize::MAX) != text;
    assert_eq!(new.as_str() == text, is_plain && !has_marks, "plain text stays, other text does not");
    for most in [0, 1, 80, 1_000] {
        let line = one_line(text, most);
        assert_plain(&line);
        // The longest escape is `\u{10ffff}`; the rest is a `…`.
        assert!(line.chars().count() <= 10 * most + 1, "{line}");
    }
    let marks = |c: char| unicode_width::UnicodeWidthChar::width(c) == Some(0);
    let heap = new.as_str().chars().fold((0, 0), |(most, now), c| {
        let now = if marks(c) { now + 1 } else { 0 };
        (now.max(most), now)
    });
    assert!(heap.0 <= MAX_MARKS, "{new} heaps up marks");
}

/// The fields of the form, one a line.
fn form(text: &str) {
    let mut lines = text.split('\n');
    let mut next = || lines.next().map(str::to_owned).filter(|line| !line.is_empty());
    let written = WrittenMapping {
        listen: next().unwrap_or_default(),
        target: next().unwrap_or_default(),
        name: next(),
        network: next(),
        connect_timeout: next(),
        idle_timeout: next(),
        half_close_timeout: next(),
        max_connections: next().and_then(|line| line.parse().ok()),
        ..WrittenMapping::default()
    };
    match MappingConfig::from_written(&written) {
        Ok(config) => assert_is_written(&config),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in &problems {
                assert_refusal(&problem.to_string());
            }
        }
    }
}

fn speech(bytes: &[u8]) {
    let said = Said::of(bytes);
    assert_eq!(said.is_none(), bytes.is_empty());
    // More of the same makes neither TLS nor its lack.
    let start = Said::of(&bytes[..bytes.len().min(3)]);
    for tls in [Said::Tls, Said::TlsAlert] {
        assert_eq!(said == Some(tls), start == Some(tls));
    }
    for conversation in [Conversation { client: said, target: None }, Conversation { client: None, target: said }] {
        assert!(!(conversation.is_tls_to_plain() && conversation.is_plain_to_tls()));
        assert_crosses(&conversation);
    }
}

/// What crosses the line between the service and a client in another process.
pub(crate) fn calls(bytes: &[u8]) {
    fn one<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
        let value = serde_json::from_slice::<T>(bytes).ok()?;
        // Times are told to the millisecond: after that they stay.
        let told =
            T::deserialize(serde_json::to_value(&value).expect("it is data")).expect("what was sent is understood");
        assert_crosses(&told);
        Some(value)
    }
    if let Some(call) = one::<Call>(bytes) {
        assert_crosses(&call);
    }
    one::<Reply>(bytes);
    one::<Update>(bytes);
    one::<Interest>(bytes);
    one::<RequestError>(bytes);
    if let Some(event) = one::<Event>(bytes) {
        assert!(!event.to_string().is_empty());
    }
}
