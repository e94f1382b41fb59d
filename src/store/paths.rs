//! Where the files of a user lie, and which names a profile may have.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use directories::ProjectDirs;

use super::error::LoadError;
use crate::model::name::check_name;
use crate::model::problem::Problem;

/// Which profile is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileSource {
    /// `--profile NAME`, or `default`.
    Named(String),
    /// `--file PATH`.
    File(PathBuf),
}

impl Default for ProfileSource {
    fn default() -> Self {
        Self::Named("default".into())
    }
}

/// The folders of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locations {
    config: PathBuf,
    state: PathBuf,
}

impl Locations {
    /// As the system and the environment (`XDG_CONFIG_HOME`, `XDG_STATE_HOME`) say.
    pub fn of_this_user() -> Result<Self, Problem> {
        let folders = ProjectDirs::from("", "", "portolan").ok_or_else(|| {
            Problem::new("", "this user has no home folder").with_hint("set HOME, or name a file with --file")
        })?;
        let state = folders.state_dir().unwrap_or_else(|| folders.data_local_dir());
        Ok(Self { config: folders.config_dir().to_owned(), state: state.to_owned() })
    }

    /// These folders.
    pub fn new(config: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self { config: config.into(), state: state.into() }
    }

    /// Where the profiles lie.
    pub fn profiles(&self) -> PathBuf {
        self.config.join("profiles")
    }

    /// Logs and locks.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The file of a profile; a name that could leave the folder is refused.
    pub fn profile_file(&self, name: &str) -> Result<PathBuf, Problem> {
        check_name(name).map_err(|said| Problem::new("--profile", said))?;
        Ok(self.profiles().join(format!("{name}.json")))
    }

    /// The profiles there are.
    pub(super) fn profile_names(&self) -> Result<Vec<String>, LoadError> {
        let folder = self.profiles();
        let unreadable = |source: io::Error| LoadError::unreadable(&folder, source);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(unreadable)?;
            let path = PathBuf::from(entry.file_name());
            let Some(name) = path.file_stem().and_then(OsStr::to_str) else { continue };
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if is_file && path.extension() == Some(OsStr::new("json")) && check_name(name).is_ok() {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_never_lies_outside_its_folder() {
        let locations = Locations::new("/c", "/s");
        assert_eq!(locations.profile_file("dev").unwrap(), Path::new("/c/profiles/dev.json"));
        for name in ["", "..", "../x", "a/b", ".x", "a\0b"] {
            let problem = locations.profile_file(name).unwrap_err();
            assert_eq!(problem.path, "--profile");
        }
    }

    #[test]
    fn only_files_with_names_of_profiles_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        let locations = Locations::new(folder.path(), folder.path());
        assert_eq!(locations.profile_names().unwrap(), Vec::<String>::new());
        let profiles = locations.profiles();
        fs::create_dir_all(profiles.join("folder.json")).unwrap();
        for file in ["b.json", "a.json", "a.json.bak", ".a.json.x1.tmp", "notes.txt", "a b.json"] {
            fs::write(profiles.join(file), "{}").unwrap();
        }
        assert_eq!(locations.profile_names().unwrap(), ["a", "b"]);
    }
}
