//! Metrics on a port of loopback, for scrapers, which speak TCP alone.
//!
//! Everybody on this machine can connect, and a browser does so for any page that it shows; so there is nothing here
//! but `GET /metrics`, and it is answered to whoever asks this machine by a name of its own: a page whose own name has
//! been made to lead here (DNS rebinding) asks by that. A request has 1 s to come and 10 s to be answered, and ends its
//! connection. There are 16 places; who makes way for whom is said by [`super::scrapers`].

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr, TcpListener as Bound};
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST, HeaderMap};
use axum::http::uri::Authority;
use axum::http::{Method, Request, Response, StatusCode};
use axum::response::IntoResponse;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::refused::Refused;
use super::scrapers::{Noted, Scrapers};
use super::stage::{Progress, Stage};
use crate::metrics::{self, Format};
use crate::model::request::{Reply, Request as Asked, RequestError};
use crate::service::Handle;

/// Clients served at once.
pub const SCRAPERS: usize = 16;
/// How long the head of a request may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(1);
/// How long one request may take in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after an error of the listening socket, such as no descriptor left.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest head of a request.
const HEAD: usize = 16 << 10;

/// Listens, for [`serve_metrics`].
///
/// # Errors
/// As of `bind`.
pub fn listen(address: SocketAddr) -> std::io::Result<Bound> {
    let listener = Bound::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves scrapers until `stop` is cancelled.
pub async fn serve_metrics(listener: Bound, handle: Handle, stop: CancellationToken) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "metrics cannot be served"),
    };
    let mut scrapers = Scrapers::new(SCRAPERS);
    // Dropped at the end, with whoever is in the middle of a request.
    let mut connections = JoinSet::new();
    let mut fails = false;
    loop {
        let opens = scrapers.opens();
        let is_open = opens <= Instant::now();
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept(), if is_open => match accepted {
                Ok((stream, _)) => {
                    fails = false;
                    let progress = Progress::new();
                    let noted = Noted { stream, progress: progress.clone() };
                    scrapers.take(connections.spawn(serve(noted, handle.clone())), progress);
                    // Whoever has come in is heard before the next one.
                    yield_now().await;
                }
                Err(error) => {
                    // Once for as long as it lasts, and not ten times a second.
                    if !std::mem::replace(&mut fails, true) {
                        tracing::warn!(%error, "the metrics port takes no client in");
                    }
                    sleep(PAUSE).await;
                }
            },
            () = sleep_until(opens), if !is_open => {}
            Some(ended) = connections.join_next_with_id(), if !connections.is_empty() => match ended {
                Ok((id, ())) => scrapers.leave(id),
                Err(error) => {
                    if error.is_panic() {
                        tracing::error!(%error, "a client of the metrics port has met a defect");
                    }
                    scrapers.leave(error.id());
                }
            },
        }
    }
}

/// One request.
async fn serve(noted: Noted<TcpStream>, handle: Handle) {
    let progress = noted.progress.clone();
    let answer = service_fn(|request| answer(request, handle.clone(), progress.clone()));
    let mut http = http1::Builder::new();
    let served = http.keep_alive(false).max_buf_size(HEAD).serve_connection(TokioIo::new(noted), answer);
    let mut served = pin!(timeout(PATIENCE, served));
    let ended = match timeout(HEAD_PATIENCE, &mut served).await {
        Ok(ended) => ended,
        // It has asked for nothing so far.
        Err(_) if matches!(progress.stage(), Stage::Silent(_) | Stage::Asking(_)) => return,
        Err(_) => served.await,
    };
    if let Ok(Err(error)) = ended {
        tracing::debug!(%error, "a client of the metrics port");
    }
}

async fn answer(request: Request<Incoming>, handle: Handle, progress: Progress) -> Result<Response<Body>, Infallible> {
    progress.set(Stage::Waiting);
    let answer = answer_to(&request, &handle).await;
    progress.set(Stage::Taking { since: Instant::now(), is_list: false });
    Ok(answer)
}

async fn answer_to(request: &Request<Incoming>, handle: &Handle) -> Response<Body> {
    if !is_to_us(request) {
        (StatusCode::FORBIDDEN, "ask by 127.0.0.1, [::1] or localhost\n").into_response()
    } else if request.uri().path() != "/metrics" {
        (StatusCode::NOT_FOUND, "there is only /metrics\n").into_response()
    } else if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "GET")], "metrics can only be read\n").into_response()
    } else {
        let format = format(request.headers());
        match text(handle, format).await {
            Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
            Err(refused) => refused.into_response(),
        }
    }
}

/// The format that a client wants.
pub(super) fn format(headers: &HeaderMap) -> Format {
    Format::accepted(headers.get_all(ACCEPT).iter().filter_map(|accept| accept.to_str().ok()))
}

/// What is counted, as text.
pub(super) async fn text(handle: &Handle, format: Format) -> Result<String, Refused> {
    match handle.request(Asked::Metrics).await? {
        Reply::Metrics(counted) => metrics::text(&counted, format)
            .map_err(|_| Refused::with(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written")),
        other => {
            tracing::error!(reply = ?other, "an answer to another question");
            Err(RequestError::Gone.into())
        }
    }
}

/// Whether the names by which this machine is asked are its own. A proxy's form of a request has two.
fn is_to_us<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let is_ours = |host: &str| host.parse::<Authority>().is_ok_and(|host| is_loopback(host.host()));
    let is_said = hosts.next().is_some_and(|host| host.to_str().is_ok_and(is_ours));
    is_said && hosts.next().is_none() && request.uri().host().is_none_or(is_loopback)
}

fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, hosts: &[&str]) -> Request<()> {
        let request = Request::builder().uri(uri);
        hosts.iter().fold(request, |request, host| request.header(HOST, *host)).body(()).unwrap()
    }

    #[test]
    fn only_names_of_loopback_are_ours() {
        for host in ["127.0.0.1", "127.0.0.1:9464", "127.1.2.3:80", "[::1]", "[::1]:9464", "localhost:1", "LocalHost"] {
            assert!(is_to_us(&request("/metrics", &[host])), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "192.0.2.1:9464",
            "0.0.0.0",
            "[::]",
            "[::ffff:127.0.0.1]",
            "evil.example@127.0.0.1.evil.example",
            "127.0.0.1, evil.example",
        ] {
            assert!(!is_to_us(&request("/metrics", &[host])), "{host}");
        }
        assert!(!is_to_us(&request("/metrics", &[])), "who asks by no name");
        assert!(!is_to_us(&request("/metrics", &["localhost", "localhost"])), "by two");
        assert!(!is_to_us(&request("http://evil.example/metrics", &["localhost"])));
        assert!(is_to_us(&request("http://localhost/metrics", &["localhost"])));
    }
}
