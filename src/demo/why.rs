//! Why the story's mappings do not work.

use super::requests::will_be_at;
use super::rows::addresses;
use super::story::{Actor, Story};
use crate::model::event::MappingState;
use crate::model::mapping::Family;
use crate::model::report::{Cause, CauseKind, Report, Step, StepKind, Verdict};
use crate::model::untrusted::SafeText;
use crate::model::update::MappingRow;

/// How long the checks would have taken.
const TOOK_MS: u64 = 38;

impl Story {
    pub(super) fn why(&self, actor: &Actor) -> Report {
        let row = self.row(actor);
        let mut steps = listeners(&row);
        let mut causes = Vec::new();
        let stopped = row.state == MappingState::Stopped;
        if stopped {
            causes.push(cause(CauseKind::MappingStopped, "The mapping is stopped.", &["t starts it"]));
        }
        if let Some(listener) = row.listeners.iter().find(|listener| listener.error.is_some()) {
            let error = listener.error.as_ref().map(ToString::to_string).unwrap_or_default();
            let holder = error.trim_start_matches("in use by ").to_owned();
            let text =
                format!("{} is held by {holder}, so {} clients do not get in.", listener.address, listener.family);
            let end = format!("end {holder}; it listens as soon as the port is free");
            causes.push(cause(CauseKind::PortHeldByProcess, &text, &[&end, "or e: another port"]));
        }
        steps.extend(way(&row, stopped));
        if actor.config.name == "web-tls" && !stopped {
            steps.push(step(StepKind::Connect, Verdict::Bad, "172.17.0.2:443 refused, 3 of 3"));
            steps.push(step(
                StepKind::Inside,
                Verdict::Bad,
                "nothing on :443; the app listens on 127.0.0.1:8443, nginx (pid 7)",
            ));
            causes.push(cause(
                CauseKind::AppOnLoopback,
                "web_1 listens only on its own loopback, on port 8443.",
                &["make it listen on 0.0.0.0:8443, then e: set target port 8443"],
            ));
        } else if !stopped {
            let place = addresses(&actor.config.mapping.target.host).first().map(ToString::to_string);
            let port = actor.config.mapping.target.ports;
            match place {
                Some(ip) => {
                    steps.push(step(StepKind::Connect, Verdict::Ok, &format!("{ip}:{port} answers in 0.4ms")));
                    steps.push(step(StepKind::Inside, Verdict::Ok, &format!("the app listens on 0.0.0.0:{port}")));
                }
                None => steps.push(step(StepKind::Connect, Verdict::Skipped, "it has no address")),
            }
            if row.state == MappingState::Waiting {
                let text = format!("{} has no address now.", actor.config.mapping.target.host);
                causes.push(cause(CauseKind::ContainerWithoutAddress, &text, &["start it: docker start"]));
            }
        }
        let who =
            if row.mapping.is_exposed() { "Other machines can connect." } else { "Only this machine can connect." };
        Report {
            name: row.name,
            mapping: row.mapping.to_string(),
            steps,
            causes,
            who: SafeText::new(who),
            will_be_at: if stopped { Vec::new() } else { will_be_at(&row.mapping.listen) },
            took_ms: TOOK_MS,
        }
    }
}

/// One step for both families where they stand alike, else one for each.
fn listeners(row: &MappingRow) -> Vec<Step> {
    if row.listeners.is_empty() {
        return vec![step(StepKind::Listener, Verdict::Skipped, "the mapping is stopped")];
    }
    if row.listeners.iter().all(|listener| listener.bound.is_some()) {
        let bound: Vec<_> = row.listeners.iter().map(|listener| listener.address.as_str()).collect();
        return vec![step(StepKind::Listener, Verdict::Ok, &format!("bound {}, queue 0/4096", bound.join(" and ")))];
    }
    row.listeners
        .iter()
        .map(|listener| match &listener.error {
            Some(error) => of(listener.family, Verdict::Bad, &format!("{} is {error}", listener.address)),
            None => of(listener.family, Verdict::Ok, &format!("bound {}, queue 0/4096", listener.address)),
        })
        .collect()
}

fn way(row: &MappingRow, stopped: bool) -> Vec<Step> {
    let target = &row.mapping.target.host;
    let Some(ip) = row.target_addresses.first().filter(|_| !stopped) else {
        return vec![step(
            StepKind::Target,
            Verdict::Skipped,
            if stopped { "not looked at" } else { "has no address now" },
        )];
    };
    vec![
        step(StepKind::Target, Verdict::Ok, &format!("{target} running 3h, {ip}")),
        step(StepKind::Route, Verdict::Ok, &format!("{ip} via docker0, neighbour reachable")),
        step(StepKind::Firewall, Verdict::Unknown, "cannot read rules without root"),
    ]
}

fn step(kind: StepKind, verdict: Verdict, text: &str) -> Step {
    Step { kind, family: None, verdict, text: SafeText::new(text) }
}

fn of(family: Family, verdict: Verdict, text: &str) -> Step {
    Step { family: Some(family), ..step(StepKind::Listener, verdict, text) }
}

fn cause(kind: CauseKind, text: &str, remedies: &[&str]) -> Cause {
    Cause { kind, text: SafeText::new(text), remedies: remedies.iter().map(|remedy| SafeText::new(remedy)).collect() }
}
