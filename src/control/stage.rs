//! What a client is at: whether it keeps us waiting, and since when, as its connection shows.

use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::Instant;

use super::stream::Kept;

/// What a client is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// It has nothing to wait for and has not begun to ask, since then.
    Silent(Instant),
    /// It sends a request, since then.
    Asking(Instant),
    /// It waits for an answer.
    Waiting,
    /// It takes an answer, since then.
    Taking {
        since: Instant,
        /// Others wait until it has taken that.
        is_list: bool,
    },
    /// It takes what goes on; not, since then.
    Following(Option<Instant>),
}

impl Stage {
    /// Since when it has kept us waiting. A stream may rest for as long as its client likes.
    pub(super) fn idle_since(self) -> Option<Instant> {
        match self {
            Self::Silent(since) | Self::Asking(since) | Self::Taking { since, .. } => Some(since),
            Self::Waiting | Self::Following(_) => None,
        }
    }
}

/// The stage of one client, which its connection sets and the doorkeeper reads.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<Mutex<(Stage, Option<Arc<Kept>>)>>);

impl Progress {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new((Stage::Silent(Instant::now()), None))))
    }

    pub(super) fn stage(&self) -> Stage {
        self.lock().0
    }

    /// What is kept for it, if it follows a stream.
    pub(super) fn kept(&self) -> Option<Arc<Kept>> {
        self.lock().1.clone()
    }

    pub(super) fn set(&self, stage: Stage) {
        *self.lock() = (stage, None);
    }

    /// It follows a stream from now on.
    pub(super) fn follow(&self, kept: Arc<Kept>) {
        *self.lock() = (Stage::Following(None), Some(kept));
    }

    fn change(&self, next: impl FnOnce(Stage) -> Stage) -> Stage {
        let mut now = self.lock();
        now.0 = next(now.0);
        now.0
    }

    /// Whether it is the same client's.
    #[cfg(test)]
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, (Stage, Option<Arc<Kept>>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something of a request has come. Gives since when it has been coming.
    pub(super) fn asks(&self) -> Instant {
        let now = Instant::now();
        let stage = self.change(|stage| if let Stage::Silent(_) = stage { Stage::Asking(now) } else { stage });
        if let Stage::Asking(since) = stage { since } else { now }
    }

    /// All that there was for it is on its way.
    fn has_taken(&self) {
        self.change(|stage| match stage {
            Stage::Taking { .. } => Stage::Silent(Instant::now()),
            Stage::Following(_) => Stage::Following(None),
            other => other,
        });
    }

    /// It takes no more for now.
    pub(super) fn rests(&self) {
        self.change(|stage| match stage {
            Stage::Following(None) => Stage::Following(Some(Instant::now())),
            other => other,
        });
    }
}

/// A client's connection, which notes what the client does.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) stream: Arc<UnixStream>,
    pub(super) progress: Progress,
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    if count > 0 {
                        self.progress.asks();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Watched {
    fn write(&self, cx: &mut Context<'_>, write: impl Fn(&UnixStream) -> io::Result<usize>) -> Poll<io::Result<usize>> {
        loop {
            let Poll::Ready(ready) = self.stream.poll_write_ready(cx) else {
                self.progress.rests();
                return Poll::Pending;
            };
            ready?;
            match write(&self.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream| stream.try_write_vectored(pieces))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Called when everything has been written.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.progress.has_taken();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

/// The body of an answer that goes on. Whatever ends it, its client is no follower any more.
#[derive(Debug)]
pub(super) struct Following {
    body: Body,
    progress: Progress,
}

impl Following {
    pub(super) fn new(body: Body, progress: Progress, kept: Arc<Kept>) -> Self {
        progress.follow(kept);
        Self { body, progress }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.progress.set(Stage::Taking { since: Instant::now(), is_list: false });
    }
}

impl HttpBody for Following {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
