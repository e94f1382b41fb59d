//! What can be asked of the bench on its command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cases::Case;
use crate::contestants::Contestant;

/// Measures portolan beside docker-proxy, HAProxy, nginx, socat, rinetd and redir, and beside no proxy at all.
#[derive(Debug, Parser)]
#[command(name = "peers", bin_name = "cargo bench --bench peers --", max_term_width = 100)]
pub(crate) struct Options {
    /// Paired rounds of each test [default: 15, or 3 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Only these tests, separated by commas
    #[arg(long, value_name = "TEST", value_delimiter = ',')]
    only: Vec<String>,
    /// Only these peers, separated by commas; portolan and direct always take part
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    peers: Vec<String>,
    /// Only the tests of who the client is; without this or --only, they are left out
    #[arg(long)]
    identity: bool,
    /// A part that takes less than a minute: the main tests beside docker-proxy and nginx (--identity: nginx and haproxy)
    #[arg(long)]
    quick: bool,
    /// How long one piece of work lasts, in milliseconds [default: 500, or 300 with --quick]
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(50..=60_000))]
    millis: Option<u64>,
    /// How long to wait for the machine to be fast and idle, in seconds, all together [default: 600, or 5 with --quick]
    #[arg(long, value_name = "S")]
    patience: Option<u64>,
    /// Where all raw rounds are written [default: target/peers.json]
    #[arg(long, value_name = "PATH")]
    json: Option<PathBuf>,
    /// Another portolan than the one built with the bench
    #[arg(long, value_name = "PATH")]
    portolan: Option<PathBuf>,
    /// List tests and peers and do nothing else
    #[arg(long)]
    pub(crate) list: bool,
    /// Said by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// The tests to run.
    pub(crate) fn cases(&self) -> Result<Vec<&'static Case>> {
        let all = Case::all();
        if self.only.is_empty() {
            let is_chosen = |case: &&Case| case.is_plain() != self.identity && (!self.quick || case.is_quick);
            return Ok(all.iter().filter(is_chosen).collect());
        }
        self.only
            .iter()
            .map(|id| match all.iter().find(|case| case.id == id) {
                Some(case) => Ok(case),
                None => bail!("no test {id:?}: --list shows them"),
            })
            .collect()
    }

    /// Who takes part in any of these tests, ours and `direct` first.
    pub(crate) fn contestants(&self, cases: &[&Case]) -> Result<Vec<Contestant>> {
        let mut contestants = vec![Contestant::Direct, Contestant::Portolan, Contestant::PlainPortolan];
        if self.peers.is_empty() {
            contestants.extend(match (self.quick, self.identity) {
                (true, false) => &Contestant::PEERS[..2],
                (true, true) => &Contestant::PEERS[1..3],
                (false, _) => &Contestant::PEERS[..],
            });
        }
        for name in &self.peers {
            match Contestant::PEERS.iter().find(|peer| peer.name() == name) {
                Some(peer) => contestants.push(*peer),
                None => bail!("no peer {name:?}: --list shows them"),
            }
        }
        // Nobody is installed who has nothing to do.
        contestants.retain(|contestant| cases.iter().any(|case| case.is_for(*contestant)));
        Ok(contestants)
    }

    /// How many rounds each test has.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 15 })
    }

    /// How long one piece of work lasts.
    pub(crate) fn millis(&self) -> u64 {
        self.millis.unwrap_or(if self.quick { 300 } else { 500 })
    }

    /// How long all waits for a fast phase may last together.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.patience.unwrap_or(if self.quick { 5 } else { 600 }))
    }

    /// Where the raw rounds go.
    pub(crate) fn json_path(&self) -> PathBuf {
        let default = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/peers.json");
        self.json.clone().unwrap_or_else(default)
    }

    /// The portolan that is measured. Contestants run in another folder: the path is made a whole one.
    pub(crate) fn portolan(&self) -> Result<PathBuf> {
        let path = self.portolan.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_portolan").into());
        path.canonicalize().with_context(|| path.display().to_string())
    }
}
