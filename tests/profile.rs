//! Profiles as contract §2 defines them: what is refused and in which words, and what comes back from a file.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use portolan::model::identity::Identity;
use portolan::model::problem::{Position, Problem};
use portolan::model::profile::{MappingConfig, Profile};
use portolan::model::profile_read::read_profile;
use portolan::model::untrusted::{SafeText, acts_on_a_terminal};
use proptest::prelude::*;

fn read(text: impl AsRef<[u8]>) -> Result<Profile, Vec<Problem>> {
    read_profile(text.as_ref(), &"dev.json".into(), &[])
}

fn said(text: impl AsRef<[u8]>) -> Vec<String> {
    read(text).unwrap_err().iter().map(ToString::to_string).collect()
}

/// Each fixture stands beside the answer to it. `UPDATE_EXPECTED=1` writes the answers anew, to be reviewed.
#[test]
fn every_bad_file_gets_its_answer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/profiles/bad");
    let mut count = 0;
    let mut wrong = Vec::new();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_str().unwrap();
        let problems = match read_profile(&fs::read(&path).unwrap(), &SafeText::new(name), &[]) {
            Ok(profile) => panic!("{name} was accepted: {profile:?}"),
            Err(problems) => problems,
        };
        assert!(!problems.is_empty(), "{name} is refused without a word");
        let mut answer = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        answer.push('\n');
        assert!(!answer.replace('\n', "").chars().any(acts_on_a_terminal), "{answer}");
        let expected = path.with_extension("expected");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&expected, &answer).unwrap();
        }
        let expected = fs::read_to_string(&expected).unwrap_or_default();
        if answer != expected {
            wrong.push(format!("{name} is answered by\n{answer}instead of\n{expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 60, "only {count} fixtures were found in {}", folder.display());
}

/// As it stands there.
#[test]
fn the_example_of_the_contract_reads() {
    let example = r#"{
  "version": 1,
  "mappings": [
    { "name": "web", "listen": "any:8080", "target": "web_1:80" },
    { "name": "dns", "listen": "localhost:5353", "target": "172.17.0.3:53", "protocol": "udp", "enabled": false },
    { "name": "db",  "listen": "5432", "target": "container/db_1:5432", "identity": "proxy-v2" }
  ]
}"#;
    let profile = read(example).unwrap();
    let mapping = |name: &str, text: &str| MappingConfig::new(name, text.parse().unwrap());
    let dns = MappingConfig { enabled: false, ..mapping("dns", "localhost:5353:172.17.0.3:53/udp") };
    let db = MappingConfig { identity: Identity::ProxyV2, ..mapping("db", "localhost:5432:container/db_1:5432") };
    assert_eq!(profile.mappings, [mapping("web", "any:8080:web_1:80"), dns, db]);
}

#[test]
fn what_is_left_out_has_its_default() {
    let profile = read(
        r#"{
          "version": 1,
          "mappings": [
            { "listen": "53", "target": "172.17.0.3:53", "protocol": "udp", "half_close_timeout": "1m" },
            { "listen": "5432", "target": "container/db_1:5432", "connect_timeout": "200ms", "max_connections": 100 }
          ]
        }"#,
    )
    .unwrap();
    let dns = MappingConfig {
        name_is_given: false,
        idle_timeout: Some(Duration::from_secs(90)),
        // A flow has no half-close: it is kept as written and changes nothing.
        half_close_timeout: Duration::from_mins(1),
        max_connections: Some(4096),
        ..MappingConfig::new("53-udp", "localhost:53:172.17.0.3:53/udp".parse().unwrap())
    };
    let db = MappingConfig {
        name_is_given: false,
        connect_timeout: Duration::from_millis(200),
        idle_timeout: None,
        max_connections: Some(100),
        ..MappingConfig::new("5432-tcp", "localhost:5432:container/db_1:5432".parse().unwrap())
    };
    assert_eq!(profile.mappings, [dns, db]);
}

#[test]
fn a_profile_may_have_no_mappings() {
    for text in [r#"{"version":1}"#, r#"{"mappings":[],"version":1}"#, "{\r\n\t\"version\": 1\r\n}\r\n"] {
        assert_eq!(read(text).unwrap(), Profile::default(), "{text}");
    }
}

#[test]
fn a_profile_is_written_one_mapping_a_line() {
    let text = r#"{
  "version": 1,
  "mappings": [
    { "name": "web", "listen": "any:8080", "target": "web_1:80" },
    { "listen": "localhost:53", "target": "dns:53", "protocol": "udp", "enabled": false, "idle_timeout": "1m30s500ms" }
  ]
}
"#;
    assert_eq!(read(text).unwrap().to_text(), text);
    assert_eq!(Profile::default().to_text(), "{\n  \"version\": 1,\n  \"mappings\": []\n}\n");
}

#[test]
fn limits_say_by_how_much_they_are_exceeded() {
    let large = " ".repeat((8 << 20) + 5);
    assert_eq!(said(&large), ["dev.json: the file has 8388613 bytes, 5 over the limit of 8388608 (8 MiB)"]);

    let many = vec![r#"{"listen":"auto","target":"web:80"}"#; 10_007].join(",");
    let many = format!("{{\"version\":1,\"mappings\":[{many}]}}");
    assert_eq!(said(&many), ["dev.json:1:25: mappings: 10007 mappings are 7 over the limit of 10000"]);
    let most = vec![r#"{"listen":"auto","target":"web:80"}"#; 10_000].join(",");
    assert_eq!(read(format!("{{\"version\":1,\"mappings\":[{most}]}}")).unwrap().mappings.len(), 10_000);

    let deep = format!("{{\"version\":1,\"mappings\":{}{}}}", "[".repeat(32), "]".repeat(32));
    assert_eq!(said(&deep), ["dev.json:1:56: 33 levels of nesting are 1 over the limit of 32"]);
    // A million levels neither overflow the stack nor take long, closed or not.
    for end in ["", &"]".repeat(1_000_000)] {
        let answer = said("[".repeat(1_000_000) + end);
        assert_eq!(answer, ["dev.json:1:33: 1000000 levels of nesting are 999968 over the limit of 32"]);
    }
}

#[test]
fn a_thousand_problems_are_listed_and_the_rest_counted() {
    let bad = vec![r#"{"listen":"70000","target":"80"}"#; 600].join(",\n");
    let answer = said(format!("{{\"version\":1,\"mappings\":[\n{bad}]}}"));
    assert_eq!(answer.len(), 1001);
    assert_eq!(answer[999], "dev.json:501:28: mappings[499].target: 80 names no container: write CONTAINER:80");
    assert_eq!(answer[1000], "dev.json: and 200 more problems");
}

#[test]
fn an_address_of_this_host_makes_a_cycle() {
    let text = r#"{"version":1,"mappings":[{"listen":"any:80","target":"192.0.2.7:80"}]}"#;
    assert!(read(text).is_ok());
    let problems = read_profile(text.as_bytes(), &"a/b.json".into(), &["192.0.2.7".parse().unwrap()]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].position, Some(Position { line: 1, column: 54 }));
    assert_eq!(problems[0].to_string(), "a/b.json:1:54: mappings[0].target: would forward to itself: :80 -> :80");
}

/// Mappings that can stand together: each has a port of its own.
fn profile() -> impl Strategy<Value = Profile> {
    let timeout = || proptest::option::of((1u64..400_000_000).prop_map(Duration::from_millis));
    let mapping = (
        proptest::option::of("[a-z][a-z0-9._-]{0,20}"),
        prop_oneof![Just("localhost"), Just("any"), Just("127.0.0.9"), Just("[::1]"), Just("[fe80::1%eth0]")],
        prop_oneof![Just("web_1"), Just("container/80"), Just("compose/a/b"), Just("host/x.y"), Just("[fd00::2]")],
        prop_oneof![Just(""), Just("/udp"), Just("/sctp")],
        any::<bool>(),
        (timeout(), timeout(), timeout(), proptest::option::of(1u32..)),
    );
    proptest::collection::vec(mapping, 0..12).prop_map(|mappings| {
        let configs = mappings.into_iter().enumerate().map(|(index, mapping)| {
            let (name, address, target, protocol, enabled, (connect, idle, half_close, most)) = mapping;
            let first = 1000 + 10 * index;
            let text = format!("{address}:{first}-{}:{target}:90-99{protocol}", first + 9);
            let default = MappingConfig::from_argument(&text).unwrap();
            MappingConfig {
                name: name.as_ref().map_or(default.name.clone(), |name| format!("{name}-{index}")),
                name_is_given: name.is_some(),
                enabled,
                connect_timeout: connect.unwrap_or(default.connect_timeout),
                idle_timeout: idle.or(default.idle_timeout),
                half_close_timeout: half_close.unwrap_or(default.half_close_timeout),
                max_connections: most.or(default.max_connections),
                ..default
            }
        });
        Profile::from_configs(configs.collect()).unwrap()
    })
}

/// Text that is near a profile: JSON of its words, sometimes cut or with a byte changed.
fn almost_profile() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("1".to_owned()),
        Just("-1e3".to_owned()),
        any::<u32>().prop_map(|number| number.to_string()),
        "[ -~]{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        prop_oneof![Just("8080"), Just("any:80-90"), Just("web:80"), Just("localhost:8080"), Just("5s"), Just("udp")]
            .prop_map(|text| format!("\"{text}\"")),
    ];
    let key = prop_oneof![
        8 => prop_oneof![
            Just("version"), Just("mappings"), Just("name"), Just("listen"), Just("target"), Just("protocol"),
            Just("enabled"), Just("idle_timeout"), Just("max_connections"), Just("identity"), Just("trusted_cidrs"),
        ].prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    let value = leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(|list| format!("[{}]", list.join(","))),
            proptest::collection::vec((key.clone(), inner), 0..6).prop_map(|fields| {
                let fields: Vec<String> = fields
                    .into_iter()
                    .map(|(key, value)| format!("{}:{value}", serde_json::to_string(&key).unwrap()))
                    .collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    });
    let whole = prop_oneof![
        value.clone(),
        value.prop_map(|value| format!("{{\"version\":1,\"mappings\":[{value},{value}]}}")),
    ];
    (whole, any::<Option<(u16, u8)>>(), any::<Option<u16>>()).prop_map(|(text, change, cut)| {
        let mut bytes = text.into_bytes();
        if let Some((at, byte)) = change
            && !bytes.is_empty()
        {
            let at = usize::from(at) % bytes.len();
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(usize::from(cut));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn what_is_written_reads_back_as_the_same(profile in profile()) {
        prop_assert_eq!(read(profile.to_text()), Ok(profile));
    }

    #[test]
    fn no_text_panics_and_every_refusal_has_words_and_a_place(bytes in prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        any::<String>().prop_map(String::into_bytes),
        almost_profile(),
    ]) {
        match read(&bytes) {
            Ok(profile) => prop_assert_eq!(read(profile.to_text()), Ok(profile)),
            Err(problems) => {
                prop_assert!(!problems.is_empty());
                let lines = bytes.split(|byte| *byte == b'\n').count();
                for problem in problems {
                    prop_assert!(!problem.problem.is_empty());
                    prop_assert!(!problem.to_string().chars().any(acts_on_a_terminal), "{}", problem);
                    if let Some(Position { line, column }) = problem.position {
                        prop_assert!(line >= 1 && column >= 1 && line as usize <= lines, "{}", problem);
                    }
                }
            }
        }
    }
}
