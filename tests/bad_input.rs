//! Bad input and its answer: the table of faults that concerns the command line and files, against the program
//! itself. Each is answered on stderr, nothing is printed on stdout, and the status is 2.

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// The program, at home in a folder of its own.
struct Program(TempDir);

impl Program {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run_in(&self, folder: &Path, arguments: &[&OsStr]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_portolan"))
            .args(arguments)
            .current_dir(folder)
            .env("HOME", self.0.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_STATE_HOME", self.path("state"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        self.run_in(self.0.path(), &arguments)
    }

    /// What stderr says when the input is refused.
    fn refused(&self, arguments: &[&str]) -> String {
        said(&self.run(arguments), &format!("{arguments:?}"))
    }
}

fn said(output: &Output, what: &str) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(2), "{what}: {stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{what}");
    stderr
}

const FORM: &str = "expected [ADDRESS:]PORT:TARGET:PORT[/tcp|udp|sctp], for example 8080:web:80";
const MULTICAST: &str = "a multicast or broadcast address cannot be mapped";

/// The rows of the table that are one mapping.
const MAPPINGS: &[(&str, &str)] = &[
    ("70000:web:80", "host port 70000 is out of range (1-65535)"),
    ("0:web:80", "host port 0 means \"pick a free one\": write auto"),
    ("8080:80", "8080:80 names no container: write 8080:CONTAINER:80"),
    ("127.0.0.1:8080:80", "8080:80 names no container: write 8080:CONTAINER:80, here 127.0.0.1:8080:CONTAINER:80"),
    ("8080:8080:80", "a target of digits alone is ambiguous: write container/8080"),
    ("8080", FORM),
    ("8080:", FORM),
    (":80", FORM),
    ("a:b", FORM),
    ("[::1]8080:web:80", "a colon belongs after the bracket: write [::1]:8080:web:80"),
    ("::1:8080:web:80", "an IPv6 address needs brackets: [::1]:8080:web:80"),
    ("[fe80::1]:80:web:80", "a link-local address needs its interface: [fe80::1%eth0]"),
    ("256.1.1.1:80:web:80", "256.1.1.1 is not a valid IPv4 address (leading zeros are not accepted)"),
    ("010.0.0.1:80:web:80", "010.0.0.1 is not a valid IPv4 address (leading zeros are not accepted)"),
    ("8000-8010:web:80-85", "the ranges differ in length (11 and 6)"),
    ("9000-8000:web:80", "the range starts at 9000, after its end 8000"),
    ("8080:web:80/icmp", "unknown protocol \"icmp\": use tcp, udp or sctp"),
    ("224.0.0.1:80:web:80", MULTICAST),
    ("255.255.255.255:80:web:80", MULTICAST),
    ("80:[ff02::1]:80", MULTICAST),
];

#[test]
fn bad_mappings_of_the_command_line_are_answered() {
    let program = Program::new();
    for (text, answer) in MAPPINGS {
        assert_eq!(program.refused(&["check", "-p", text]), format!("-p {text}: {answer}\n"));
    }
    // The other commands answer alike, before they open anything.
    for (text, answer) in &MAPPINGS[..3] {
        assert_eq!(program.refused(&["run", "-p", text]), format!("-p {text}: {answer}\n"));
    }
    assert!(!program.path("config").exists(), "nothing was written");
}

#[test]
fn the_same_answers_are_given_in_a_profile() {
    let program = Program::new();
    let file = program.path("p.json");
    for (text, answer) in MAPPINGS {
        // Only what has two halves can stand in a profile.
        let Some((listen, target)) = halves(text) else { continue };
        let mapping = format!("{{ \"listen\": \"{listen}\", \"target\": \"{target}\" }}");
        fs::write(&file, format!("{{ \"version\": 1, \"mappings\": [{mapping}] }}")).unwrap();
        let answer = answer.replace("[::1]:8080:web:80", "[::1]:8080");
        let said = program.refused(&["check", "--file", "p.json"]);
        assert!(said.starts_with("p.json:1:"), "{text}: {said}");
        assert!(said.trim_end().ends_with(&format!(": {answer}")), "{text}: {said}");
    }
}

fn halves(text: &str) -> Option<(&str, &str)> {
    let (rest, port) = text.rsplit_once(':')?;
    let at = if rest.ends_with(']') { rest.rfind('[')?.checked_sub(1)? } else { rest.rfind(':')? };
    let complete = rest.contains(':') && !port.is_empty() && !port.contains('/') && text != "127.0.0.1:8080:80";
    complete.then(|| (&text[..at], &text[at + 1..]))
}

#[test]
fn every_argument_is_judged_and_every_file_beside_it() {
    let program = Program::new();
    fs::write(program.path("p.json"), "{ \"version\": 1, \"mappings\": [{ \"listen\": \"80\" }] }").unwrap();
    assert_eq!(
        program.refused(&["check", "--file", "p.json", "-p", "70000:web:80", "-p", "8080:80"]),
        "p.json:1:30: mappings[0]: missing \"target\" (add \"target\": \"...\")\n\
         -p 70000:web:80: host port 70000 is out of range (1-65535)\n\
         -p 8080:80: 8080:80 names no container: write 8080:CONTAINER:80\n"
    );
}

#[test]
fn arguments_before_the_command_are_judged_with_those_behind_it() {
    let program = Program::new();
    fs::write(program.path("good.json"), "{ \"version\": 1 }").unwrap();
    for command in ["check", "run"] {
        assert_eq!(
            program.refused(&["-p", "70000:web:80", command, "-p", "8080:80"]),
            "-p 70000:web:80: host port 70000 is out of range (1-65535)\n\
             -p 8080:80: 8080:80 names no container: write 8080:CONTAINER:80\n"
        );
        for (before, behind) in [
            ("--file=bad.json", "--file=good.json"),
            ("--profile=a", "--file=good.json"),
            ("--profile=a", "--profile=b"),
        ] {
            let said = program.refused(&[before, command, behind]);
            assert!(said.starts_with("error: the argument '--"), "{before} {command} {behind}: {said}");
        }
    }
    assert!(program.run(&["--file", "good.json", "check"]).status.success());
    for command in ["try", "keys", "schema"] {
        let said = program.refused(&["-p", "8080:web:80", command]);
        assert!(said.contains(&format!("cannot be used with '{command}'")), "{said}");
    }
}

#[test]
fn a_profile_that_was_named_and_is_not_there_is_no_empty_one() {
    let program = Program::new();
    let hint = "there is no such file (the screen makes it with the first mapping that is added)\n";
    for command in ["check", "run"] {
        assert_eq!(program.refused(&[command, "--file", "typo.json"]), format!("typo.json: {hint}"));
        let said = program.refused(&[command, "--profile", "typo", "-p", "8080:80"]);
        let (first, rest) = said.split_once('\n').unwrap();
        assert!(first.ends_with(&format!("/profiles/typo.json: {}", hint.trim_end())), "{said}");
        assert_eq!(rest, "-p 8080:80: 8080:80 names no container: write 8080:CONTAINER:80\n");
    }
    assert!(!program.path("typo.json").exists());
}

#[test]
fn problems_of_one_mapping_hide_none_that_others_have_together() {
    let program = Program::new();
    let arguments = ["*:8080:a:80", "8080:80", "8080:b:80", "127.0.0.1:9090:localhost:9090", "8080:c:80/udp"];
    let mut command = vec!["check"];
    command.extend(arguments.iter().flat_map(|argument| ["-p", argument]));
    assert_eq!(
        program.refused(&command),
        "-p 8080:80: 8080:80 names no container: write 8080:CONTAINER:80\n\
         -p 8080:b:80: -p 8080:b:80 and -p *:8080:a:80 both listen on 127.0.0.1:8080/tcp\n\
         -p 127.0.0.1:9090:localhost:9090: would forward to itself: :9090 -> :9090\n"
    );
    // Beside a file that is wrong as a whole too.
    fs::write(program.path("p.json"), "[]").unwrap();
    let said = program.refused(&["check", "--file", "p.json", "-p", "80:a:80", "-p", "80:b:80"]);
    assert!(said.starts_with("p.json:1:1: expected an object"), "{said}");
    assert!(said.ends_with("-p 80:b:80 and -p 80:a:80 both listen on 127.0.0.1:80/tcp\n"), "{said}");
}

#[test]
fn mappings_that_exclude_each_other_are_answered() {
    let program = Program::new();
    let said = program.refused(&["check", "-p", "127.0.0.1:8080:a:80", "-p", "127.0.0.1:8080:b:80"]);
    assert!(said.ends_with(" both listen on 127.0.0.1:8080/tcp\n"), "{said}");
    let said = program.refused(&["check", "-p", "8080:localhost:9090", "-p", "9090:localhost:8080"]);
    assert!(said.ends_with(": would forward to itself: :8080 -> :9090 -> :8080\n"), "{said}");
    let profile = "{\"version\":1,\"mappings\":[{\"listen\":\"8080\",\"target\":\"web:80\"}]}";
    fs::write(program.path("p.json"), profile).unwrap();
    let said = program.refused(&["check", "--file", "p.json", "-p", "any:8080:b:80"]);
    assert!(said.ends_with(" and mappings[0] both listen on 127.0.0.1:8080/tcp\n"), "{said}");
}

/// The fixtures with their answers, which the library's test holds against the reader, here through the program.
#[test]
fn every_bad_file_is_answered() {
    let program = Program::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/profiles/bad");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let output = program.run_in(&folder, &["check".as_ref(), "--file".as_ref(), path.file_name().unwrap()]);
        let name = path.display().to_string();
        assert_eq!(said(&output, &name), fs::read_to_string(path.with_extension("expected")).unwrap(), "{name}");
        count += 1;
    }
    assert!(count >= 60, "only {count} files");
}

#[test]
fn limits_are_answered_by_how_much() {
    let program = Program::new();
    fs::File::create(program.path("large")).unwrap().set_len((8 << 20) + 1).unwrap();
    assert_eq!(
        program.refused(&["check", "--file", "large"]),
        "large: the file has 8388609 bytes, 1 over the limit of 8388608 (8 MiB)\n"
    );
    let many = vec!["{\"listen\":\"auto\",\"target\":\"web:80\"}"; 10_001].join(",");
    fs::write(program.path("many"), format!("{{\"version\":1,\"mappings\":[{many}]}}")).unwrap();
    assert_eq!(
        program.refused(&["check", "--file", "many"]),
        "many:1:25: mappings: 10001 mappings are 1 over the limit of 10000\n"
    );
    fs::write(program.path("deep"), "[".repeat(100_000)).unwrap();
    assert_eq!(
        program.refused(&["check", "--file", "deep"]),
        "deep:1:33: 100000 levels of nesting are 99968 over the limit of 32\n"
    );
}

#[test]
fn what_is_no_regular_file_is_answered_at_once() {
    let program = Program::new();
    nix::unistd::mkfifo(&program.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(program.path("folder")).unwrap();
    for name in ["fifo", "folder", "/dev/null"] {
        assert_eq!(program.refused(&["check", "--file", name]), format!("{name}: not a regular file\n"));
        assert_eq!(program.refused(&["run", "--file", name]), format!("{name}: not a regular file\n"));
    }
}

#[test]
fn a_profile_is_a_file_of_the_config_folder() {
    let program = Program::new();
    let long = "n".repeat(65);
    for name in ["", "..", "a/b", "../x", "a\x1b[2Jb", "a\u{202e}b", &long] {
        let said = program.refused(&["check", "--profile", name]);
        assert!(said.contains("names use letters, digits, `.`, `_` and `-`, up to 64"), "{name:?}: {said}");
        assert!(!said.contains(['\x1b', '\u{202e}']), "{said:?}");
    }
    let profiles = program.path("config/portolan/profiles");
    fs::create_dir_all(&profiles).unwrap();
    fs::write(program.path("elsewhere"), "{\"version\":1}").unwrap();
    symlink(program.path("elsewhere"), profiles.join("link.json")).unwrap();
    let said = program.refused(&["check", "--profile", "link"]);
    assert!(said.contains("link.json: a symlink is refused in the config folder"), "{said}");
    // The backup to restore is named by the file's own name.
    fs::write(profiles.join("dev.json"), "").unwrap();
    let said = program.refused(&["check", "--profile", "dev"]);
    assert!(
        said.ends_with("dev.json: the file is empty; not taken as \"no mappings\"; restore dev.json.bak\n"),
        "{said}"
    );
    assert_eq!(fs::read(profiles.join("dev.json")).unwrap(), b"", "and is left as it is");
}

#[test]
fn durations_of_the_command_line_need_their_unit() {
    let program = Program::new();
    for drain in ["5", "5 parsecs", "-1s"] {
        let said = program.refused(&["run", &format!("--drain={drain}"), "-p", "8080:web:80"]);
        assert!(said.contains("give a unit: 5s, 200ms, 2m"), "{drain}: {said}");
    }
}

#[test]
fn arguments_are_quoted_in_part_and_may_be_no_text() {
    let program = Program::new();
    let long = program.refused(&["check", "-p", &"x".repeat(100_000)]);
    assert!(long.len() < 400, "input is quoted in part: {} bytes", long.len());
    for flag in ["--x", "--drain=x", "--json=x", "x"] {
        let long = program.refused(&["run", &flag.replace('x', &"x".repeat(100_000))]);
        assert!(long.len() < 600, "{flag} is quoted in part: {} bytes", long.len());
    }
    let output =
        program.run_in(program.0.path(), &["check".as_ref(), "-p".as_ref(), OsStr::from_bytes(b"8080:\xff:80")]);
    assert!(!said(&output, "invalid UTF-8").contains('\u{1b}'));
}

#[test]
fn the_status_is_the_same_when_nobody_reads_the_problems() {
    let program = Program::new();
    let status = |arguments: &[&str]| {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
        command.env("XDG_CONFIG_HOME", program.path("config")).env("XDG_STATE_HOME", program.path("state"));
        command.status().unwrap().code()
    };
    assert_eq!(status(&["check", "-p", "8080"]), Some(2));
    assert_eq!(status(&["check", "--unknown"]), Some(2));
    assert_eq!(status(&[]), Some(2));
    // A port that nobody may have here: it fails while running.
    assert_eq!(status(&["run", "-p", "192.0.2.1:8080:127.0.0.1:9"]), Some(1));
}

#[test]
fn without_a_terminal_the_way_on_is_named() {
    let program = Program::new();
    let said = program.refused(&[]);
    assert!(said.starts_with("not a terminal: use `portolan run`"), "{said}");
    assert!(said.contains("--json"), "{said}");
}

#[test]
fn what_is_fine_is_fine() {
    let program = Program::new();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/profiles");
    for entry in fs::read_dir(examples).unwrap() {
        let path = entry.unwrap().path();
        let output = program.run(&["check", "--file", path.to_str().unwrap()]);
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty());
    }
    let output = program.run(&["check", "-p", "any:8080:web:80", "-p", "8080:web:80/udp"]);
    assert!(output.status.success());
}

/// What is valid and hardly meant: the target would take every client for a local one.
#[test]
fn check_warns_of_a_target_on_loopback_that_others_reach_without_an_identity() {
    let program = Program::new();
    let warned = |mapping: &str| {
        let output = program.run(&["check", "-p", mapping]);
        assert!(output.status.success(), "{mapping}: {output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.is_empty() || stderr.starts_with("warning: "), "{mapping}: {stderr}");
        stderr.contains("every remote client will look local")
    };
    for target in ["127.0.0.1", "localhost", "0.0.0.0", "[::]", "host/localhost", "host/web.localhost"] {
        let mapping = format!("any:8080:{target}:80");
        assert!(warned(&mapping), "{mapping}");
    }
    assert!(warned("192.0.2.7:53:[::1]:53/udp"));
    for mapping in ["8080:127.0.0.1:80", "any:8080:172.17.0.2:80", "any:8080:web:80", "any:8080:host/web.example:80"] {
        assert!(!warned(mapping), "{mapping}");
    }
    // The target's family is seen in the text.
    for (target, pool, is_warned) in [
        ("[::1]", "198.18.0.0/15", true),
        ("172.17.0.2", "fd00:a1a5::/64", true),
        ("172.17.0.2", "198.18.0.0/15", false),
        ("web", "198.18.0.0/15", false),
    ] {
        let profile = program.path("family.json");
        let mapping =
            format!(r#"{{"listen": "8080", "target": "{target}:80", "identity": "alias", "alias_pool": "{pool}"}}"#);
        fs::write(&profile, format!(r#"{{"version": 1, "mappings": [{mapping}]}}"#)).unwrap();
        let output = program.run(&["check", "--file", profile.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("of the other family than the aliases"), is_warned, "{mapping}: {said}");
    }
    let profile = program.path("told.json");
    let mapping = r#"{"listen": "any:8080", "target": "127.0.0.1:80", "identity": "proxy-v2"}"#;
    fs::write(&profile, format!(r#"{{"version": 1, "mappings": [{mapping}]}}"#)).unwrap();
    let output = program.run(&["check", "--file", profile.to_str().unwrap()]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()), "{output:?}");
}
