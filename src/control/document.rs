//! The `OpenAPI` document: what the routes and the types say, put as clients need it.
//!
//! The types are described for readers of this source. [`finished`] takes out what only those have a use for, such as
//! links to other items, and adds what no type says: how large an integer may be, and which answer leads to which
//! operation. The tests of the control socket hold every answer against it.

use std::collections::BTreeSet;

use aide::OperationOutput;
use aide::generate::GenContext;
use aide::openapi::{
    Info, MediaType, OpenApi, Operation, Response as Described, SchemaObject, Server, Tag as OpenApiTag,
};
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::json_schema;
use serde_json::{Map, Value, json};

const ABOUT: &str = "The control socket of a running engine, as its owner and root can use it. \
An unknown path is answered with 404, another method than those of a path with 405 and `Allow`, in the form of every \
other refusal.";

/// Which operations go together.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tag {
    Engine,
    Mappings,
    Connections,
    Containers,
    Profiles,
    Checks,
    Screens,
}

impl Tag {
    const ALL: [Self; 7] = [
        Self::Engine,
        Self::Mappings,
        Self::Connections,
        Self::Containers,
        Self::Profiles,
        Self::Checks,
        Self::Screens,
    ];

    pub(super) fn name(self) -> &'static str {
        self.texts().0
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Engine => ("engine", "The engine as a whole: its state, what happens in it, its counters, its end."),
            Self::Mappings => ("mappings", "What listens here and forwards there."),
            Self::Connections => ("connections", "Connections and UDP flows, with both legs."),
            Self::Containers => ("containers", "What Docker runs."),
            Self::Profiles => ("profiles", "Which mappings are kept, under which name."),
            Self::Checks => ("checks", "Questions that change nothing."),
            Self::Screens => ("screens", "For screens in other processes: requests and updates as they are."),
        }
    }
}

/// Where clients find what an operation wants: in the answer of which operation, for which, as which parameter.
const LINKS: [(&str, &str, &str, &str); 16] = [
    ("add_mapping", "get_mapping", "mapping", "/ids/0"),
    ("add_mapping", "edit_mapping", "mapping", "/ids/0"),
    ("add_mapping", "remove_mapping", "mapping", "/ids/0"),
    ("add_mapping", "start_mapping", "mapping", "/ids/0"),
    ("add_mapping", "stop_mapping", "mapping", "/ids/0"),
    ("add_mapping", "why", "mapping", "/ids/0"),
    ("add_mappings", "get_mapping", "mapping", "/ids/0"),
    ("list_mappings", "get_mapping", "mapping", "/mappings/0/name"),
    ("list_mappings", "edit_mapping", "mapping", "/mappings/0/name"),
    ("list_mappings", "stop_mapping", "mapping", "/mappings/0/name"),
    ("list_mappings", "start_mapping", "mapping", "/mappings/0/name"),
    ("list_mappings", "why", "mapping", "/mappings/0/name"),
    ("list_mappings", "list_connections", "mapping", "/mappings/0/name"),
    ("list_connections", "get_connection", "id", "/connections/0/connection/id"),
    ("list_connections", "kill_connection", "id", "/connections/0/connection/id"),
    ("list_containers", "list_listeners", "container", "/containers/0/id"),
];

/// A document of no operation yet.
pub(super) fn empty() -> OpenApi {
    let tag = |tag: Tag| {
        let (name, description) = tag.texts();
        OpenApiTag { name: name.into(), description: Some(description.into()), ..OpenApiTag::default() }
    };
    OpenApi {
        info: Info {
            title: "portolan".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: Some(ABOUT.into()),
            ..Info::default()
        },
        servers: vec![Server { url: "http://portolan".into(), ..Server::default() }],
        tags: Tag::ALL.map(tag).into(),
        ..OpenApi::default()
    }
}

/// The document as clients get it.
pub(super) fn finished(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).expect("a document is JSON");
    each_object(&mut document, &mut |object| {
        say_plainly(object);
        bound(object);
    });
    for operation in operations(&mut document) {
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        parameters.into_iter().flatten().for_each(|parameter| never_null(&mut parameter["schema"]));
        link(operation);
    }
    drop_unused(&mut document);
    document
}

fn each_object(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            change(object);
            object.values_mut().for_each(|value| each_object(value, change));
        }
        Value::Array(values) => values.iter_mut().for_each(|value| each_object(value, change)),
        _ => {}
    }
}

fn operations(document: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(|paths| paths.values_mut());
    paths.filter_map(Value::as_object_mut).flat_map(|path| path.values_mut()).filter_map(Value::as_object_mut)
}

fn say_plainly(object: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = object.get_mut("description") {
        *text = plain(text);
    }
}

/// A doc comment without what is for readers of the source: links, the names of modules and of our papers, and `None`.
fn plain(comment: &str) -> String {
    let comment = comment.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text = String::with_capacity(comment.len());
    let mut rest = comment.as_str();
    while let Some((before, after)) = rest.split_once("[`") {
        let Some((item, after)) = after.split_once("`]") else { break };
        let name = item.trim_start_matches(|c: char| c.is_lowercase() || c == '_' || c == ':');
        text.extend([before, "`", if name.is_empty() { item } else { name }, "`"]);
        rest = after;
    }
    text.push_str(rest);
    while let Some(start) = text.find(" (contract §") {
        let Some(length) = text[start..].find(')') else { break };
        text.replace_range(start..=start + length, "");
    }
    text.replace("`None`", "null")
}

/// A format says to people how large an integer may be; to programs, only a maximum does.
fn bound(object: &mut Map<String, Value>) {
    let most = match object.get("format").and_then(Value::as_str) {
        Some("uint" | "uint64") => u64::MAX,
        Some("uint32") => u32::MAX.into(),
        _ => return,
    };
    object.entry("maximum").or_insert_with(|| most.into());
}

/// A parameter is there or it is not: there is no way to write null.
fn never_null(schema: &mut Value) {
    let Some(types) = schema.get_mut("type") else { return };
    if let Some(only) = types.as_array().and_then(|types| types.iter().find(|one| *one != "null")).cloned() {
        *types = only;
    }
}

fn link(operation: &mut Map<String, Value>) {
    let id = operation.get("operationId").cloned().unwrap_or_default();
    let Some(answer) = operation.get_mut("responses").and_then(|responses| responses.get_mut("200")) else { return };
    for (_, to, parameter, place) in LINKS.iter().filter(|(from, ..)| id == *from) {
        let found = format!("$response.body#{place}");
        answer["links"][to] = json!({ "operationId": to, "parameters": { *parameter: found } });
    }
}

/// Leaves the schemas that something refers to.
fn drop_unused(document: &mut Value) {
    let mut used = BTreeSet::new();
    let mut unseen = vec![document["paths"].clone()];
    while let Some(mut value) = unseen.pop() {
        each_object(&mut value, &mut |object| {
            let name = object.get("$ref").and_then(Value::as_str).and_then(|to| to.rsplit('/').next());
            if let Some(name) = name.filter(|name| !used.contains(*name)) {
                used.insert(name.to_owned());
                unseen.push(document["components"]["schemas"][name].clone());
            }
        });
    }
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        schemas.retain(|name, _| used.contains(name));
    }
}

/// The finished document as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Document(Bytes);

impl Document {
    pub(super) fn new(document: &Value) -> Self {
        Self(document.to_string().into())
    }
}

impl IntoResponse for Document {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/json")], self.0).into_response()
    }
}

impl OperationOutput for Document {
    type Inner = Self;

    fn operation_response(_: &mut GenContext, _: &mut Operation) -> Option<Described> {
        Some(described("An OpenAPI 3.1 document.", "application/json", json_schema!({ "type": "object" })))
    }

    fn inferred_responses(ctx: &mut GenContext, operation: &mut Operation) -> Vec<(Option<u16>, Described)> {
        Self::operation_response(ctx, operation).map(|described| (Some(200), described)).into_iter().collect()
    }
}

/// An answer that is of no type of ours.
pub(super) fn described(description: &str, media_type: &str, json_schema: schemars::Schema) -> Described {
    let schema = Some(SchemaObject { json_schema, example: None, external_docs: None });
    Described {
        description: description.into(),
        content: [(media_type.to_owned(), MediaType { schema, ..MediaType::default() })].into(),
        ..Described::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::openapi;

    #[test]
    fn comments_become_descriptions() {
        for (comment, description) in [
            (
                "Answer: [`Reply::Done`], with\n its id ([`super::event::CloseReason::is_fine`]).",
                "Answer: `Reply::Done`, with its id (`CloseReason::is_fine`).",
            ),
            ("State (contract §3); `None` before the first.", "State; null before the first."),
            ("[`Left open", "[`Left open"),
            ("mappings[3].listen", "mappings[3].listen"),
        ] {
            assert_eq!(plain(comment), description);
        }
    }

    #[test]
    fn the_document_speaks_to_clients() {
        let mut document = openapi();
        each_object(&mut document, &mut |object| {
            let Some(Value::String(text)) = object.get("description") else { return };
            for alien in ["[`", "contract §", "`None`", "super::", "\n"] {
                assert!(!text.contains(alien), "{text}");
            }
        });
        let schemas = document["components"]["schemas"].as_object().expect("there are some").clone();
        assert!(schemas.contains_key("WrittenMapping") && !schemas.contains_key("MappingPath"), "{:?}", schemas.keys());
        let tags: Vec<Value> = Tag::ALL.map(|tag| json!([tag.name()])).into();
        for operation in operations(&mut document) {
            assert!(operation["summary"].is_string() && tags.contains(&operation["tags"]), "{operation:?}");
            for parameter in operation.get("parameters").and_then(Value::as_array).into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{parameter}");
                assert!(parameter["schema"]["type"].is_string(), "{parameter}");
            }
        }
    }

    #[test]
    fn every_link_leads_somewhere() {
        let mut document = openapi();
        let known: Vec<Value> = operations(&mut document).map(|operation| operation["operationId"].clone()).collect();
        let ends = LINKS.iter().flat_map(|(from, to, ..)| [from, to]);
        ends.for_each(|id| assert!(known.contains(&json!(id)), "{id}"));
        let links =
            operations(&mut document).filter_map(|operation| operation["responses"]["200"]["links"].as_object());
        assert_eq!(links.map(Map::len).sum::<usize>(), LINKS.len());
    }
}
