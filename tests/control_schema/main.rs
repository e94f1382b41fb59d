//! The control socket against its own `OpenAPI` document: what it answers is what the document says, to whatever is
//! asked, sensible or not. schemathesis asks; what would end the engine or would not end is asked here.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/docker_fake.rs"]
mod docker_fake;
mod document;
mod figures;
mod world;

use std::collections::BTreeSet;

use common::soak::amount;
use common::{Need, require};
use document::Document;
use figures::Figures;
use serde_json::{Value, json};
use world::World;

const NEEDS: [Need; 2] = [Need::Namespaces, Need::Curl];

/// What schemathesis does not ask, since the engine would end, the answer would not, or it has asked it already.
const NOT_ASKED: [&str; 4] = ["POST /v1/shutdown", "GET /v1/events", "POST /v1/updates", "GET /openapi.json"];

#[test]
fn schemathesis_gets_no_answer_that_is_not_in_the_document() {
    if !require(&[&NEEDS[..], &[Need::PythonPackages]].concat()) {
        return;
    }
    let world = World::start();
    let document = Document::of(&world.control);
    let pid = world.control.get("/v1/engine")["pid"].clone();
    let seconds = amount(45, 600).to_string();
    let mut figures = Figures::default();
    // What stands at the edges of the schemas, all of it; then what is made up by chance and in a row, for a time.
    for arguments in [&["--phases", "examples,coverage"][..], &["--phases", "fuzzing,stateful", "--max-time", &seconds]]
    {
        let ended = world.schemathesis(arguments);
        assert!(ended.status.success(), "schemathesis has found something:\n{}", ended.text);
        figures.add(&ended.report);
    }
    println!("{figures}");
    let asked = document.operations().into_iter().filter(|operation| !NOT_ASKED.contains(&operation.as_str()));
    // An alias is there once a client has come through a mapping that gives one, which `scenario_identity_alias` asks for.
    let asked = asked.filter(|operation| operation != "GET /v1/aliases/{address}");
    let without_success: Vec<String> = asked.filter(|operation| figures.successes(operation) == 0).collect();
    assert!(without_success.is_empty(), "never carried out: {without_success:?}");
    assert!(figures.cases() > 1_000, "{} cases", figures.cases());
    assert_eq!(world.control.get("/v1/engine")["pid"], pid, "it is the same engine");
    let (errors, log) = world.end();
    for text in [errors, log] {
        assert!(!text.contains("panicked") && !text.contains("defect"), "{text}");
    }
}

#[test]
fn every_line_of_a_stream_is_what_the_document_says() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::start();
    let document = Document::of(&world.control);
    let interest = json!({
        "mappings": true, "connections": true, "containers": true, "events": true, "processes": true,
        "published": true, "sample_ms": 20,
    });
    let events = ["listening", "mapping_state", "opened", "traffic", "closed", "removed"];
    let updates = ["overview", "mappings", "connections", "containers", "events", "mappings_removed"];
    for (operation, path, body, wanted) in [
        ("GET /v1/events", "/v1/events?interval=20ms", None, events),
        ("POST /v1/updates", "/v1/updates", Some(&interest), updates),
    ] {
        let line = document.answer(operation, 200);
        let (_stream, mut lines) = world.control.lines(path, body);
        let mut told = BTreeSet::new();
        let mut count = 0;
        while !wanted.iter().all(|kind| told.contains(*kind)) {
            // Each of these happens once in a turn, and some of it may be over before it is told. A turn makes a line or more,
            // so one for each line goes on until all is told.
            world.change_everything();
            let value = lines.next().unwrap_or_else(|| panic!("{operation} has ended, and told only of {told:?}"));
            line.check(&value);
            count += 1;
            told.extend(value["event"].as_str().map(str::to_owned));
            let members = value.as_object().expect("a line is an object").iter();
            let filled = members.filter(|(_, member)| match member {
                Value::Array(list) => !list.is_empty(),
                Value::Object(_) => true,
                _ => false,
            });
            told.extend(filled.map(|(name, _)| name.clone()));
        }
        println!("{operation}: {count} lines, of {told:?}");
    }
}

#[test]
fn the_end_is_answered_as_documented() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::start();
    let document = Document::of(&world.control);
    let refused = world.control.ask("POST", "/v1/shutdown?drain_ms=soon", None);
    assert_eq!(refused.status, 400, "{refused:?}");
    document.answer("POST /v1/shutdown", 400).check(&refused.json());
    let answer = world.control.ask("POST", "/v1/shutdown?drain_ms=0", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    document.answer("POST /v1/shutdown", 200).check(&answer.json());
    world.ended();
}

#[test]
fn what_no_operation_answers_is_refused_in_the_same_form() {
    if !require(&NEEDS) {
        return;
    }
    let world = World::start();
    let document = Document::of(&world.control);
    let refused = document.answer("POST /v1/mappings", 413);
    let long = json!("x".repeat(1 << 20));
    for (status, method, path, body) in [
        (404, "GET", "/", None),
        (404, "GET", "/v1/mapping", None),
        (405, "PATCH", "/v1/mappings", None),
        (413, "POST", "/v1/validate", Some(&long)),
        (413, "POST", "/nowhere", Some(&long)),
    ] {
        let answer = world.control.ask(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.content_type, "application/json");
        refused.check(&answer.json());
    }
}
