//! What the engine says of itself and of its networks: `/version`, `/info` and `/networks`.
//!
//! From these and from what this host knows of itself the service decides whether a container's address means the
//! same here as there. Nothing is decided here.

use std::net::IpAddr;

use bollard::ClientVersion;
use serde::Deserialize;

use super::bounded::{Few, SafeWord, ips, text};
use crate::model::container::{Container, ContainerNetwork};
use crate::model::untrusted::SafeText;

/// Most networks that are kept.
const MAX_NETWORKS: usize = 1_000;
const MAX_OPTIONS: usize = 32;
const MAX_COMPONENTS: usize = 16;
/// Subnets of one network.
const MAX_SUBNETS: usize = 8;
/// Digits of a network's id in the name that Docker gives to its bridge.
const BRIDGE_DIGITS: usize = 12;

/// What an engine says of itself. What it has not said is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineFacts {
    /// Podman, with an API like Docker's.
    pub is_podman: bool,
    /// The address that answered; `None` on a unix socket.
    pub peer: Option<IpAddr>,
    /// Such as `Debian GNU/Linux 12 (bookworm)` or `Docker Desktop`.
    pub operating_system: Option<SafeText>,
    /// The release of its kernel, as `uname -r` prints it.
    pub kernel: Option<SafeText>,
    /// Bytes of memory of the machine that it runs on.
    pub memory: Option<u64>,
    /// It runs without root, in a user namespace and a network namespace of its own.
    pub is_rootless: Option<bool>,
    /// The name of the host that it runs on.
    pub host: Option<SafeText>,
}

/// A network of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Its name; not unique in every engine.
    pub name: SafeText,
    /// `bridge`, `macvlan`, `overlay`, …
    pub driver: SafeText,
    /// Made with `--internal`.
    pub is_internal: bool,
    /// As its addresses are managed: on a bridge, addresses of the host that the engine runs on.
    pub gateways: Vec<IpAddr>,
    /// The interface of the bridge on the engine's host, where that is certain.
    pub bridge: Option<SafeText>,
    /// The interface of the engine's host on which a macvlan or ipvlan network stands.
    pub parent: Option<SafeText>,
}

impl Network {
    /// The network that a container calls `name`; `None` when there are several. Podman calls its default network
    /// `podman` in containers and `bridge` in the list of networks.
    pub fn find<'a>(networks: &'a [Self], name: &str) -> Option<&'a Self> {
        let mut named = networks.iter().filter(|network| network.name.as_str() == name);
        match (named.next(), named.next()) {
            (Some(network), None) => Some(network),
            (None, _) if name == "podman" => Self::find(networks, "bridge"),
            _ => None,
        }
    }

    /// Completes what the list of containers says.
    fn tell(&self, network: &mut ContainerNetwork) {
        network.driver = self.driver.clone();
        network.is_internal = self.is_internal;
        // The list of containers leaves the gateway out where it leads nowhere.
        if network.gateways.is_empty() {
            network.gateways.clone_from(&self.gateways);
        }
    }
}

/// Completes the networks of `containers`.
pub(super) fn tell_networks(containers: &mut [Container], networks: &[Network]) {
    for network in containers.iter_mut().flat_map(|container| &mut container.networks) {
        if let Some(known) = Network::find(networks, network.name.as_str()) {
            known.tell(network);
        }
    }
}

/// The API version of an engine, and whether it is Podman.
pub(super) fn version(answer: &[u8]) -> Result<(ClientVersion, bool), serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Version {
        api_version: SafeWord,
        components: Option<Few<Component, MAX_COMPONENTS>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "PascalCase", default)]
    struct Component {
        name: Option<SafeWord>,
    }
    let Version { api_version, components } = serde_json::from_slice(answer)?;
    let text = api_version.0.as_str();
    let version = text.split_once('.').and_then(|(major, minor)| {
        Some(ClientVersion { major_version: major.parse().ok()?, minor_version: minor.parse().ok()? })
    });
    let unlike = || serde::de::Error::custom(format!("API version \"{}\"", SafeText::quoted(text)));
    let is_podman = components
        .unwrap_or_default()
        .kept
        .iter()
        .any(|component| component.name.as_ref().is_some_and(|name| name.0.as_str().starts_with("Podman")));
    Ok((version.ok_or_else(unlike)?, is_podman))
}

/// The answer to `/info`.
pub(super) fn info(answer: &[u8]) -> Result<EngineFacts, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Info {
        operating_system: Option<SafeWord>,
        kernel_version: Option<SafeWord>,
        mem_total: Option<u64>,
        security_options: Option<Few<SafeWord, MAX_OPTIONS>>,
        rootless: Option<bool>,
        name: Option<SafeWord>,
    }
    let info: Info = serde_json::from_slice(answer)?;
    let known = |word: Option<SafeWord>| word.map(|word| word.0).filter(|text| !text.as_str().is_empty());
    let options = info
        .security_options
        .map(|options| options.kept.iter().any(|option| option.0.as_str().split(',').next() == Some("name=rootless")));
    Ok(EngineFacts {
        operating_system: known(info.operating_system),
        kernel: known(info.kernel_version),
        memory: info.mem_total.filter(|bytes| *bytes > 0),
        is_rootless: match (options, info.rootless) {
            (None, None) => None,
            said => Some(said.0 == Some(true) || said.1 == Some(true)),
        },
        host: known(info.name),
        ..EngineFacts::default()
    })
}

/// The answer to `/networks`.
pub(super) fn networks(answer: &[u8], is_podman: bool) -> Result<Vec<Network>, serde_json::Error> {
    let listed: Few<Listed, MAX_NETWORKS> = serde_json::from_slice(answer)?;
    Ok(listed.kept.into_iter().map(|network| network.into_network(is_podman)).collect())
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Listed {
    name: Option<SafeWord>,
    id: Option<SafeWord>,
    driver: Option<SafeWord>,
    internal: Option<bool>,
    #[serde(rename = "IPAM")]
    addresses: Option<Ipam>,
    options: Option<NetworkOptions>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    config: Option<Few<Subnet, MAX_SUBNETS>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Subnet {
    gateway: Option<SafeWord>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NetworkOptions {
    #[serde(rename = "com.docker.network.bridge.name")]
    bridge: Option<SafeWord>,
    parent: Option<SafeWord>,
}

impl Listed {
    fn into_network(self, is_podman: bool) -> Network {
        let (driver, id, options) = (text(self.driver), text(self.id), self.options.unwrap_or_default());
        let subnets = self.addresses.and_then(|addresses| addresses.config).unwrap_or_default();
        let named = options.bridge.map(|word| word.0).filter(|name| !name.as_str().is_empty());
        let is_id = id.as_str().len() == 64 && id.as_str().bytes().all(|digit| digit.is_ascii_hexdigit());
        // Podman numbers its bridges and does not tell.
        let made = || (is_id && !is_podman).then(|| SafeText::new(&format!("br-{}", &id.as_str()[..BRIDGE_DIGITS])));
        Network {
            name: text(self.name),
            bridge: if driver.as_str() == "bridge" { named.or_else(made) } else { None },
            is_internal: self.internal.unwrap_or(false),
            gateways: ips(subnets.kept.into_iter().map(|subnet| subnet.gateway)),
            parent: options.parent.map(|word| word.0),
            driver,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_says_where_it_runs() {
        let docker = info(
            br#"{"ID":"x","Containers":3,"OperatingSystem":"Docker Desktop","KernelVersion":"6.10.14-linuxkit",
            "MemTotal":8217055232,"SecurityOptions":["name=seccomp,profile=unconfined","name=cgroupns"],"Name":"vm"}"#,
        );
        assert_eq!(
            docker.expect("facts"),
            EngineFacts {
                operating_system: Some("Docker Desktop".into()),
                kernel: Some("6.10.14-linuxkit".into()),
                memory: Some(8_217_055_232),
                is_rootless: Some(false),
                host: Some("vm".into()),
                ..EngineFacts::default()
            }
        );
        for rootless in [
            r#"{"SecurityOptions":["name=seccomp,profile=builtin","name=rootless","name=cgroupns"]}"#,
            r#"{"SecurityOptions":["name=rootless,profile=x"],"Rootless":false}"#,
            r#"{"SecurityOptions":[],"Rootless":true}"#,
        ] {
            assert_eq!(info(rootless.as_bytes()).expect(rootless).is_rootless, Some(true), "{rootless}");
        }
        assert_eq!(info(b"{}").expect("nothing said"), EngineFacts::default());
        let silent = br#"{"OperatingSystem":"","KernelVersion":null,"MemTotal":0,"SecurityOptions":null}"#;
        assert_eq!(info(silent).expect("nothing said"), EngineFacts::default());
        for nonsense in ["", "[1]", "null", r#"{"MemTotal":-1}"#, r#"{"SecurityOptions":{}}"#, r#"{"Name":1}"#] {
            assert!(info(nonsense.as_bytes()).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn networks_say_how_their_containers_are_reached() {
        let json = br#"[{"Name":"bridge","Id":"83c3","Driver":"bridge","Internal":false,
              "IPAM":{"Driver":"default","Options":null,"Config":[{"Subnet":"172.17.0.0/16","Gateway":"172.17.0.1"}]},
              "Options":{"com.docker.network.bridge.name":"docker0","com.docker.network.driver.mtu":"1500"}},
            {"Name":"shop","Id":"2cfe82942b3d77626566539d478fbeaceacac49fd975f6be2fabe203928e0ade","Driver":"bridge",
              "Internal":true,"IPAM":{"Config":[{"Gateway":"10.89.0.1"},{"Subnet":"fd00::/64"}]},"Options":{}},
            {"Name":"lan","Id":"f0","Driver":"macvlan","Options":{"parent":"eth0"},"IPAM":{"Config":[]}},
            {"Name":"host","Driver":"host","IPAM":null,"Options":null}, {}]"#;
        let all = networks(json, false).expect("networks");
        let bridges: Vec<_> = all.iter().map(|network| network.bridge.as_ref().map(SafeText::as_str)).collect();
        assert_eq!(bridges, [Some("docker0"), Some("br-2cfe82942b3d"), None, None, None]);
        assert_eq!(all[1].gateways, ["10.89.0.1".parse::<IpAddr>().expect("v4")]);
        assert!(all[1].is_internal && !all[0].is_internal);
        assert_eq!(all[2].parent.as_ref().map(SafeText::as_str), Some("eth0"));
        assert_eq!(networks(json, true).expect("networks")[1].bridge, None, "Podman names its bridges otherwise");
        for nonsense in ["", "{}", "null", r#"[{"Name":7}]"#, r#"[{"Internal":"no"}]"#, "[1]"] {
            assert!(networks(nonsense.as_bytes(), false).is_err(), "{nonsense}");
        }
        let many = format!("[{}{{}}]", "{},".repeat(100_000));
        assert_eq!(networks(many.as_bytes(), false).expect("networks").len(), MAX_NETWORKS);
    }

    #[test]
    fn a_name_of_two_networks_tells_of_neither_and_podmans_default_has_two_names() {
        let network =
            |name: &str, driver: &str| Network { name: name.into(), driver: driver.into(), ..Network::default() };
        let all = [network("a", "bridge"), network("b", "macvlan"), network("a", "overlay"), network("bridge", "x")];
        assert_eq!(Network::find(&all, "a"), None);
        assert_eq!(Network::find(&all, "b"), Some(&all[1]));
        assert_eq!(Network::find(&all, "podman"), Some(&all[3]));
        assert_eq!(Network::find(&all, "c"), None);
    }

    #[test]
    fn podman_is_told_from_docker() {
        let version =
            |json: &str| version(json.as_bytes()).map(|(version, is_podman)| (version.minor_version, is_podman));
        assert_eq!(
            version(r#"{"ApiVersion":"1.41","Components":[{"Name":"Podman Engine"}]}"#).expect("both"),
            (41, true)
        );
        assert_eq!(version(r#"{"ApiVersion":"1.44","Components":[{"Name":"Engine"}]}"#).expect("both"), (44, false));
        assert_eq!(version(r#"{"ApiVersion":"1.24"}"#).expect("both"), (24, false));
        assert!(version(r#"{"ApiVersion":"new"}"#).is_err());
    }
}
