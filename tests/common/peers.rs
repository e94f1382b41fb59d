//! Both ends of a mapping: a web application, a client that holds its connection, and what the kernel says of them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::netns::Namespace;
use super::{Running, SOON, output, wait_for};

/// `web.py` on an address.
#[derive(Debug)]
pub struct Web {
    process: Running,
    port: u16,
}

impl Web {
    /// Starts it and waits until it listens. Port 0 takes a free one.
    #[track_caller]
    pub fn start(namespace: Option<&Namespace>, address: &str, port: u16) -> Self {
        let mut command = python(namespace, include_str!("web.py"));
        command.args([address, &port.to_string()]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python3 starts");
        let line = first_line(&mut child);
        let port = line.strip_prefix("ready ").and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("the web application said {line:?}"));
        Self { process: Running(child), port }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// A client that sends lines over one connection.
#[derive(Debug)]
pub struct LineClient {
    _process: Running,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl LineClient {
    /// Connects to something that sends lines back, once it does.
    #[track_caller]
    pub fn connect(namespace: Option<&Namespace>, address: &str, port: u16) -> Self {
        wait_for("somebody who sends lines back", SOON, || {
            let mut command = python(namespace, include_str!("line_client.py"));
            command
                .args([address, &port.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null());
            let mut child = command.spawn().expect("python3 starts");
            let input = child.stdin.take().expect("stdin is piped");
            let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
            let mut client = Self { _process: Running(child), input, output };
            // A forwarder takes the connection first and tells afterwards that its target does not.
            (client.line() == "connected" && client.exchange("hello") == "hello").then_some(client)
        })
    }

    /// Sends a line and gives the line that comes back.
    #[track_caller]
    pub fn exchange(&mut self, line: &str) -> String {
        // A client that has ended says no more, which is what its caller sees.
        let _ = writeln!(self.input, "{line}");
        self.line()
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the client prints text");
        line.trim_end().to_owned()
    }
}

/// `curl -s ARGUMENTS`, in a namespace or here.
pub fn curl(namespace: Option<&Namespace>, arguments: &[&str]) -> Command {
    let mut command = namespace.map_or_else(|| Command::new("curl"), |namespace| namespace.command("curl"));
    // -g: brackets belong to the address.
    command.args(["-s", "-g", "--max-time", "20", "--noproxy", "*"]).args(arguments);
    command
}

/// What a URL answers.
#[track_caller]
pub fn get(namespace: Option<&Namespace>, url: &str) -> String {
    output(curl(namespace, &["-f"]).arg(url))
}

/// Local and peer address of every established TCP connection, as `ss` prints them.
#[track_caller]
pub fn established(namespace: Option<&Namespace>) -> Vec<(String, String)> {
    let mut command = namespace.map_or_else(|| Command::new("ss"), |namespace| namespace.command("ss"));
    output(command.args(["-tnH", "state", "established"]))
        .lines()
        .filter_map(|line| {
            // Recv-Q Send-Q Local Peer
            let mut columns = line.split_whitespace().skip(2);
            Some((columns.next()?.to_owned(), columns.next()?.to_owned()))
        })
        .collect()
}

fn python(namespace: Option<&Namespace>, program: &str) -> Command {
    let mut command = namespace.map_or_else(|| Command::new("python3"), |namespace| namespace.command("python3"));
    command.args(["-c", program]);
    command
}

fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    let output = child.stdout.as_mut().expect("stdout is piped");
    BufReader::with_capacity(1, output).read_line(&mut line).expect("the first line is text");
    line.trim_end().to_owned()
}
