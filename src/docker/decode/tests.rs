//! Lists of containers as Docker and Podman write them, and as nobody should.

use super::*;

fn decoded(json: &str) -> Vec<Container> {
    containers(json.as_bytes(), &Modes::new()).expect(json).containers
}

fn addresses(networks: &str) -> Vec<String> {
    let json = format!(r#"[{{"State":"running","NetworkSettings":{{"Networks":{networks}}}}}]"#);
    decoded(&json)[0].addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn reads_what_docker_writes() {
    let all = decoded(
        r#"[{"Id":"0123456789abcdef","Names":["/db/alias","/web_1"],"Image":"nginx:1.27","ImageID":"sha256:1",
        "Command":"nginx","Created":1700000000,"State":"running","Status":"Up 3 hours",
        "Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                 {"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                 {"PrivatePort":443,"Type":"tcp"},{"PrivatePort":53,"Type":"udp"}],
        "Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"web",
                  "com.docker.compose.container-number":"2","com.docker.compose.oneoff":"False","other":"x"},
        "HostConfig":{"NetworkMode":"shop_default"},
        "NetworkSettings":{"Networks":{"shop_default":{"IPAddress":"172.18.0.2","IPPrefixLen":16,
            "GlobalIPv6Address":"fd00::2","Gateway":"172.18.0.1","IPv6Gateway":"","IPAMConfig":null}}},"Mounts":[]}]"#,
    );
    let port = |port, protocol, published| ContainerPort { port, protocol, published };
    assert_eq!(
        all,
        [Container {
            id: "0123456789abcdef".into(),
            name: "web_1".into(),
            image: "nginx:1.27".into(),
            state: "running".into(),
            addresses: vec!["172.18.0.2".parse().expect("v4"), "fd00::2".parse().expect("v6")],
            networks: vec![ContainerNetwork {
                name: "shop_default".into(),
                addresses: vec!["172.18.0.2".parse().expect("v4"), "fd00::2".parse().expect("v6")],
                gateways: vec!["172.18.0.1".parse().expect("v4")],
                ..ContainerNetwork::default()
            }],
            host_network: false,
            publications: ["0.0.0.0:8080", "[::]:8080"]
                .map(|host| Publication { host: host.parse().expect("an address"), port: 80, protocol: Protocol::Tcp })
                .to_vec(),
            ports: vec![
                port(53, Protocol::Udp, None),
                port(80, Protocol::Tcp, Some(8080)),
                port(443, Protocol::Tcp, None),
            ],
            compose: Some(ComposeLabel { project: "shop".into(), service: "web".into(), number: 2 }),
        }]
    );
}

#[test]
fn addresses_come_in_a_steady_order_and_only_those_of_containers() {
    assert_eq!(
        addresses(
            r#"{"zoo":{"IPAddress":"10.0.0.4"},"app_default":{"IPAddress":"10.0.0.3","GlobalIPv6Address":"fd00::3"},
            "bridge":{"IPAddress":"172.17.0.2"},"aaa":{"IPAddress":"10.0.0.5"}}"#
        ),
        ["172.17.0.2", "10.0.0.3", "fd00::3", "10.0.0.5", "10.0.0.4"]
    );
    let elsewhere = r#"{"a":{"IPAddress":"127.0.0.1","GlobalIPv6Address":"::1"},"b":{"IPAddress":"0.0.0.0"},
        "c":{"IPAddress":"224.0.0.1"},"d":{"IPAddress":"","GlobalIPv6Address":""},"e":null,
        "f":{"IPAddress":"255.255.255.255"},"g":{"IPAddress":"10.0.0.1"},"h":{"IPAddress":"10.0.0.1"}}"#;
    assert_eq!(addresses(elsewhere), ["10.0.0.1"]);
}

#[test]
fn a_container_on_the_hosts_network_is_at_loopback_and_one_that_joined_another_is_where_that_is() {
    let all = decoded(
        r#"[{"Id":"aa","Names":["/a"],"State":"running","HostConfig":{"NetworkMode":"host"},
             "NetworkSettings":{"Networks":{"host":{"IPAddress":""}}}},
            {"Id":"bb","Names":["/b"],"State":"running","HostConfig":{"NetworkMode":"container:cc"}},
            {"Id":"cc","Names":["/c"],"State":"running","NetworkSettings":{"Networks":{"bridge":{"IPAddress":"10.0.0.1"}}}},
            {"Id":"dd","Names":["/d"],"State":"running","HostConfig":{"NetworkMode":"container:b"}},
            {"Id":"ee","Names":["/e"],"State":"running","HostConfig":{"NetworkMode":"container:ee"}},
            {"Id":"ff","Names":["/f"],"State":"running","HostConfig":{"NetworkMode":"container:gone"}}]"#,
    );
    let at = |name: &str| all.iter().find(|container| container.name.as_str() == name).expect(name);
    assert!(at("a").host_network);
    assert_eq!(at("a").addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1", "::1"]);
    for joined in ["b", "d"] {
        assert_eq!(at(joined).addresses, at("c").addresses, "{joined}");
    }
    assert!(at("e").addresses.is_empty() && at("f").addresses.is_empty());
}

#[test]
fn what_is_missing_null_or_new_is_no_reason_to_know_nothing() {
    let all = decoded(
        r#"[{}, {"Names":null,"State":"thawing","Labels":null,"Ports":null,"NetworkSettings":null,"New":[{"x":1}]},
        {"Labels":{"com.docker.compose.project":"p","com.docker.compose.service":"s","com.docker.compose.oneoff":"True"}}]"#,
    );
    assert_eq!(all.len(), 3);
    assert!(all.iter().any(|container| container.state.as_str() == "thawing" && !container.is_running()));
    assert!(all.iter().all(|container| container.compose.is_none()));
}

#[test]
fn what_is_no_list_of_containers_is_refused() {
    for json in ["", "{}", "null", "[", "[{]", "[1]", r#"[{"Id":5}]"#, r#"[{"Ports":[{"PrivatePort":-1}]}]"#, "[]x"] {
        assert!(containers(json.as_bytes(), &Modes::new()).is_err(), "{json}");
    }
    let deep = format!("[{{\"New\":{}}}]", "[".repeat(100_000));
    assert!(containers(deep.as_bytes(), &Modes::new()).is_err());
}

/// As Podman 4.3 lists them.
#[test]
fn how_a_container_is_networked_is_asked_where_the_list_does_not_tell() {
    let json = r#"[{"Id":"aa","Names":["/host"],"State":"running","NetworkSettings":{"Networks":null}},
        {"Id":"bb","Names":["/web"],"State":"running","Ports":[{"PrivatePort":80,"PublicPort":8080,"Type":"tcp"}],
         "NetworkSettings":{"Networks":{"podman":{"IPAddress":"10.88.0.2","Gateway":"10.88.0.1"}}}},
        {"Id":"cc","Names":["/off"],"State":"exited","NetworkSettings":{"Networks":null}},
        {"Id":"dd","Names":["/none"],"State":"running","HostConfig":{"NetworkMode":"none"}}]"#;
    let listing = containers(json.as_bytes(), &Modes::new()).expect(json);
    assert_eq!(listing.untold, ["aa".into()]);
    let published: Vec<String> =
        listing.containers.iter().flat_map(|one| &one.publications).map(|one| one.host.to_string()).collect();
    assert_eq!(published, ["0.0.0.0:8080"]);

    let mode = mode_of(br#"{"Id":"aa","HostConfig":{"NetworkMode":"host","Binds":[1]},"Mounts":[{}]}"#);
    let modes = Modes::from([("aa".into(), mode.expect("an answer"))]);
    let listing = containers(json.as_bytes(), &modes).expect(json);
    assert!(listing.untold.is_empty());
    let host = listing.containers.iter().find(|one| one.name.as_str() == "host").expect("listed");
    assert!(host.host_network && host.addresses.len() == 2, "{host:?}");
    for nonsense in ["", "[]", r#"{"HostConfig":5}"#, r#"{"HostConfig":{"NetworkMode":[]}}"#] {
        assert!(mode_of(nonsense.as_bytes()).is_err(), "{nonsense}");
    }
}

#[test]
fn every_list_has_an_end() {
    let long = format!("[{}{{}}]", "{},".repeat(10_004));
    let listing = containers(long.as_bytes(), &Modes::new()).expect("a list");
    assert_eq!((listing.containers.len(), listing.left_out), (MAX_CONTAINERS, 5));
    let ports = r#"{"PrivatePort":1,"PublicPort":7,"Type":"tcp"},"#.repeat(1_000_000 / 50);
    let many = format!(r#"[{{"Ports":[{ports}{{}}],"Names":[{}"x"]}}]"#, r#""x","#.repeat(100_000));
    assert_eq!(decoded(&many)[0].ports.len(), 1);
    let networks: Vec<String> = (0..100).map(|n| format!(r#""n{n:03}":{{"IPAddress":"10.0.0.{n}"}}"#)).collect();
    assert_eq!(addresses(&format!("{{{}}}", networks.join(","))).len(), MAX_NETWORKS);
}
