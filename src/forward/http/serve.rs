//! Runs the library on both legs until the connection has ended, in the one task that it has.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::sync::CancellationToken;

use super::channel::{Spoken, Wire};
use super::exchange::{Proxy, exchange};
use super::tasks::Tasks;
use super::turn::{Part, Turns};
use super::watch::{Sight, Watch};
use super::{MAX_BUFFER, MAX_FIELDS_LIST, STREAM_BUFFER, STREAMS, WINDOW};
use crate::forward::registry::OpenConnection;
use crate::forward::relay::Timeouts;
use crate::model::event::CloseReason;

/// Why serving has stopped.
#[derive(Debug)]
pub(super) enum End {
    /// The library says so.
    Served(hyper::Result<()>),
    /// Somebody wants it to end.
    Killed,
    /// Nothing moved for too long.
    Silence(CloseReason),
    /// The client is gone.
    Gone,
}

/// What watches over a connection while it is served.
pub(super) struct Bounds<'a> {
    pub(super) connection: &'a OpenConnection,
    pub(super) timeouts: &'a Timeouts,
    pub(super) drain: &'a CancellationToken,
}

/// How serving has ended.
pub(super) struct Served {
    pub(super) end: End,
    /// No request was being answered.
    pub(super) is_idle: bool,
    /// What was read of the client beyond HTTP, after another protocol was agreed on.
    pub(super) read_ahead: Vec<u8>,
}

/// Serves the client until the end.
pub(super) async fn serve(proxy: &Arc<Proxy>, tasks: &Tasks, bounds: &Bounds<'_>) -> Served {
    let wire = Wire(Arc::clone(&proxy.client));
    let shared = Arc::clone(proxy);
    let service = service_fn(move |request| exchange(Arc::clone(&shared), request));
    // To be asked before the library is gone, which holds the requests.
    let is_idle = || proxy.common.in_flight.load(Relaxed) == 0;
    match proxy.spoken {
        Spoken::Http1 => {
            let mut builder = http1::Builder::new();
            builder.half_close(true).auto_date_header(false).max_buf_size(MAX_BUFFER);
            let mut server = builder.serve_connection(wire, service);
            let end = drive(Pin::new(&mut server), http1::Connection::graceful_shutdown, proxy, tasks, bounds).await;
            let is_idle = is_idle();
            let read_ahead =
                if proxy.common.is_upgraded() { server.into_parts().read_buf.to_vec() } else { Vec::new() };
            Served { end, is_idle, read_ahead }
        }
        Spoken::Http2 => {
            let mut builder = http2::Builder::new(tasks.clone());
            builder.auto_date_header(false).max_header_list_size(MAX_FIELDS_LIST);
            builder.initial_connection_window_size(WINDOW).initial_stream_window_size(WINDOW);
            builder.max_send_buf_size(STREAM_BUFFER).max_concurrent_streams(STREAMS);
            let server = pin!(builder.serve_connection(wire, service));
            let end = drive(server, http2::Connection::graceful_shutdown, proxy, tasks, bounds).await;
            Served { end, is_idle: is_idle(), read_ahead: Vec::new() }
        }
    }
}

async fn drive<S: Future<Output = hyper::Result<()>>>(
    mut server: Pin<&mut S>,
    shut_down: fn(Pin<&mut S>),
    proxy: &Proxy,
    tasks: &Tasks,
    bounds: &Bounds<'_>,
) -> End {
    let Bounds { connection, timeouts, drain } = bounds;
    let record = connection.record();
    let mut turns = Turns::new();
    if Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread {
        proxy.common.silence_target_by(turns.silencer(Part::Target));
    }
    let mut watch = Watch::new(proxy, connection, timeouts);
    let mut draining = pin!(drain.cancelled());
    let mut is_draining = false;
    poll_fn(|cx| {
        if record.kill.poll_heard(cx).is_ready() {
            return Poll::Ready(End::Killed);
        }
        loop {
            let ended = turns.poll(cx, |turns, part, cx| {
                let mut over = Poll::Pending;
                match part {
                    Part::Client => over = server.as_mut().poll(cx),
                    Part::Target | Part::TargetLeg => {
                        let [side, leg] = [Part::Target, Part::TargetLeg].map(|part| turns.waker(part));
                        proxy.target.poll(&mut Context::from_waker(side), leg);
                        if proxy.common.has_interim() {
                            let mut cx = Context::from_waker(turns.waker(Part::Client));
                            proxy.client.send_interim(&mut cx, &proxy.common.take_interim());
                        }
                    }
                    Part::Streams => {
                        tasks.poll(cx);
                        proxy.target.forget_ended();
                    }
                    Part::Drain if !is_draining && draining.as_mut().poll(cx).is_ready() => {
                        is_draining = true;
                        shut_down(server.as_mut());
                        turns.wake(Part::Client);
                    }
                    Part::Drain => {}
                }
                if proxy.spoken == Spoken::Http2 && tasks.have_begun() {
                    turns.wake(Part::Streams);
                }
                over
            });
            if let Poll::Ready(result) = ended {
                return Poll::Ready(End::Served(result));
            }
            match watch.poll(cx, turns.waker(Part::Client)) {
                // What it has done is seen by who reads.
                Poll::Ready(Sight::Stir) => turns.wake(Part::Client),
                Poll::Ready(Sight::Silence(reason)) => return Poll::Ready(End::Silence(reason)),
                Poll::Ready(Sight::Gone) => return Poll::Ready(End::Gone),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}
