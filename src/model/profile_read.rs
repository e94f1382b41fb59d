//! The text of a profile -> a usable one, or every problem with its place.
//!
//! Which fields there are, their types and limits come out of the schema, which is made from the serde types;
//! this file holds no second list. What a field's text means is judged by [`super::config`], what mappings do
//! to each other by [`super::assemble`]. A mapping with one bad field still has its others judged.

use std::collections::HashMap;
use std::net::IpAddr;

use jsonc_parser::ast::{Array, Object, Value};
use jsonc_parser::common::Ranged;

use super::assemble::{Origin, Usable, find_problems, name_the_nameless};
use super::config::convert;
use super::count::count;
use super::problem::{Position, Problem};
use super::profile::{MAX_MAPPINGS, MappingConfig, Problems, Profile, VERSION};
use super::schema;
use super::syntax::{self, Document, found};
use super::untrusted::SafeText;

pub use super::syntax::{MAX_BYTES, check_size};

/// Problems listed one by one; of more, their number is said.
const MAX_PROBLEMS: usize = 1000;

/// Problems of unknown and repeated fields that are put into words. More are counted alone: a file may have a million.
const MAX_WORDED: usize = 10 * MAX_PROBLEMS;

/// Fields that later releases bring: refused, since a mapping without what they ask for is another mapping.
const LATER: &[&str] = &["probe"];

/// Farthest that a misspelt field may be from the one it is taken for, in edits.
const NEAR: usize = 2;

/// Reads a profile. `file` is its name as the user knows it, for the problems; `own_addresses` are this host's,
/// as far as they are known, for mappings that would forward to themselves.
pub fn read_profile(bytes: &[u8], file: &SafeText, own_addresses: &[IpAddr]) -> Result<Profile, Problems> {
    let name = file.as_str().rsplit('/').next().unwrap_or_default();
    let read =
        Document::parse(bytes, &format!("{name}.bak")).map_err(|problem| (vec![problem], 0)).and_then(|document| {
            let mut reader = Reader { document: &document, problems: Vec::new(), unworded: 0 };
            reader.read(own_addresses).ok_or((reader.problems, reader.unworded))
        });
    read.map_err(|(mut problems, unworded)| {
        problems.sort_by_key(|problem| problem.position);
        if problems.len() > MAX_PROBLEMS {
            let more = problems.len() - MAX_PROBLEMS + unworded;
            problems.truncate(MAX_PROBLEMS);
            problems.push(Problem::new("", format!("and {}", count(more as u64, "more problem"))));
        }
        for problem in &mut problems {
            problem.file = Some(file.clone());
        }
        problems
    })
}

struct Reader<'a> {
    document: &'a Document<'a>,
    problems: Problems,
    /// Problems beyond [`MAX_WORDED`].
    unworded: usize,
}

/// The fields of one object.
struct Fields<'a> {
    /// Known ones, each once, with their schema.
    known: Vec<(&'static str, &'a Value<'a>, &'static serde_json::Value)>,
    /// Known ones that are missing though required, or stand there twice.
    broken: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// The profile, or `None` where there are problems.
    fn read(&mut self, own: &[IpAddr]) -> Option<Profile> {
        let root = &self.document.root;
        let Value::Object(object) = root else {
            let text =
                format!("expected an object such as {{\"version\": 1, \"mappings\": []}}, found {}", found(root));
            self.report(root.range().start, Problem::new("", text));
            return None;
        };
        if let Some(newer) = self.newer_version(object) {
            self.problems = vec![newer];
            return None;
        }
        let fields = self.fields(object, schema::borrowed(), "");
        let (mut origins, mut usable, mut configs) = (Vec::new(), Vec::new(), Vec::new());
        for (field, value, schema) in fields.known {
            match value {
                Value::Array(list) if schema["type"] == "array" => {
                    if list.elements.len() > MAX_MAPPINGS {
                        let (count, over) = (list.elements.len(), list.elements.len() - MAX_MAPPINGS);
                        let text = format!("{count} mappings are {over} over the limit of {MAX_MAPPINGS}");
                        self.report(list.range.start, Problem::new(field, text));
                        continue;
                    }
                    let schema = schema::resolve(&schema["items"]);
                    for (index, element) in list.elements.iter().enumerate() {
                        let (config, what) = self.mapping(element, schema, &format!("{field}[{index}]"));
                        origins.push(Origin::Profile(index));
                        usable.push(what);
                        configs.extend(config);
                    }
                }
                _ => {
                    self.scalar(value, schema, "", field);
                }
            }
        }
        for problem in find_problems(&origins, &usable, own) {
            self.report_at_path(problem);
        }
        name_the_nameless(&mut configs);
        self.problems.is_empty().then_some(Profile { mappings: configs })
    }

    /// A file of a later format is not judged by the rules of this one.
    fn newer_version(&self, root: &Object<'_>) -> Option<Problem> {
        let number = root.get_number("version")?;
        let newer = !number.value.is_empty()
            && number.value.bytes().all(|byte| byte.is_ascii_digit())
            // What does not fit the type is larger still.
            && number.value.parse::<u32>().map_or(true, |version| version > VERSION);
        let version = SafeText::quoted(number.value);
        let text = format!("written by a newer release ({version}; this one reads up to {VERSION}): left as it is");
        let position = Some(self.document.position(number.range.start));
        newer.then(|| Problem { position, ..Problem::new("version", text) })
    }

    /// Sorts the fields of an object into known, unknown, repeated and missing.
    fn fields(&mut self, object: &'a Object<'a>, schema: &'static serde_json::Value, path: &str) -> Fields<'a> {
        let known_fields = schema["properties"].as_object().expect("the schema of a struct lists its fields");
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut fields = Fields { known: Vec::new(), broken: Vec::new() };
        for property in &object.properties {
            let (name, at) = (property.name.as_str(), property.range.start);
            let is_worded = self.problems.len() < MAX_WORDED;
            let here = || join(path, SafeText::quoted(name).as_str());
            if let Some(first) = seen.insert(name, at) {
                if let Some((known, _)) = known_fields.get_key_value(name)
                    && !fields.broken.contains(&known.as_str())
                {
                    fields.broken.push(known);
                }
                if !is_worded {
                    self.unworded += 1;
                    continue;
                }
                let (first, second) = (self.document.position(first), self.document.position(at));
                let text = format!("\"{}\" appears twice ({}, {})", SafeText::quoted(name), show(first), show(second));
                self.report(at, Problem::new(here(), text).with_hint("keep one of them"));
                continue;
            }
            match known_fields.get_key_value(name) {
                Some((known, schema)) => fields.known.push((known, &property.value, schema::resolve(schema))),
                None if !is_worded => self.unworded += 1,
                None => self.unknown(name, at, here(), known_fields, !path.is_empty()),
            }
        }
        for required in schema["required"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
            if !seen.contains_key(required) {
                let hint = match required {
                    "version" => format!("add \"version\": {VERSION}"),
                    other => format!("add \"{other}\": \"...\""),
                };
                let problem = Problem::new(path, format!("missing \"{required}\"")).with_hint(hint);
                self.report(object.range.start, problem);
                fields.broken.push(required);
            }
        }
        fields
    }

    fn unknown(
        &mut self,
        name: &str,
        at: usize,
        path: String,
        known: &'static serde_json::Map<String, serde_json::Value>,
        in_mapping: bool,
    ) {
        let quoted = SafeText::quoted(name);
        if in_mapping && LATER.contains(&name) {
            let problem = Problem::new(path.as_str(), format!("this release does not have \"{quoted}\" yet"));
            self.report(at, problem.with_hint("remove the field: nothing is silently ignored"));
            return;
        }
        let near = known
            .keys()
            // What is so much longer is no misspelling of it, and may be longer than anybody's patience.
            .filter(|field| name.chars().nth(field.len() + NEAR).is_none())
            .map(|field| (strsim::damerau_levenshtein(name, field), field))
            .min()
            .filter(|(edits, field)| *edits <= NEAR && *edits < field.len());
        let problem = if let Some((_, field)) = near {
            Problem::new(path, format!("unknown field \"{quoted}\": did you mean \"{field}\"?"))
        } else {
            let all: Vec<&str> = known.keys().map(String::as_str).collect();
            Problem::new(path, format!("unknown field \"{quoted}\"")).with_hint(format!("known: {}", all.join(", ")))
        };
        self.report(at, problem);
    }

    /// The mapping, if nothing is wrong with it, and in any case what can be used of it.
    fn mapping(
        &mut self,
        element: &'a Value<'a>,
        schema: &'static serde_json::Value,
        path: &str,
    ) -> (Option<MappingConfig>, Usable) {
        let Value::Object(object) = element else {
            let example = r#"{"listen": "8080", "target": "web:80"}"#;
            let text = format!("expected an object such as {example}, found {}", found(element));
            self.report(syntax::start(element), Problem::new(path, text));
            return (None, Usable::default());
        };
        let before = self.problems.len() + self.unworded;
        let Fields { known, mut broken } = self.fields(object, schema, path);
        let mut written = serde_json::Map::new();
        for (field, value, schema) in known {
            match self.scalar(value, schema, path, field) {
                Some(value) => {
                    written.insert(field.to_owned(), value);
                }
                None => broken.push(field),
            }
        }
        for field in &broken {
            // Required ones are text; a broken one is not looked at again.
            written.entry(*field).or_insert_with(|| "".into());
            if !schema::is_required(path, field) {
                written.remove(*field);
            }
        }
        let written = match serde_json::from_value(written.into()) {
            Ok(written) => written,
            Err(error) => {
                self.report(syntax::start(element), Problem::new(path, error.to_string()));
                return (None, Usable::default());
            }
        };
        let mut problems = Problems::new();
        let (config, usable) = convert(&written, &broken, &mut problems);
        for problem in problems {
            self.report_at_path(Problem { path: join(path, &problem.path), ..problem });
        }
        (config.filter(|_| self.problems.len() + self.unworded == before), usable)
    }

    /// Checks a value's type and limits, as the schema says them.
    fn scalar(
        &mut self,
        value: &Value<'_>,
        schema: &serde_json::Value,
        parent: &str,
        field: &str,
    ) -> Option<serde_json::Value> {
        let choices = choices(schema);
        let expected = match (schema["type"].as_str(), value) {
            _ if !choices.is_empty() => match value {
                Value::StringLit(text) if choices.contains(&text.value.as_ref()) => {
                    return Some(text.value.as_ref().into());
                }
                Value::StringLit(text) => {
                    let text = SafeText::quoted(&text.value);
                    let text = format!("unknown {field} \"{text}\": use {}", alternatives(&choices));
                    self.report(syntax::start(value), Problem::new(join(parent, field), text));
                    return None;
                }
                _ => alternatives(&choices),
            },
            (Some("string"), Value::StringLit(text)) => return Some(text.value.as_ref().into()),
            (Some("boolean"), Value::BooleanLit(flag)) => return Some(flag.value.into()),
            (Some("integer"), _) => match whole_number(value, schema) {
                Ok(number) => return Some(number.into()),
                Err(expected) => expected,
            },
            (Some("string"), Value::NumberLit(number)) if field == "listen" && !is_port(number.value) => {
                "a whole number 1-65535".into()
            }
            (Some("array"), Value::Array(list)) => return self.texts(list, &join(parent, field)),
            (Some("string"), _) => "text".into(),
            (Some("boolean"), _) => "true or false".into(),
            _ => "a list".into(),
        };
        let problem = Problem::new(join(parent, field), format!("expected {expected}, found {}", found(value)));
        let problem = match (value, expected.as_str()) {
            (Value::NullKeyword(_), _) if schema::is_required(parent, field) => problem.with_hint("give it a value"),
            (Value::NullKeyword(_), _) => problem.with_hint("leave the field out, or give it a value"),
            (Value::NumberLit(_) | Value::BooleanLit(_), "text") => problem.with_hint("text stands in quotes"),
            (Value::NumberLit(_), _) if schema["type"] == "string" => problem.with_hint("in quotes: \"8080\""),
            _ => problem,
        };
        self.report(syntax::start(value), problem);
        None
    }

    /// A list of texts.
    fn texts(&mut self, list: &Array<'_>, path: &str) -> Option<serde_json::Value> {
        let before = self.problems.len();
        let mut texts = Vec::new();
        for (index, element) in list.elements.iter().enumerate() {
            match element {
                Value::StringLit(text) => texts.push(text.value.as_ref().into()),
                _ if self.problems.len() < MAX_WORDED => {
                    let text = format!("expected text, found {}", found(element));
                    let problem = Problem::new(format!("{path}[{index}]"), text);
                    self.report(syntax::start(element), problem.with_hint("text stands in quotes"));
                }
                _ => self.unworded += 1,
            }
        }
        (self.problems.len() == before).then_some(serde_json::Value::Array(texts))
    }

    fn report(&mut self, offset: usize, problem: Problem) {
        let position = Some(self.document.position(offset));
        self.problems.push(Problem { position, ..problem });
    }

    /// At the value that the problem's path names, else at the mapping that it lies in.
    fn report_at_path(&mut self, problem: Problem) {
        let offset = locate(&self.document.root, &problem.path);
        self.report(offset, problem);
    }
}

/// Where the value at a path such as `mappings[3].listen` starts, as far as the path can be followed.
fn locate(root: &Value<'_>, path: &str) -> usize {
    let mut value = root;
    for step in path.split(['.', '[']) {
        let below = match (value, step.strip_suffix(']')) {
            (Value::Array(list), Some(index)) => index.parse().ok().and_then(|index: usize| list.elements.get(index)),
            (Value::Object(object), None) => {
                object.properties.iter().find(|property| property.name.as_str() == step).map(|property| &property.value)
            }
            _ => None,
        };
        let Some(below) = below else { break };
        value = below;
    }
    syntax::start(value)
}

/// The number, or what was expected: `a whole number 1-65535`.
fn whole_number(value: &Value<'_>, schema: &serde_json::Value) -> Result<u64, String> {
    let limit = |name: &str, default| schema[name].as_u64().unwrap_or(default);
    let (least, most) = (limit("minimum", 0), limit("maximum", u32::MAX.into()));
    let good = match value {
        Value::NumberLit(number) if number.value.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.value.parse().ok().filter(|number| (least..=most).contains(number))
        }
        _ => None,
    };
    good.ok_or_else(|| {
        if least == most { format!("the whole number {least}") } else { format!("a whole number {least}-{most}") }
    })
}

/// A port may be written as a number by mistake; then only its quotes are missing.
fn is_port(number: &str) -> bool {
    number.parse::<u16>().is_ok_and(|port| port != 0)
}

/// The texts among which a field's value must be; empty where any will do.
fn choices(schema: &serde_json::Value) -> Vec<&str> {
    let listed = schema["enum"].as_array().into_iter().flatten();
    let described = schema["oneOf"].as_array().into_iter().flatten().map(|choice| &choice["const"]);
    listed.chain(described).filter_map(serde_json::Value::as_str).collect()
}

/// `tcp, udp or sctp`
fn alternatives(choices: &[&str]) -> String {
    match choices {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

fn show(Position { line, column }: Position) -> String {
    format!("{line}:{column}")
}
