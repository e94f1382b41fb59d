//! Acceptance 14 and fault 23: however the screen ends or stops, the terminal is as the shell had it.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::ports::free_port;
use common::program::{Home, PORTOLAN};
use common::terminal::Terminal;
use common::{Need, SOON, child_of, require, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portolan::tui;
use tokio_util::sync::CancellationToken;

/// A profile whose row needs no port of this machine.
fn with_a_mapping() -> Home {
    let home = Home::new();
    let mapping = r#"{ "name": "dns", "listen": "localhost:45353", "target": "192.0.2.10:53", "enabled": false }"#;
    home.write_profile("default", &format!(r#"{{ "version": 1, "mappings": [{mapping}] }}"#));
    home
}

/// A shell in a terminal, with the program's environment set.
fn shell(home: &Home) -> Terminal {
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).envs(home.environment()).env("PS1", "shell$ ").current_dir(home.path());
    let terminal = Terminal::start(80, 24, &shell);
    terminal.wait_for_text("shell$");
    terminal.type_text(&format!("cd {}; stty -a >before; clear\n", home.path().display()));
    terminal.wait_for("an empty screen", SOON, |text| text.trim() == "shell$");
    terminal
}

/// The program that the shell runs.
fn program_of(terminal: &Terminal) -> u32 {
    let shell = terminal.pid();
    wait_for("the shell's child", SOON, || child_of(shell))
}

/// Whether the terminal is as the shell had it: no alternate screen, no mouse mode, a cursor, the same `stty`.
fn assert_given_back(terminal: &Terminal, home: &Home, when: &str) {
    let flags = terminal.command(&["display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}"]);
    assert_eq!(flags.trim(), "0 0 1", "alternate screen, mouse, cursor {when}");
    terminal.type_text("stty -a >after; echo wrote-$((40 + 2))\n");
    terminal.wait_for_text("wrote-42");
    let read = |name: &str| std::fs::read_to_string(home.path().join(name)).expect("stty wrote it");
    assert_eq!(read("after"), read("before"), "stty {when}");
}

#[test]
fn suspended_ten_times_it_gives_the_terminal_back_and_repaints() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_a_mapping();
    let terminal = shell(&home);
    terminal.type_text(&format!("{PORTOLAN}\n"));
    terminal.wait_for_text("? help");
    for round in 0..10 {
        terminal.keys(&["C-z"]);
        terminal.wait_for("the shell's word that it stopped", SOON, |text| {
            text.contains("Stopped") && !text.contains("? help")
        });
        assert_given_back(&terminal, &home, &format!("after ^z number {round}"));
        terminal.type_text("clear; fg\n");
        terminal.wait_for("the screen again", SOON, |text| text.contains("? help") && text.contains("45353"));
    }
    terminal.keys(&["q"]);
    terminal.wait_for("the shell again", SOON, |text| !text.contains("? help") && text.contains("shell$"));
    assert_given_back(&terminal, &home, "after q");
}

#[test]
fn ended_by_a_signal_it_leaves_a_terminal_that_works_and_a_message_that_can_be_read() {
    if !require(&[Need::Tmux]) {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let home = with_a_mapping();
        let terminal = shell(&home);
        let port = free_port();
        terminal.type_text(&format!("{PORTOLAN} -p {port}:127.0.0.1:9; echo ended with status-$?\n"));
        terminal.wait_for_text("? help");
        let program = i32::try_from(program_of(&terminal)).expect("a pid");
        kill(Pid::from_raw(program), signal).expect("the program runs");
        let text = terminal.wait_for("the shell again", SOON, |text| text.contains("ended with status-0"));
        assert!(text.contains("Stopped 1 mapping"), "{signal}: {text}");
        assert_given_back(&terminal, &home, &format!("after {signal}"));
    }
}

#[test]
fn a_stop_signal_from_elsewhere_gives_the_terminal_back_too_and_an_end_waits_for_the_return() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_a_mapping();
    let terminal = shell(&home);
    terminal.type_text(&format!("{PORTOLAN}; echo ended with status-$?\n"));
    terminal.wait_for_text("? help");
    let program = Pid::from_raw(i32::try_from(program_of(&terminal)).expect("a pid"));
    let stopped = |round| {
        terminal.wait_for("the shell's word that it stopped", SOON, |text| {
            text.contains("Stopped") && !text.contains("? help")
        });
        assert_given_back(&terminal, &home, &format!("after stop {round}"));
    };
    for round in 0..6 {
        // To the program alone, and to its group, as the terminal itself sends it.
        let to = if round % 2 == 0 { program } else { Pid::from_raw(-program.as_raw()) };
        kill(to, Signal::SIGTSTP).expect("the program runs");
        stopped(round);
        terminal.type_text("clear; fg\n");
        terminal.wait_for("the screen again", SOON, |text| text.contains("? help") && text.contains("45353"));
    }
    kill(program, Signal::SIGTSTP).expect("the program runs");
    stopped(6);
    kill(program, Signal::SIGTERM).expect("the program stands still");
    terminal.type_text("clear; fg\n");
    // What bash runs after a job that was stopped once is another matter; here the job is the program's line alone.
    terminal.wait_for("the shell again", SOON, |text| !text.contains("? help") && text.contains("Stopped 0 mappings"));
    assert_given_back(&terminal, &home, "after an end while it stood still");
}

#[test]
fn a_terminal_that_goes_away_takes_the_program_with_it() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let home = with_a_mapping();
    let terminal = shell(&home);
    terminal.type_text(&format!("{PORTOLAN} -p auto:127.0.0.1:9\n"));
    terminal.wait_for_text("? help");
    let program = program_of(&terminal);
    drop(terminal);
    let is_gone =
        || std::fs::read_to_string(format!("/proc/{program}/stat")).map_or(true, |stat| stat.contains(") Z "));
    wait_until("the program ends", SOON, is_gone);
}

/// Says to [`screen_with_a_panic`] which thread panics, and where the word to do so comes from.
const PANIC: (&str, &str) = ("PORTOLAN_TEST_PANIC_OF", "PORTOLAN_TEST_PANIC_WHEN");

/// What is there once the other thread has panicked.
fn over(when: &Path) -> PathBuf {
    when.with_extension("over")
}

#[test]
#[ignore = "the child of a_panic_of_the_screen_gives_the_terminal_back_before_it_is_told"]
fn screen_with_a_panic() {
    let (of, when) = (std::env::var(PANIC.0).expect("set"), std::env::var(PANIC.1).expect("set"));
    let over = over(Path::new(&when));
    let told = move || async move {
        while !std::fs::exists(&when).expect("it can be looked for") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("injected");
    };
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let screen = std::thread::Builder::new().name("screen".into());
    let screen = screen.spawn(move || {
        let handle = portolan::demo::start().expect("the demo starts");
        runtime().block_on(async {
            let shown = tui::run(handle, tui::Options::default(), CancellationToken::new());
            if of == "screen" {
                // On the screen's own thread, as a bug of the screen would be.
                tokio::select! {
                    ended = shown => drop(ended),
                    () = told() => {}
                }
            } else {
                let other = std::thread::spawn(move || {
                    let ended = std::thread::spawn(move || runtime().block_on(told())).join();
                    std::fs::write(over, "").expect("the word can be given");
                    ended
                });
                shown.await.expect("the screen goes on");
                other.join().expect("it waits").expect_err("it panicked");
            }
        });
    });
    let ended = screen.expect("a thread").join();
    std::process::exit(if ended.is_ok() { 0 } else { 7 });
}

#[test]
fn a_panic_of_the_screen_gives_the_terminal_back_before_it_is_told() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let this = std::env::current_exe().expect("this test");
    let run = |of: &str| {
        let home = Home::new();
        let terminal = shell(&home);
        let when = home.path().join("panic");
        let set = format!("RUST_BACKTRACE=0 {}={of} {}={}", PANIC.0, PANIC.1, when.display());
        let program = format!("{} screen_with_a_panic --exact --ignored --nocapture", this.display());
        terminal.type_text(&format!("{set} {program}; echo ended with status-$?\n"));
        terminal.wait_for_text("? help");
        std::fs::write(&when, "").expect("the word can be given");
        (home, terminal, over(&when))
    };
    let (home, terminal, _) = run("screen");
    let text = terminal.wait_for("the shell again", SOON, |text| text.contains("ended with status-7"));
    assert!(text.contains("thread 'screen'") && text.contains("injected"), "{text}");
    let from_the_left = |line: &str| line.starts_with("thread 'screen'") || line.starts_with("injected");
    assert_eq!(text.lines().filter(|line| from_the_left(line)).count(), 2, "lines begin at the left: {text}");
    assert_given_back(&terminal, &home, "after a panic of the screen");

    // Of another thread it is not the screen's affair: the picture stays, and the terminal is given back at the end.
    let (home, terminal, over) = run("another");
    wait_until("the other thread has panicked", SOON, || over.exists());
    terminal.keys(&["4"]);
    let text = terminal.wait_for_text("EVENTS");
    assert!(!text.contains("panicked"), "{text}");
    terminal.keys(&["C-c", "C-c"]);
    let text = terminal.wait_for("the shell again", SOON, |text| text.contains("ended with status-0"));
    assert!(!text.contains("panicked"), "{text}");
    assert_given_back(&terminal, &home, "after a panic of another thread");
}
