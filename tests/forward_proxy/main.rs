//! PROXY headers, in and out: what the target gets, what it never gets, and whom the rows name.

#[path = "../common/sockets.rs"]
mod sockets;

mod incoming;
mod outgoing;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use portolan::model::profile::MappingConfig;
use portolan::wire::proxy::Told;
use sockets::{Bench, Server, bound, config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Whom the headers of these tests tell of.
const TOLD: &str = "[2001:db8::42]:40000 [2001:db8::1]:443";

fn told() -> Told {
    let mut addresses = TOLD.split(' ').map(|text| text.parse().expect("an address"));
    let mut next = || addresses.next().expect("two");
    Told { client: next(), listener: next() }
}

/// What a target has got, connection by connection.
#[derive(Clone, Debug, Default)]
struct Got(Arc<Mutex<Vec<Vec<u8>>>>);

impl Got {
    /// A target that keeps what it gets, after it has said `greeting`, and answers its end with its own.
    fn server(&self, greeting: &'static str) -> Server {
        let got = self.clone();
        Server::start("127.0.0.1", move |stream| {
            let got = got.clone();
            let nth = {
                let mut all = got.0.lock().expect("no panic");
                all.push(Vec::new());
                all.len() - 1
            };
            async move { got.keep(nth, stream, greeting).await }
        })
    }

    async fn keep(&self, nth: usize, mut stream: TcpStream, greeting: &str) {
        stream.write_all(greeting.as_bytes()).await.expect("it takes a greeting");
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            self.0.lock().expect("no panic")[nth].extend_from_slice(&buffer[..count]);
        }
        let _ = stream.shutdown().await;
    }

    fn all(&self) -> Vec<Vec<u8>> {
        self.0.lock().expect("no panic").clone()
    }
}

/// Maps `listen` to `target`, changed by `change`.
async fn map(bench: &Bench, listen: &str, target: SocketAddr, change: impl FnOnce(&mut MappingConfig)) -> SocketAddr {
    let mut config = config(&format!("{listen}:auto:{target}"));
    change(&mut config);
    bound(&bench.apply(1, &config, &[target]).await)
}

/// Headers of loopback are believed.
fn accept(config: &mut MappingConfig) {
    config.accept_proxy = true;
    config.trusted_cidrs = ["127.0.0.0/8", "::1/128"].map(|text| text.parse().expect("a network")).into();
}
