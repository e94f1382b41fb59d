//! Where the Docker engine listens, from `DOCKER_HOST`, and how to connect there.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::model::untrusted::SafeText;

const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
const DEFAULT_PORT: u16 = 2375;
/// The event stream of a remote engine may be silent for days; this notices that its host is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Where the Docker engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A socket in the file system.
    Unix(PathBuf),
    /// `tcp://HOST:PORT`, without TLS.
    Tcp {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
}

/// Why `DOCKER_HOST` cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme, or none.
    #[error("DOCKER_HOST is \"{0}\": only unix:///PATH and tcp://HOST:PORT are supported")]
    Unsupported(SafeText),
    /// TLS was asked for.
    #[error("DOCKER_TLS_VERIFY is set, but TLS is not supported: use a unix socket or a tunnel to one")]
    Tls,
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    /// As the environment says; without `DOCKER_HOST`, `/var/run/docker.sock`.
    pub fn from_env() -> Result<Self, EndpointError> {
        let host = std::env::var_os("DOCKER_HOST").unwrap_or_default();
        let tls = std::env::var_os("DOCKER_TLS_VERIFY").is_some_and(|value| !value.is_empty());
        Self::parse(&host.to_string_lossy(), tls)
    }

    /// The value of `DOCKER_HOST`, empty when it is not set, and whether `DOCKER_TLS_VERIFY` is.
    pub fn parse(host: &str, tls: bool) -> Result<Self, EndpointError> {
        if host.is_empty() {
            return Ok(Self::Unix(DEFAULT_SOCKET.into()));
        }
        let unsupported = || EndpointError::Unsupported(SafeText::quoted(host));
        if let Some(path) = host.strip_prefix("unix://") {
            return if path.starts_with('/') { Ok(Self::Unix(path.into())) } else { Err(unsupported()) };
        }
        let authority = host.strip_prefix("tcp://").ok_or_else(unsupported)?.trim_end_matches('/');
        if tls {
            return Err(EndpointError::Tls);
        }
        let (name, port) = match authority.rsplit_once(':') {
            // The last colon of an address in brackets without a port is one of its own.
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().map_err(|_| unsupported())?),
            _ => (authority, DEFAULT_PORT),
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !name.is_empty() && !name.contains([':', '/', '@', '[', ']', '?', '#']) => name,
            _ => return Err(unsupported()),
        };
        if port == 0 || name.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(unsupported());
        }
        Ok(Self::Tcp { host: name.to_owned(), port })
    }

    /// What stands in the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "docker".to_owned(),
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    pub(super) async fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok(Box::new(stream))
            }
        }
    }
}

/// As reasons name it: the path, or `tcp://HOST:PORT`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => SafeText::new(&path.to_string_lossy()).fmt(f),
            Self::Tcp { .. } => write!(f, "tcp://{}", SafeText::new(&self.authority())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_host_is_understood_or_refused_with_what_to_write() {
        let tcp = |host: &str, port| Ok(Endpoint::Tcp { host: host.into(), port });
        for (text, expected) in [
            ("", Ok(Endpoint::Unix(DEFAULT_SOCKET.into()))),
            ("unix:///run/user/1000/docker.sock", Ok(Endpoint::Unix("/run/user/1000/docker.sock".into()))),
            ("tcp://127.0.0.1:2375", tcp("127.0.0.1", 2375)),
            ("tcp://engine.test", tcp("engine.test", 2375)),
            ("tcp://engine.test:1234/", tcp("engine.test", 1234)),
            ("tcp://[2001:db8::2]:2376", tcp("2001:db8::2", 2376)),
            ("tcp://[::1]", tcp("::1", 2375)),
        ] {
            assert_eq!(Endpoint::parse(text, false), expected, "{text}");
        }
        for text in [
            "ssh://me@host",
            "/var/run/docker.sock",
            "unix://docker.sock",
            "tcp://",
            "tcp://:2375",
            "tcp://h:0",
            "tcp://h:99999",
            "tcp://2001:db8::2:2375",
            "tcp://[x]:1",
            "tcp://a/b:1",
            "tcp://a b:1",
            "npipe:////x",
        ] {
            let error = Endpoint::parse(text, false).expect_err(text).to_string();
            assert!(error.ends_with("only unix:///PATH and tcp://HOST:PORT are supported"), "{error}");
        }
        assert_eq!(Endpoint::parse("tcp://h:2376", true), Err(EndpointError::Tls));
        assert!(Endpoint::parse("unix:///x", true).is_ok());
    }
}
