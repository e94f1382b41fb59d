//! Fault 21, where text enters by files and arguments: 200 hostile strings in every field, none of whose bytes
//! reaches a terminal.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

#[path = "common/hostile.rs"]
mod hostile;

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use hostile::{assert_plain, texts};
use portolan::model::grammar::GrammarError;
use portolan::model::mapping::{Listen, Mapping, Protocol, Target};
use portolan::model::paste::read_paste;
use portolan::model::problem::Problem;
use portolan::model::profile::{MappingConfig, WrittenMapping};
use portolan::model::profile_read::read_profile;
use portolan::model::untrusted::SafeText;
use portolan::store::{Locations, ProfileSource, Store};
use serde_json::{Value, json};

fn assert_harmless(shown: &str, input: &str) {
    assert_plain(shown, &input);
    assert!(!shown.contains('\n'), "{input:?} gave more than one line: {shown:?}");
}

fn assert_all_harmless(problems: &[Problem], input: &str) {
    for problem in problems {
        assert_harmless(&problem.to_string(), input);
    }
}

#[test]
fn no_field_of_a_profile_lets_hostile_text_through() {
    let fields = [
        "name",
        "listen",
        "target",
        "protocol",
        "enabled",
        "connect_timeout",
        "idle_timeout",
        "half_close_timeout",
        "max_connections",
        "identity",
        "trusted_cidrs",
    ];
    for text in texts() {
        let mut profiles: Vec<Value> = fields
            .iter()
            .map(|field| {
                let mut mapping = json!({ "listen": "8080", "target": "web:80" });
                mapping[field] = if *field == "trusted_cidrs" { json!([text]) } else { json!(text) };
                json!({ "version": 1, "mappings": [mapping] })
            })
            .collect();
        let mut unknown = json!({ "listen": "8080", "target": "web:80" });
        unknown[&text] = json!(1);
        profiles.push(json!({ "version": 1, "mappings": [unknown, text] }));
        profiles.push(json!({ "version": text, "mappings": text }));
        let mut at_the_top = json!({ "version": 1 });
        at_the_top[&text] = json!(text);
        profiles.push(at_the_top);
        profiles.push(json!(text));
        for (index, half) in ["any:{}", "{}:80", "[{}]:80", "host/{}:80", "compose/a/{}:80"].iter().enumerate() {
            let field = if index < 1 { "listen" } else { "target" };
            let mut mapping = json!({ "listen": "8080", "target": "web:80" });
            mapping[field] = json!(half.replace("{}", &text));
            profiles.push(json!({ "version": 1, "mappings": [mapping] }));
        }
        for profile in profiles {
            let problems = read_profile(profile.to_string().as_bytes(), &SafeText::new(&text), &[]).unwrap_err();
            assert!(!problems.is_empty());
            assert_all_harmless(&problems, &text);
        }
        // As the text of the file itself, where JSON does not escape it.
        for raw in [text.clone(), format!("{{\"version\": 1, \"mappings\": [{{\"name\": \"{text}\"}}]}}")] {
            if let Err(problems) = read_profile(raw.as_bytes(), &"p.json".into(), &[]) {
                assert_all_harmless(&problems, &text);
            }
        }
    }
}

#[test]
fn no_mapping_text_lets_hostile_text_through() {
    fn answer<T: std::fmt::Display>(read: Result<T, GrammarError>) -> String {
        read.map_or_else(|error| error.to_string(), |value| value.to_string())
    }
    for text in texts() {
        for form in [
            "{}",
            "{}:80",
            "8080:{}",
            "{}:8080:web:80",
            "8080:{}:80",
            "8080:web:{}",
            "8080:web:80/{}",
            "[{}]:80:web:80",
        ] {
            let mapping = form.replace("{}", &text);
            assert_harmless(&answer(mapping.parse::<Mapping>()), &mapping);
            assert_harmless(&answer(mapping.parse::<Listen>()), &mapping);
            assert_harmless(&answer(mapping.parse::<Target>()), &mapping);
            assert_harmless(&answer(mapping.parse::<Protocol>()), &mapping);
            assert_harmless(&MappingConfig::from_argument(&mapping).unwrap_err().to_string(), &mapping);
            let paste = [format!("docker run -p {mapping} web"), format!("ssh -L {mapping} host")];
            for paste in paste {
                if let Some(Err(error)) = read_paste(&paste) {
                    assert_harmless(&error.to_string(), &paste);
                }
            }
        }
        let written =
            WrittenMapping { name: Some(text.clone()), idle_timeout: Some(text.clone()), ..Default::default() };
        let problems = MappingConfig::from_written(&written).unwrap_err();
        assert_all_harmless(&problems, &text);
    }
}

#[test]
fn no_path_lets_hostile_text_through() {
    let home = tempfile::tempdir().unwrap();
    let locations = || Locations::new(home.path().join("config"), home.path().join("state"));
    for text in texts() {
        let named = Store::open_in(ProfileSource::Named(text.clone()), locations()).unwrap_err();
        assert_harmless(&named.to_string(), &text);
        if text.contains(['\0', '/']) || text.len() > 200 {
            continue;
        }
        let path = home.path().join(&text);
        fs::write(&path, "{}").unwrap();
        let store = Store::open_in(ProfileSource::File(path), locations()).unwrap();
        let error = store.load(&[]).unwrap_err();
        assert_harmless(&error.to_string(), &text);
        assert_all_harmless(&error.problems(), &text);
        assert_harmless(&store.save(&portolan::model::profile::Profile::default()).unwrap_err().to_string(), &text);
        let _held = store.claim().unwrap();
        assert_harmless(&store.claim().unwrap_err().to_string(), &text);
        assert_harmless(store.shown_path().as_str(), &text);
    }
}

/// As many problems as there is room for, all on one line: to say them takes about as long as to read them.
#[test]
fn a_file_of_problems_alone_is_answered_soon() {
    /// Ten times what it takes on a slow machine, and a tenth of what it took when each column was counted anew.
    const SOON: Duration = Duration::from_secs(40);
    let mut unknown = r#"{"version":1,"mappings":[]"#.to_owned();
    let mut twice = unknown.clone();
    for number in 0..200_000 {
        write!(unknown, r#","{number:x}":1"#).unwrap();
        twice.push_str(r#","zzzzz":1"#);
    }
    let long = format!(r#"{{"version":1,"mappings":[],"{}":1"#, "x".repeat(unknown.len()));
    for (text, said) in [
        (unknown, "a: and 199000 more problems"),
        // The first of them is unknown, the others are repeated.
        (twice, "a: and 199000 more problems"),
        (long, "a:1:28: "),
    ] {
        let began = Instant::now();
        let problems = read_profile((text + "}").as_bytes(), &SafeText::new("a"), &[]).unwrap_err();
        assert!(began.elapsed() < SOON, "{said}: {:?}", began.elapsed());
        let last = problems.last().unwrap().to_string();
        assert!(last.starts_with(said), "{last}");
    }
}
