//! A profile as text: one mapping a line, so that a change made in the program is a one-line difference.

use std::io;

use serde::Serialize;
use serde_json::ser::Formatter;

use super::profile::{Profile, VERSION, WrittenMapping};

impl Profile {
    /// The text of the file; it reads back as the same profile.
    pub fn to_text(&self) -> String {
        let lines: Vec<String> =
            self.mappings.iter().map(|config| format!("    {}", one_line(&config.to_written()))).collect();
        let mappings = if lines.is_empty() { "[]".into() } else { format!("[\n{}\n  ]", lines.join(",\n")) };
        format!("{{\n  \"version\": {VERSION},\n  \"mappings\": {mappings}\n}}\n")
    }
}

fn one_line(mapping: &WrittenMapping) -> String {
    let mut out = Vec::new();
    mapping
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine))
        .expect("strings, numbers and flags always serialise");
    String::from_utf8(out).expect("serde_json writes UTF-8")
}

/// `{ "name": "web", "listen": "8080" }`
struct OneLine;

impl Formatter for OneLine {
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"{ ")
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b" }")
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
