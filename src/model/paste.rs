//! Recognises a pasted `docker run … -p …` or `ssh -L …` line and says it as mappings.
//!
//! Nothing is run and nothing is looked up: only the words count. What a shell would substitute stays as it is
//! and fails in the grammar.

use super::config::made_up_name;
use super::grammar::GrammarError;
use super::mapping::{Mapping, Protocol};
use super::profile::{MappingConfig, WrittenMapping};
use super::untrusted::SafeText;

/// Longest text that is looked at, in bytes.
const MAX_TEXT: usize = 16 << 10;

/// Mappings out of a pasted command line. `None`: it is none of those known here. An error says why a known
/// one gives no mapping.
pub fn read_paste(text: &str) -> Option<Result<Vec<WrittenMapping>, GrammarError>> {
    if text.len() > MAX_TEXT {
        return None;
    }
    let words = split_words(text);
    let mut words = words.iter().map(String::as_str).skip_while(|word| is_prelude(word));
    let program = words.next()?;
    let rest: Vec<&str> = words.collect();
    match program.rsplit('/').next()? {
        "docker" | "podman" | "nerdctl" => docker_run(&rest),
        "ssh" | "autossh" => Some(ssh(&rest)),
        _ => None,
    }
}

/// A prompt, `sudo`, and variables set for the command.
fn is_prelude(word: &str) -> bool {
    matches!(word, "$" | "#" | ">" | "sudo" | "doas" | "exec" | "env")
        || word.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// Words as a shell makes them, up to the end of the command.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('"') | None, '\\') => match chars.next() {
                // A line that goes on.
                Some('\n' | '\r') | None => {}
                Some(escaped) => word.get_or_insert_default().push(escaped),
            },
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ';' | '|' | '&' | '>' | '<') if !words.is_empty() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// An option with its value, or a word that is none.
enum Argument<'a> {
    Option(&'a str, &'a str),
    Word(&'a str),
}

/// Reads options as getopt does. Short ones are told by their letter; `flags` are those without a value.
struct Arguments<'a> {
    words: std::slice::Iter<'a, &'a str>,
    short_flags: &'static str,
    long_flags: &'static [&'static str],
    /// Flags of the cluster met so far.
    flags: String,
}

impl<'a> Iterator for Arguments<'a> {
    type Item = Argument<'a>;

    fn next(&mut self) -> Option<Argument<'a>> {
        loop {
            let word = *self.words.next()?;
            if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
                match long.split_once('=') {
                    Some((name, value)) => return Some(Argument::Option(name, value)),
                    None if self.long_flags.contains(&long) => {}
                    None => return Some(Argument::Option(long, self.words.next()?)),
                }
            } else if let Some(cluster) = word.strip_prefix('-').filter(|cluster| !cluster.is_empty()) {
                let Some((at, letter)) = cluster.char_indices().find(|(_, c)| !self.short_flags.contains(*c)) else {
                    self.flags.push_str(cluster);
                    continue;
                };
                self.flags.push_str(&cluster[..at]);
                let end = at + letter.len_utf8();
                let value = match &cluster[end..] {
                    "" => self.words.next()?,
                    attached => attached.strip_prefix('=').unwrap_or(attached),
                };
                return Some(Argument::Option(&cluster[at..end], value));
            } else {
                return Some(Argument::Word(word));
            }
        }
    }
}

fn docker_run(words: &[&str]) -> Option<Result<Vec<WrittenMapping>, GrammarError>> {
    let at = words.iter().position(|word| matches!(*word, "run" | "create"))?;
    let mut arguments = Arguments {
        words: words[at + 1..].iter(),
        short_flags: "ditPq",
        long_flags: &[
            "detach",
            "disable-content-trust",
            "help",
            "init",
            "interactive",
            "no-healthcheck",
            "oom-kill-disable",
            "privileged",
            "publish-all",
            "quiet",
            "read-only",
            "replace",
            "rm",
            "sig-proxy",
            "tty",
            "use-api-socket",
        ],
        flags: String::new(),
    };
    let (mut name, mut published, mut image) = (None, Vec::new(), None);
    for argument in arguments.by_ref() {
        match argument {
            Argument::Option("name", value) => name = Some(value),
            Argument::Option("p" | "publish", value) => published.push(value),
            Argument::Option(..) => {}
            Argument::Word(word) => {
                // What follows the image is the container's own command.
                image = Some(word);
                break;
            }
        }
    }
    if published.is_empty() {
        return Some(Err(GrammarError("the line publishes no port: add -p HOST:CONTAINER".into())));
    }
    // Without --name Docker makes a name up; the image's is the best guess, to be corrected in the form.
    let target = name.or_else(|| image.map(image_name)).unwrap_or("CONTAINER");
    Some(published.into_iter().map(|spec| docker_port(spec, target)).collect())
}

/// `registry:5000/library/nginx:1.27@sha256:…` -> `nginx`
fn image_name(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split([':', '@']).next().unwrap_or(last)
}

/// `[IP:][PORT]:PORT[/PROTOCOL]` or `PORT`; Docker listens everywhere unless told otherwise.
fn docker_port(spec: &str, target: &str) -> Result<WrittenMapping, GrammarError> {
    let (ports, protocol) = spec.split_once('/').unwrap_or((spec, "tcp"));
    let (address, host, container) = match split_outside_brackets(ports)[..] {
        [container] => ("any", "", container),
        [host, container] => ("any", host, container),
        [address, host, container] => (if address.is_empty() { "any" } else { address }, host, container),
        _ => return Err(GrammarError(format!("-p {}: expected [IP:]PORT:PORT", SafeText::quoted(spec)))),
    };
    let host = if host.is_empty() { "auto" } else { host };
    mapping(&format!("{address}:{host}"), &format!("{target}:{container}"), &protocol.to_ascii_lowercase())
        .map_err(|error| GrammarError(format!("-p {}: {error}", SafeText::quoted(spec))))
}

fn ssh(words: &[&str]) -> Result<Vec<WrittenMapping>, GrammarError> {
    let mut arguments = Arguments {
        words: words.iter(),
        short_flags: "46AaCfGgKkMNnqsTtVvXxYy",
        long_flags: &[],
        flags: String::new(),
    };
    let (mut forwards, mut server) = (Vec::new(), None);
    for argument in arguments.by_ref() {
        match argument {
            Argument::Option("L", value) => forwards.push(value),
            Argument::Option(..) => {}
            Argument::Word(word) if server.is_none() => server = Some(word),
            // The command to run there.
            Argument::Word(_) => break,
        }
    }
    if forwards.is_empty() {
        return Err(GrammarError("the line forwards no local port: add -L PORT:HOST:PORT".into()));
    }
    let unbound = if arguments.flags.contains('g') { "any" } else { "localhost" };
    forwards.into_iter().map(|spec| ssh_forward(spec, server, unbound)).collect()
}

/// `[BIND:]PORT:HOST:PORT`. The host is named from the server's point of view.
fn ssh_forward(spec: &str, server: Option<&str>, unbound: &str) -> Result<WrittenMapping, GrammarError> {
    let (bind, port, host, host_port) = match split_outside_brackets(spec)[..] {
        [port, host, host_port] => (unbound, port, host, host_port),
        ["", port, host, host_port] => ("any", port, host, host_port),
        [bind, port, host, host_port] => (bind, port, host, host_port),
        _ => return Err(GrammarError(format!("-L {}: expected [BIND:]PORT:HOST:PORT", SafeText::quoted(spec)))),
    };
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    let of_server = matches!(bare(host).as_str(), "localhost" | "127.0.0.1" | "::1");
    let host = match server.filter(|_| of_server) {
        Some(server) => bare(server_host(server)),
        None => bare(host),
    };
    let target = match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        Ok(std::net::IpAddr::V4(ip)) => ip.to_string(),
        Err(_) if host == "localhost" => host,
        Err(_) => format!("host/{host}"),
    };
    mapping(&format!("{bind}:{port}"), &format!("{target}:{host_port}"), "tcp")
        .map_err(|error| GrammarError(format!("-L {}: {error}", SafeText::quoted(spec))))
}

/// `user@host` or `ssh://user@host:port`
fn server_host(server: &str) -> &str {
    let (uri, rest) = server.strip_prefix("ssh://").map_or((false, server), |rest| (true, rest));
    let host = rest.rsplit('@').next().unwrap_or(rest);
    if uri && !host.starts_with('[') { host.split([':', '/']).next().unwrap_or(host) } else { host }
}

fn split_outside_brackets(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(|c| {
        inside = (inside || c == '[') && c != ']';
        c == ':' && !inside
    })
    .collect()
}

/// Judged by the grammar, and given back in the words of the profile.
fn mapping(listen: &str, target: &str, protocol: &str) -> Result<WrittenMapping, GrammarError> {
    let mapping = Mapping::new(listen.parse()?, target.parse()?, protocol.parse::<Protocol>()?)?;
    Ok(MappingConfig { name_is_given: false, ..MappingConfig::new(made_up_name(&mapping), mapping) }.to_written())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        let show = |written: WrittenMapping| {
            let protocol = written.protocol.map_or(String::new(), |protocol| format!("/{protocol}"));
            format!("{}:{}{protocol}", written.listen, written.target)
        };
        match read_paste(text) {
            None => vec![],
            Some(Ok(mappings)) => mappings.into_iter().map(show).collect(),
            Some(Err(error)) => vec![format!("! {error}")],
        }
    }

    #[test]
    fn docker_lines_become_mappings() {
        for (line, mappings) in [
            ("docker run -p 127.0.0.1:8080:80/tcp --name web nginx", &["127.0.0.1:8080:web:80"][..]),
            ("docker run -d --name web -p 8080:80 nginx:1.27", &["any:8080:web:80"]),
            ("docker run -dp 8080:80 docker/getting-started", &["any:8080:getting-started:80"]),
            (
                "$ sudo docker container run --rm -it -p8080:80 -p 53:53/udp --name=dns r:5000/x/dns@sha256:1",
                &["any:8080:dns:80", "any:53:dns:53/udp"],
            ),
            (
                "docker run --publish=8080:80 --publish 0.0.0.0:81:80/UDP web",
                &["any:8080:web:80", "0.0.0.0:81:web:80/udp"],
            ),
            ("docker run -p=8080:80 web", &["any:8080:web:80"]),
            ("docker run -p 80 -p 127.0.0.1::81 web", &["any:auto:web:80", "127.0.0.1:auto:web:81"]),
            ("docker run -p '[::1]:8080:80' web", &["[::1]:8080:web:80"]),
            ("docker run -p 8000-8010:80-90 web", &["any:8000-8010:web:80-90"]),
            (
                "docker run \\\n  -v \"$PWD\":/data \\\n  -e 'A=b c' \\\n  -P -p 8080:80 \\\n  --name web \\\n  nginx",
                &["any:8080:web:80"],
            ),
            ("docker run --name web -p 8080:80 nginx serve -p 9 --name other", &["any:8080:web:80"]),
            ("A=b /usr/bin/podman --log-level debug run -p 8080:80 web && curl localhost", &["any:8080:web:80"]),
            ("docker run nginx", &["! the line publishes no port: add -p HOST:CONTAINER"]),
            ("docker run -p 70000:80 nginx", &["! -p 70000:80: host port 70000 is out of range (1-65535)"]),
            ("docker run -p 8000-8010:80 nginx", &["! -p 8000-8010:80: the ranges differ in length (11 and 1)"]),
            ("docker run -p 1:2:3:4 nginx", &["! -p 1:2:3:4: expected [IP:]PORT:PORT"]),
            ("docker run -p", &["! the line publishes no port: add -p HOST:CONTAINER"]),
        ] {
            assert_eq!(said(line), mappings, "{line}");
        }
    }

    #[test]
    fn ssh_lines_become_mappings() {
        for (line, mappings) in [
            ("ssh -L 8080:web.internal:80 me@gate", &["localhost:8080:host/web.internal:80"][..]),
            ("ssh -NfL 127.0.0.1:8080:10.0.0.5:80 gate", &["127.0.0.1:8080:10.0.0.5:80"]),
            (
                "ssh gate -N -L8080:localhost:80 -L *:81:db:5432",
                &["localhost:8080:host/gate:80", "any:81:host/db:5432"],
            ),
            ("ssh -p 2222 -i key -L :8080:127.0.0.1:80 ssh://me@gate.example:2222", &["any:8080:host/gate.example:80"]),
            ("ssh -g -L 8080:db:80 gate", &["any:8080:host/db:80"]),
            ("ssh -L '[::1]:8080:[fd00::2]:80' gate", &["[::1]:8080:[fd00::2]:80"]),
            ("ssh -L 8080:localhost:80 me@192.0.2.7", &["localhost:8080:192.0.2.7:80"]),
            ("ssh -L 8080:localhost:80", &["localhost:8080:localhost:80"]),
            ("ssh gate uptime -L 1:2:3", &["! the line forwards no local port: add -L PORT:HOST:PORT"]),
            ("ssh -L 8080:80 gate", &["! -L 8080:80: expected [BIND:]PORT:HOST:PORT"]),
            ("ssh -L 0:db:80 gate", &["! -L 0:db:80: host port 0 means \"pick a free one\": write auto"]),
        ] {
            assert_eq!(said(line), mappings, "{line}");
        }
    }

    #[test]
    fn other_text_is_left_alone() {
        for text in
            ["", "8080:web:80", "docker", "docker ps -a", "curl -L http://x", "echo docker run -p 1:1 x", "'", "\\"]
        {
            assert_eq!(read_paste(text), None, "{text}");
        }
        assert_eq!(read_paste(&format!("docker run -p 1:1 {}", "x".repeat(MAX_TEXT))), None);
    }
}
