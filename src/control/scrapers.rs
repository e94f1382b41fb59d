//! Who has a place at the metrics port, and who makes way for whom.
//!
//! Everybody on this machine can connect there, so a place that is needed is taken from whoever has kept us waiting
//! longest: clients that say nothing, or take nothing of their answer, keep no scraper out. Whoever is being answered
//! keeps its place, and whoever has just come in can be heard first.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;

use super::stage::{Progress, Stage};

/// Time that everybody has to be heard, before its place can be somebody else's. It bounds, too, what those cost who
/// come back as often as they can.
const GRACE: Duration = Duration::from_millis(10);
/// How long somebody may take nothing of its answer while its place is needed.
const STALL: Duration = Duration::from_secs(1);
/// When it is looked again, while everybody waits for us.
const LOOK: Duration = Duration::from_millis(50);

/// The clients, each in its place.
#[derive(Debug)]
pub(super) struct Scrapers {
    places: usize,
    taken: Vec<(AbortHandle, Progress)>,
}

impl Scrapers {
    pub(super) fn new(places: usize) -> Self {
        Self { places, taken: Vec::new() }
    }

    /// When the next one can come in.
    pub(super) fn opens(&self) -> Instant {
        let now = Instant::now();
        if self.taken.len() < self.places {
            return now;
        }
        self.first_out().map_or(now + LOOK, |(_, from)| from)
    }

    /// Gives a place to who has come in, somebody else's if it must be.
    pub(super) fn take(&mut self, abort: AbortHandle, progress: Progress) {
        if self.taken.len() >= self.places
            && let Some((at, _)) = self.first_out()
        {
            self.taken.swap_remove(at).0.abort();
        }
        self.taken.push((abort, progress));
    }

    /// Whoever had this place has gone.
    pub(super) fn leave(&mut self, id: Id) {
        self.taken.retain(|(abort, _)| abort.id() != id);
    }

    /// Who is the first to make way, and from when on.
    fn first_out(&self) -> Option<(usize, Instant)> {
        let known = self.taken.iter().enumerate().filter_map(|(at, (_, progress))| {
            let stage = progress.stage();
            let patience = if let Stage::Taking { .. } = stage { STALL } else { GRACE };
            Some((at, stage.idle_since()? + patience))
        });
        known.min_by_key(|(_, from)| *from)
    }
}

/// A client's connection, which notes that the client takes its answer. When it began to send a request is of no
/// account: that has to come at once.
#[derive(Debug)]
pub(super) struct Noted<S> {
    pub(super) stream: S,
    pub(super) progress: Progress,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S> Noted<S> {
    fn has_taken(&self, written: io::Result<usize>) -> Poll<io::Result<usize>> {
        if let Stage::Taking { is_list, .. } = self.progress.stage() {
            self.progress.set(Stage::Taking { since: Instant::now(), is_list });
        }
        Poll::Ready(written)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.has_taken(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, pieces));
        self.has_taken(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::task::JoinSet;
    use tokio::time::advance;

    use super::*;

    /// Clients that stay until they are sent away.
    struct Port {
        scrapers: Scrapers,
        tasks: JoinSet<()>,
        clients: Vec<(Id, Progress)>,
    }

    impl Port {
        fn new(places: usize) -> Self {
            Self { scrapers: Scrapers::new(places), tasks: JoinSet::new(), clients: Vec::new() }
        }

        fn enter(&mut self) -> Progress {
            let progress = Progress::new();
            let abort = self.tasks.spawn(pending());
            self.clients.push((abort.id(), progress.clone()));
            self.scrapers.take(abort, progress.clone());
            progress
        }

        /// Those who have been sent away, by the order in which they came.
        fn gone(&self) -> Vec<usize> {
            let is_there = |id: Id| self.scrapers.taken.iter().any(|(abort, _)| abort.id() == id);
            (0..self.clients.len()).filter(|number| !is_there(self.clients[*number].0)).collect()
        }
    }

    fn taking() -> Stage {
        Stage::Taking { since: Instant::now(), is_list: false }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_been_silent_longest_makes_way_but_not_before_it_could_be_heard() {
        let mut port = Port::new(3);
        let first = Instant::now();
        for _ in 0..3 {
            assert_eq!(port.scrapers.opens(), Instant::now());
            port.enter();
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(port.scrapers.opens(), first + GRACE);
        port.enter();
        assert_eq!(port.gone(), [0]);
        port.enter();
        assert_eq!(port.gone(), [0, 1]);
        port.scrapers.leave(port.clients[2].0);
        assert_eq!(port.scrapers.opens(), Instant::now(), "there is a place");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_answered_keeps_its_place_as_long_as_it_takes_its_answer() {
        let mut port = Port::new(2);
        let (waiting, takes) = (port.enter(), port.enter());
        waiting.set(Stage::Waiting);
        takes.set(Stage::Waiting);
        assert_eq!(port.scrapers.opens(), Instant::now() + LOOK, "it is looked again");
        port.enter();
        assert!(port.gone().is_empty(), "nobody can make way");
        port.scrapers.leave(port.clients[2].0);
        let (end, mut client) = duplex(8);
        let mut noted = Noted { stream: end, progress: takes.clone() };
        takes.set(taking());
        for _ in 0..5 {
            advance(STALL / 2).await;
            noted.write_all(b"8 bytes.").await.expect("there is room");
            assert!(port.scrapers.opens() > Instant::now(), "it takes its answer");
            client.read_exact(&mut [0; 8]).await.expect("it is taken");
        }
        advance(STALL).await;
        assert_eq!(port.scrapers.opens(), Instant::now());
        port.enter();
        assert_eq!(port.gone(), [1, 2], "it has taken nothing for too long");
    }
}
