//! The small IPv4-only web page of `portolan try`: it tells the remote address that it sees, and `/headers`
//! shows the request's headers. It stands for a container that nobody has started yet, and knows nothing of ours.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Duration, sleep};

/// Connections served at once; more of them wait in the kernel's queue.
const CONNECTIONS: usize = 64;

/// A bound page, not serving yet.
#[derive(Debug)]
pub(crate) struct Sample {
    listener: TcpListener,
}

impl Sample {
    /// Binds 127.0.0.1 on a free port.
    pub(crate) async fn bind() -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await? })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped.
    pub(crate) async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        connections.spawn(async move {
                            let page = service_fn(move |request| async move { Ok::<_, Infallible>(answer(&request, peer)) });
                            // A client that goes away in the middle concerns nobody.
                            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), page).await;
                        });
                    }
                    Err(_) => sleep(Duration::from_millis(100)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

fn answer(request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = match request.uri().path() {
        "/headers" => request
            .headers()
            .iter()
            .try_for_each(|(name, value)| writeln!(text, "{name}: {}", String::from_utf8_lossy(value.as_bytes()))),
        _ => writeln!(text, "Hello from an IPv4-only page. You came to me from {peer}."),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
