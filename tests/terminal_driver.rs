//! The terminal that the screen's tests run in does what a terminal does.

mod common;

use std::process::Command;

use common::terminal::Terminal;
use common::{Need, require};

#[test]
fn keys_reach_the_program_and_its_screen_can_be_read() {
    if !require(&[Need::Tmux]) {
        return;
    }
    let mut shell = Command::new("sh");
    shell
        .env("PS1", "ready> ")
        .args(["-c", "stty size; read line; printf '\\033[31mgot %s\\033[0m\\n' \"$line\"; stty size; exit 7"]);
    let terminal = Terminal::start(80, 24, &shell);
    terminal.wait_for_text("24 80");
    terminal.resize(100, 30);
    terminal.type_text("a;b $c");
    terminal.keys(&["Enter"]);
    terminal.wait_for_text("got a;b $c");
    terminal.wait_for_text("30 100");
    assert!(terminal.screen_with_escapes().contains("\u{1b}[31m"));
    assert_eq!(terminal.wait_for_end(), 7);
}
