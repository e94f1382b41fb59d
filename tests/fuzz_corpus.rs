//! What the fuzz targets have found to matter is tried anew by every run of the tests: `fuzz/corpus`, through the same
//! properties, and cut off at places where one who reads from a socket finds it cut off.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use portolan::fuzzing::TARGETS;

/// As `fuzz/run` keeps it: every run of the tests replays it, and every clone has it.
const MOST_FILES: usize = 100;
const MOST_BYTES: usize = 64 * 1024;
/// Fewer would be no corpus but an accident.
const FEWEST_FILES: usize = 5;
/// Prefixes of each input that are tried.
const CUTS: usize = 8;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Names of what is in a folder of `fuzz`.
fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(folder)).unwrap_or_else(|error| panic!("fuzz/{folder}: {error}"));
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name")).collect()
}

#[test]
fn every_target_is_in_the_door_in_the_manifest_and_in_the_corpus() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name stands twice");
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    let mut declared = BTreeSet::new();
    for target in manifest.split("[[bin]]").skip(1) {
        let value = |key: &str| {
            let line = target.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='));
            line.expect("each target has it").trim().trim_matches('"').to_owned()
        };
        let name = value("name");
        assert_eq!(value("path"), format!("targets/{name}.rs"));
        let source = fs::read_to_string(fuzz().join(value("path"))).expect("its source");
        assert!(source.contains(&format!("portolan::fuzzing::{name}(bytes)")), "{name} calls another function");
        declared.insert(name);
    }
    assert_eq!(declared, targets);
    assert_eq!(names("corpus"), targets);
    let sources: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names("targets"), sources);
}

#[test]
fn the_corpus_holds_what_it_held_when_it_was_found() {
    for (name, target) in TARGETS {
        let files = names(&format!("corpus/{name}"));
        assert!((FEWEST_FILES..=MOST_FILES).contains(&files.len()), "corpus/{name} has {} files", files.len());
        let mut bytes = 0;
        for file in &files {
            let place = fuzz().join("corpus").join(name).join(file);
            let input = fs::read(&place).expect("an input");
            bytes += input.len();
            // Captured, and shown with the panic of the one that fails.
            println!("{}", place.display());
            target(&input);
            for cut in 0..CUTS {
                target(&input[..input.len() * cut / CUTS]);
            }
        }
        assert!(bytes <= MOST_BYTES, "corpus/{name} has {bytes} bytes");
        println!("{name}: {} inputs of {bytes} bytes in all", files.len());
    }
}
