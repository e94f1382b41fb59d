//! What docker-proxy holds for each UDP session and each port, beside ours: memory of the programs as the kernel counts it,
//! shared pages by their share.

use std::net::{SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::common::docker_proxy::DockerProxy;
use crate::common::program::Home;
use crate::common::{Need, SOON, require};
use crate::defects::ours;

/// UDP sessions whose memory is measured, and those that are opened in all: more than our mappings hold at once.
const MEASURED: usize = 1_000;
const SESSIONS: usize = 5_000;
/// What a mapping holds where its profile does not say otherwise.
const CAP: usize = 4_096;
/// Descriptors that a program under load may open for itself.
const OWN: usize = 16;
/// Ports whose memory is measured.
const PORTS: usize = 60;
/// How much less ours must hold of either. What is measured is printed.
const LESS: f64 = 4.0;

/// Memory of a process in kB.
fn memory(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("a child's memory can be read");
    let line = text.lines().find(|line| line.starts_with("Pss:")).expect("the figure is there");
    line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a figure in kB")
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it is alive").count()
}

/// Opens sessions with an answer each: kB for each of the first [`MEASURED`], and descriptors after all.
fn sessions(pid: u32, door: SocketAddr, target: &UdpSocket) -> (f64, usize) {
    let before = memory(pid);
    let (mut clients, mut each) = (Vec::new(), 0.0);
    for number in 1..=SESSIONS {
        let client = UdpSocket::bind((door.ip(), 0)).expect("a free port");
        client.set_read_timeout(Some(SOON)).expect("it can be set");
        client.send_to(b"?", door).expect("sent");
        let (_, from) = target.recv_from(&mut [0; 16]).expect("it arrives");
        target.send_to(b"!", from).expect("sent");
        assert_eq!(client.recv_from(&mut [0; 16]).expect("a reply"), (1, door));
        clients.push(client);
        if number == MEASURED {
            each = (memory(pid) - before) / MEASURED as f64;
        }
    }
    (each, descriptors(pid))
}

#[test]
fn a_udp_session_costs_docker_proxy_more_and_nothing_bounds_their_number() {
    if !require(&[Need::DockerProxy, Need::Descriptors(2 * SESSIONS as u64)]) {
        return;
    }
    portolan::forward::descriptors::raise_limit().expect("a socket for each client");
    let target = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    target.set_read_timeout(Some(SOON)).expect("it can be set");
    let address = target.local_addr().expect("it is bound");
    let (docker_each, docker_open) = {
        let proxy = DockerProxy::udp("127.0.0.1", address);
        sessions(proxy.pid(), proxy.listener(), &target)
    };
    let home = Home::new();
    let (run, door) = ours(&home, "127.0.0.1", address, "udp");
    let idle = descriptors(run.pid());
    let (our_each, mut our_open) = sessions(run.pid(), door, &target);
    // The socket of a session that gave way is kept for a second, so that no late reply comes to another client.
    let patience = Instant::now() + SOON;
    while our_open > idle + CAP + OWN && Instant::now() < patience {
        sleep(Duration::from_millis(50));
        our_open = descriptors(run.pid());
    }
    println!("a session: docker-proxy {docker_each:.1} kB, ours {our_each:.1} kB");
    println!("descriptors after {SESSIONS} sessions: docker-proxy {docker_open}, ours {our_open} ({idle} idle)");
    assert!(docker_each > LESS * our_each, "docker-proxy {docker_each:.1} kB a session, ours {our_each:.1} kB");
    assert!(docker_open > SESSIONS, "docker-proxy bounds its sessions: {docker_open} descriptors");
    assert!(our_open <= idle + CAP + OWN, "{our_open} descriptors, {idle} of them without a session");
}

#[test]
fn a_port_costs_docker_proxy_a_process_and_ours_a_line() {
    if !require(&[Need::DockerProxy]) {
        return;
    }
    // Nobody is dialled.
    let target = SocketAddr::from(([127, 0, 0, 1], 9));
    let docker: f64 = {
        let proxies: Vec<_> = (0..PORTS).map(|_| DockerProxy::tcp("127.0.0.1", target)).collect();
        proxies.iter().map(|proxy| memory(proxy.pid())).sum()
    };
    let [one, all] = [1, PORTS].map(|count| {
        let home = Home::new();
        let mapping = format!("127.0.0.1:auto:{target}");
        let arguments = (0..count).flat_map(|_| ["-p", &mapping]);
        let mut run = home.run(None, ["--drain", "0s"].into_iter().chain(arguments));
        assert_eq!(run.ready()["listening"], count);
        memory(run.pid())
    });
    let (docker_each, our_each) = (docker / PORTS as f64, (all - one) / (PORTS - 1) as f64);
    println!("{PORTS} ports: docker-proxy {docker:.0} kB, ours {all:.0} kB, of which {one:.0} kB with one port");
    println!("a port more: docker-proxy {docker_each:.0} kB, ours {our_each:.1} kB");
    assert!(docker_each > LESS * our_each, "docker-proxy {docker_each:.0} kB a port, ours {our_each:.1} kB");
    assert!(docker > all, "docker-proxy {docker:.0} kB for all, ours {all:.0} kB");
}
