//! Makes one change of the desired state after the other: checked as a whole, written to the profile, and only
//! then made. A refused or failed change has changed nothing.
//!
//! Whatever may take its time (who holds a port, the file) runs beside the owner, which serves everybody else
//! meanwhile. The desired state stays as it was checked, since further changes wait for this one.

use std::collections::VecDeque;
use std::net::SocketAddr;

use tokio::sync::oneshot;
use tokio::task::{self, spawn_blocking};

use super::core::{Job, Service};
use super::desired::{Desired, Entry, checked};
use super::profile::{OpenError, OpenedProfile, SaveFailure};
use super::requests::{Answer, done, invalid, open_error, port_report};
use crate::model::event::EventKind;
use crate::model::id::MappingId;
use crate::model::mapping::{Listen, Protocol};
use crate::model::problem::Problem;
use crate::model::profile::{MappingConfig, Problems};
use crate::model::request::{Call, Reply, RequestError};
use crate::model::untrusted::SafeText;

/// Changes that may wait; while there are so many, no further call is taken in.
const WAITING: usize = 64;

/// Where an answer goes.
pub(super) type ReplyTo = oneshot::Sender<Answer>;

/// The change that is being made, and those that wait for it.
#[derive(Debug, Default)]
pub(super) struct Changes {
    under_way: Option<task::Id>,
    waiting: VecDeque<(Call, ReplyTo)>,
    /// What kept an edit by hand from being applied may be gone: read the file again.
    must_read: bool,
}

/// What a request comes to.
pub(super) enum Plan {
    /// The state as it is: what is answered.
    Nothing(Reply),
    /// Another state.
    Make(Change),
    /// The state of another profile.
    Open(String),
    /// The same state in a new profile.
    SaveAs(String),
}

/// Another desired state, checked.
pub(super) struct Change {
    pub(super) entries: Vec<Entry>,
    pub(super) history: History,
    /// To be refused while somebody holds one of these, but for our own listeners at these addresses.
    pub(super) ports: Vec<(Listen, Protocol, Vec<SocketAddr>)>,
    /// The mappings that it concerns.
    pub(super) ids: Vec<MappingId>,
    /// For the user.
    pub(super) message: String,
    /// For a user with keys.
    pub(super) keys: Option<&'static str>,
}

/// What a change means to undo.
pub(super) enum History {
    /// It can be undone, under this label.
    New(SafeText),
    /// It undoes the last one.
    Back,
}

/// A change that has done its slow part.
pub(super) enum Prepared {
    Change(Change, Result<(), Refusal>, ReplyTo),
    /// The file was read, as its watch asked, or for a client whose change met an edit by hand.
    Read(Result<Option<Vec<MappingConfig>>, Problems>, Option<ReplyTo>),
    Opened(Result<OpenedProfile, OpenError>, ReplyTo),
    Created(Result<OpenedProfile, OpenError>, ReplyTo),
}

/// Why a change is not made.
pub(super) enum Refusal {
    /// Its port is in use, or it cannot be written.
    Request(RequestError),
    /// The file was edited by hand since it was read.
    ChangedOnDisk,
}

/// What came of an edit by hand.
enum Edit {
    Applied,
    Refused(SafeText),
}

impl Changes {
    /// Whether another call may be taken in.
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < WAITING
    }

    /// Whether nothing is being made and nothing waits.
    pub(super) fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.waiting.is_empty()
    }
}

impl Service {
    /// Makes a change when its turn comes.
    pub(super) fn change(&mut self, call: Call, reply: ReplyTo) {
        self.changes.waiting.push_back((call, reply));
        self.next_change();
    }

    /// The file was edited by hand.
    pub(super) fn file_changed(&mut self) {
        self.changes.must_read = true;
        self.next_change();
    }

    fn next_change(&mut self) {
        while self.changes.under_way.is_none() {
            if std::mem::take(&mut self.changes.must_read) {
                self.read_file(None);
            } else if let Some((call, reply)) = self.changes.waiting.pop_front() {
                self.begin_change(call, reply);
            } else {
                return;
            }
        }
    }

    fn begin_change(&mut self, call: Call, reply: ReplyTo) {
        let plan = self.current(&call).and_then(|()| self.plan(call.request));
        match plan {
            // The file holds an edit by hand that could not be applied, and writing would lose that.
            Ok(Plan::Make(change)) if self.is_refused() && self.must_be_written(&change.entries) => {
                self.read_file(Some(reply));
            }
            Ok(Plan::Make(change)) => self.prepare(change, reply),
            Ok(Plan::Nothing(answer)) => tell(reply, Ok(answer)),
            Ok(Plan::Open(name)) => {
                self.beside(async move { Prepared::Opened(OpenedProfile::open_named(name).await, reply) });
            }
            Ok(Plan::SaveAs(name)) => {
                let profile = Desired::everything(self.desired.entries());
                self.beside(async move { Prepared::Created(OpenedProfile::create_named(name, profile).await, reply) });
            }
            Err(error) => tell(reply, Err(error)),
        }
    }

    fn is_refused(&self) -> bool {
        self.profile.as_ref().is_some_and(OpenedProfile::is_refused)
    }

    /// Whether the profile changes; mappings of the session are none of its.
    fn must_be_written(&self, entries: &[Entry]) -> bool {
        Desired::profile(entries) != Desired::profile(self.desired.entries())
    }

    fn prepare(&mut self, mut change: Change, reply: ReplyTo) {
        let ports = std::mem::take(&mut change.ports);
        let profile = self.profile.as_ref().filter(|_| self.must_be_written(&change.entries));
        let saving = profile.map(|profile| profile.saving(Desired::profile(&change.entries)));
        self.beside(async move {
            let result = async {
                for (listen, protocol, own) in ports {
                    let report = port_report(listen, protocol, own).await.map_err(Refusal::Request)?;
                    if !report.conflicts.is_empty() {
                        return Err(Refusal::Request(RequestError::PortInUse { report }));
                    }
                }
                match saving {
                    Some(saving) => saving.await.map_err(refusal),
                    None => Ok(()),
                }
            };
            let result = result.await;
            Prepared::Change(change, result, reply)
        });
    }

    fn read_file(&mut self, reply: Option<ReplyTo>) {
        let Some(profile) = &self.profile else { return };
        let reading = profile.reading();
        self.beside(async move { Prepared::Read(reading.await, reply) });
    }

    /// Does the slow part of a change.
    fn beside(&mut self, slow: impl Future<Output = Prepared> + Send + 'static) {
        let job = self.jobs.spawn(async move { Job::Prepared(Box::new(slow.await)) });
        self.changes.under_way = Some(job.id());
    }

    /// A job has panicked. If it was a change, its client was told by the end of its reply, and the next one goes on.
    pub(super) fn job_failed(&mut self, job: task::Id) {
        if self.changes.under_way == Some(job) {
            self.changes.under_way = None;
            self.next_change();
        }
    }

    /// The slow part is done.
    pub(super) async fn prepared(&mut self, prepared: Prepared) {
        self.changes.under_way = None;
        match prepared {
            Prepared::Change(change, Ok(()), reply) => {
                let answer = self.make(change).await;
                tell(reply, Ok(answer));
            }
            Prepared::Change(_, Err(Refusal::Request(error)), reply) => tell(reply, Err(error)),
            Prepared::Change(_, Err(Refusal::ChangedOnDisk), reply) => self.read_file(Some(reply)),
            Prepared::Read(read, reply) => {
                let edit = self.apply_file(read, reply.is_some()).await;
                if let Some(reply) = reply {
                    let error = match edit {
                        Edit::Applied => RequestError::Failed {
                            message: "the profile was changed by hand in the meantime; that is applied now: repeat"
                                .into(),
                        },
                        Edit::Refused(why) => not_saved_over(&why),
                    };
                    tell(reply, Err(error));
                }
            }
            Prepared::Opened(opened, reply) => {
                let answer = match opened {
                    Ok(opened) => self.switch_to(opened).await,
                    Err(error) => Err(open_error(error)),
                };
                tell(reply, answer);
            }
            Prepared::Created(created, reply) => {
                let answer = created.map_err(open_error).map(|created| {
                    let path = created.status().path;
                    self.close_profile(Some(created));
                    self.desired.keep_session();
                    self.hurry();
                    done(Vec::new(), &format!("saved in {path}"))
                });
                tell(reply, answer);
            }
        }
        self.next_change();
    }

    async fn make(&mut self, change: Change) -> Reply {
        let is_written = self.must_be_written(&change.entries);
        match change.history {
            History::New(label) => {
                let has_dropped = self.drops_connections(&change.entries);
                self.desired.change(label, change.entries, has_dropped);
            }
            History::Back => self.desired.undo(),
        }
        if let Some(profile) = &mut self.profile {
            if is_written {
                profile.is_applied();
            } else if profile.is_refused() {
                // A mapping of the session may have been what was in the way of the edit by hand.
                self.changes.must_read = true;
            }
        }
        self.reconcile().await;
        self.hurry();
        Reply::Done { ids: change.ids, message: SafeText::new(&change.message), keys: change.keys.map(SafeText::from) }
    }

    /// Whether connections that are open now end when the state becomes this one: those of mappings that go, stop,
    /// or listen elsewhere.
    fn drops_connections(&self, entries: &[Entry]) -> bool {
        self.known.iter().filter(|(_, known)| known.status().meter.open_connections() > 0).any(|(id, known)| {
            entries.iter().find(|entry| entry.id == *id).is_none_or(|entry| {
                let (now, then) = (&known.config.mapping, &entry.config.mapping);
                !entry.config.enabled || now.listen != then.listen || now.protocol != then.protocol
            })
        })
    }

    /// Applies the file, or says why not and leaves what runs alone. What was refused before is not told `again`.
    async fn apply_file(&mut self, read: Result<Option<Vec<MappingConfig>>, Problems>, again: bool) -> Edit {
        let own_ips = self.own_ips();
        let Some(profile) = &mut self.profile else { return Edit::Applied };
        let entries = match read {
            Ok(None) => {
                if profile.is_gone() {
                    let path = profile.path();
                    let message = SafeText::new(&format!(
                        "{path} is gone: what runs goes on, and the next change writes it again"
                    ));
                    self.registry.tell(|| EventKind::Warning { message });
                }
                return Edit::Applied;
            }
            Ok(Some(mappings)) => checked(self.desired.matched(mappings), &own_ips),
            Err(problems) => Err(problems),
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(problems) => return Edit::Refused(self.refuse_file(problems, again)),
        };
        profile.is_applied();
        let old = self.desired.entries().to_vec();
        if entries == old {
            return Edit::Applied;
        }
        let before = |id: MappingId| old.iter().find(|entry| entry.id == id);
        let added = entries.iter().filter(|entry| before(entry.id).is_none()).count();
        let changed =
            entries.iter().filter(|entry| before(entry.id).is_some_and(|old| old.config != entry.config)).count();
        let removed = old.len() + added - entries.len();
        let has_dropped = self.drops_connections(&entries);
        self.desired.change("edit of the file by hand".into(), entries, has_dropped);
        self.reconcile().await;
        self.hurry();
        self.registry.tell(|| EventKind::ProfileApplied { added, changed, removed });
        Edit::Applied
    }

    fn refuse_file(&mut self, problems: Vec<Problem>, again: bool) -> SafeText {
        let Some(profile) = &mut self.profile else { return SafeText::default() };
        let was_refused = profile.is_refused();
        let why = profile.refuse(&problems);
        if !(was_refused && again) {
            self.tell(EventKind::ProfileRejected { problems });
        }
        why
    }

    async fn switch_to(&mut self, opened: OpenedProfile) -> Answer {
        let entries = self.desired.matched(opened.mappings().to_vec());
        match checked(entries, &self.own_ips()) {
            Ok(entries) => {
                let new = if opened.is_new() { " (new, empty)" } else { "" };
                let before = self.profile.as_ref().and_then(OpenedProfile::own_name);
                let keys = before.map(|name| SafeText::new(&format!(":open {name} goes back")));
                let message = SafeText::new(&format!("opened {}{new}", opened.status().name));
                self.close_profile(Some(opened));
                self.desired.reset(entries);
                self.reconcile().await;
                self.hurry();
                Ok(Reply::Done { ids: Vec::new(), message, keys })
            }
            Err(problems) => {
                self.end_watch(opened);
                Err(invalid(problems))
            }
        }
    }

    /// Runs another profile instead of the open one.
    fn close_profile(&mut self, next: Option<OpenedProfile>) {
        if let Some(old) = std::mem::replace(&mut self.profile, next) {
            self.end_watch(old);
        }
        if let Some(profile) = &self.profile {
            self.name.send_replace(profile.engine_name());
        }
    }

    /// Closes a profile. Its watch is waited for beside the owner: it may be reading.
    fn end_watch(&mut self, profile: OpenedProfile) {
        let watch = profile.close();
        self.jobs.spawn(async move {
            let _ = spawn_blocking(move || drop(watch)).await;
            Job::Done
        });
    }
}

fn refusal(failure: SaveFailure) -> Refusal {
    match failure {
        SaveFailure::ChangedOnDisk => Refusal::ChangedOnDisk,
        SaveFailure::Other(why) => Refusal::Request(RequestError::Failed {
            message: SafeText::new(&format!("not saved, nothing changed: {why}")),
        }),
    }
}

fn not_saved_over(why: &SafeText) -> RequestError {
    let message =
        format!("nothing changed: the profile was edited by hand and not applied: {why}; mend it, then repeat");
    RequestError::Failed { message: SafeText::new(&message) }
}

/// A client that no longer waits makes this fail; what was done stands all the same.
fn tell(reply: ReplyTo, answer: Answer) {
    let _ = reply.send(answer);
}
