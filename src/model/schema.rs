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

/// Whether the field must stand there: one of the profile itself (`parent` is empty), or of a mapping.
pub(super) fn is_required(parent: &str, field: &str) -> bool {
    let of = if parent.is_empty() { borrowed() } else { resolve(&borrowed()["properties"]["mappings"]["items"]) };
    of["required"].as_array().is_some_and(|required| required.iter().any(|name| name == field))
}

/// Follows a `$ref` inside the schema.
pub(super) fn resolve(schema: &'static Value) -> &'static Value {
    match schema.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix('#')) {
        Some(pointer) => SCHEMA.pointer(pointer).expect("schemars refers to what it defined"),
        None => schema,
    }
}
