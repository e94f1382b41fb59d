//! The requests to the engine that have one answer, each with its limit of time and size.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, ClientVersion};
use tokio::time::timeout;

use super::decode::{self, Listing, MAX_CONTAINERS, Modes};
use super::engine::{self, EngineFacts, Network};
use super::lost::Lost;
use super::transport::Transport;
use crate::model::container::Container;
use crate::model::untrusted::SafeText;

/// Lists up to this size are decoded in place; longer ones would hold a worker of the data path up.
const DECODE_IN_PLACE: usize = 32 * 1024;
/// Containers that are asked about one by one for one list.
const MOST_INSPECTED: usize = 32;
/// What completes the list is waited for so much shorter than the list itself.
const HASTE: u32 = 4;

/// Asks one engine.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) transport: &'a Transport,
    /// The API version, as paths begin with it.
    pub(super) prefix: &'a str,
    pub(super) is_podman: bool,
    pub(super) patience: Duration,
}

/// The API version to speak: the engine's newest, or the newest that bollard knows; and whether it is Podman. Asked
/// without a version, since an engine refuses one that it does not have, at either end.
pub(super) async fn version(transport: &Transport) -> Result<(ClientVersion, bool), Lost> {
    let (engine, is_podman) = engine::version(&transport.get("/version", "").await?)?;
    let version = if &engine < API_DEFAULT_VERSION { engine } else { *API_DEFAULT_VERSION };
    Ok((version, is_podman))
}

impl Ask<'_> {
    /// What the engine says of itself; `None`, said in the log, when it does not.
    pub(super) async fn info(&self) -> Option<EngineFacts> {
        let facts = self.beside("/info", engine::info).await?;
        Some(EngineFacts { is_podman: self.is_podman, peer: self.transport.peer(), ..facts })
    }

    /// What is known without its word.
    pub(super) fn nothing_said(&self) -> EngineFacts {
        EngineFacts { is_podman: self.is_podman, peer: self.transport.peer(), ..EngineFacts::default() }
    }

    /// The engine's networks; `None`, said in the log, when it does not tell.
    pub(super) async fn networks(&self) -> Option<Vec<Network>> {
        let is_podman = self.is_podman;
        self.beside("/networks", move |answer| engine::networks(answer, is_podman)).await
    }

    /// The containers. `modes` is what was learned of single ones before, and comes back with what is learned now.
    pub(super) async fn containers(&self, mut modes: Modes) -> Result<(Vec<Container>, Modes), Lost> {
        let answer = self.transport.get("/containers/json?all=1", self.prefix).await?;
        let (mut listing, mut answer) = decoded(answer, &modes).await?;
        if !modes.is_empty() {
            let listed: HashSet<&SafeText> = listing.containers.iter().map(|container| &container.id).collect();
            modes.retain(|id, _| listed.contains(id));
        }
        let mut learned = false;
        for id in std::mem::take(&mut listing.untold).into_iter().take(MOST_INSPECTED) {
            if let Some(mode) = self.mode(&id).await {
                modes.insert(id, mode);
                learned = true;
            }
        }
        if learned {
            (listing, answer) = decoded(answer, &modes).await?;
        }
        drop(answer);
        if listing.left_out > 0 {
            tracing::warn!("Docker lists {} containers more than the {MAX_CONTAINERS} that are kept", listing.left_out);
        }
        Ok((listing.containers, modes))
    }

    /// How a container is networked that the list says nothing of.
    async fn mode(&self, id: &SafeText) -> Option<SafeText> {
        // It becomes a part of a path.
        let is_id = (1..=64).contains(&id.as_str().len()) && id.as_str().bytes().all(|digit| digit.is_ascii_hexdigit());
        if !is_id {
            return None;
        }
        self.beside(&format!("/containers/{id}/json"), decode::mode_of).await
    }

    /// An answer that the list does not wait for long, and goes on without.
    async fn beside<T: Send + 'static>(
        &self,
        path: &str,
        decode: impl FnOnce(&[u8]) -> Result<T, serde_json::Error> + Send + 'static,
    ) -> Option<T> {
        let asking = async {
            let answer = self.transport.get(path, self.prefix).await?;
            Ok::<T, Lost>(away(answer, decode).await?.0)
        };
        let problem = match timeout(self.patience / HASTE, asking).await {
            Ok(Ok(told)) => return Some(told),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        tracing::debug!("Docker does not tell {path}: {}", SafeText::quoted(&problem));
        None
    }
}

/// Decodes an answer, a long one away from the data path. It comes back, to be read again.
async fn away<T: Send + 'static>(
    answer: Vec<u8>,
    decode: impl FnOnce(&[u8]) -> Result<T, serde_json::Error> + Send + 'static,
) -> Result<(T, Vec<u8>), Lost> {
    if answer.len() <= DECODE_IN_PLACE {
        return Ok((decode(&answer)?, answer));
    }
    match tokio::task::spawn_blocking(move || (decode(&answer), answer)).await {
        Ok((decoded, answer)) => Ok((decoded?, answer)),
        Err(panicked) => Err(serde_json::Error::io(io::Error::other(panicked)).into()),
    }
}

/// The containers of an answer, which comes back.
async fn decoded(answer: Vec<u8>, modes: &Modes) -> Result<(Listing, Vec<u8>), Lost> {
    let modes = modes.clone();
    away(answer, move |answer| decode::containers(answer, &modes)).await
}
