//! `portolan completions` and `portolan man`: what the shells and the readers of manual pages make of them.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use common::program::{Home, PORTOLAN};
use common::{Need, output, require};

/// What the program prints.
#[track_caller]
fn printed(arguments: &[&str]) -> String {
    let home = Home::new();
    output(home.command(None).env("SOURCE_DATE_EPOCH", "86400").args(arguments))
}

/// What bash offers for the last of these words.
#[track_caller]
fn offered(words: &[&str]) -> BTreeSet<String> {
    let home = Home::new();
    let script = home.path().join("portolan.bash");
    fs::write(&script, printed(&["completions", "bash"])).expect("ours");
    // As bash calls it for a word at the end of the line.
    let drive = "set -u; . \"$1\"; shift
        COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_LINE=\"$*\"; COMP_POINT=${#COMP_LINE}; COMPREPLY=()
        function=$(complete -p portolan | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        \"$function\" \"$1\" \"${COMP_WORDS[COMP_CWORD]}\" \"${COMP_WORDS[COMP_CWORD - 1]}\"
        printf '%s\\n' \"${COMPREPLY[@]}\"";
    let said = output(Command::new("bash").args(["--norc", "-c", drive, "bash"]).arg(&script).args(words));
    said.lines().map(str::to_owned).collect()
}

/// The subcommands, as the help lists them.
fn subcommands() -> Vec<String> {
    let help = printed(&["--help"]);
    let listed = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let names = listed.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    // Continued lines are indented further.
    let names: Vec<String> = names
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| Some(line.split(' ').next()?.to_owned()))
        .collect();
    assert!(
        ["run", "doctor", "completions", "man"].iter().all(|name| names.iter().any(|has| has == name)),
        "{names:?}"
    );
    names
}

/// Every long option that a help names.
fn long_options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim).filter(|line| line.starts_with('-'));
    let words = lines.flat_map(|line| line.split([' ', ',']).take(3).map(str::to_owned).collect::<Vec<_>>());
    words.filter(|word| word.starts_with("--")).collect()
}

#[test]
fn every_shell_gets_a_script_and_the_one_for_bash_parses() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = printed(&["completions", shell]);
        assert!(script.contains("portolan") && script.contains("doctor"), "{shell}: {script}");
    }
    let home = Home::new();
    let script = home.path().join("portolan.bash");
    fs::write(&script, printed(&["completions", "bash"])).expect("ours");
    assert_eq!(output(Command::new("bash").arg("-n").arg(&script)), "");
}

#[test]
fn bash_completes_subcommands_options_and_shells() {
    assert_eq!(offered(&["portolan", "ru"]), BTreeSet::from(["run".to_owned()]));
    let all = offered(&["portolan", ""]);
    assert!(subcommands().iter().all(|name| all.contains(name)), "{all:?}");
    let of_run = offered(&["portolan", "run", "--"]);
    assert!(long_options(&printed(&["run", "--help"])).is_subset(&of_run), "{of_run:?}");
    assert!(offered(&["portolan", "completions", ""]).contains("zsh"));
}

#[test]
fn a_shell_that_is_not_known_is_refused_with_those_that_are() {
    let out = Command::new(PORTOLAN).args(["completions", "tcsh"]).output().expect("the program starts");
    assert_eq!(out.status.code(), Some(2));
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(said.contains("bash, elvish, fish, powershell, zsh"), "{said}");
}

#[test]
fn the_manual_page_has_every_subcommand_with_every_option_of_it() {
    // As typed: in roff a hyphen has a backslash.
    let page = printed(&["man"]).replace("\\-", "-");
    assert!(page.contains(".TH PORTOLAN 1 1970-01-02 "), "the day that was asked for: {page}");
    for option in long_options(&printed(&["--help"])) {
        assert!(page.contains(&option), "{option} in {page}");
    }
    for said in ["XDG_RUNTIME_DIR", "/portolan/NAME.sock", "session@PID.sock"] {
        assert!(page.contains(said), "where the control socket lies: {page}");
    }
    let sections: Vec<&str> = page.split(".SS ").collect();
    for name in subcommands() {
        let heading = format!("\"portolan {name}\"\n");
        let section = sections.iter().find(|section| section.starts_with(&heading));
        let section = section.unwrap_or_else(|| panic!("no section of {name} in {page}"));
        for option in long_options(&printed(&[&name, "--help"])) {
            assert!(section.contains(&option), "{option} in {section}");
        }
    }
}

#[test]
fn readers_of_manual_pages_have_nothing_to_say_against_it() {
    if !require(&[Need::Mandoc]) {
        return;
    }
    let home = Home::new();
    let page = home.path().join("portolan.1");
    fs::write(&page, printed(&["man"])).expect("ours");
    assert_eq!(output(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]).arg(&page)), "");
    let shown = output(Command::new("mandoc").args(["-T", "utf8"]).arg(&page));
    assert!(shown.contains("portolan completions"), "{shown}");
    // Where there is `man`, it reads the same from a pipe.
    let mut man = Command::new("man");
    man.args(["--warnings", "-l"]).arg(&page).envs([("LC_ALL", "C.UTF-8"), ("MANWIDTH", "80")]).stdin(Stdio::null());
    if let Ok(man) = man.output() {
        assert_eq!(String::from_utf8_lossy(&man.stderr), "");
    }
}
