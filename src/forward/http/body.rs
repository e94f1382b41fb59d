//! Bodies on their way through: passed on frame by frame as they come, in no more memory than a frame takes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::Reason;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep};

use super::common::{Common, Expectation, count};
use super::http2::strip_trailers;
use super::teller::Teller;
use crate::forward::exchanges::ExchangeId;
use crate::model::event::Side;

/// How long a client waits for leave from a target that may know nothing of leave: then it is given by us, as clients
/// would take it.
const LEAVE: Duration = Duration::from_secs(1);

/// Why a body is not sent on.
pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request.
#[derive(Debug)]
pub(super) struct Asking {
    /// None: there is none.
    incoming: Option<Incoming>,
    is_2: bool,
    /// The client waits for leave to send it, and reading it is what gives leave.
    waits: Option<Box<Waits>>,
    /// Counts those that are not sent on whole.
    common: Option<Arc<Common>>,
}

#[derive(Debug)]
struct Waits {
    expectation: Arc<Expectation>,
    patience: Pin<Box<Sleep>>,
}

impl Asking {
    pub(super) fn new(
        incoming: Incoming,
        expectation: Option<Arc<Expectation>>,
        common: &Arc<Common>,
        is_2: bool,
    ) -> Self {
        count(&common.bodies, 1);
        let incoming = (!incoming.is_end_stream()).then_some(incoming);
        let waits = expectation.map(|expectation| Box::new(Waits { expectation, patience: Box::pin(sleep(LEAVE)) }));
        Self { incoming, is_2, waits, common: Some(Arc::clone(common)) }
    }

    /// None at all.
    pub(super) fn none() -> Self {
        Self { incoming: None, is_2: false, waits: None, common: None }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(common) = &self.common {
            count(&common.bodies, -1);
        }
    }
}

impl Waits {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Expectation { waker, is_granted, is_off } = &*self.expectation;
        waker.register(cx.waker());
        if is_granted.load(Relaxed) {
            return Poll::Ready(Ok(()));
        }
        if is_off.load(Relaxed) {
            return Poll::Ready(Err("the request was answered without its body".into()));
        }
        ready!(self.patience.as_mut().poll(cx));
        is_granted.store(true, Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Body for Asking {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(waits) = &mut self.waits {
            ready!(waits.poll(cx))?;
            self.waits = None;
        }
        let is_2 = self.is_2;
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        if frame.is_none() && is_2 && !incoming.is_end_stream() {
            return Poll::Ready(Some(Err(cut_short())));
        }
        Poll::Ready(frame.map(|frame| {
            let mut frame = frame?;
            if let Some(trailers) = frame.trailers_mut() {
                Teller::strip_trailers(trailers);
                strip_trailers(trailers);
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or(SizeHint::with_exact(0), Incoming::size_hint)
    }
}

/// A request that is being answered, as it stands in the list; over when this is dropped.
#[derive(Debug)]
pub(super) struct Noted {
    common: Arc<Common>,
    id: ExchangeId,
}

impl Noted {
    pub(super) fn begin(common: &Arc<Common>, method: &str, path: &str) -> Self {
        count(&common.in_flight, 1);
        Self { id: common.record.exchanges().begin(method, path), common: Arc::clone(common) }
    }

    pub(super) fn answered(&self, status: u16) {
        self.common.record.exchanges().answered(self.id, status);
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        count(&self.common.in_flight, -1);
        self.common.record.exchanges().ended(self.id);
    }
}

/// The body of a response.
#[derive(Debug)]
pub(super) struct Answer {
    from: From,
    noted: Noted,
    /// Of the request, whose client waits for leave that will not come.
    expectation: Option<Arc<Expectation>>,
}

#[derive(Debug)]
enum From {
    Target {
        incoming: Incoming,
        is_2: bool,
    },
    /// Our words, until they are taken.
    Us(Option<Bytes>),
}

impl Answer {
    pub(super) fn of_target(
        incoming: Incoming,
        is_2: bool,
        noted: Noted,
        expectation: Option<Arc<Expectation>>,
    ) -> Self {
        Self { from: From::Target { incoming, is_2 }, noted, expectation }
    }

    pub(super) fn of_us(text: String, noted: Noted) -> Self {
        Self { from: From::Us((!text.is_empty()).then(|| text.into())), noted, expectation: None }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(expectation) = &self.expectation {
            expectation.call_off();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let Self { from, noted, .. } = &mut *self;
        match from {
            From::Target { incoming, is_2 } => {
                let frame = ready!(noted.common.take_frame(|| {
                    let frame = Pin::new(&mut *incoming).poll_frame(cx);
                    (frame, incoming.is_end_stream())
                }));
                if frame.is_none() && *is_2 && !incoming.is_end_stream() {
                    return Poll::Ready(Some(Err(cut_short())));
                }
                if let Some(Err(_)) = &frame {
                    // What the kernel or the gate has said of it goes first.
                    noted.common.fail(Side::Target, &std::io::ErrorKind::UnexpectedEof.into());
                }
                Poll::Ready(frame.map(|frame| {
                    let mut frame = frame?;
                    if let Some(trailers) = frame.trailers_mut() {
                        strip_trailers(trailers);
                    }
                    Ok(frame)
                }))
            }
            From::Us(words) => Poll::Ready(words.take().map(|words| Ok(Frame::data(words)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Target { incoming, .. } => incoming.is_end_stream(),
            From::Us(words) => words.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Target { incoming, .. } => incoming.size_hint(),
            From::Us(words) => SizeHint::with_exact(words.as_ref().map_or(0, |words| words.len() as u64)),
        }
    }
}

/// Passes on the reset of a stream of HTTP/2 for no error, ahead of its end: what the library takes for the end is none.
fn cut_short() -> Error {
    h2::Error::from(Reason::NO_ERROR).into()
}
