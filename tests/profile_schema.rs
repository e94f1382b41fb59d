//! The JSON Schema says what the reader does, as far as a schema can.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use portolan::model::duration::parse_timeout;
use portolan::model::mapping::{Listen, Target};
use portolan::model::profile_read::read_profile;
use portolan::model::schema::schema;
use serde_json::{Value, json};

fn validator() -> Validator {
    jsonschema::draft202012::new(&schema()).unwrap()
}

fn asset(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// `UPDATE_EXPECTED=1` writes it anew.
#[test]
fn the_schema_in_assets_is_that_of_the_types() {
    let path = asset("assets/profile.schema.json");
    let made = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        fs::write(&path, &made).unwrap();
    }
    assert!(fs::read_to_string(&path).unwrap() == made, "run: cargo run -- schema > assets/profile.schema.json");
}

#[test]
fn the_schema_is_a_valid_one() {
    jsonschema::meta::validate(&schema()).unwrap();
}

#[test]
fn every_example_profile_is_accepted_by_the_schema_and_by_the_reader() {
    let validator = validator();
    let mut count = 0;
    for entry in fs::read_dir(asset("assets/profiles")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let value: Value = serde_json::from_slice(&bytes).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap();
        let profile = read_profile(&bytes, &name.into(), &[]).unwrap();
        assert!(!profile.mappings.is_empty());
        // What the program writes is accepted too.
        let written: Value = serde_json::from_str(&profile.to_text()).unwrap();
        assert!(validator.is_valid(&written), "{written}");
        count += 1;
    }
    assert!(count >= 5, "only {count} examples");
}

/// Problems that only the reader sees: they lie between mappings, or in how the file is written.
const BEYOND_A_SCHEMA: &[&str] = &[
    "cycle",
    "cycle-of-one",
    "duplicate-key",
    "duplicate-version",
    // To a schema this is the integer 1000.
    "max-connections-1e3",
    "names-twice",
    "network-of-no-container",
    "overlapping-listeners",
    "same-listener-twice",
];

#[test]
fn bad_files_that_are_json_are_refused_by_the_schema_too() {
    let validator = validator();
    let mut count = 0;
    for entry in fs::read_dir(asset("tests/fixtures/profiles/bad")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        if path.extension().is_none_or(|extension| extension != "json") || BEYOND_A_SCHEMA.contains(&name) {
            continue;
        }
        // What is not JSON is nothing that a schema could judge.
        let Ok(value) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap()) else { continue };
        assert!(!validator.is_valid(&value), "{name} is accepted");
        count += 1;
    }
    assert!(count >= 30, "only {count} files");
}

fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut mapping = json!({ "listen": "8080", "target": "web:80" });
    mapping[field] = value.into();
    json!({ "version": 1, "mappings": [mapping] })
}

#[test]
fn the_patterns_follow_the_grammar() {
    let validator = validator();
    for good in [
        "8080",
        "1",
        "65535",
        "auto",
        "any:8080",
        "*:80",
        "localhost:80-90",
        "127.0.0.1:auto",
        "[::1]:80",
        "[::]:80",
        "[2001:db8::2]:80",
        "[fe80::1%eth0]:80",
        "0.0.0.0:1-65535",
    ] {
        good.parse::<Listen>().unwrap();
        assert!(validator.is_valid(&with("listen", good)), "{good}");
    }
    for bad in [
        "",
        "0",
        "70000",
        "65536",
        "080",
        "80-",
        "-80",
        "any",
        "any:",
        ":80",
        "80:web:80",
        "53/udp",
        "::1:80",
        "256.1.1.1:80",
        "010.0.0.1:80",
        "[::1]",
        "web:80",
        " 80",
        "80 ",
        "8080\n",
        "[::1%a b]:80",
        "８０",
    ] {
        bad.parse::<Listen>().unwrap_err();
        assert!(!validator.is_valid(&with("listen", bad)), "{bad}");
    }
    for good in [
        "web:80",
        "web_1:80-90",
        "container/8080:80",
        "compose/shop/web:80",
        "host/db.internal:5432",
        "172.17.0.2:80",
        "[fd00::2]:80",
        "localhost:1",
        "3f4e9a12:80",
        "1.web:80",
        "2-a:80",
    ] {
        good.parse::<Target>().unwrap();
        assert!(validator.is_valid(&with("target", good)), "{good}");
    }
    for bad in [
        "",
        "80",
        "web",
        "web:",
        "web:0",
        "web:auto",
        "web:80/udp",
        "8080:80",
        "256.1.1.1:80",
        "1.2:80",
        "a/b:80",
        "compose/shop:80",
        "host/:80",
        "_web:80",
        "fd00::2:80",
        "w b:80",
    ] {
        bad.parse::<Target>().unwrap_err();
        assert!(!validator.is_valid(&with("target", bad)), "{bad}");
    }
}

#[test]
fn the_pattern_of_durations_follows_their_reader() {
    let validator = validator();
    for good in ["5s", "200ms", "1h30m", "1h2m3s4ms", "1.5s", "1h0.5m", "2m1.5s", "1h1.0ms"] {
        parse_timeout("", good).unwrap();
        assert!(validator.is_valid(&with("idle_timeout", good)), "{good}");
    }
    for bad in ["", "5", "s", "5s1h", "1s1s", "1.5h30m", "1m1ms1s", "5d", " 5s", "5s ", ".5s", "5.s", "-1s"] {
        parse_timeout("", bad).unwrap_err();
        assert!(!validator.is_valid(&with("idle_timeout", bad)), "{bad}");
    }
}

#[test]
fn types_and_limits_are_in_the_schema() {
    let validator = validator();
    for (field, good) in [
        ("name", json!("web-1")),
        ("protocol", json!("sctp")),
        ("enabled", json!(false)),
        ("connect_timeout", json!("1.5s")),
        ("idle_timeout", json!("1h30m")),
        ("max_connections", json!(1)),
        ("identity", json!("proxy-v2")),
        ("identity", json!("alias")),
        ("alias_pool", json!("198.18.0.0/15")),
        ("accept_proxy", json!(true)),
        ("trusted_cidrs", json!(["10.0.0.0/8", "fd00::/8"])),
        ("inspect", json!("http")),
    ] {
        assert!(validator.is_valid(&with(field, good.clone())), "{field}: {good}");
        assert!(!validator.is_valid(&with(field, Value::Null)), "{field}: null");
    }
    for (field, bad) in [
        ("name", json!("a/b")),
        ("name", json!("..")),
        ("name", json!("n".repeat(65))),
        ("protocol", json!("icmp")),
        ("protocol", json!("TCP")),
        ("enabled", json!("yes")),
        ("connect_timeout", json!("5")),
        ("connect_timeout", json!("5 parsecs")),
        ("half_close_timeout", json!("-1s")),
        ("max_connections", json!(0)),
        ("max_connections", json!(80.5)),
        ("tarket", json!("web:80")),
        ("identity", json!("proxy-v3")),
        ("identity", json!(true)),
        ("alias_pool", json!("198.18.0.0")),
        ("accept_proxy", json!("yes")),
        ("trusted_cidrs", json!([])),
        ("trusted_cidrs", json!("10.0.0.0/8")),
        ("trusted_cidrs", json!([10])),
        ("inspect", json!("tls")),
        ("probe", json!("10s")),
    ] {
        assert!(!validator.is_valid(&with(field, bad.clone())), "{field}: {bad}");
    }
    assert!(validator.is_valid(&json!({ "version": 1 })));
    for bad in [json!({}), json!([]), json!({ "version": 2 }), json!({ "version": 1, "mappings": null })] {
        assert!(!validator.is_valid(&bad), "{bad}");
    }
}
