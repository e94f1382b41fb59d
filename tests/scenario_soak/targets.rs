//! Where the mappings of the mixed load lead: servers that answer, ports that refuse, and one that swallows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;

use crate::book::Bytes;
use crate::sockets::Server;
use crate::ways;

/// Where each mapping leads.
pub(crate) struct Targets {
    pub(crate) addresses: BTreeMap<&'static str, SocketAddr>,
    /// What they received, by the address from which it came.
    pub(crate) received: Arc<Mutex<Bytes>>,
    _servers: Vec<Server>,
    _datagrams: JoinSet<()>,
    /// Sockets that hold ports where nobody answers.
    _held: Vec<Box<dyn Send + Sync>>,
}

impl Targets {
    pub(crate) async fn start(payload: &Arc<[u8]>) -> Self {
        let received: Arc<Mutex<Bytes>> = Arc::default();
        let (mut addresses, mut servers) = (BTreeMap::new(), Vec::new());
        for (mapping, ip) in [("to-v4", "127.0.0.1"), ("to-v6", "::1"), ("cut", "127.0.0.1")] {
            let (sums, payload) = (Arc::clone(&received), Arc::clone(payload));
            let server = Server::start_knowing_peers(ip, move |stream, source| {
                let (sums, payload) = (Arc::clone(&sums), Arc::clone(&payload));
                async move {
                    let bytes = ways::answer(stream, &payload).await;
                    *sums.lock().expect("no panic").entry((mapping.to_owned(), source)).or_default() += bytes;
                }
            });
            addresses.insert(mapping, server.address);
            servers.push(server);
        }
        let holding = Server::start("127.0.0.1", ways::hold);
        addresses.extend([("mute", holding.address), ("half-closed", holding.address)]);
        servers.push(holding);

        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        addresses.insert("datagrams", socket.local_addr().expect("it is bound"));
        let sums = Arc::clone(&received);
        let mut datagrams = JoinSet::new();
        datagrams.spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("it receives");
                *sums.lock().expect("no panic").entry(("datagrams".to_owned(), from)).or_default() += length as u64;
                socket.send_to(&buffer[..length], from).await.expect("it sends");
            }
        });
        let ((port, refused), (silent, refused_datagrams)) = (refusing(), refusing_datagrams().await);
        let (full, queued, swallowed) = swallowing().await;
        addresses.extend([("refused", refused), ("datagrams-refused", refused_datagrams), ("swallowed", swallowed)]);
        let held: Vec<Box<dyn Send + Sync>> = vec![Box::new(port), Box::new(silent), Box::new((full, queued))];
        Self { addresses, received, _servers: servers, _datagrams: datagrams, _held: held }
    }

    /// The profile, with the mapping `cut` as edit number `edit` leaves it: elsewhere, stopped, or gone.
    pub(crate) fn profile(&self, edit: u64) -> String {
        let mappings: Vec<String> = self
            .addresses
            .iter()
            .filter(|(name, _)| **name != "cut" || edit % 6 != 5)
            .map(|(name, target)| {
                let (listen, more) = match *name {
                    "swallowed" => ("auto", r#", "connect_timeout": "1s""#),
                    "mute" => ("auto", r#", "idle_timeout": "2s""#),
                    "half-closed" => ("auto", r#", "half_close_timeout": "1s""#),
                    "datagrams" | "datagrams-refused" => ("auto", r#", "protocol": "udp", "idle_timeout": "10s""#),
                    "cut" if edit % 6 == 3 => ("127.0.0.1:auto", r#", "enabled": false"#),
                    "cut" if edit.is_multiple_of(2) => ("127.0.0.1:auto", ""),
                    "cut" => ("[::1]:auto", ""),
                    _ => ("auto", ""),
                };
                format!(r#"{{ "name": "{name}", "listen": "{listen}", "target": "{target}"{more} }}"#)
            })
            .collect();
        format!("{{ \"version\": 1, \"mappings\": [\n{}\n] }}\n", mappings.join(",\n"))
    }
}

/// A port that is somebody's, where nobody listens.
fn refusing() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = address_of(&socket);
    (socket, address)
}

/// A port that is somebody's, and takes datagrams from him alone: others are refused.
async fn refusing_datagrams() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    socket.connect("127.0.0.99:9").await.expect("a way to loopback");
    let mut address = socket.local_addr().expect("an address");
    address.set_ip([127, 0, 0, 1].into());
    (socket, address)
}

/// A listener with a full backlog: its kernel drops further attempts without a word.
async fn swallowing() -> (Socket, TcpStream, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    socket.listen(0).expect("listens");
    let address = address_of(&socket);
    let queued = TcpStream::connect(address).await.expect("the one that fits");
    (socket, queued, address)
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().expect("an address").as_socket().expect("an IP address")
}
