//! The document that the control socket gives of itself.

use jsonschema::Validator;
use serde_json::{Value, json};

use super::common::control::Control;

/// `/openapi.json`.
pub(crate) struct Document(Value);

/// What an answer has to be.
pub(crate) struct Answer {
    name: String,
    validator: Validator,
}

impl Document {
    pub(crate) fn of(control: &Control) -> Self {
        Self(control.get("/openapi.json"))
    }

    /// Every operation, such as `GET /v1/mappings`.
    pub(crate) fn operations(&self) -> Vec<String> {
        let paths = self.0["paths"].as_object().expect("there are paths");
        let methods = paths.iter().flat_map(|(path, methods)| {
            methods
                .as_object()
                .expect("of methods")
                .keys()
                .map(move |method| format!("{} {path}", method.to_uppercase()))
        });
        methods.collect()
    }

    /// What is said of the answer of an operation with a status.
    #[track_caller]
    pub(crate) fn answer(&self, operation: &str, status: u16) -> Answer {
        let name = format!("{operation}: {status}");
        let (method, path) = operation.split_once(' ').expect("METHOD PATH");
        let content = &self.0["paths"][path][method.to_lowercase()]["responses"][status.to_string()]["content"];
        let (_, content) = content.as_object().and_then(|content| content.iter().next()).expect(&name);
        let mut schema = content["schema"].clone();
        schema["components"] = json!({ "schemas": self.0["components"]["schemas"] });
        let validator = jsonschema::draft202012::new(&schema).expect("it is a schema");
        Answer { name, validator }
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn check(&self, value: &Value) {
        let errors: Vec<String> = self.validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}: {value}", self.name);
    }
}
