//! Known defects of docker-proxy, each seen there and not here, through the programs themselves.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::common::docker_proxy::DockerProxy;
use crate::common::echo::{echo_server, echoes};
use crate::common::program::{Home, PORTOLAN, Run};
use crate::common::{Need, SOON, require, wait_for, wait_until};
use crate::seen;

const NEEDS: &[Need] = &[Need::DockerProxy];

/// Descriptors that both are given where these are to run out, and clients that are too many for them.
const DESCRIPTORS: u64 = 256;
const CLIENTS: usize = 300;

/// Our program with one mapping, and where it listens.
pub(crate) fn ours(home: &Home, listen: &str, target: SocketAddr, protocol: &str) -> (Run, SocketAddr) {
    let mut run = home.run(None, ["--drain", "0s", "-p", &format!("{listen}:auto:{target}/{protocol}")]);
    run.ready();
    let listener = run.listening(listen);
    (run, listener)
}

/// What a client gets of an answer that its target resets: bytes, and how they end.
fn reset_answer(door: SocketAddr, target: &TcpListener) -> (usize, io::Result<()>) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = target.accept().expect("the forwarder comes");
            stream.read_exact(&mut [0; 3]).expect("a request");
            stream.write_all(&[7; 1_000]).expect("half an answer");
            seen::reset(stream);
        });
        let mut client = TcpStream::connect(door).expect("it listens");
        client.set_read_timeout(Some(SOON)).expect("it can be set");
        client.write_all(b"get").expect("taken");
        let mut answer = Vec::new();
        let end = client.read_to_end(&mut answer).map(drop);
        (answer.len(), end)
    })
}

#[test]
fn a_truncated_answer_looks_complete_through_docker_proxy_and_not_here() {
    if !require(NEEDS) {
        return;
    }
    let target = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("it is bound");
    let proxy = DockerProxy::tcp("::1", address);
    let (bytes, end) = reset_answer(proxy.listener(), &target);
    assert_eq!(bytes, 1_000);
    end.expect("docker-proxy ends in order");

    let home = Home::new();
    let (_run, door) = ours(&home, "[::1]", address, "tcp");
    let (bytes, end) = reset_answer(door, &target);
    assert_eq!(bytes, 1_000);
    assert_eq!(end.expect_err("a reset stays one").kind(), ErrorKind::ConnectionReset);
}

/// How a connection ends whose target refuses.
fn refused(door: SocketAddr) -> io::Result<usize> {
    let mut client = TcpStream::connect(door)?;
    client.set_read_timeout(Some(SOON)).expect("it can be set");
    client.read(&mut [0])
}

#[test]
fn a_refusal_is_hidden_by_docker_proxy_and_not_here() {
    if !require(NEEDS) {
        return;
    }
    // Bound and not listening: nobody else gets the port, and whoever dials it is refused.
    let closed = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    closed.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = closed.local_addr().expect("it is bound").as_socket().expect("an Internet address");
    let proxy = DockerProxy::tcp("::1", address);
    assert_eq!(refused(proxy.listener()).expect("docker-proxy ends in order"), 0);

    let home = Home::new();
    let (_run, door) = ours(&home, "[::1]", address, "tcp");
    assert_eq!(refused(door).expect_err("a refusal shows").kind(), ErrorKind::ConnectionReset);
}

#[test]
fn docker_proxy_ends_for_good_when_descriptors_run_out_and_ours_goes_on() {
    if !require(NEEDS) {
        return;
    }
    let target = echo_server();
    let mut proxy = DockerProxy::hungry("127.0.0.1", target, DESCRIPTORS);
    // Once it is gone, the rest are refused.
    let clients: Vec<_> = (0..CLIENTS).filter_map(|_| TcpStream::connect(proxy.listener()).ok()).collect();
    let end = wait_for("the end of docker-proxy", SOON, || proxy.ended());
    assert!(end.success(), "{end}: it says that all is well");
    drop(clients);
    assert_eq!(TcpStream::connect(proxy.listener()).expect_err("nobody is there").kind(), ErrorKind::ConnectionRefused);

    let home = Home::new();
    let mut command = Command::new("bash");
    command.env_clear().envs(home.environment());
    command.args(["-c", r#"ulimit -n "$1" && shift && exec "$@""#, "bash", &DESCRIPTORS.to_string(), PORTOLAN]);
    command.args(["run", "--json", "--drain", "0s", "-p", &format!("127.0.0.1:auto:{target}")]);
    let mut run = Run::start(command);
    run.ready();
    let door = run.listening("127.0.0.1");
    // Whoever is turned away may hear of it while still connecting.
    let clients: Vec<_> = (0..CLIENTS).filter_map(|_| TcpStream::connect(door).ok()).collect();
    let is_degraded = |event: &serde_json::Value| event["event"] == "mapping_state" && event["state"] == "degraded";
    run.event("the shortage", SOON, is_degraded);
    drop(clients);
    wait_until("a new client to be served", SOON, || {
        TcpStream::connect(door).is_ok_and(|mut client| {
            client.set_read_timeout(Some(Duration::from_secs(1))).expect("it can be set");
            echoes(&mut client)
        })
    });
    assert!(run.stop().status.success());
}

/// Lengths of the datagrams that arrive, of one without a byte and one with four, at the target and back at the client.
fn lengths(door: SocketAddr, target: &UdpSocket) -> [Vec<usize>; 2] {
    let client = UdpSocket::bind((door.ip(), 0)).expect("a free port");
    client.connect(door).expect("connected");
    let take = |socket: &UdpSocket| {
        socket.set_read_timeout(Some(SOON)).expect("it can be set");
        let mut lengths = Vec::new();
        let from = loop {
            let (length, from) = socket.recv_from(&mut [0; 16]).expect("the last one arrives");
            lengths.push(length);
            if length == 4 {
                break from;
            }
        };
        (lengths, from)
    };
    client.send(b"").expect("sent");
    client.send(b"last").expect("sent");
    let (at_target, from) = take(target);
    target.send_to(b"", from).expect("sent");
    target.send_to(b"last", from).expect("sent");
    [at_target, take(&client).0]
}

#[test]
fn docker_proxy_drops_empty_datagrams_both_ways_and_ours_none() {
    if !require(NEEDS) {
        return;
    }
    let target = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("it is bound");
    let proxy = DockerProxy::udp("::1", address);
    assert_eq!(lengths(proxy.listener(), &target), [[4], [4]]);

    let home = Home::new();
    let (_run, door) = ours(&home, "[::1]", address, "udp");
    assert_eq!(lengths(door, &target), [[0, 4], [0, 4]]);
}

/// From where the replies come to one client socket that sends to 127.0.0.1, 127.0.0.2 and 127.0.0.3.
fn answering(port: u16, target: &UdpSocket) -> Vec<String> {
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    for socket in [&client, target] {
        socket.set_read_timeout(Some(SOON)).expect("it can be set");
    }
    let replies = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|dialled| {
        client.send_to(b"?", (dialled, port)).expect("sent");
        let (_, from) = target.recv_from(&mut [0; 16]).expect("it arrives");
        target.send_to(b"!", from).expect("sent");
        let (_, from) = client.recv_from(&mut [0; 16]).expect("a reply");
        assert_eq!(from.port(), port);
        from.ip().to_string()
    });
    replies.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn replies_leave_docker_proxy_from_one_address_and_ours_from_the_address_dialled() {
    if !require(NEEDS) {
        return;
    }
    let target = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = target.local_addr().expect("it is bound");
    let proxy = DockerProxy::udp("0.0.0.0", address);
    assert_eq!(answering(proxy.listener().port(), &target), ["127.0.0.1"]);

    let home = Home::new();
    let (_run, door) = ours(&home, "0.0.0.0", address, "udp");
    assert_eq!(answering(door.port(), &target), ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
}
