//! A filter as typed: words, and `port:8080 fam:6 state:open`. All of them must hold.

use crate::model::container::Container;
use crate::model::event::{ConnectionState, Event};
use crate::model::mapping::{Family, HostPort};

use super::offer;
use super::world::{ConnectionItem, MappingItem};
use crate::tui::format;

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
    pub fn takes_mapping(&self, item: &MappingItem) -> bool {
        self.terms.iter().all(|term| match term {
            Term::Word(word) => {
                has(&item.row.name, word)
                    || has(&item.row.mapping.to_string(), word)
                    || has(format::mapping_state_word(item.row.state), word)
                    || item.is_docker() && has("docker", word)
                    || item.row.target_addresses.iter().any(|ip| has(&ip.to_string(), word))
                    || item.row.reason.as_ref().is_some_and(|reason| has(reason.as_str(), word))
            }
            Term::Port(port) => {
                let listens = match item.row.mapping.listen.port {
                    HostPort::Ports(range) => (range.first()..=range.last()).contains(port),
                    HostPort::Auto => item.row.listeners.iter().any(|l| l.bound.is_some_and(|at| at.port() == *port)),
                };
                let target = item.row.mapping.target.ports;
                listens || (target.first()..=target.last()).contains(port)
            }
            Term::Family(family) => item.row.listeners.iter().any(|listener| listener.family == *family),
            Term::State(state) => {
                starts(format::mapping_state_word(item.row.state), state) || item.is_docker() && starts("docker", state)
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
                    || container.ports.iter().any(|port| has(&offer::port_words(port.port, port.protocol), word))
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
    pub fn takes_connection(&self, item: &ConnectionItem) -> bool {
        let connection = &item.row.connection;
        self.terms.iter().all(|term| match term {
            Term::Word(word) => {
                has(&connection.mapping, word)
                    || item.client().is_some_and(|client| has(&client.to_string(), word))
                    || item.listener().is_some_and(|listener| has(&listener.to_string(), word))
                    || has(&connection.target, word)
                    || connection.target_address.is_some_and(|address| has(&address.to_string(), word))
                    || item.row.process.as_ref().is_some_and(|process| has(process.as_str(), word))
                    || connection.reason.is_some_and(|reason| has(format::close_reason(reason), word))
                    || has(format::connection_state(connection.state), word)
            }
            Term::Port(port) => [item.client(), item.listener(), connection.target_address]
                .into_iter()
                .flatten()
                .any(|address| address.port() == *port),
            Term::Family(family) => item.family() == Some(*family),
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
}
