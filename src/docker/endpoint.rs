//! Where the Docker engine listens, and how to connect there.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::environment::Environment;
use crate::model::untrusted::SafeText;

pub(super) const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
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
    /// The first of these sockets that opens, looked at anew whenever the engine is looked for.
    FirstOf(Vec<PathBuf>),
}

/// Why what the environment names cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Another scheme, or none.
    #[error("DOCKER_HOST is \"{0}\": only unix:///PATH and tcp://HOST:PORT are supported")]
    Unsupported(SafeText),
    /// TLS was asked for.
    #[error("DOCKER_TLS_VERIFY is set, but TLS is not supported: use a unix socket or a tunnel to one")]
    Tls,
    /// A Docker context names what is not supported.
    #[error("Docker context \"{name}\" is at \"{host}\": only unix:///PATH and tcp://HOST:PORT are supported")]
    ContextUnsupported {
        /// Its name.
        name: SafeText,
        /// Its host, as written.
        host: SafeText,
    },
    /// A Docker context wants TLS.
    #[error("Docker context \"{name}\" uses TLS, which is not supported: use a unix socket or a tunnel to one")]
    ContextTls {
        /// Its name.
        name: SafeText,
    },
    /// There is no such Docker context, or it cannot be read.
    #[error("Docker context \"{name}\" cannot be used: {problem}")]
    Context {
        /// Its name.
        name: SafeText,
        /// Such as `not found in /home/me/.docker/contexts`.
        problem: SafeText,
    },
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Endpoint {
    /// As the environment says: `DOCKER_HOST`, else a Docker context, else the first of the usual sockets that opens.
    pub fn from_env() -> Result<Self, EndpointError> {
        Environment::read().endpoint()
    }

    /// The value of `DOCKER_HOST`, empty when it is not set, and whether `DOCKER_TLS_VERIFY` is.
    pub fn parse(host: &str, tls: bool) -> Result<Self, EndpointError> {
        if host.is_empty() {
            return Ok(Self::Unix(DEFAULT_SOCKET.into()));
        }
        match Self::of_url(host) {
            Some(Self::Tcp { .. }) if tls => Err(EndpointError::Tls),
            Some(endpoint) => Ok(endpoint),
            None => Err(EndpointError::Unsupported(SafeText::quoted(host))),
        }
    }

    /// `unix:///PATH` or `tcp://HOST[:PORT]`.
    pub(super) fn of_url(url: &str) -> Option<Self> {
        if let Some(path) = url.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into()));
        }
        let authority = url.strip_prefix("tcp://")?.trim_end_matches('/');
        let (name, port) = match authority.rsplit_once(':') {
            // The last colon of an address in brackets without a port is one of its own.
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()?),
            _ => (authority, DEFAULT_PORT),
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = match bare {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            None if !name.is_empty() && !name.contains([':', '/', '@', '[', ']', '?', '#']) => name,
            _ => return None,
        };
        let is_usable = port != 0 && !name.chars().any(|c| c.is_whitespace() || c.is_control());
        is_usable.then(|| Self::Tcp { host: name.to_owned(), port })
    }

    /// What stands in the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) | Self::FirstOf(_) => "docker".to_owned(),
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    /// A connection, and the address that answered where it has one.
    pub(super) async fn connect(&self) -> io::Result<(Box<dyn Stream>, Option<IpAddr>)> {
        match self {
            Self::Unix(path) => Ok((Box::new(UnixStream::connect(path).await?), None)),
            Self::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                let peer = stream.peer_addr()?.ip();
                Ok((Box::new(stream), Some(peer)))
            }
            Self::FirstOf(_) => match self.choose().await {
                Ok(chosen) => Box::pin(chosen.connect()).await,
                Err((_, error)) => Err(error),
            },
        }
    }

    /// The one place that is meant now: of several sockets the first that opens. If none does, the one that says
    /// most about why, and its error: a socket that is there but forbidden says more than one that is not there.
    pub(super) async fn choose(&self) -> Result<Self, (Self, io::Error)> {
        let Self::FirstOf(sockets) = self else { return Ok(self.clone()) };
        let mut failure: Option<(Self, io::Error)> = None;
        for socket in sockets {
            let this = Self::Unix(socket.clone());
            let Err(error) = UnixStream::connect(socket).await else { return Ok(this) };
            let rank = |error: &io::Error| match error.kind() {
                io::ErrorKind::PermissionDenied => 0,
                io::ErrorKind::NotFound => 2,
                _ => 1,
            };
            let says_more = failure.as_ref().is_none_or(|(_, known)| rank(&error) < rank(known));
            if says_more {
                let names = if rank(&error) == 2 { self.clone() } else { this };
                failure = Some((names, error));
            }
        }
        Err(failure.unwrap_or_else(|| (self.clone(), io::ErrorKind::NotFound.into())))
    }
}

/// As reasons name it: the path, or `tcp://HOST:PORT`.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => SafeText::new(&path.to_string_lossy()).fmt(f),
            Self::Tcp { .. } => write!(f, "tcp://{}", SafeText::new(&self.authority())),
            Self::FirstOf(sockets) => {
                let first = sockets.first().map(|path| path.to_string_lossy()).unwrap_or_default();
                write!(f, "{}", SafeText::new(&first))?;
                if sockets.len() > 1 { f.write_str(" or a socket of rootless Docker or Podman") } else { Ok(()) }
            }
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
