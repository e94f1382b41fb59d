//! The parts of `tests/run` that decide whether a machine was left as it was found, with commands of the test's own in
//! place of the machine's.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// Runs a script after the functions of `tests/lib`, on a machine that has nothing but the plainest tools. Its folder
/// is `$work`, and `$work/bin` is its PATH.
fn on_a_bare_machine(script: &str) -> (tempfile::TempDir, Output) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).expect("ours");
    let path = std::env::var_os("PATH").unwrap_or_default();
    for tool in ["awk", "bash", "cat", "chmod", "cut", "diff", "id", "mkdir", "rm", "sed", "sh", "sort", "tr"] {
        let found = std::env::split_paths(&path).map(|folder| folder.join(tool)).find(|tool| tool.is_file());
        symlink(found.unwrap_or_else(|| panic!("no {tool}")), bin.join(tool)).expect("ours");
    }
    let prelude = "set -euo pipefail; . tests/lib/machine.sh; . tests/lib/packages.sh; . tests/lib/python.sh\n\
        has() { printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$work/bin/$1\"; chmod 755 \"$work/bin/$1\"; hash -r; }\n\
        packages_table=$(echo \"$packages_table\" | sed /^.usr/d)\n\
        all() { for tool in $(echo \"$packages_table\" | cut -d: -f1); do has $tool \"echo $tool\"; done; }\n";
    let bash = fs::canonicalize(bin.join("bash")).expect("it is there");
    let output = Command::new(bash)
        .args(["-c", &format!("{prelude}{script}")])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .env_clear()
        .env("PATH", &bin)
        .env("work", folder.path())
        .output()
        .expect("bash starts");
    assert_eq!(fs::metadata(&bin).expect("ours").permissions().mode() & 0o700, 0o700);
    (folder, output)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn tools_that_an_install_brings_are_no_change_of_the_machine() {
    let script = "packages_install() { all; has iptables-nft-save 'echo rules'; }\n\
        machine_prepare true\n\
        machine_state >\"$work/after\"\n\
        diff -u \"$work/before\" \"$work/after\"";
    let (folder, output) = on_a_bare_machine(script);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let before = fs::read_to_string(folder.path().join("before")).expect("it was written");
    assert!(before.contains("# iptables-nft-save\nrules\n# ip link\nip\n"), "the new tools tell of it: {before}");
}

#[test]
fn a_change_after_the_install_is_one() {
    let script = "packages_install() { all; }\n\
        machine_prepare true\n\
        has ip 'echo another link'\n\
        machine_state | diff -u \"$work/before\" -";
    let (_folder, output) = on_a_bare_machine(script);
    assert!(!output.status.success());
    assert!(text(&output.stdout).contains("+another link"), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn what_the_install_itself_changes_is_refused() {
    let filter = "has iptables-nft-save 'echo rules'\n\
        packages_install() { all; has iptables-nft-save 'echo rules; echo more'; }\n\
        machine_prepare true";
    let links = "links=old; machine_plain() { echo $links; }\n\
        packages_install() { all; links=new; }\n\
        machine_prepare true";
    for script in [filter, links] {
        let (folder, output) = on_a_bare_machine(script);
        assert!(!output.status.success(), "{script}");
        let said = text(&output.stderr);
        assert!(said.contains("installing has changed the packet filter, links or routes"), "{said}");
        assert!(!folder.path().join("before").exists());
    }
}

#[test]
fn without_an_install_what_is_missing_is_listed_and_the_state_is_taken() {
    let (folder, output) = on_a_bare_machine("machine_prepare false");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("missing: ip (apt-get install iproute2)"), "{said}");
    assert!(said.ends_with("tests/run --install installs all of it\n"), "{said}");
    assert!(folder.path().join("before").exists());
}

/// A `python3` that makes environments whose interpreter only says what it is asked.
const PYTHON: &str = "export CARGO_TARGET_DIR=$work/target\n\
    make='mkdir -p \"$3/bin\" && printf \"#!/bin/sh\\necho asked: \\$*\\n\" >\"$3/bin/python\" && chmod 755 \"$3/bin/python\"'\n\
    has python3 \"case \\$1 in --version) echo Python 3;; -m) $make;; esac\"\n";

#[test]
fn the_python_packages_are_installed_once() {
    let script = format!(
        "{PYTHON}python_provide true\n\
        python_provide true\n\
        echo \"found $PORTOLAN_TEST_PYTHON\"\n\
        unset PORTOLAN_TEST_PYTHON\n\
        python_provide false\n\
        echo \"found again $PORTOLAN_TEST_PYTHON\"\n\
        echo other >\"$work/target/python/made-of\"\n\
        python_provide true"
    );
    let (folder, output) = on_a_bare_machine(&script);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said}{}", text(&output.stderr));
    let python = folder.path().join("target/python/bin/python").display().to_string();
    assert!(said.contains(&format!("found {python}\nfound again {python}\n")), "{said}");
    assert_eq!(
        said.matches("-r tests/requirements.txt").count(),
        2,
        "and when they were made of something else: {said}"
    );
}

#[test]
fn without_an_install_missing_python_packages_are_listed() {
    for machine in ["", PYTHON] {
        let script = format!("{machine}python_provide false; echo \"${{PORTOLAN_TEST_PYTHON-unset}}\"");
        let (_folder, output) = on_a_bare_machine(&script);
        let said = text(&output.stdout);
        assert!(output.status.success(), "{said}{}", text(&output.stderr));
        assert!(said.starts_with("missing: the Python packages of tests/requirements.txt"), "{said}");
        assert!(said.ends_with("\nunset\n"), "{said}");
    }
}
