//! JSON Schemas of the types that are one string in JSON: derived ones would describe their insides.
//!
//! A schema holds for what is written and refuses nothing that is read; where the two differ, the generator says
//! which of them it describes.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::mapping::{Listen, Mapping, Target};
use super::pattern;
use super::untrusted::{MAX_CHARS, SafeText};

macro_rules! text_schema {
    ($name:ident, $description:literal, $pattern:expr, $example:literal) => {
        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": $description,
                    "pattern": $pattern,
                    "examples": [$example],
                })
            }
        }
    };
}

text_schema!(
    Mapping,
    "Listen here, forward there: `[ADDRESS:]PORT[-PORT]:TARGET:PORT[-PORT][/tcp|/udp|/sctp]`.",
    pattern::MAPPING,
    "any:8080:web_1:80"
);
text_schema!(Listen, "The host's side of a mapping: `[ADDRESS:]PORT[-PORT]`.", pattern::LISTEN, "any:8080");
text_schema!(Target, "The container's side of a mapping: `TARGET:PORT[-PORT]`.", pattern::TARGET, "web_1:80");

/// What is read may be longer: it is cut.
impl JsonSchema for SafeText {
    fn schema_name() -> Cow<'static, str> {
        "SafeText".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({
            "type": "string",
            "description": format!(
                "One line of text without a control, bidi or invisible character, {MAX_CHARS} characters at most. \
                 Text that is sent is made so: what would act is escaped as `\\u{{1b}}`, what is too long is cut."
            ),
        });
        if generator.contract().is_serialize() {
            schema.insert("maxLength".to_owned(), MAX_CHARS.into());
        }
        schema
    }
}
