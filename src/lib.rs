//! portolan maps host ports to containers and shows what flows through them.
//!
//! Desired state goes down, updates come up, nothing goes sideways:
//!
//! ```text
//!     profile.json <──> store ──┐                       ┌── tui (screen)
//!     Docker, DNS, processes ──> service ── forward ──> ├── headless (run, events)
//!                               (one owner)  (engine)   ├── commands (ls, add, watch, …)
//!                                                       └── control socket ── all of them, in other processes
//! ```
//!
//! [`service`] owns the engine, the open profile, the resolver and Docker. The screen, `run`, commands and the control
//! socket are equal clients of one [`service::Handle`]: requests go in ([`model::request`]), updates come out
//! ([`model::update`]), all of it plain serialisable data. In another process, [`control::attach`] makes such a
//! handle of the socket. The screen itself touches no file, no Docker and no
//! socket; [`demo`] stands in for the service, and the screen cannot tell.
//!
//! Which room a line lives in, and what it may know (held by `tests/layers`):
//!
//! | room | what | knows |
//! |---|---|---|
//! | [`model`] | plain data and pure decisions: the mapping grammar, profiles, requests, updates, events | nothing of ours, no I/O, no clock |
//! | [`wire`] | bytes as others send and expect them, to types and back: PROXY headers, HTTP/1.x | `model`, nothing else of ours, no I/O, no clock |
//! | [`forward`] | the engine: listeners, TCP relay, UDP flows, exact counters | `model`, `wire` |
//! | [`store`] | profile files: found, read, locked, written, watched | `model` |
//! | [`docker`] | the Docker API as model types | `model` |
//! | [`host`] | what this machine says of itself: who holds a port, its addresses, rules, routes | `model` |
//! | [`doctor`] | why a mapping does not work: each check a small file | `model`, `docker`, `host` |
//! | [`service`] | the owner of them all | all of these |
//! | [`metrics`] | what is counted, as Prometheus reads it | `model` |
//! | [`control`] | the control socket and its other end: the handle over HTTP and JSON | `model`, `metrics`, the handle |
//! | [`headless`] | `run`, `events`: events as lines | `model`, the handle |
//! | [`commands`] | `ls`, `add`, `watch`, …: what a script asks of a running engine | `model`, the handle |
//! | [`tui`] | the screen; `update` is pure, `view` decides nothing | `model`, the handle |
//! | [`demo`] | a simulated service | `model`, the handle |
//! | [`cli`], [`app`] | arguments as typed; the composition root | everything |
//! | [`fuzzing`] | the door of the fuzz targets to every parser of outside bytes | `model`, `wire`, `docker`, `host` |
//!
//! A connection is a pipeline in [`forward`]: accept, read identity, gate, address, dial, prelude, relay. What the service is told to
//! change is checked as a whole, written to the profile, and only then made.

pub mod app;
pub mod cli;
pub mod commands;
pub mod control;
pub mod demo;
pub mod docker;
pub mod doctor;
pub mod forward;
#[doc(hidden)]
pub mod fuzzing;
pub mod headless;
pub mod host;
mod logging;
pub mod metrics;
pub mod model;
mod sample;
pub mod service;
pub mod store;
pub mod tui;
pub mod wire;
