//! What an engine serves beside its mappings and its control socket.

use std::net::SocketAddr;

use clap::Args;

use super::conflict;

/// As clap itself calls it.
pub(super) const METRICS: &str = "--metrics <ADDRESS:PORT>";

/// The arguments for it.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct Serving {
    /// Serve metrics for Prometheus here, such as 127.0.0.1:9464: to this machine alone, under /metrics
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = loopback)]
    pub metrics: Option<SocketAddr>,
}

impl Serving {
    /// Adds what stands behind the subcommand.
    pub(super) fn join(&mut self, behind: Self) -> Result<(), clap::Error> {
        if self.metrics.is_some() && behind.metrics.is_some() {
            return Err(conflict(&format!("the argument '{METRICS}' cannot be used multiple times")));
        }
        self.metrics = self.metrics.or(behind.metrics);
        Ok(())
    }
}

/// An address of loopback with its port.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "write an address and a port: 127.0.0.1:9464 or [::1]:9464".to_owned())?;
    if !address.ip().is_loopback() {
        return Err(format!(
            "metrics say what this machine talks to, and they are served without a login: use 127.0.0.1:{0} or \
             [::1]:{0}, and for other machines put a server with a login before it",
            address.port()
        ));
    }
    if address.port() == 0 {
        return Err("a scraper has to know the port: choose one, such as 9464".to_owned());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_served_to_this_machine_alone() {
        for address in ["127.0.0.1:9464", "127.1.2.3:1", "[::1]:65535"] {
            assert_eq!(loopback(address).unwrap().to_string(), address);
        }
        for (address, said) in [
            ("9464", "write an address and a port: 127.0.0.1:9464 or [::1]:9464"),
            ("localhost:9464", "write an address and a port"),
            ("127.0.0.1:0", "a scraper has to know the port"),
            ("0.0.0.0:9464", "use 127.0.0.1:9464 or [::1]:9464, and for other machines put a server with a login"),
            ("[::]:9464", "use 127.0.0.1:9464 or [::1]:9464"),
            ("[::ffff:127.0.0.1]:9464", "use 127.0.0.1:9464 or [::1]:9464"),
            ("192.0.2.1:80", "metrics say what this machine talks to, and they are served without a login"),
        ] {
            let error = loopback(address).unwrap_err();
            assert!(error.contains(said), "{address}: {error}");
        }
    }
}
