//! Which engine the environment means: `DOCKER_HOST`, else a Docker context, else one of the usual sockets.
//!
//! As Docker's own client has it, so that both talk to the same engine. Of the client's files only the name of the
//! current context and the host of a context are read, never more than 1 MiB of each, and the logins beside them are
//! passed over. Files are only read, once, at the start; whether a socket is there is looked at whenever the engine
//! is looked for.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::endpoint::{DEFAULT_SOCKET, Endpoint, EndpointError};
use crate::model::untrusted::SafeText;

/// Most bytes of a file that are read.
const MAX_FILE: u64 = 1024 * 1024;
/// Most contexts that are looked through.
const MAX_CONTEXTS: usize = 1_000;
/// The context that means the usual sockets.
const DEFAULT_CONTEXT: &str = "default";

/// What the environment says of Docker; empty values count as none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_TLS_VERIFY` is set.
    pub tls: bool,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_CONFIG`.
    pub config: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
}

impl Environment {
    /// That of this process.
    pub fn read() -> Self {
        let value = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| value(name).map(|value| value.to_string_lossy().into_owned());
        Self {
            host: text("DOCKER_HOST"),
            tls: value("DOCKER_TLS_VERIFY").is_some(),
            context: text("DOCKER_CONTEXT"),
            config: value("DOCKER_CONFIG").map(PathBuf::from),
            home: value("HOME").map(PathBuf::from),
            runtime: value("XDG_RUNTIME_DIR").map(PathBuf::from),
        }
    }

    /// The engine that is meant.
    pub fn endpoint(&self) -> Result<Endpoint, EndpointError> {
        if let Some(host) = &self.host {
            return Endpoint::parse(host, self.tls);
        }
        let folder = self.config.clone().or_else(|| Some(self.home.as_ref()?.join(".docker")));
        let context = self.context.clone().or_else(|| current_context(folder.as_deref()?));
        match context.filter(|name| name != DEFAULT_CONTEXT) {
            Some(name) => of_context(folder.as_deref().unwrap_or(Path::new(".docker")), &name),
            None => Ok(Endpoint::FirstOf(self.sockets())),
        }
    }

    /// Where engines listen that nobody configured: Docker, rootless Docker, Podman, Docker Desktop.
    fn sockets(&self) -> Vec<PathBuf> {
        let below = |folder: &Option<PathBuf>, path: &str| folder.as_ref().map(|folder| folder.join(path));
        [
            Some(PathBuf::from(DEFAULT_SOCKET)),
            below(&self.runtime, "docker.sock"),
            below(&self.runtime, "podman/podman.sock"),
            Some(PathBuf::from("/run/podman/podman.sock")),
            below(&self.home, ".docker/run/docker.sock"),
            below(&self.home, ".docker/desktop/docker.sock"),
        ]
        .into_iter()
        .flatten()
        .filter(|path| path.is_absolute())
        .collect()
    }
}

/// The context that `docker context use` chose. As Docker's client does, a file that cannot be read is told and
/// passed over.
fn current_context(folder: &Path) -> Option<String> {
    let path = folder.join("config.json");
    let read = bounded(&path).and_then(|text| context_in(&text).map_err(io::Error::from));
    match read {
        Ok(context) => context,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let (path, error) = (shown(&path), SafeText::new(&error.to_string()));
            tracing::warn!("{path} cannot be read, so no Docker context is used: {error}");
            None
        }
    }
}

/// What `config.json` says of it.
pub(super) fn context_in(text: &[u8]) -> Result<Option<String>, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    let config: Config = serde_json::from_slice(text)?;
    Ok(config.current_context.filter(|name| !name.is_empty()))
}

/// A context's `meta.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Meta {
    name: Option<String>,
    endpoints: Option<Endpoints>,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: Option<DockerEndpoint>,
}

#[derive(Deserialize)]
struct DockerEndpoint {
    #[serde(rename = "Host")]
    host: Option<String>,
    #[serde(rename = "SkipTLSVerify")]
    skip_tls_verify: Option<bool>,
}

fn of_context(folder: &Path, name: &str) -> Result<Endpoint, EndpointError> {
    let shown_name = SafeText::quoted(name);
    let unusable = |problem: &str| EndpointError::Context { name: shown_name.clone(), problem: SafeText::new(problem) };
    let contexts = folder.join("contexts");
    let (place, meta) = find(&contexts.join("meta"), name)
        .map_err(|error| unusable(&format!("{}: {error}", shown(&contexts))))?
        .ok_or_else(|| unusable(&format!("not found in {}", shown(&contexts))))?;
    let docker = meta.endpoints.and_then(|endpoints| endpoints.docker);
    let docker = docker.ok_or_else(|| unusable("it names no Docker engine"))?;
    let host = docker.host.filter(|host| !host.is_empty()).ok_or_else(|| unusable("it names no host"))?;
    let endpoint = Endpoint::of_url(&host)
        .ok_or_else(|| EndpointError::ContextUnsupported { name: shown_name.clone(), host: SafeText::quoted(&host) })?;
    let has_keys = || {
        let keys = fs::read_dir(contexts.join("tls").join(place).join("docker"));
        keys.is_ok_and(|mut keys| keys.next().is_some())
    };
    match endpoint {
        Endpoint::Tcp { .. } if docker.skip_tls_verify == Some(true) || has_keys() => {
            Err(EndpointError::ContextTls { name: shown_name })
        }
        endpoint => Ok(endpoint),
    }
}

/// The context of a name, and the folder that it has below `meta`, a digest of the name.
fn find(folder: &Path, name: &str) -> io::Result<Option<(PathBuf, Meta)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries.take(MAX_CONTEXTS) {
        let entry = entry?;
        // What is no context is none of ours to complain of.
        let meta = bounded(&entry.path().join("meta.json")).ok().and_then(|text| parsed(&text));
        if let Some(meta) = meta.filter(|meta| meta.name.as_deref() == Some(name)) {
            return Ok(Some((entry.file_name().into(), meta)));
        }
    }
    Ok(None)
}

pub(super) fn parsed(text: &[u8]) -> Option<Meta> {
    serde_json::from_slice(text).ok()
}

/// A file's content, if it is a file and not too long: a pipe would hold the start up.
fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::other("longer than 1 MiB"));
    }
    Ok(content)
}

fn shown(path: &Path) -> SafeText {
    SafeText::new(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A home with a `.docker` as Docker's client leaves it.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn write(&self, path: &str, text: impl AsRef<[u8]>) {
            let path = self.0.path().join(".docker").join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("folders");
            fs::write(path, text).expect("a file");
        }

        fn context(&self, folder: &str, name: &str, host: &str) {
            let meta = serde_json::json!({
                "Name": name, "Metadata": {"Description": "x"},
                "Endpoints": {"docker": {"Host": host, "SkipTLSVerify": false}, "kubernetes": {"Host": 1}},
            });
            self.write(&format!("contexts/meta/{folder}/meta.json"), meta.to_string());
        }

        fn current(&self, name: &str) {
            let config = serde_json::json!({"auths": {"r": {"auth": "eDp5"}}, "currentContext": name});
            self.write("config.json", config.to_string());
        }

        fn environment(&self) -> Environment {
            Environment {
                home: Some(self.0.path().into()),
                runtime: Some("/run/user/7".into()),
                ..Environment::default()
            }
        }

        fn said(&self, environment: &Environment) -> String {
            match environment.endpoint() {
                Ok(Endpoint::FirstOf(sockets)) => {
                    let home = self.0.path().to_string_lossy().into_owned();
                    let sockets = sockets.iter().map(|path| path.to_string_lossy().replace(&home, "~"));
                    sockets.collect::<Vec<_>>().join(" ")
                }
                Ok(endpoint) => endpoint.to_string(),
                Err(error) => error.to_string().replace(&*self.0.path().to_string_lossy(), "~"),
            }
        }
    }

    const USUAL: &str = "/var/run/docker.sock /run/user/7/docker.sock /run/user/7/podman/podman.sock \
                         /run/podman/podman.sock ~/.docker/run/docker.sock ~/.docker/desktop/docker.sock";

    #[test]
    fn docker_host_comes_before_the_context_and_the_context_before_the_usual_sockets() {
        let home = Home::new();
        let mut environment = home.environment();
        assert_eq!(home.said(&environment), USUAL);
        home.current("desktop-linux");
        home.context("aa", "other", "tcp://192.0.2.1:2375");
        home.context("bb", "desktop-linux", "unix:///home/me/.docker/desktop/docker.sock");
        assert_eq!(home.said(&environment), "/home/me/.docker/desktop/docker.sock");
        environment.context = Some("other".into());
        assert_eq!(home.said(&environment), "tcp://192.0.2.1:2375");
        environment.context = Some("default".into());
        assert_eq!(home.said(&environment), USUAL);
        environment.host = Some("unix:///x.sock".into());
        environment.context = Some("none".into());
        assert_eq!(home.said(&environment), "/x.sock");
        environment.host = None;
        assert_eq!(home.said(&environment), "Docker context \"none\" cannot be used: not found in ~/.docker/contexts");
        // Elsewhere is another client's folder.
        environment.config = Some(home.0.path().join("elsewhere"));
        environment.context = None;
        assert_eq!(home.said(&environment), USUAL);
    }

    #[test]
    fn a_context_that_cannot_be_used_says_why_by_its_name() {
        let home = Home::new();
        let environment = home.environment();
        home.current("prod");
        home.context("cc", "prod", "ssh://me@prod");
        assert_eq!(
            home.said(&environment),
            "Docker context \"prod\" is at \"ssh://me@prod\": only unix:///PATH and tcp://HOST:PORT are supported"
        );
        let tls = "Docker context \"prod\" uses TLS, which is not supported: use a unix socket or a tunnel to one";
        home.context("cc", "prod", "tcp://prod:2376");
        assert_eq!(home.said(&environment), "tcp://prod:2376");
        home.write("contexts/tls/cc/docker/ca.pem", "x");
        assert_eq!(home.said(&environment), tls);
        let skip = r#"{"Name":"prod","Endpoints":{"docker":{"Host":"tcp://prod:2376","SkipTLSVerify":true}}}"#;
        home.write("contexts/meta/dd/meta.json", skip);
        fs::remove_dir_all(home.0.path().join(".docker/contexts/meta/cc")).expect("gone");
        assert_eq!(home.said(&environment), tls);
        for (meta, expected) in [
            (r#"{"Name":"prod","Endpoints":{}}"#, "it names no Docker engine"),
            (r#"{"Name":"prod","Endpoints":{"docker":{}}}"#, "it names no host"),
        ] {
            home.write("contexts/meta/dd/meta.json", meta);
            assert_eq!(home.said(&environment), format!("Docker context \"prod\" cannot be used: {expected}"));
        }
    }

    #[test]
    fn files_that_are_no_good_are_survived_and_hostile_words_act_nowhere() {
        let home = Home::new();
        let environment = home.environment();
        let long = format!("{{\"currentContext\":\"x\",\"y\":\"{}\"}}", "z".repeat(2 << 20));
        for text in ["", "{", "[]", r#"{"currentContext":7}"#, r#"{"currentContext":""}"#, "\0\u{1b}[2J", &long] {
            home.write("config.json", text);
            assert_eq!(home.said(&environment), USUAL);
        }
        let hostile = "\u{1b}[2J\u{202e}\n";
        home.current(hostile);
        home.context("aa", hostile, hostile);
        let said = environment.endpoint().expect_err("no host").to_string();
        assert!(!said.chars().any(crate::model::untrusted::acts_on_a_terminal), "{said:?}");
        // What is no context is passed over.
        home.current("good");
        home.write("contexts/meta/ab/meta.json", long);
        home.write("contexts/meta/ac/meta.json", "{");
        home.write("contexts/meta/ad", "a file");
        nix::unistd::mkfifo(&home.0.path().join(".docker/contexts/pipe"), nix::sys::stat::Mode::S_IRWXU)
            .expect("a pipe");
        home.context("zz", "good", "unix:///good.sock");
        assert_eq!(home.said(&environment), "/good.sock");
        fs::remove_file(home.0.path().join(".docker/config.json")).expect("gone");
        let config = home.0.path().join(".docker/config.json");
        nix::unistd::mkfifo(&config, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert_eq!(home.said(&environment), USUAL);
    }
}
