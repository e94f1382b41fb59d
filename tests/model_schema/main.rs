//! What crosses the service's line is described by schemas, out of the same types: they hold for whatever serde writes
//! and, as far as a schema can tell, refuse what serde refuses and nothing else.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod samples;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use jsonschema::Validator;
use portolan::model::event::Event;
use portolan::model::request::{Call, Reply, Request, RequestError};
use portolan::model::update::{Interest, Update};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The schema of what is read and of what is written, and the former in the older dialect that aide asks for.
fn schemas<T: JsonSchema>() -> [(&'static str, Value); 3] {
    let of = |settings: SchemaSettings| settings.into_generator().into_root_schema_for::<T>().to_value();
    [
        ("read", of(SchemaSettings::draft2020_12())),
        ("read, draft 7", of(SchemaSettings::draft07())),
        ("written", of(SchemaSettings::draft2020_12().for_serialize())),
    ]
}

fn read<T: JsonSchema>() -> Validator {
    let [(_, schema), ..] = schemas::<T>();
    jsonschema::validator_for(&schema).unwrap()
}

/// Every sample as serde writes it is what each schema says.
fn assert_described<T: JsonSchema + Serialize + DeserializeOwned + PartialEq + Debug>(samples: &[T]) {
    for (which, schema) in schemas::<T>() {
        jsonschema::meta::validate(&schema).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        for sample in samples {
            let sent = serde_json::to_value(sample).unwrap();
            assert_eq!(&T::deserialize(&sent).unwrap(), sample);
            let errors: Vec<String> = validator.iter_errors(&sent).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{which}: {errors:?}: {sent}");
        }
    }
}

/// The values of `tag` in the samples are all that the schema knows.
fn assert_every_variant<T: JsonSchema + Serialize>(tag: &str, samples: &[T]) {
    let [(_, schema), ..] = schemas::<T>();
    let known: BTreeSet<&str> = schema["oneOf"]
        .as_array()
        .unwrap()
        .iter()
        .map(|variant| variant["properties"][tag]["const"].as_str().unwrap())
        .collect();
    let sent: Vec<Value> = samples.iter().map(|sample| serde_json::to_value(sample).unwrap()).collect();
    let shown: BTreeSet<&str> = sent.iter().map(|sample| sample[tag].as_str().unwrap()).collect();
    assert_eq!(shown, known);
}

/// Every value that differs from `value` in one place: a member left out, null, or a value of a kind that fits nowhere.
fn spoilt(value: &Value) -> Vec<(String, Value)> {
    let mut found = vec![(String::new(), json!([[]])), (String::new(), Value::Null)];
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, member)| (name.clone(), member)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        _ => Vec::new(),
    };
    for (at, member) in inner {
        if value.is_object() {
            let mut without = value.clone();
            without.as_object_mut().unwrap().remove(&at);
            found.push((format!("/{at} left out"), without));
        }
        for (place, other) in spoilt(member) {
            let mut with = value.clone();
            *with.pointer_mut(&format!("/{at}")).unwrap() = other;
            found.push((format!("/{at}{place}"), with));
        }
    }
    found
}

/// Serde and the schema of what is read are of one mind about every spoilt sample.
fn assert_of_one_mind<T: JsonSchema + Serialize + DeserializeOwned>(samples: &[T]) {
    let validator = read::<T>();
    let (mut refused, mut accepted) = (0, 0);
    for sample in samples {
        let sent = serde_json::to_value(sample).unwrap();
        for (place, value) in spoilt(&sent) {
            let is_read = T::deserialize(&value).is_ok();
            assert_eq!(validator.is_valid(&value), is_read, "{place}: {value}");
            *if is_read { &mut accepted } else { &mut refused } += 1;
        }
    }
    assert!(refused > 10, "{refused} refused, {accepted} accepted");
}

fn assert_all<T: JsonSchema + Serialize + DeserializeOwned + PartialEq + Debug>(samples: &[T]) {
    assert_described(samples);
    assert_of_one_mind(samples);
}

#[test]
fn requests_are_described() {
    assert_all(&samples::requests());
    assert_every_variant("request", &samples::requests());
    let calls: Vec<Call> = samples::requests()
        .into_iter()
        .map(|request| Call { expected: Some(portolan::model::id::Revision(7)), request })
        .collect();
    assert_all(&calls);
}

#[test]
fn replies_are_described() {
    assert_all(&samples::replies());
    assert_every_variant("reply", &samples::replies());
}

#[test]
fn refusals_are_described() {
    assert_all(&samples::refusals());
    assert_every_variant("error", &samples::refusals());
}

#[test]
fn updates_are_described() {
    assert_all(&[samples::update()]);
    assert_described(&[Update::default()]);
    assert_all(&[Interest::default()]);
}

#[test]
fn events_are_described() {
    assert_all(&samples::events());
    assert_every_variant("event", &samples::events());
}

#[test]
fn a_name_in_the_schemas_is_that_of_one_type() {
    let mut generator = SchemaSettings::draft07().into_generator();
    generator.subschema_for::<Call>();
    generator.subschema_for::<Reply>();
    generator.subschema_for::<RequestError>();
    generator.subschema_for::<Interest>();
    generator.subschema_for::<Update>();
    generator.subschema_for::<Event>();
    let names: Vec<&String> = generator.definitions().keys().collect();
    assert!(names.len() > 40, "{names:?}");
    // A second type of a name gets a number after it.
    let numbered: Vec<_> = names.iter().filter(|name| name.ends_with(|c: char| c.is_ascii_digit())).collect();
    assert!(numbered.is_empty(), "{numbered:?}");
}

/// Text is cut to its length when it is read, so what is longer is no mistake of the sender.
#[test]
fn a_long_text_is_read_and_never_written() {
    let long = json!({ "request": "inside", "container": "a".repeat(300) });
    assert!(Request::deserialize(&long).is_ok());
    let [(_, read), _, (_, written)] = schemas::<Request>();
    assert!(jsonschema::is_valid(&read, &long));
    assert!(!jsonschema::is_valid(&written, &long));
}

/// What the fuzz targets have found of calls and answers: none that is read is refused by its schema.
#[test]
fn nothing_that_is_read_is_refused() {
    fn one<T: JsonSchema + DeserializeOwned>(texts: &[Vec<u8>]) -> usize {
        let validator = read::<T>();
        let read: Vec<Value> = texts
            .iter()
            .filter_map(|text| serde_json::from_slice::<Value>(text).ok())
            .filter(|value| T::deserialize(value).is_ok())
            .collect();
        for value in &read {
            if let Some(error) = validator.iter_errors(value).next() {
                panic!("{error}: {value}");
            }
        }
        read.len()
    }
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/calls");
    let texts: Vec<Vec<u8>> =
        fs::read_dir(corpus).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
    let count = one::<Call>(&texts)
        + one::<Reply>(&texts)
        + one::<Update>(&texts)
        + one::<Interest>(&texts)
        + one::<RequestError>(&texts)
        + one::<Event>(&texts);
    assert!(count >= 5, "only {count} of the corpus are read");
}
