//! A filter as typed: words, and `port:8080 fam:6 state:open`. All of them must hold.
//!
//! The screen's `/` and the arguments of commands are read here, so the same text finds the same rows.

use super::container::Container;
use super::event::{ConnectionState, Event};
use super::format;
use super::mapping::{Family, HostPort};
use super::update::{ConnectionRow, MappingRow};

/// A parsed filter; empty, it lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    text: String,
    terms: Vec<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Word(String),
    Port(u16),
    Family(Family),
    State(String),
}

impl Filter {
    /// Reads a filter. What looks like a term but is none is a word.
    pub fn parse(text: &str) -> Self {
        Self { text: text.trim().to_owned(), terms: text.split_whitespace().map(Term::parse).collect() }
    }

    /// As typed.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether a mapping passes.
    pub fn takes_mapping(&self, row: &MappingRow) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Word(word) => {
                has(&row.name, word)
                    || has(&row.mapping.to_string(), word)
                    || has(format::mapping_state_word(row.state), word)
                    || row.is_docker() && has("docker", word)
                    || row.target_addresses.iter().any(|ip| has(&ip.to_string(), word))
                    || row.reason.as_ref().is_some_and(|reason| has(reason.as_str(), word))
            }
            Term::Port(port) => {
                let listens = match row.mapping.listen.port {
                    HostPort::Ports(range) => (range.first()..=range.last()).contains(port),
                    HostPort::Auto => row.listeners.iter().any(|l| l.bound.is_some_and(|at| at.port() == *port)),
                };
                let target = row.mapping.target.ports;
                listens || (target.first()..=target.last()).contains(port)
            }
            Term::Family(family) => row.listeners.iter().any(|listener| listener.family == *family),
            Term::State(state) => {
                starts(format::mapping_state_word(row.state), state) || row.is_docker() && starts("docker", state)
            }
        })
    }

    /// Whether a container passes.
    pub fn takes_container(&self, container: &Container) -> bool {
        let label = container.compose.as_ref();
        self.terms.iter().all(|term| match term {
            Term::Word(word) => {
                has(container.name.as_str(), word)
                    || has(container.image.as_str(), word)
                    || has(container.state.as_str(), word)
                    || container.id.as_str().starts_with(word.as_str())
                    || container.addresses.iter().any(|ip| has(&ip.to_string(), word))
                    || container.networks.iter().any(|network| has(network.name.as_str(), word))
                    || label.is_some_and(|label| has(label.project.as_str(), word) || has(label.service.as_str(), word))
                    || container.ports.iter().any(|port| has(&format::port(port.port, port.protocol), word))
            }
            Term::Port(port) => {
                container.ports.iter().any(|of| of.port == *port)
                    || container.publications.iter().any(|of| of.port == *port || of.host.port() == *port)
            }
            Term::Family(family) => container.addresses.iter().any(|ip| Family::of(*ip) == *family),
            Term::State(state) => starts(container.state.as_str(), state),
        })
    }

    /// Whether a connection passes.
    pub fn takes_connection(&self, row: &ConnectionRow) -> bool {
        let connection = &row.connection;
        self.terms.iter().all(|term| match term {
            Term::Word(word) => {
                has(&connection.mapping, word)
                    || row.client().is_some_and(|client| has(&client.to_string(), word))
                    || row.listener().is_some_and(|listener| has(&listener.to_string(), word))
                    || has(&connection.target, word)
                    || connection.target_address.is_some_and(|address| has(&address.to_string(), word))
                    || row.process.as_ref().is_some_and(|process| has(process.as_str(), word))
                    || connection.alias.is_some_and(|alias| has(&alias.to_string(), word))
                    || connection.peer.is_some_and(|peer| has(&peer.to_string(), word))
                    || row.exchanges.iter().any(|exchange| has(&exchange.text(), word))
                    || connection.reason.is_some_and(|reason| has(format::close_reason(reason), word))
                    || has(format::connection_state(connection.state), word)
            }
            Term::Port(port) => [row.client(), row.listener(), connection.target_address]
                .into_iter()
                .flatten()
                .any(|address| address.port() == *port),
            Term::Family(family) => row.family() == Some(*family),
            Term::State(state) => {
                starts(format::connection_state(connection.state), state)
                    || connection.state == ConnectionState::HalfClosed && starts("half_closed", state)
                    || connection.state == ConnectionState::Connecting && starts("connecting", state)
            }
        })
    }

    /// Whether an event, shown as `text`, passes.
    pub fn takes_event(&self, _event: &Event, text: &str) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Word(word) | Term::State(word) => has(text, word),
            Term::Port(port) => has(text, &format!(":{port}")),
            Term::Family(Family::V6) => text.contains("]:"),
            Term::Family(Family::V4) => !text.contains("]:"),
        })
    }
}

impl Term {
    fn parse(word: &str) -> Self {
        match word.split_once(':') {
            Some(("port", port)) if port.parse::<u16>().is_ok() => Self::Port(port.parse().unwrap_or_default()),
            Some(("fam", "6" | "v6")) => Self::Family(Family::V6),
            Some(("fam", "4" | "v4")) => Self::Family(Family::V4),
            Some(("state", state)) => Self::State(state.to_lowercase()),
            _ => Self::Word(word.to_lowercase()),
        }
    }
}

fn has(text: &str, word: &str) -> bool {
    text.to_lowercase().contains(word)
}

fn starts(text: &str, word: &str) -> bool {
    text.starts_with(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_told_from_words() {
        let filter = Filter::parse("web port:8080 fam:6 state:Open port:x");
        assert_eq!(
            filter.terms,
            [
                Term::Word("web".into()),
                Term::Port(8080),
                Term::Family(Family::V6),
                Term::State("open".into()),
                Term::Word("port:x".into())
            ]
        );
        assert!(Filter::parse("  ").is_empty());
    }

    fn connection() -> ConnectionRow {
        serde_json::from_value(serde_json::json!({
            "mapping_id": 1, "opened_at_ms": 0, "closed_at_ms": null, "process": "curl 4242",
            "connection": {
                "id": 17, "mapping": "web", "protocol": "tcp",
                "client": "[2001:db8::41]:51514", "listener": "[2001:db8::2]:8080",
                "source": "172.17.0.1:40112", "target": "web_1:80", "target_address": "172.17.0.2:80",
                "state": "half_closed", "opened_at": "2026-01-31T10:00:00.123Z", "duration_ms": 0,
                "bytes_in": 1, "bytes_out": 2
            }
        }))
        .expect("a row")
    }

    #[test]
    fn every_term_must_hold_of_a_connection() {
        for (text, is_taken) in [
            ("", true),
            ("web", true),
            ("WEB curl", true),
            ("2001:db8::41", true),
            ("172.17.0.2", true),
            ("web nginx", false),
            ("port:8080", true),
            ("port:80", true),
            ("port:40112", false),
            ("fam:6", true),
            ("fam:v4", false),
            ("state:half", true),
            ("state:half_closed", true),
            ("state:open", false),
            ("web port:8080 fam:6 state:half", true),
            ("web port:8080 fam:4 state:half", false),
        ] {
            assert_eq!(Filter::parse(text).takes_connection(&connection()), is_taken, "{text}");
        }
    }
}
