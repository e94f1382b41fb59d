//! The table of causes and results: each row is looked at as root and as an ordinary user, and judged by the same rules.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use portolan::model::report::{CauseKind, Report, StepKind, Verdict};
use tempfile::TempDir;

use crate::common::netns::Namespace;
use crate::common::program::{Home, PORTOLAN};
use crate::relay::Relay;

/// What a report may take.
const IN_TIME: Duration = Duration::from_secs(3);
/// An ordinary user.
const NOBODY: &str = "65534";

/// What an ordinary user is told.
#[derive(Clone, Debug)]
pub(crate) enum AsUser {
    /// The same as root.
    Same,
    /// No cause but perhaps this one, which says no more than what was met; and that something could not be seen.
    Unseen(Option<CauseKind>),
}

/// The rows, and what is wrong with them.
pub(crate) struct Table {
    lines: Vec<String>,
    wrong: Vec<String>,
    told: BTreeSet<CauseKind>,
    program: PathBuf,
    _folder: TempDir,
}

impl Table {
    pub(crate) fn new() -> Self {
        // Where an ordinary user can reach it.
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).expect("its own folder");
        let program = folder.path().join("portolan");
        std::fs::copy(PORTOLAN, &program).expect("the program can be copied");
        Self { lines: Vec::new(), wrong: Vec::new(), told: BTreeSet::new(), program, _folder: folder }
    }

    /// `portolan doctor --json` of one mapping in a namespace, as root and as an ordinary user.
    pub(crate) fn row(
        &mut self,
        name: &str,
        namespace: &Namespace,
        mapping: &str,
        expected: Option<CauseKind>,
        as_user: &AsUser,
    ) -> Report {
        self.row_of(name, &Looker::new(namespace, None), mapping, expected, as_user)
    }

    /// As [`Table::row`], by somebody of whom more is to be said.
    pub(crate) fn row_of(
        &mut self,
        name: &str,
        looker: &Looker<'_>,
        mapping: &str,
        expected: Option<CauseKind>,
        as_user: &AsUser,
    ) -> Report {
        let (root, took) = looker.look(&self.program, mapping, false);
        let mut problems = judge(&root, took, expected);
        // Root sees everything.
        let unseen = root.steps.iter().filter(|step| step.verdict == Verdict::Unknown);
        problems.extend(unseen.map(|step| format!("root does not see {}: {}", step.kind.word(), step.text)));
        let as_root = shown(&root, took);

        let (user, took) = looker.look(&self.program, mapping, true);
        let saw_all = user.steps.iter().all(|step| step.verdict != Verdict::Unknown);
        match as_user {
            AsUser::Same => problems.extend(judge(&user, took, expected).into_iter().map(|p| format!("user: {p}"))),
            AsUser::Unseen(bare) => {
                problems.extend(judge(&user, took, *bare).into_iter().map(|p| format!("user: {p}")));
                if saw_all {
                    problems.push("user: the cause was missed, and nothing was said to be unseen".to_owned());
                }
            }
        }
        self.add(name, &as_root, &shown(&user, took), &problems, &[&root, &user]);
        self.told.extend(expected.filter(|_| problems.is_empty()));
        root
    }

    /// A report that somebody else has asked for: of an engine that runs.
    pub(crate) fn report(&mut self, name: &str, report: &Report, took: Duration, expected: Option<CauseKind>) {
        let mut problems = judge(report, took, expected);
        let unseen = report.steps.iter().filter(|step| step.verdict == Verdict::Unknown);
        problems.extend(unseen.map(|step| format!("root does not see {}: {}", step.kind.word(), step.text)));
        self.add(name, &shown(report, took), "(of the engine)", &problems, &[report]);
        self.told.extend(expected.filter(|_| problems.is_empty()));
    }

    /// Notes what is wrong with a row beside its report.
    pub(crate) fn check(&mut self, what: &str, holds: bool, report: &Report) {
        if !holds {
            self.wrong.push(format!("{what}:\n{report}"));
        }
    }

    fn add(&mut self, name: &str, root: &str, user: &str, problems: &[String], reports: &[&Report]) {
        let mark = if problems.is_empty() { "ok" } else { "!!" };
        self.lines.push(format!("{mark} {name:<46} {root:<34} {user}"));
        println!("{}", self.lines.last().expect("just added"));
        if !problems.is_empty() {
            let reports: Vec<String> = reports.iter().map(ToString::to_string).collect();
            self.wrong.push(format!("{name}: {}\n{}", problems.join("; "), reports.join("\n")));
        }
    }

    /// Prints it, and fails if a row is wrong, or if a cause has no row.
    pub(crate) fn finish(mut self) {
        let untold: Vec<CauseKind> = CauseKind::ALL.into_iter().filter(|kind| !self.told.contains(kind)).collect();
        if !untold.is_empty() {
            self.wrong.push(format!("no fixture has shown {untold:?}"));
        }
        let head = format!("   {:<46} {:<34} {}", "FIXTURE", "AS ROOT", "AS USER");
        println!("\n{head}\n{}\n", self.lines.join("\n"));
        assert!(self.wrong.is_empty(), "{} wrong:\n{}", self.wrong.len(), self.wrong.join("\n"));
    }
}

/// What is wrong with a report.
fn judge(report: &Report, took: Duration, expected: Option<CauseKind>) -> Vec<String> {
    let mut problems = Vec::new();
    let kinds: Vec<CauseKind> = report.causes.iter().map(|cause| cause.kind).collect();
    if kinds != expected.into_iter().collect::<Vec<_>>() {
        problems.push(format!("expected {expected:?}, told {kinds:?}"));
    }
    if took > IN_TIME {
        problems.push(format!("took {took:?}"));
    }
    // A cause comes from a step that has found it.
    if expected.is_some() && report.steps.iter().all(|step| step.verdict != Verdict::Bad) {
        problems.push("there is a cause, and no step that found it".to_owned());
    }
    if expected.is_none() && report.steps.iter().any(|step| step.verdict == Verdict::Bad) {
        problems.push("a step is bad, and there is no cause".to_owned());
    }
    problems
        .extend(report.causes.iter().filter(|cause| cause.remedies.is_empty()).map(|c| format!("no remedy: {c:?}")));
    if report.steps.first().map(|step| step.kind) != Some(StepKind::Listener) {
        problems.push("the first step is not the listener".to_owned());
    }
    problems
}

fn shown(report: &Report, took: Duration) -> String {
    let cause = report.cause().map_or_else(|| "-".to_owned(), |cause| format!("{:?}", cause.kind));
    let unseen = report.steps.iter().filter(|step| step.verdict == Verdict::Unknown).count();
    let unseen = if unseen == 0 { String::new() } else { format!(" ({unseen} ??)") };
    format!("{cause}{unseen} {} ms", took.as_millis())
}

/// Who looks, and from where.
pub(crate) struct Looker<'a> {
    namespace: &'a Namespace,
    home: Home,
    docker: Option<Relay>,
    /// Rights that even root lacks.
    without: Option<&'static str>,
    hosts: Option<PathBuf>,
}

impl<'a> Looker<'a> {
    /// `docker`: where its socket is; out of reach without.
    pub(crate) fn new(namespace: &'a Namespace, docker: Option<&str>) -> Self {
        Self { namespace, home: Home::new(), docker: docker.map(Relay::start), without: None, hosts: None }
    }

    /// Without a capability.
    pub(crate) fn without(mut self, capability: &'static str) -> Self {
        self.without = Some(capability);
        self
    }

    /// With names of its own.
    pub(crate) fn with_hosts(mut self, hosts: PathBuf) -> Self {
        self.hosts = Some(hosts);
        self
    }

    /// Where the profile is.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    fn look(&self, program: &PathBuf, mapping: &str, as_user: bool) -> (Report, Duration) {
        let mut command = match &self.hosts {
            None => self.namespace.command("setpriv"),
            Some(hosts) => {
                let mut command = self.namespace.command("unshare");
                let mount = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
                command.args(["--mount", "--", "sh", "-c", mount, "sh"]).arg(hosts).arg("setpriv");
                command
            }
        };
        if let Some(capability) = self.without {
            command.arg(format!("--bounding-set=-{capability}"));
        }
        if as_user {
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        }
        command.arg("--").arg(program).args(["doctor", "--json", mapping]);
        command.env_clear().envs(self.home.environment());
        if let Some(docker) = &self.docker {
            command.env("DOCKER_HOST", docker.host());
        }
        run(&mut command)
    }
}

/// Runs `doctor --json` to its end. Its exit status says whether there is a cause.
fn run(command: &mut Command) -> (Report, Duration) {
    let started = Instant::now();
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().expect("it starts");
    let took = started.elapsed();
    let reports: Vec<Report> = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&[stdout.clone(), stderr].concat())));
    let [report] = &reports[..] else { panic!("{} reports", reports.len()) };
    assert_eq!(status.code(), Some(i32::from(!report.is_healthy())), "{report}");
    (report.clone(), took)
}
