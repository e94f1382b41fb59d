//! The open profile: the store's blocking calls, made where blocking is allowed, and how the file stands.

use std::net::IpAddr;
use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::host::addresses::OwnAddresses;
use crate::model::engine::EngineName;
use crate::model::name::check_name;
use crate::model::problem::Problem;
use crate::model::profile::{MappingConfig, Problems, Profile};
use crate::model::untrusted::SafeText;
use crate::model::update::ProfileStatus;
use crate::store::{Claim, ClaimError, FileChange, LoadError, Locations, ProfileSource, SaveError, Store, Watch};

/// A profile that this engine runs: claimed, read, watched.
#[derive(Debug)]
pub struct OpenedProfile {
    store: Store,
    mappings: Vec<MappingConfig>,
    /// There was a file when it was opened.
    existed: bool,
    changes: mpsc::Receiver<FileChange>,
    standing: Standing,
    watch: Watch,
    _claim: Claim,
}

/// How the file stands against what runs.
#[derive(Debug, Default)]
enum Standing {
    /// It says what runs.
    #[default]
    Same,
    /// It was deleted.
    Gone,
    /// It holds an edit by hand that cannot be applied; the first problem and how many more there are.
    Refused(SafeText),
}

/// A profile that was only read.
#[derive(Debug)]
pub struct ReadProfile {
    /// The file.
    pub path: SafeText,
    /// Whether it is there; if not, there are no mappings.
    pub exists: bool,
    /// Its mappings.
    pub mappings: Vec<MappingConfig>,
}

/// Why a profile cannot be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The name or the file is wrong: every problem.
    Invalid(Problems),
    /// It is fine, but another process runs it; which.
    Running(SafeText),
    /// It is fine, but cannot be had now.
    Failed(SafeText),
}

/// Why a change was not written.
#[derive(Debug)]
pub(super) enum SaveFailure {
    /// Somebody changed the file since it was read.
    ChangedOnDisk,
    /// The reason, with what was tried.
    Other(SafeText),
}

impl OpenedProfile {
    /// Claims, reads and watches a profile. Blocks.
    ///
    /// # Errors
    /// Every problem of the file, or the process that runs it.
    pub fn open_blocking(source: ProfileSource) -> Result<Self, OpenError> {
        let store = Store::open(source).map_err(invalid)?;
        // Read before it is claimed, so that a wrong file is told as such even while another engine runs it.
        let loaded = store.load(&own_ips()).map_err(|error| OpenError::Invalid(error.problems()))?;
        let claim = store.claim().map_err(|error| {
            let text = SafeText::new(&error.to_string());
            if matches!(error, ClaimError::Running { .. }) { OpenError::Running(text) } else { OpenError::Failed(text) }
        })?;
        // One that waits says all there is to say.
        let (sender, changes) = mpsc::channel(1);
        let watch = store.watch(sender).map_err(|error| OpenError::Invalid(error.problems()))?;
        let (mappings, existed) = (loaded.profile.mappings, loaded.exists);
        Ok(Self { store, mappings, existed, changes, standing: Standing::Same, watch, _claim: claim })
    }

    /// Whether there was no file when it was opened.
    pub(super) fn is_new(&self) -> bool {
        !self.existed
    }

    /// The name by which it can be opened again; none for a file elsewhere.
    pub(super) fn own_name(&self) -> Option<&str> {
        self.store.name()
    }

    /// What an engine that runs a profile is called, and the process of the one that has run it last, whether or not it
    /// still does. Blocks.
    ///
    /// # Errors
    /// No profile can have that name, or this user has no home.
    pub fn engine_of(source: ProfileSource) -> Result<(EngineName, Option<u32>), Problem> {
        let store = Store::open(source)?;
        Ok((store.engine_name(), store.last_runner()))
    }

    /// What an engine that runs it is called.
    pub fn engine_name(&self) -> EngineName {
        self.store.engine_name()
    }

    /// Whether it is the profile of that name.
    pub(super) fn is_named(&self, name: &str) -> bool {
        self.store.name() == Some(name)
    }

    /// Reads a profile without running it. Blocks.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn read_blocking(source: ProfileSource) -> Result<ReadProfile, OpenError> {
        let store = Store::open(source).map_err(invalid)?;
        let loaded = store.load(&own_ips()).map_err(|error| OpenError::Invalid(error.problems()))?;
        Ok(ReadProfile { path: store.shown_path(), exists: loaded.exists, mappings: loaded.profile.mappings })
    }

    /// The mappings as they were when it was opened.
    pub fn mappings(&self) -> &[MappingConfig] {
        &self.mappings
    }

    /// Whether there was a file when it was opened.
    pub fn existed(&self) -> bool {
        self.existed
    }

    /// The file.
    pub fn path(&self) -> SafeText {
        self.store.shown_path()
    }

    /// How the file stands.
    pub(super) fn status(&self) -> ProfileStatus {
        let name = match self.store.name() {
            Some(name) => SafeText::new(name),
            None => {
                self.store.path().file_name().map(|name| SafeText::new(&name.to_string_lossy())).unwrap_or_default()
            }
        };
        let problem = match &self.standing {
            Standing::Same => None,
            Standing::Gone => Some("the file is gone; the next change writes it again".into()),
            Standing::Refused(why) => Some(SafeText::new(&format!("not applied: {why}"))),
        };
        ProfileStatus { name, path: self.store.shown_path(), problem }
    }

    /// Waits until somebody else changes the file; for ever without a profile.
    pub(super) async fn changed(profile: Option<&mut Self>) -> Option<()> {
        match profile {
            Some(profile) => profile.changes.recv().await.map(|_| ()),
            None => std::future::pending().await,
        }
    }

    /// Writes what the desired state is to be.
    pub(super) fn saving(&self, profile: Profile) -> impl Future<Output = Result<(), SaveFailure>> + Send + 'static {
        let store = self.store.clone();
        async move {
            match spawn_blocking(move || store.save(&profile)).await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(SaveError::StaleOnDisk { .. })) => Err(SaveFailure::ChangedOnDisk),
                Ok(Err(error)) => Err(SaveFailure::Other(SafeText::new(&error.to_string()))),
                Err(_) => Err(SaveFailure::Other("saving was interrupted".into())),
            }
        }
    }

    /// Reads the file again; `None` when it is gone. The error is every problem.
    pub(super) fn reading(
        &self,
    ) -> impl Future<Output = Result<Option<Vec<MappingConfig>>, Problems>> + Send + 'static {
        let store = self.store.clone();
        async move {
            match spawn_blocking(move || store.load(&own_ips())).await {
                Ok(Ok(loaded)) => Ok(loaded.exists.then_some(loaded.profile.mappings)),
                Ok(Err(error)) => Err(error.problems()),
                Err(_) => Err(vec![Problem::new("", "reading was interrupted")]),
            }
        }
    }

    /// The file says what runs: it was written, or read and applied.
    pub(super) fn is_applied(&mut self) {
        self.standing = Standing::Same;
    }

    /// The file is gone: what runs goes on, and the next change writes it anew. Whether that is news.
    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(std::mem::replace(&mut self.standing, Standing::Gone), Standing::Gone)
    }

    /// The file as it stands cannot be applied: what runs goes on. Answers with the reason in one line.
    pub(super) fn refuse(&mut self, problems: &[Problem]) -> SafeText {
        let first = problems.first().map(ToString::to_string).unwrap_or_default();
        let more = match problems.len() {
            0 | 1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let why = SafeText::new(&format!("{first}{more}"));
        self.standing = Standing::Refused(why.clone());
        why
    }

    /// Whether the file holds an edit by hand that could not be applied. Until it is mended there, nothing may be
    /// written: it would be lost.
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.standing, Standing::Refused(_))
    }

    /// Closes it. Others may run it at once; its watch ends when the value returned is dropped, which blocks.
    pub(super) fn close(self) -> impl Send + 'static {
        self.watch
    }

    /// Opens a profile by its name.
    pub(super) async fn open_named(name: String) -> Result<Self, OpenError> {
        usable_name(&name)?;
        spawn_blocking(move || Self::open_blocking(ProfileSource::Named(name))).await.unwrap_or_else(|_| interrupted())
    }

    /// Writes a profile that is not there yet, and opens it.
    pub(super) async fn create_named(name: String, profile: Profile) -> Result<Self, OpenError> {
        usable_name(&name)?;
        spawn_blocking(move || {
            let failed = |message: String| OpenError::Failed(SafeText::new(&message));
            let opened = Self::open_blocking(ProfileSource::Named(name))?;
            if opened.existed {
                let path = opened.store.shown_path();
                return Err(failed(format!("{path} is there already: choose another name")));
            }
            opened.store.save(&profile).map_err(|error| failed(format!("not saved: {error}")))?;
            Ok(opened)
        })
        .await
        .unwrap_or_else(|_| interrupted())
    }

    /// The names of this user's profiles, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub async fn list() -> Result<Vec<String>, OpenError> {
        let listed = spawn_blocking(|| {
            let store = Store::open(ProfileSource::default()).map_err(invalid)?;
            store.list().map_err(|error: LoadError| OpenError::Invalid(error.problems()))
        });
        listed.await.unwrap_or_else(|_| interrupted())
    }
}

/// The folder of logs, or why there is none.
///
/// # Errors
/// When this user has no home folder.
pub fn log_folder() -> Result<PathBuf, Problem> {
    Ok(Locations::of_this_user()?.state().to_owned())
}

/// Without them the check for cycles at run time remains.
fn own_ips() -> Vec<IpAddr> {
    OwnAddresses::read().map(|own| own.0.iter().map(|own| own.ip).collect()).unwrap_or_default()
}

/// Refuses what is no name. The store would call it an argument of the command line, which it is not here.
fn usable_name(name: &str) -> Result<(), OpenError> {
    check_name(name).map_err(|said| invalid(Problem::new("", said)))
}

fn invalid(problem: Problem) -> OpenError {
    OpenError::Invalid(vec![problem])
}

fn interrupted<T>() -> Result<T, OpenError> {
    Err(OpenError::Failed("opening was interrupted".into()))
}
