//! What a row says of itself, in the words of its columns: the screen and the commands list the same.
//!
//! Nothing here knows how wide a column is; who has no room shortens what it gets.

use std::net::SocketAddr;

use super::event::{ConnectionState, MappingState};
use super::exchange::Exchange;
use super::format;
use super::mapping::{Family, Protocol};
use super::untrusted::SafeText;
use super::update::{ConnectionRow, LastResult, ListenerRow, MappingRow, Owner};

/// What LAST RESULT says of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub enum LastWords<'a> {
    /// It is stopped, or nobody has connected yet.
    Nothing,
    /// One family is missing, and why.
    Missing(&'a ListenerRow, String),
    /// Why the mapping is not as it should be.
    Reason(String),
    /// What came of the last attempts to reach the target.
    Target(LastResult),
}

impl MappingRow {
    /// Whether it is a port that Docker publishes, which is only looked at.
    pub fn is_docker(&self) -> bool {
        self.owner.is_docker()
    }

    /// Whether its sums are those of all its connections.
    pub fn counts_bytes(&self) -> bool {
        !matches!(self.owner, Owner::Docker { is_partial: true, .. })
    }

    /// What of its sessions cannot be seen; of ours there is nothing of that kind.
    pub fn unseen(&self) -> &[SafeText] {
        match &self.owner {
            Owner::Docker { unseen, .. } => unseen,
            Owner::Portolan => &[],
        }
    }

    /// Whether its target can be tried by connecting.
    pub fn is_tcp(&self) -> bool {
        self.mapping.protocol == Protocol::Tcp
    }

    /// Whether it listens now, in one family at least.
    pub fn is_listening(&self) -> bool {
        self.listeners.iter().any(|listener| listener.bound.is_some())
    }

    /// STATE: `up`, or `docker` for a port of Docker's that is.
    pub fn state_word(&self) -> &'static str {
        match self.state {
            MappingState::Up if self.is_docker() => "docker",
            state => format::mapping_state(state),
        }
    }

    /// LISTEN: with the port that `auto` took.
    pub fn listen_text(&self, with_tcp: bool) -> String {
        self.with_port_taken(format::listen(&self.mapping, with_tcp))
    }

    /// The listen side in any words, with the port that `auto` took.
    pub fn with_port_taken(&self, text: String) -> String {
        match self.listeners.iter().find_map(|listener| listener.bound) {
            Some(bound) if text.contains(":auto") => text.replace(":auto", &format!(":{}", bound.port())),
            _ => text,
        }
    }

    /// WHO: `net` when other machines can connect, else `me`.
    pub fn who_word(&self) -> &'static str {
        if self.mapping.is_exposed() { "net" } else { "me" }
    }

    /// CONNS: how many are open.
    pub fn open_text(&self) -> String {
        if self.state == MappingState::Stopped {
            "-".to_owned()
        } else {
            self.seen(self.connections, |n| n.to_string())
        }
    }

    /// IN or OUT, of a sum of its bytes.
    pub fn sum_text(&self, bytes: u64) -> String {
        if self.counts_bytes() { self.seen(bytes, format::si) } else { "??".to_owned() }
    }

    /// IN/s or OUT/s.
    pub fn rate_text(&self, per_second: Option<f64>) -> String {
        if self.counts_bytes() { format::rate(per_second) } else { "??".to_owned() }
    }

    /// A count of what can be seen. Of a port of Docker's of which something cannot be seen, zero means nothing.
    fn seen(&self, count: u64, text: fn(u64) -> String) -> String {
        if count == 0 && !self.unseen().is_empty() { "??".to_owned() } else { text(count) }
    }

    /// LAST RESULT: why it is not as it should be, else how its target answered last.
    pub fn last_words(&self) -> LastWords<'_> {
        let failed = self.listeners.iter().find_map(|listener| Some((listener, listener.error.as_ref()?)));
        match (self.state, failed, &self.reason, self.last_result) {
            (MappingState::Stopped, ..) => LastWords::Nothing,
            // Which family is missing; of a mapping that failed whole, that is no news.
            (MappingState::Half, Some((listener, error)), ..) => {
                LastWords::Missing(listener, format::short_error(error.as_str()))
            }
            (MappingState::Failed, Some((_, error)), ..) => LastWords::Reason(format::short_error(error.as_str())),
            (
                MappingState::Half | MappingState::Failed | MappingState::Waiting | MappingState::Degraded,
                _,
                Some(reason),
                _,
            ) => LastWords::Reason(format::short_error(reason.as_str())),
            (.., Some(result)) => LastWords::Target(result),
            (.., None) => LastWords::Nothing,
        }
    }
}

impl LastWords<'_> {
    /// All of it.
    pub fn text(&self) -> String {
        match self {
            Self::Nothing => "-".to_owned(),
            Self::Missing(listener, why) => format!("{} {why}", listener.host()),
            Self::Reason(why) => why.clone(),
            Self::Target(result) => format::last_result(*result),
        }
    }
}

impl ListenerRow {
    /// Its address without the port, as it stands before one.
    pub fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host)
    }
}

impl ConnectionRow {
    /// Whether it has ended.
    pub fn is_closed(&self) -> bool {
        self.connection.state == ConnectionState::Closed
    }

    /// When it ended, in the service's clock.
    pub fn closed_at_ms(&self) -> Option<u64> {
        self.is_closed().then(|| self.closed_at_ms.unwrap_or(self.opened_at_ms + self.connection.duration_ms))
    }

    /// Whether it goes through Docker and is only looked at.
    pub fn is_docker(&self) -> bool {
        self.observed.is_some()
    }

    /// The client, where it is known.
    pub fn client(&self) -> Option<SocketAddr> {
        self.knows_client().then_some(self.connection.client)
    }

    /// What the client dialled, where it is known.
    pub fn listener(&self) -> Option<SocketAddr> {
        self.knows_client().then_some(self.connection.listener)
    }

    fn knows_client(&self) -> bool {
        self.observed.as_ref().is_none_or(|observed| observed.client_leg)
    }

    /// The family of its client, where it is known.
    pub fn family(&self) -> Option<Family> {
        self.client().map(|client| Family::of(client.ip()))
    }

    /// Whether its bytes are counted.
    pub fn counts_bytes(&self) -> bool {
        self.observed.as_ref().is_none_or(|observed| observed.bytes)
    }

    /// ALIAS: as which address the client appears to the target.
    pub fn alias_text(&self) -> String {
        self.connection.alias.map(|ip| ip.to_string()).unwrap_or_default()
    }

    /// PEER: who has named the client; of most, nobody has.
    pub fn peer_text(&self) -> String {
        self.connection.peer.map_or_else(|| "-".to_owned(), |peer| format::endpoint(Some(peer)))
    }

    /// Its latest HTTP request.
    pub fn last_exchange(&self) -> Option<&Exchange> {
        self.exchanges.last()
    }

    /// LAST REQUEST: the latest one, and how many there have been.
    pub fn request_text(&self) -> String {
        self.last_exchange().map(Exchange::text).unwrap_or_default()
    }

    /// FAMILY: the client's and the target's, `v6-v4`.
    pub fn families_text(&self) -> String {
        format::families(self.client(), self.connection.target_address)
    }

    /// STATE: `open`, `! half`, or `x` and why it ended.
    pub fn state_text(&self) -> String {
        let word = format::connection_state(self.connection.state);
        match (self.connection.reason, self.connection.state) {
            (Some(reason), _) => format!("x {}", format::close_reason(reason)),
            (None, ConnectionState::HalfClosed) => format!("! {word}"),
            (None, _) => word.to_owned(),
        }
    }

    /// IN or OUT.
    pub fn sum_text(&self, bytes: u64) -> String {
        if self.counts_bytes() { format::si(bytes) } else { "??".to_owned() }
    }

    /// IN/s or OUT/s; of one that has ended there is none.
    pub fn rate_text(&self, per_second: Option<f64>) -> String {
        match (self.is_closed(), self.counts_bytes()) {
            (true, _) => String::new(),
            (false, false) => "??".to_owned(),
            (false, true) => format::rate(per_second),
        }
    }

    /// AGE: its age, or how long ago it ended, when the service's clock stands at `now_ms`.
    pub fn age_text(&self, now_ms: u64) -> String {
        if let Some(at) = self.closed_at_ms() {
            let ago = format::age(now_ms.saturating_sub(at));
            // `12m05s ago` is more than anybody needs to know, and than fits.
            let coarse =
                if ago.len() > 3 { ago.split_inclusive(['m', 'h']).next().unwrap_or(&ago).to_owned() } else { ago };
            return format!("{coarse} ago");
        }
        let age = format::age(now_ms.saturating_sub(self.opened_at_ms));
        // Since when it was there before, nobody has seen.
        if self.observed.as_ref().is_some_and(|observed| observed.is_older) { format!(">{age}") } else { age }
    }
}
