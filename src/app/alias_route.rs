//! `alias-route`: the one route that the identity `alias` needs, printed, added and removed.
//!
//! It is the only thing of this machine that portolan ever changes beside its own files, and only when it is told so here,
//! with the rights of whoever says it.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, bail};
use ipnet::IpNet;
use nix::libc;

use crate::cli::RouteAction;
use crate::host::alias_route;
use crate::model::alias::{Pool, route_commands};

/// Does what is asked.
pub(super) fn run(action: RouteAction, network: IpNet) -> anyhow::Result<ExitCode> {
    let pool = match Pool::new(network) {
        Ok(pool) => pool,
        Err(unfit) => bail!("--pool: {unfit} ({})", unfit.hint),
    };
    if action.print {
        return super::print(&recipes(network));
    }
    let done = if action.add { add(&pool) } else { remove(&pool) };
    super::print(&format!("{}\n", done?))
}

fn add(pool: &Pool) -> anyhow::Result<String> {
    let network = pool.network();
    if alias_route::is_local(pool).context("cannot read the routes")? {
        return Ok(format!("{network} is local already"));
    }
    let sight = alias_route::look(pool).context("cannot read the routes")?;
    if let Some(other) = sight.in_the_way {
        let free = sight.free.map(|free| format!(", such as --pool {free}")).unwrap_or_default();
        bail!("{network} overlaps {other}: choose another pool{free}, and set \"alias_pool\" of the mappings to it");
    }
    match alias_route::add(pool) {
        Ok(_) => Ok(format!("{network} is local until the machine restarts (--print says how to keep it)")),
        Err(error) => refused(&error, "add", network),
    }
}

fn remove(pool: &Pool) -> anyhow::Result<String> {
    let network = pool.network();
    match alias_route::remove(pool) {
        Ok(true) => Ok(format!("{network} is no longer local; what runs with aliases of it fails from now on")),
        Ok(false) => Ok(format!("there is no such route of {network}")),
        Err(error) => refused(&error, "remove", network),
    }
}

fn refused(error: &io::Error, what: &str, network: IpNet) -> anyhow::Result<String> {
    if error.raw_os_error() == Some(libc::EPERM) {
        let again = route_commands(network)[0].replace("--add", &format!("--{what}"));
        bail!("it needs root, or CAP_NET_ADMIN, to {what} a route: {again}");
    }
    bail!("cannot {what} the route of {network}: {error}")
}

/// The command, and what keeps the route across restarts, for each who may look after this machine's network.
fn recipes(network: IpNet) -> String {
    let [_, add] = route_commands(network);
    let replace = add.replace(" add ", " replace ");
    let family = if network.addr().is_ipv4() { "inet" } else { "inet6" };
    format!(
        "\
{add}

# It lasts until the machine restarts. What looks after the network keeps it, if it is told so:

# systemd-networkd, as /etc/systemd/network/50-portolan-alias.network, then: networkctl reload
[Match]
Name=lo
[Route]
Destination={network}
Type=local

# NetworkManager, as /etc/NetworkManager/dispatcher.d/50-portolan-alias, of root, chmod 755
#!/bin/sh
[ \"$2\" != up ] || {replace}

# ifupdown, in /etc/network/interfaces, as the last line below `iface lo {family} loopback`
    up {replace}

# netplan, as /etc/netplan/50-portolan-alias.yaml, then: netplan apply
network:
  version: 2
  renderer: networkd
  ethernets:
    lo:
      match: {{name: lo}}
      routes: [{{to: \"{network}\", type: local, scope: host, table: 255}}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_names_the_network() {
        for (network, first) in [
            ("198.18.0.0/15", "ip route add local 198.18.0.0/15 dev lo\n"),
            ("fd00:a::/64", "ip -6 route add local fd00:a::/64 dev lo\n"),
        ] {
            let text = recipes(network.parse().unwrap());
            assert!(text.starts_with(first), "{text}");
            assert_eq!(text.matches(network).count(), 5, "{text}");
        }
    }
}
