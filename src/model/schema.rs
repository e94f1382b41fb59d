//! The JSON Schema of a profile, made from the types that read it, so the two cannot drift apart.

use std::sync::LazyLock;

use serde_json::Value;

use super::profile::WrittenProfile;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| schemars::schema_for!(WrittenProfile).to_value());

/// The schema of a profile file (`portolan schema`).
pub fn schema() -> Value {
    SCHEMA.clone()
}

/// As [`schema`], for readers.
pub(super) fn borrowed() -> &'static Value {
    &SCHEMA
}

/// Follows a `$ref` inside the schema.
pub(super) fn resolve(schema: &'static Value) -> &'static Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#')) {
        Some(pointer) => SCHEMA.pointer(pointer).expect("schemars refers to what it defined"),
        None => schema,
    }
}
