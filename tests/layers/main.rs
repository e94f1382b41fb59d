//! Who may import whom: the one table, held against every source file, and proof that it bites.
//!
//! A new module of ours needs no row unless its rules differ from its parent's; a new dependency needs its layer's.

mod checker;
mod names;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use checker::{CRATE_NOT_ALLOWED, HIDDEN_SOURCE, Layer, NOT_ALLOWED, RE_EXPORT, ROOT_IMPORT, Rules, Source};

/// What a client of the service may know of it.
const CLIENT: &[&str] = &[
    "model",
    "service::handle",
    "service::Handle",
    "service::Incoming",
    "service::ServiceCall",
    "service::Subscription",
];

/// Reading the world, which a layer of plain data and decisions leaves to its callers.
const WORLD: &[&str] = &[
    "std::env",
    "std::fs",
    "std::os",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::time::Instant::now",
    "std::time::SystemTime",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
];

/// Talking to somebody, which only those do whose matter it is.
const SOCKETS: [&str; 5] =
    ["std::net::TcpListener", "std::net::TcpStream", "std::net::UdpSocket", "std::os::unix::net", "tokio::net"];

/// What no client of the service does, the screen included: whatever it wants of the world, it asks for.
const AT_HAND: &[&str] = &[
    SOCKETS[0],
    SOCKETS[1],
    SOCKETS[2],
    SOCKETS[3],
    SOCKETS[4],
    "std::fs",
    "std::process",
    "tokio::fs",
    "tokio::process",
];

/// What the screen decides and draws with: plain data and words.
const SCREEN: &[&str] = &["model", "tui::keymap", "tui::state", "tui::suggest", "tui::words"];

#[rustfmt::skip]
const LAYERS: &[Layer] = &[
    Layer { module: "", ours: &[], crates: &[], without: &[] },
    Layer {
        module: "model",
        ours: &[],
        crates: &["std", "ipnet", "jiff", "jsonc_parser", "schemars", "serde", "serde_json", "strsim", "thiserror", "unicode_width"],
        without: WORLD,
    },
    Layer { module: "wire", ours: &["model"], crates: &["std", "crc32c", "httparse", "memchr", "proxy_header", "thiserror"], without: WORLD },
    Layer {
        module: "forward",
        ours: &["model", "wire"],
        crates: &[
            "std", "futures_util", "h2", "hashbrown", "hyper", "ipnet", "jiff", "nix", "siphasher", "socket2", "thiserror",
            "tokio", "tokio_util", "tracing",
        ],
        without: &["std::fs", "std::process", "std::env", "tokio::fs", "tokio::process"],
    },
    Layer {
        module: "store",
        ours: &["model"],
        crates: &[
            "std", "directories", "ipnet", "jiff", "jsonc_parser", "nix", "notify", "serde", "serde_json", "tempfile", "thiserror",
            "tokio", "tokio_util", "tracing",
        ],
        without: &["std::net::TcpListener", "std::net::TcpStream", "std::net::UdpSocket", "tokio::net"],
    },
    Layer {
        module: "docker",
        ours: &["model", "docker::environment"],
        crates: &[
            "std", "bollard", "futures_util", "http_body_util", "hyper", "hyper_util", "jiff", "serde", "serde_json",
            "socket2", "strsim", "thiserror", "tokio", "tokio_util", "tracing",
        ],
        without: &["std::fs", "std::process"],
    },
    // The files of Docker's own client say where the engine is; nothing else of Docker's is in a file.
    Layer {
        module: "docker::environment",
        ours: &["model", "docker"],
        crates: &["std", "serde", "serde_json", "tracing"],
        without: &["std::net", "std::process"],
    },
    Layer {
        module: "host",
        ours: &["model"],
        crates: &["std", "ipnet", "nix", "procfs", "serde_json", "socket2", "thiserror", "tokio", "tracing"],
        without: &[],
    },
    Layer {
        module: "doctor",
        ours: &["model", "docker", "host"],
        crates: &["std", "ipnet", "nix", "procfs", "socket2", "thiserror", "tokio", "tokio_util", "tracing"],
        without: &[],
    },
    Layer {
        module: "service",
        ours: &["model", "wire", "forward", "store", "docker", "host", "doctor"],
        crates: &["std", "futures_util", "ipnet", "jiff", "nix", "serde", "serde_json", "thiserror", "tokio", "tokio_util", "tracing"],
        without: &["std::fs", "std::process", "tokio::fs", "tokio::process"],
    },
    Layer {
        module: "logging",
        ours: &["model"],
        crates: &["std", "tokio", "tracing", "tracing_appender", "tracing_subscriber"],
        without: &["std::process", "tokio::fs", "tokio::net", "tokio::process"],
    },
    // The page of `try` stands for somebody's container: it knows nothing of ours.
    Layer {
        module: "sample",
        ours: &[],
        crates: &["std", "http_body_util", "hyper", "hyper_util", "tokio"],
        without: &["std::fs", "std::process", "tokio::fs", "tokio::process"],
    },
    // What is counted, as text: whoever serves it is elsewhere.
    Layer { module: "metrics", ours: &["model"], crates: &["std", "prometheus_client"], without: WORLD },
    // Another client of the service, which speaks for those in other processes.
    Layer {
        module: "control",
        ours: &[
            "model",
            "metrics",
            "service::handle",
            "service::Handle",
            "service::Incoming",
            "service::ServiceCall",
            "service::Subscription",
        ],
        crates: &[
            "std", "aide", "axum", "directories", "futures_util", "http_body_util", "hyper", "hyper_util", "jiff", "nix",
            "schemars", "serde", "serde_json", "socket2", "thiserror", "tokio", "tokio_util", "tracing",
        ],
        without: &["std::net::UdpSocket", "std::env", "tokio::fs", "tokio::process"],
    },
    Layer {
        module: "headless",
        ours: CLIENT,
        crates: &["std", "jiff", "serde", "serde_json", "thiserror", "tokio", "tokio_util", "tracing"],
        without: AT_HAND,
    },
    Layer {
        module: "commands",
        ours: &["model", "service::handle", "service::Handle", "service::Subscription", "commands"],
        crates: &["std", "comfy_table", "jiff", "serde", "serde_json", "thiserror", "tokio", "tokio_util"],
        without: AT_HAND,
    },
    // On a terminal it takes the place of what was there, and gives it back while it is suspended.
    Layer {
        module: "commands::in_place",
        ours: &["model", "commands"],
        crates: &["std", "crossterm"],
        without: AT_HAND,
    },
    Layer {
        module: "commands::watch",
        ours: &["model", "service::Handle", "commands"],
        crates: &["std", "jiff", "nix", "serde", "tokio", "tokio_util"],
        without: AT_HAND,
    },
    Layer {
        module: "demo",
        ours: CLIENT,
        crates: &["std", "jiff", "serde", "serde_json", "tokio", "tokio_util"],
        without: AT_HAND,
    },
    // The loop, its effects and the terminal itself: everything of the screen meets here.
    Layer {
        module: "tui",
        ours: &["model", "service::handle", "service::Handle", "service::Subscription", "tui"],
        crates: &[
            "std", "crossterm", "futures_util", "jiff", "nix", "ratatui", "serde", "serde_json", "thiserror", "tokio",
            "tokio_util", "tracing",
        ],
        without: AT_HAND,
    },
    // A terminal is written to as a file.
    Layer {
        module: "tui::terminal",
        ours: &["model", "tui"],
        crates: &["std", "crossterm", "nix", "ratatui", "tokio", "tracing"],
        without: &[SOCKETS[0], SOCKETS[1], SOCKETS[2], SOCKETS[3], SOCKETS[4], "std::process", "tokio::fs", "tokio::process"],
    },
    // The browser and the clipboard are programs.
    Layer {
        module: "tui::effects",
        ours: &["model", "service::Handle", "tui"],
        crates: &["std", "crossterm", "tokio", "tokio_util", "tracing"],
        without: &[SOCKETS[0], SOCKETS[1], SOCKETS[2], SOCKETS[3], SOCKETS[4], "std::fs", "tokio::fs"],
    },
    Layer {
        module: "tui::state",
        ours: SCREEN,
        crates: &["std", "jiff", "serde", "serde_json", "tui_input", "unicode_width"],
        without: WORLD,
    },
    Layer { module: "tui::keymap", ours: SCREEN, crates: &["std", "crossterm", "serde", "serde_json"], without: WORLD },
    Layer { module: "tui::suggest", ours: SCREEN, crates: &["std"], without: WORLD },
    Layer { module: "tui::words", ours: SCREEN, crates: &["std"], without: WORLD },
    Layer {
        module: "tui::update",
        ours: SCREEN,
        crates: &["std", "crossterm", "jiff", "serde", "serde_json", "strsim", "tui_input", "unicode_width"],
        without: WORLD,
    },
    Layer {
        module: "tui::view",
        ours: SCREEN,
        crates: &["std", "jiff", "ratatui", "tui_input", "unicode_width"],
        without: WORLD,
    },
    // The door of the fuzz targets; the properties themselves stand in the layers.
    Layer { module: "fuzzing", ours: &["model", "wire", "docker", "host"], crates: &["std"], without: WORLD },
    // The composition root wires everything.
    Layer { module: "app", ours: &["*"], crates: &["*"], without: &[] },
    Layer { module: "cli", ours: &["*"], crates: &["*"], without: &[] },
    Layer { module: "main", ours: &["*"], crates: &["*"], without: &[] },
];

#[test]
fn every_source_keeps_to_its_layer() {
    let (rules, sources) = read_tree();
    assert!(sources.len() > 10, "only {} sources found", sources.len());
    let violations: Vec<String> =
        sources.iter().flat_map(|source| rules.check(source)).map(|violation| violation.to_string()).collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn every_module_at_the_top_has_a_row() {
    let (rules, _) = read_tree();
    let without: Vec<&String> = rules
        .modules
        .iter()
        .filter(|module| !module.is_empty() && !module.contains("::"))
        .filter(|module| !LAYERS.iter().any(|layer| layer.module == **module))
        .collect();
    assert!(without.is_empty(), "no row in the table for {without:?}");
}

#[test]
fn a_planted_violation_of_each_kind_is_found() {
    let planted: &[(&str, &str, &str, &str)] = &[
        ("a direct path", "model::rate", "fn f() { crate::forward::meter::x(); }", "forward::meter::x"),
        ("an import", "forward::tcp", "use crate::store::Store;", "store::Store"),
        (
            "a path in a type",
            "tui::view::list",
            "struct A { b: Vec<crate::tui::effects::Effect> }",
            "tui::effects::Effect",
        ),
        ("super::", "docker::watch", "use super::super::forward::Engine;", "forward::Engine"),
        ("super:: from an inline module", "wire", "mod a { fn f() { super::super::store::x() } }", "store::x"),
        ("self::", "tui::update", "use self::super::effects::run;", "tui::effects::run"),
        (
            "a nested group",
            "headless",
            "use crate::{model::id::MappingId, service::{Handle, engine::Owner}};",
            "service::engine::Owner",
        ),
        ("a rename", "headless", "use crate::service as s;", "service"),
        ("a glob", "tui::view", "use crate::tui::effects::*;", "tui::effects::*"),
        ("a glob of the parent", "tui::view", "use super::*;", "tui::*"),
        (
            "a macro's arguments",
            "tui::update",
            "fn f() { println!(\"{}\", crate::service::Handle::x()); }",
            "service::Handle::x",
        ),
        ("a macro's path", "model", "fn f() { crate::forward::count!(1); }", "forward::count"),
        ("a macro's body", "wire", "macro_rules! m { () => { $crate::store::open() } }", "store::open"),
        (
            "a global path in a macro's body",
            "wire",
            "macro_rules! m { ($a:expr) => { f($a, ::portolan::store::open()) } }",
            "store::open",
        ),
        (
            "a group in a macro's body",
            "wire",
            "macro_rules! m { () => { use $crate::{model::id, store::open}; } }",
            "store::open",
        ),
        (
            "a path in an attribute",
            "model",
            "struct A { #[serde(with = \"crate::store::text\")] b: u8 }",
            "store::text",
        ),
        ("our own name", "wire", "use portolan::store::Store;", "store::Store"),
        ("test code too", "wire", "#[cfg(test)] mod tests { use crate::store::Store; }", "store::Store"),
    ];
    for (kind, module, text, path) in planted {
        assert_eq!(check(module, text), [found(path, NOT_ALLOWED)], "{kind}: {text}");
    }
}

#[test]
fn a_planted_crate_is_found_in_each_way_of_naming_it() {
    let planted: &[(&str, &str, &str, &str)] = &[
        ("an import", "model", "use tokio::sync::mpsc;", "tokio::sync::mpsc"),
        ("a path", "tui::view", "fn f() { crossterm::terminal::size(); }", "crossterm::terminal::size"),
        ("a global path", "model", "fn f() { ::tokio::spawn(x); }", "tokio::spawn"),
        ("a macro", "model", "fn f() { tracing::info!(\"x\"); }", "tracing::info"),
        ("an attribute", "model", "#[tokio::test] async fn f() {}", "tokio::test"),
        ("a type of a type", "wire", "fn f() { <Vec<tokio::io::Empty>>::new(); }", "tokio::io::Empty"),
        ("a derive", "wire", "#[derive(serde::Serialize)] struct A;", "serde::Serialize"),
        ("a group", "wire", "use {std::fmt, tokio::io};", "tokio::io"),
        ("extern crate", "model", "extern crate bollard as b;", "bollard"),
    ];
    for (kind, module, text, path) in planted {
        assert_eq!(check(module, text), [found(path, CRATE_NOT_ALLOWED)], "{kind}: {text}");
    }
}

#[test]
fn a_planted_part_of_an_allowed_crate_is_found_in_each_way_of_naming_it() {
    let planted: &[(&str, &str, &str)] = &[
        ("model", "use std::{fmt, fs::File};", "std::fs::File"),
        ("headless", "use std::net::UdpSocket;", "std::net::UdpSocket"),
        ("headless", "fn f() { std::net::TcpStream::connect(x); }", "std::net::TcpStream::connect"),
        ("headless", "use std::{io, net::{SocketAddr, TcpListener as L}};", "std::net::TcpListener"),
        ("headless", "use std::os::unix::net::UnixStream;", "std::os::unix::net::UnixStream"),
        ("demo", "use std::net::UdpSocket;", "std::net::UdpSocket"),
        ("demo", "use std::net::TcpStream;", "std::net::TcpStream"),
        ("demo", "use std::net::TcpListener;", "std::net::TcpListener"),
        ("tui", "use std::net::UdpSocket;", "std::net::UdpSocket"),
        ("tui", "use std::net::TcpStream;", "std::net::TcpStream"),
        ("tui", "use std::net::TcpListener;", "std::net::TcpListener"),
        ("tui", "use std::fs::File;", "std::fs::File"),
        ("tui", "fn f() { std::fs::read(x); }", "std::fs::read"),
        ("tui", "fn f() { std::process::Command::new(x); }", "std::process::Command::new"),
        ("tui::terminal", "use std::net::UdpSocket;", "std::net::UdpSocket"),
        ("tui::effects", "use std::fs;", "std::fs"),
        ("tui::effects", "use tokio::net::UnixStream;", "tokio::net::UnixStream"),
        // By a name that was imported for something else.
        ("tui", "use std::net; fn f() { net::UdpSocket::bind(x); }", "std::net::UdpSocket::bind"),
        ("tui", "use std::net as n; struct A(n::TcpStream);", "std::net::TcpStream"),
        (
            "tui",
            "mod a { use std::net::{self}; fn f() { net::TcpStream::connect(x); } }",
            "std::net::TcpStream::connect",
        ),
        ("tui::update", "use std::time::Instant; fn f() { Instant::now(); }", "std::time::Instant::now"),
        ("tui::view", "use std::time; fn f() { g!(time::Instant::now()); }", "std::time::Instant::now"),
        ("tui", "use std::net::*;", "std::net::*"),
        ("model", "use std::time::Instant::*;", "std::time::Instant::*"),
    ];
    for (module, text, path) in planted {
        assert_eq!(check(module, text), [found(path, NOT_ALLOWED)], "{module}: {text}");
    }
}

#[test]
fn what_would_slip_past_the_table_is_refused() {
    let planted: &[(&str, &str, &str, &str)] = &[
        ("service", "pub use crate::forward::Engine;", "forward::Engine", RE_EXPORT),
        ("service", "pub(crate) use crate::store::{Store};", "store::Store", RE_EXPORT),
        ("tui::effects", "pub use crate::tui::state::State;", "tui::state::State", RE_EXPORT),
        ("docker", "pub use bollard::Docker;", "bollard::Docker", RE_EXPORT),
        ("service", "use crate::*;", "crate", ROOT_IMPORT),
        ("service", "use super::*;", "crate", ROOT_IMPORT),
        ("service", "use crate as everything;", "crate", ROOT_IMPORT),
        ("service", "extern crate self as everything;", "crate", ROOT_IMPORT),
        ("model", "include!(\"../forward/mod.rs\");", "include!", HIDDEN_SOURCE),
        ("model", "#[path = \"../forward/mod.rs\"] mod forward;", "#[path] mod forward", HIDDEN_SOURCE),
        ("model", "#[cfg_attr(unix, path = \"../forward/mod.rs\")] mod forward;", "#[path] mod forward", HIDDEN_SOURCE),
        (
            "model",
            "#[cfg_attr(unix, cfg_attr(all(), path = \"x.rs\"))] mod forward { mod inner; }",
            "#[path] mod forward",
            HIDDEN_SOURCE,
        ),
    ];
    for (module, text, path, problem) in planted {
        assert_eq!(check(module, text), [found(path, problem)], "{text}");
    }
}

#[test]
fn what_the_table_allows_is_left_alone() {
    let allowed: &[(&str, &str)] = &[
        ("service", "use crate::forward::{Engine, tcp::{self, Relay}}; use crate::model::id::*;"),
        ("forward::tcp", "pub(crate) use super::listen::Accept; pub(super) fn f() { super::meter::count() }"),
        ("forward", "mod tcp; pub use tcp::Relay;"),
        ("tui", "pub use state::Look;"),
        ("headless", "use crate::service::{Handle, Subscription};"),
        (
            "tui::update::form",
            "use super::apply; use crate::tui::state::{Form, State}; use crate::tui::keymap::Action;",
        ),
        ("tui", "use state::State; use crate::tui::effects::Effect;"),
        ("model", "#[cfg(test)] mod tests { use super::*; use proptest::prelude::*; }"),
        ("model", "fn f(tokio: u8) -> u8 { let store = tokio; assert!(store > 0, \"crate::store\"); store }"),
        ("model", "fn f() { assert!(<Vec<u8>>::new().is_empty() && Vec::<u8>::with_capacity(1) == vec![]) }"),
        ("model", "fn f() -> <u8>::Out { <[u8; 4]>::tokio(Vec::<u8>::tokio::x()) }"),
        ("app", "use crate::{forward, service, store}; use anyhow::Context;"),
        ("main", "use portolan::app;"),
        (
            "model",
            "#[cfg_attr(test, derive(Debug))] struct A; use std::time::Instant; fn f(at: Instant) { at.elapsed() }",
        ),
        ("tui", "use std::net::{self, IpAddr}; fn f() { net::Ipv4Addr::new(1, 2, 3, 4); }"),
        ("tui::terminal", "use std::fs::File; fn f() { File::from(x); }"),
        ("tui::effects", "use std::process::Command; fn f() { Command::new(x); }"),
    ];
    for (module, text) in allowed {
        assert_eq!(check(module, text), [], "{text}");
    }
}

/// What is wrong with `text` as a source of `module`.
fn check(module: &str, text: &str) -> Vec<(String, &'static str)> {
    static RULES: LazyLock<Rules> = LazyLock::new(|| {
        let (mut rules, _) = read_tree();
        // So that planted sources can speak of modules that the tree need not have.
        let planned = ["docker", "forward::tcp", "store", "tui::effects", "tui::state", "wire"];
        rules.modules.extend(planned.map(str::to_owned));
        rules
    });
    let module = module.split("::").map(str::to_owned).collect();
    let source = Source { module, is_test: false, syntax: syn::parse_str(text).expect("a planted source parses") };
    RULES.check(&source).into_iter().map(|violation| (violation.path, violation.problem)).collect()
}

fn found(path: &str, problem: &'static str) -> (String, &'static str) {
    (path.to_owned(), problem)
}

/// The table with the tree's modules and crates, and every source under `src`.
fn read_tree() -> (Rules, Vec<Source>) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    find_sources(&root.join("src"), &mut files);
    files.sort();
    let mut sources: Vec<Source> = files
        .iter()
        .map(|file| {
            let text = fs::read_to_string(file).expect("a source can be read");
            let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            Source {
                module: module_of(file.strip_prefix(root.join("src")).expect("below src")),
                is_test: false,
                syntax,
            }
        })
        .collect();
    let tests: BTreeSet<Vec<String>> = sources
        .iter()
        .flat_map(|source| {
            checker::test_modules(&source.syntax).into_iter().map(|name| {
                let mut module = source.module.clone();
                module.push(name);
                module
            })
        })
        .collect();
    for source in &mut sources {
        source.is_test = tests.iter().any(|test| source.module.starts_with(test));
    }
    let modules = sources.iter().map(|source| source.module.join("::")).collect();
    (Rules { layers: LAYERS, crates: crates(root), modules }, sources)
}

fn find_sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources can be listed") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            find_sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// `tui/view/mod.rs` is `tui::view`; `lib.rs` is the root, and `main.rs` a crate of its own, named `main` here.
fn module_of(file: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        file.with_extension("").components().map(|part| part.as_os_str().to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod") || module == ["lib"] {
        module.pop();
    }
    module
}

/// Every crate that a path of ours can start with: the manifest's and those of the toolchain.
fn crates(root: &Path) -> BTreeSet<String> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).expect("the manifest can be read");
    let mut in_dependencies = false;
    let mut crates: BTreeSet<String> = ["alloc", "core", "proc_macro", "std", "test"].map(str::to_owned).into();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies");
        } else if in_dependencies && let Some((name, _)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            crates.insert(name.trim().replace('-', "_"));
        }
    }
    crates
}
