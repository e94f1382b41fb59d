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
        Ok(true) if alias_route::is_local(pool).unwrap_or(false) => {
            Ok(format!("the route of {network} is gone, and it is still local by another one"))
        }
        Ok(true) => Ok(format!(
            "{network} is no longer local; what runs with aliases of it fails from now on (what was set up by --print \
             brings it back)"
        )),
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

/// The command, and what keeps the route across restarts, for each who may look after this machine's network. Each was tried
/// as it is printed, in both families: systemd-networkd 252, `NetworkManager` 1.42 (which may leave `lo` alone and then tells of
/// other interfaces only, so that nothing is made of which one it is), ifupdown 0.8, netplan 0.106 and 1.1.
fn recipes(network: IpNet) -> String {
    let [_, add] = route_commands(network);
    let replace = add.replace(" add ", " replace ");
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
Table=local

# NetworkManager, as /etc/NetworkManager/dispatcher.d/50-portolan-alias, of root, chmod 755
#!/bin/sh
{replace}

# ifupdown, in /etc/network/interfaces, as the last line below `iface lo inet loopback`
    up {replace}

# netplan, as /etc/netplan/50-portolan-alias.yaml, chmod 600, then: netplan apply
# (where its renderer is NetworkManager, take what is for that: networkd alone with this would keep the start waiting)
network:
  version: 2
  ethernets:
    lo:
      renderer: networkd
      match: {{name: lo}}
      routes: [{{to: \"{network}\", type: local, scope: host, table: 255}}]
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands between a recipe's heading and the next one's.
    fn recipe(text: &str, heading: &str) -> String {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(heading)).skip(1);
        let lines = lines
            .by_ref()
            .skip_while(|line| line.starts_with("# "))
            .take_while(|line| !line.starts_with("# "))
            .map(|line| format!("{line}\n"));
        lines.collect::<String>().trim_end().to_owned() + "\n"
    }

    #[test]
    fn every_recipe_has_the_route_and_changes_nothing_else() {
        for (network, add) in [
            ("198.18.0.0/15", "ip route add local 198.18.0.0/15 dev lo"),
            ("fd00:a::/64", "ip -6 route add local fd00:a::/64 dev lo"),
        ] {
            let text = recipes(network.parse().unwrap());
            assert!(text.starts_with(&format!("{add}\n")), "{text}");
            let replace = add.replace(" add ", " replace ");
            assert_eq!(
                recipe(&text, "# systemd-networkd"),
                format!("[Match]\nName=lo\n[Route]\nDestination={network}\nType=local\nTable=local\n")
            );
            assert_eq!(recipe(&text, "# NetworkManager"), format!("#!/bin/sh\n{replace}\n"));
            assert_eq!(recipe(&text, "# ifupdown"), format!("    up {replace}\n"));
            // Above `lo`, a renderer would be that of every interface.
            assert_eq!(
                recipe(&text, "# netplan"),
                format!(
                    "network:\n  version: 2\n  ethernets:\n    lo:\n      renderer: networkd\n      match: {{name: lo}}\n      \
                     routes: [{{to: \"{network}\", type: local, scope: host, table: 255}}]\n"
                )
            );
        }
    }
}
