//! Whether the engine's network is this host's: a pure function of what the engine and this machine say.
//!
//! Containers are dialled by their addresses, and the addresses of Docker's networks are the same on thousands of
//! machines: on an engine in a virtual machine, a namespace or on another host they may be somebody else's here. What
//! the engine says of itself comes first, then what its containers' processes and bridges show. Without any of that
//! the place is unknown, and addresses are judged one by one ([`super::reach`]).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use super::reach::bridges_are_here;
use crate::docker::{DockerView, EngineFacts};
use crate::host::addresses::OwnAddresses;
use crate::host::machine::{Machine, ProcessNetwork};
use crate::model::container::{DockerState, EnginePlace};
use crate::model::untrusted::SafeText;

/// Memory that comes and goes by less than this part of the whole (an eighth) is no other machine's.
const MEMORY_DRIFT: u64 = 8;
/// Most containers whose processes are looked for.
const MOST_SOUGHT: usize = 64;

/// What this machine says.
#[derive(Debug)]
pub(super) struct Here<'a> {
    pub(super) own: &'a OwnAddresses,
    pub(super) machine: &'a Machine,
    /// The containers that have a process in sight.
    pub(super) processes: &'a HashMap<String, ProcessNetwork>,
}

/// Where the engine's network is.
pub(super) fn engine_place(docker: &DockerView, here: &Here<'_>) -> EnginePlace {
    if docker.state == DockerState::Unknown {
        return EnginePlace::Unknown;
    }
    if let Some(elsewhere) = by_its_own_word(&docker.engine, here.own) {
        return elsewhere;
    }
    let running = || docker.containers.iter().filter(|container| container.is_running());
    let process = |id: &str| here.processes.get(id).copied();
    let is_in_sight = running().any(|container| process(container.id.as_str()).is_some());
    if !is_in_sight && let Some(why) = other_machine(&docker.engine, here.machine) {
        return elsewhere(&why, Some(LOOPBACK));
    }
    // A container on the engine's own network shows which one that is.
    let on_its_network = running().filter(|container| container.host_network);
    let mut shown = on_its_network.filter_map(|container| process(container.id.as_str()));
    let is_here = match shown.find(|network| *network != ProcessNetwork::Unseen) {
        Some(network) => Some(network == ProcessNetwork::Ours),
        None => bridges_are_here(&docker.containers, &docker.networks, here.own),
    };
    match is_here {
        Some(true) => EnginePlace::Here,
        Some(false) => elsewhere("it has another network namespace", None),
        None => EnginePlace::Unknown,
    }
}

/// The containers whose processes may tell more than `place` does.
pub(super) fn sought<'a>(docker: &'a DockerView, own: &OwnAddresses, place: &EnginePlace) -> Vec<&'a str> {
    if docker.state == DockerState::Unknown || by_its_own_word(&docker.engine, own).is_some() {
        return Vec::new();
    }
    // A bridge of the same address can be another engine's; a process on the engine's network cannot be mistaken.
    let is_in_doubt = *place != EnginePlace::Here;
    let running = docker.containers.iter().filter(|container| container.is_running());
    let mut running: Vec<_> = running.filter(|container| is_in_doubt || container.host_network).collect();
    running.sort_by_key(|container| !container.host_network);
    running.into_iter().map(|container| container.id.as_str()).take(MOST_SOUGHT).collect()
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn elsewhere(reason: &str, published_at: Option<IpAddr>) -> EnginePlace {
    EnginePlace::Elsewhere { reason: SafeText::new(reason), published_at }
}

/// Elsewhere for sure, whatever this machine looks like.
fn by_its_own_word(engine: &EngineFacts, own: &OwnAddresses) -> Option<EnginePlace> {
    if let Some(peer) = engine.peer.filter(|peer| !own.contains(*peer)) {
        return Some(elsewhere(&format!("it runs on another host, {}", peer.to_canonical()), Some(peer)));
    }
    if engine.is_rootless == Some(true) {
        return Some(elsewhere("rootless: its network is its own", Some(LOOPBACK)));
    }
    let desktop = engine.operating_system.as_ref().filter(|name| name.as_str().contains("Docker Desktop"));
    desktop.map(|_| elsewhere("Docker Desktop: it runs in a virtual machine", Some(LOOPBACK)))
}

/// Why the engine runs on another machine than this one.
fn other_machine(engine: &EngineFacts, machine: &Machine) -> Option<String> {
    if let (Some(theirs), Some(ours)) = (&engine.kernel, &machine.kernel)
        && theirs.as_str() != ours
    {
        return Some(format!("it runs in a virtual machine: its kernel is {}", SafeText::quoted(theirs.as_str())));
    }
    let (theirs, ours) = (engine.memory?, machine.memory?);
    let is_other = theirs.abs_diff(ours) > theirs.max(ours) / MEMORY_DRIFT;
    is_other.then(|| {
        let [theirs, ours] = [theirs, ours].map(|bytes| bytes >> 20);
        format!("it runs in a virtual machine: it has {theirs} MiB of memory, this host {ours} MiB")
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::docker::Network;
    use crate::host::addresses::{OwnAddress, Reach};
    use crate::model::container::{Container, ContainerNetwork};

    fn own() -> OwnAddresses {
        let one = |(interface, ip): (&str, &str)| {
            let ip: IpAddr = ip.parse().expect("an address");
            OwnAddress { ip, reach: Reach::of(ip), interface: interface.into(), index: 1, prefix: 24 }
        };
        OwnAddresses([("docker0", "172.17.0.1"), ("eth0", "192.0.2.7"), ("lo", "127.0.0.1")].map(one).to_vec())
    }

    fn container(id: &str, host_network: bool, gateway: &str) -> Container {
        let gateways: Vec<IpAddr> = gateway.parse().into_iter().collect();
        let networks = if host_network { vec![] } else { vec![bridge(gateways)] };
        Container {
            id: id.into(),
            name: "web".into(),
            image: "x".into(),
            state: "running".into(),
            addresses: vec![],
            networks,
            host_network,
            ports: vec![],
            publications: vec![],
            compose: None,
        }
    }

    fn bridge(gateways: Vec<IpAddr>) -> ContainerNetwork {
        ContainerNetwork {
            name: "bridge".into(),
            driver: "bridge".into(),
            addresses: vec!["172.17.0.2".parse().expect("an address")],
            gateways,
            ..ContainerNetwork::default()
        }
    }

    /// An engine on this very machine that tells everything.
    fn plain() -> EngineFacts {
        EngineFacts {
            operating_system: Some("Debian GNU/Linux 12".into()),
            kernel: Some("6.1.0-9".into()),
            memory: Some(16 << 30),
            is_rootless: Some(false),
            host: Some("box".into()),
            ..EngineFacts::default()
        }
    }

    fn place(engine: EngineFacts, containers: Vec<Container>, processes: &[(&str, ProcessNetwork)]) -> String {
        let docker0 = Network {
            name: "bridge".into(),
            driver: "bridge".into(),
            bridge: Some("docker0".into()),
            ..Network::default()
        };
        let docker = DockerView {
            state: DockerState::Connected,
            containers: Arc::new(containers),
            networks: Arc::new(vec![docker0]),
            engine,
        };
        let machine = Machine { kernel: Some("6.1.0-9".into()), memory: Some(16 << 30) };
        let processes = processes.iter().map(|(id, network)| ((*id).to_owned(), *network)).collect();
        let here = Here { own: &own(), machine: &machine, processes: &processes };
        match engine_place(&docker, &here) {
            EnginePlace::Unknown => "unknown".to_owned(),
            EnginePlace::Here => "here".to_owned(),
            EnginePlace::Elsewhere { reason, published_at: Some(at) } => format!("{reason} [{at}]"),
            EnginePlace::Elsewhere { reason, published_at: None } => format!("{reason} []"),
        }
    }

    #[test]
    fn an_engine_is_placed_by_what_it_says_and_by_what_its_containers_show() {
        use ProcessNetwork::{Another, Ours, Unseen};
        let at = |peer: &str| EngineFacts { peer: Some(peer.parse().expect("an address")), ..plain() };
        let kernel = || EngineFacts { kernel: Some("6.10.14-linuxkit".into()), ..plain() };
        let memory = |bytes| EngineFacts { memory: Some(bytes), ..plain() };
        let here = || vec![container("a", false, "172.17.0.1")];
        let away = || vec![container("a", false, "172.30.0.1")];
        let host = || vec![container("h", true, "")];
        let rootless = EngineFacts { is_rootless: Some(true), ..plain() };
        let desktop = EngineFacts { operating_system: Some("Docker Desktop".into()), ..plain() };
        let silent = EngineFacts::default;
        let (vm, namespace) = ("it runs in a virtual machine:", "it has another network namespace []");
        for (name, engine, containers, processes, expected) in [
            ("plain", plain(), here(), &[][..], "here".to_owned()),
            ("plain, nothing runs", plain(), vec![], &[], "unknown".to_owned()),
            ("another host", at("192.0.2.9"), here(), &[], "it runs on another host, 192.0.2.9 [192.0.2.9]".to_owned()),
            ("own address", at("192.0.2.7"), here(), &[], "here".to_owned()),
            ("loopback", at("127.0.0.1"), here(), &[], "here".to_owned()),
            ("rootless", rootless, here(), &[], "rootless: its network is its own [127.0.0.1]".to_owned()),
            ("Desktop", desktop, here(), &[], "Docker Desktop: it runs in a virtual machine [127.0.0.1]".to_owned()),
            ("kernel", kernel(), here(), &[], format!("{vm} its kernel is 6.10.14-linuxkit [127.0.0.1]")),
            (
                "memory",
                memory(4 << 30),
                here(),
                &[],
                format!("{vm} it has 4096 MiB of memory, this host 16384 MiB [127.0.0.1]"),
            ),
            ("a little less memory", memory(15 << 30), here(), &[], "here".to_owned()),
            // Processes in sight: the same machine, whatever a container manager makes of /proc/meminfo.
            ("memory, but in sight", memory(4 << 30), here(), &[("a", Another)], "here".to_owned()),
            (
                "kernel, others in sight",
                kernel(),
                here(),
                &[("x", Another)],
                format!("{vm} its kernel is 6.10.14-linuxkit [127.0.0.1]"),
            ),
            ("no bridge of ours", plain(), away(), &[], namespace.to_owned()),
            ("no bridge of ours, in sight", plain(), away(), &[("a", Another)], namespace.to_owned()),
            ("one bridge of ours", plain(), [away(), here()].concat(), &[], "here".to_owned()),
            ("host network alone", plain(), host(), &[], "unknown".to_owned()),
            ("host network, ours", plain(), host(), &[("h", Ours)], "here".to_owned()),
            ("host network, another", plain(), host(), &[("h", Another)], namespace.to_owned()),
            ("host network, not to be seen", plain(), host(), &[("h", Unseen)], "unknown".to_owned()),
            // Two engines with the same subnet: the process decides.
            ("same subnet", plain(), [here(), host()].concat(), &[("h", Another)], namespace.to_owned()),
            ("silent", silent(), here(), &[], "here".to_owned()),
            ("silent, no gateways", silent(), vec![container("a", false, "")], &[], "unknown".to_owned()),
            ("silent, away", silent(), away(), &[], namespace.to_owned()),
        ] {
            assert_eq!(place(engine, containers, processes), expected, "{name}");
        }
        let here = Here { own: &own(), machine: &Machine::default(), processes: &HashMap::new() };
        assert_eq!(engine_place(&DockerView::default(), &here), EnginePlace::Unknown);
    }

    #[test]
    fn processes_are_looked_for_only_where_they_would_tell_more() {
        let view = |engine| DockerView {
            state: DockerState::Connected,
            containers: Arc::new(vec![container("a", false, "172.30.0.1"), container("h", true, "")]),
            engine,
            ..DockerView::default()
        };
        let ids = |engine, place: &EnginePlace| sought(&view(engine), &own(), place).join(" ");
        assert_eq!(ids(plain(), &EnginePlace::Unknown), "h a", "those on the engine's own network first");
        assert_eq!(ids(plain(), &elsewhere("x", None)), "h a");
        assert_eq!(ids(plain(), &EnginePlace::Here), "h");
        let rootless = EngineFacts { is_rootless: Some(true), ..plain() };
        assert_eq!(ids(rootless, &elsewhere("x", None)), "");
        assert!(sought(&DockerView::default(), &own(), &EnginePlace::Unknown).is_empty());
    }
}
