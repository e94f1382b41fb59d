//! What holds for the answers of whatever listens where Docker should, and for the files of Docker's own client.
//!
//! See [`crate::fuzzing`], which is the door to it.

use std::cell::OnceCell;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bollard::query_parameters::EventsOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use futures_util::StreamExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Duration, Instant};

use super::decode::{self, MAX_CONTAINERS, Modes};
use super::ended::Ended;
use super::endpoint::Endpoint;
use super::engine;
use super::environment;
use super::transport::{Transport, TransportError, error_message, whole};
use super::watch::may_move_a_container;
use crate::model::fuzzing::{assert_all_plain, assert_crosses, assert_plain, assert_safe};

/// Bytes that an answer may have here, so that short inputs are too long too.
const ALLOWANCE: u64 = 4_096;
/// Bytes that arrive at once.
const PIECE: usize = 509;

/// Bodies of answers, as JSON, and the files that say where the engine is.
pub(crate) fn docker_answers(bytes: &[u8]) {
    containers(bytes);
    if let Ok(mode) = decode::mode_of(bytes) {
        assert_safe(&mode);
    }
    if let Ok(facts) = engine::info(bytes) {
        for text in [facts.operating_system, facts.kernel, facts.host].iter().flatten() {
            assert_safe(text);
            assert!(!text.as_str().is_empty(), "nothing said is none");
        }
    }
    for is_podman in [false, true] {
        for network in engine::networks(bytes, is_podman).unwrap_or_default() {
            for text in [Some(&network.name), Some(&network.driver), network.bridge.as_ref(), network.parent.as_ref()] {
                text.into_iter().for_each(assert_safe);
            }
        }
    }
    if let Err(error) = engine::version(bytes) {
        assert!(!error.to_string().is_empty());
    }
    let _ = error_message(bytes);
    let _ = environment::context_in(bytes);
    let _ = environment::parsed(bytes);
    endpoint(&String::from_utf8_lossy(bytes));
}

fn containers(bytes: &[u8]) {
    let Ok(first) = decode::containers(bytes, &Modes::new()) else { return };
    assert!(first.containers.len() <= MAX_CONTAINERS && first.untold.len() <= first.containers.len());
    // As if each had joined the network of one in the list, which may lead in a circle.
    let other = first.containers.first().map(|container| container.id.clone()).unwrap_or_default();
    let mode = |id: &_| if *id == other { "host".into() } else { format!("container:{other}").as_str().into() };
    let modes: Modes = first.untold.iter().map(|id| (id.clone(), mode(id))).collect();
    let second = decode::containers(bytes, &modes).expect("the same answer");
    assert_eq!(second.containers.len(), first.containers.len());
    assert_eq!(second.left_out, first.left_out);
    for container in first.containers.iter().chain(&second.containers) {
        assert_all_plain(&assert_crosses(container));
        assert!(container.ports.is_sorted() && container.publications.is_sorted());
        assert!(container.ports.iter().all(|port| port.port != 0 && port.published != Some(0)));
    }
    assert!(first.containers.is_sorted_by_key(|container| (!container.is_running(), &container.name, &container.id)));
}

/// What `DOCKER_HOST` or a context names.
fn endpoint(text: &str) {
    for tls in [false, true] {
        match Endpoint::parse(text, tls) {
            Ok(endpoint) => {
                assert_plain(&endpoint.to_string());
                if let Endpoint::Tcp { .. } = endpoint {
                    assert_eq!(Endpoint::of_url(&format!("tcp://{}", endpoint.authority())), Some(endpoint));
                }
            }
            Err(error) => assert_plain(&error.to_string()),
        }
    }
}

/// Answers as they come over the wire: HTTP, and in it the stream of events.
pub(crate) fn docker_http(bytes: &[u8]) {
    thread_local! {
        static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
    }
    RUNTIME.with(|runtime| {
        let runtime = runtime.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));
        runtime.block_on(async {
            match answer(bytes).await {
                Ok(answer) => assert!(answer.len() as u64 <= ALLOWANCE + PIECE as u64, "{} bytes", answer.len()),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            assert!(events(bytes).await <= bytes.len());
        });
    });
}

/// The whole answer, or why there is none.
async fn answer(bytes: &[u8]) -> Result<Vec<u8>, TransportError> {
    let transport = Transport::new(Endpoint::Unix("/nowhere".into()));
    let request = Request::new(Empty::<Bytes>::new());
    let (said, allowance) = Said::new(bytes);
    let answered = match transport.over(said, request, allowance).await {
        Ok(response) => whole(response).await,
        Err(error) => Err(error),
    };
    transport.close().await;
    answered
}

/// How many events there are.
async fn events(bytes: &[u8]) -> usize {
    let transport = Arc::new(Transport::new(Endpoint::Unix("/nowhere".into())));
    let send = {
        let (transport, bytes) = (Arc::clone(&transport), bytes.to_vec());
        move |request: BollardRequest| {
            let (transport, (said, allowance)) = (Arc::clone(&transport), Said::new(&bytes));
            async move { transport.over(said, request, allowance).await.map_err(|error| io::Error::other(error).into()) }
        }
    };
    let docker =
        Docker::connect_with_custom_transport(send, Some("http://docker"), 10, API_DEFAULT_VERSION).expect("a client");
    let mut events = pin!(docker.events(Some(EventsOptionsBuilder::new().build())));
    let (mut ended, now, mut count) = (Ended::default(), Instant::now(), 0);
    while let Some(Ok(event)) = events.next().await {
        count += 1;
        may_move_a_container(&event);
        // The end of the same container is no news only after its start.
        if ended.hear(&event, now) && event.action.as_deref() == Some("start") {
            assert!(!ended.hear(&event, now), "it has started already");
        }
    }
    ended.believe(now, Duration::ZERO);
    transport.close().await;
    count
}

/// A stream that says some bytes once it has been asked, and ends.
struct Said {
    bytes: Vec<u8>,
    told: usize,
    is_asked: bool,
    waits: Option<Waker>,
    allowance: Arc<AtomicU64>,
}

impl Said {
    fn new(bytes: &[u8]) -> (Box<Self>, Arc<AtomicU64>) {
        let allowance = Arc::new(AtomicU64::new(ALLOWANCE));
        (
            Box::new(Self {
                bytes: bytes.to_vec(),
                told: 0,
                is_asked: false,
                waits: None,
                allowance: Arc::clone(&allowance),
            }),
            allowance,
        )
    }
}

impl AsyncRead for Said {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // What comes before the request would be no answer.
        if !self.is_asked {
            self.waits = Some(cx.waker().clone());
            return Poll::Pending;
        }
        assert!(self.allowance.load(Ordering::Relaxed) > 0, "nothing is read any more");
        assert!((self.told as u64) < ALLOWANCE + PIECE as u64, "no more was read than agreed");
        let piece = PIECE.min(buffer.remaining()).min(self.bytes.len() - self.told);
        buffer.put_slice(&self.bytes[self.told..self.told + piece]);
        self.told += piece;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_asked = true;
        self.waits.take().into_iter().for_each(Waker::wake);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So that the target tries what it is for: an answer and events do get through.
    #[test]
    fn what_is_said_is_heard() {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let said = |bytes: &[u8]| runtime.block_on(answer(bytes)).map_err(|error| error.to_string());
        assert_eq!(said(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"), Ok(b"[]".to_vec()));
        assert_eq!(said(b"HTTP/1.1 404 No\r\n\r\n{\"message\":\"x\"}"), Err("answers 404: x".to_owned()));
        let long = [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'x'; 2 * PIECE + 2 * 4_096]].concat();
        assert!(said(&long).is_err(), "it is too long");
        let event = b"HTTP/1.1 200 OK\r\n\r\n{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"ID\":\"aa\"}}\n";
        assert_eq!(runtime.block_on(events(event)), 1);
    }
}
