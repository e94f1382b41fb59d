//! Containers of the private Docker engine that `tests/run` starts.

use std::process::Command;

use super::output;

/// The private engine, through Docker's own client.
#[derive(Clone, Debug)]
pub struct Engine {
    host: String,
}

/// A container; removed on drop.
#[derive(Debug)]
pub struct Container {
    engine: Engine,
    name: String,
}

impl Engine {
    /// The engine that [`super::Need::Docker`] stands for.
    #[track_caller]
    pub fn connect() -> Self {
        Self { host: std::env::var("PORTOLAN_TEST_DOCKER").expect("Need::Docker was asked for") }
    }

    /// Runs a busybox program as a container.
    #[track_caller]
    pub fn start(&self, name: &str, command: &[&str]) -> Container {
        self.start_with(name, &[], command)
    }

    /// The same with options of `docker run`, such as `--publish`.
    #[track_caller]
    pub fn start_with(&self, name: &str, options: &[&str], command: &[&str]) -> Container {
        let container = Container { engine: self.clone(), name: name.to_owned() };
        // Of a run that was killed between start and end.
        let _ = self.docker(&["rm", "--force", name]).output();
        output(self.docker(&["run", "--detach", "--name", name]).args(options).arg("portolan-test").args(command));
        container
    }

    /// Where its socket is, as `DOCKER_HOST`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The full id of a container.
    #[track_caller]
    pub fn id(&self, name: &str) -> String {
        output(&mut self.docker(&["inspect", "--format", "{{.Id}}", name])).trim().to_owned()
    }

    /// `docker ARGUMENTS` with this engine.
    pub fn docker(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &self.host]).args(arguments);
        command
    }
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its IPv4 address now; empty while it is stopped.
    #[track_caller]
    pub fn address(&self) -> String {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        output(&mut self.engine.docker(&["inspect", "--format", format, &self.name])).trim().to_owned()
    }

    /// Stops it at once.
    #[track_caller]
    pub fn stop(&self) {
        output(&mut self.engine.docker(&["kill", &self.name]));
    }

    /// Starts it again; it takes the lowest free address.
    #[track_caller]
    pub fn start(&self) {
        output(&mut self.engine.docker(&["start", &self.name]));
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.engine.docker(&["rm", "--force", &self.name]).output();
    }
}
