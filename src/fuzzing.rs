//! The door for `fuzz/` and `tests/fuzz_corpus.rs` to every parser of bytes from outside; no stable interface, and
//! nothing of the program calls it.
//!
//! Each function takes bytes as somebody else may have made them and asserts what must hold whatever they are: no
//! panic, an end, what is read shows itself so that it reads as the same, what is refused says why, no text acts on a
//! terminal. The properties stand beside the parsers, most of which are private: in `model::fuzzing`, `wire::fuzzing`,
//! `host::fuzzing` and `docker::fuzzing`.

use crate::{docker, host, model, wire};

/// Tries bytes, and panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name in `fuzz/`.
pub const TARGETS: [(&str, Target); 12] = [
    ("calls", calls),
    ("docker_answers", docker_answers),
    ("docker_http", docker_http),
    ("http_messages", http_messages),
    ("kernel_messages", kernel_messages),
    ("kernel_texts", kernel_texts),
    ("mapping", mapping),
    ("packet_filter", packet_filter),
    ("paste", paste),
    ("profile", profile),
    ("proxy_headers", proxy_headers),
    ("words", words),
];

/// Requests, replies, updates and events, as JSON.
pub fn calls(bytes: &[u8]) {
    model::fuzzing::calls(bytes);
}

/// What the Docker engine answers, as JSON; `DOCKER_HOST`, and files of Docker's client.
pub fn docker_answers(bytes: &[u8]) {
    docker::fuzzing::docker_answers(bytes);
}

/// What the Docker engine answers, as HTTP, and its stream of events.
pub fn docker_http(bytes: &[u8]) {
    docker::fuzzing::docker_http(bytes);
}

/// Requests and responses of HTTP/1.x, as they stand on the wire.
pub fn http_messages(bytes: &[u8]) {
    wire::fuzzing::http_messages(bytes);
}

/// What the kernel answers over netlink, and routers by ICMP.
pub fn kernel_messages(bytes: &[u8]) {
    host::fuzzing::kernel_messages(bytes);
}

/// Files of `/proc`, command lines of others among them.
pub fn kernel_texts(bytes: &[u8]) {
    host::fuzzing::kernel_texts(bytes);
}

/// Mapping text, as `-p` takes it, and its halves.
pub fn mapping(bytes: &[u8]) {
    model::fuzzing::mapping(bytes);
}

/// Rules of the packet filter, as its tools list them.
pub fn packet_filter(bytes: &[u8]) {
    host::fuzzing::packet_filter(bytes);
}

/// Command lines that are pasted.
pub fn paste(bytes: &[u8]) {
    model::fuzzing::paste(bytes);
}

/// Profile files.
pub fn profile(bytes: &[u8]) {
    model::fuzzing::profile(bytes);
}

/// PROXY headers, of a stream and of datagrams.
pub fn proxy_headers(bytes: &[u8]) {
    wire::fuzzing::proxy_headers(bytes);
}

/// Single words: text to be shown, durations, networks, names, fields of the form, first bytes of a connection.
pub fn words(bytes: &[u8]) {
    model::fuzzing::words(bytes);
}
