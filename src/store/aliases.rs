//! The tables of aliases in the state folder: a client is to keep its alias across restarts.
//!
//! One engine has a pool's table at a time, by a lock that ends with its process; pools that overlap are one pool here.
//! A table is written whole, atomically, as lines of text with a sum at the end, so that a file that was cut or changed
//! is known as such. It is moved aside then, and a new table begun: to believe half of it could give one alias to two
//! clients. One that another release has written, or that the system does not show or let be moved, is left alone, and
//! its pool is not to be had.
//!
//! Who writes it takes what is to be written under the same lock as it writes: what is older never replaces what is newer.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;
use nix::fcntl::OFlag;

use super::claim::Claim;
use super::disk::folder_of;
use super::error::{ClaimError, SaveError, reason, shown};
use super::paths::Locations;
use super::save::{remove_leftovers, write_atomically};
use crate::model::alias::{ClientKey, FormerAlias, MOST_ALIASES, MOST_FORMER, Pool, SavedAlias, SavedAliases, Slot};
use crate::model::untrusted::SafeText;

/// What a file begins with: what it is, and how it is written.
const HEADER: &str = "portolan aliases 1";
/// What the number stands behind by which each release knows its own.
const KIND: &str = "portolan aliases ";
/// Longest file that is read: as many lines as a table may have, each as long as it may be.
const MOST_BYTES: u64 = 16 << 20;
/// What a line ends with whose client is known by datagrams alone.
const CLAIMED: &str = " claimed";
/// So many damaged files of one pool are kept; who lets that many lie should look at them first.
const MOST_DAMAGED: usize = 100;
const TABLE: &str = "aliases";
const LOCK: &str = "lock";

/// A pool's table on disk, held for this process.
#[derive(Debug)]
pub struct AliasFile {
    path: PathBuf,
    /// From before the table is copied until it is written.
    saving: Mutex<()>,
    _claim: Claim,
}

/// A table that was opened.
#[derive(Debug)]
pub struct OpenedAliases {
    /// Where it is saved.
    pub file: AliasFile,
    /// What it holds; `None` when there was none.
    pub saved: Option<SavedAliases>,
    /// What the user should know: that there was a file that could not be read, and where it is now.
    pub warning: Option<SafeText>,
}

/// Why a pool's table cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum AliasFileError {
    /// Another engine has the table of that pool, or of one that overlaps it.
    #[error(
        "the aliases of {pool} are kept by another portolan{}: give this mapping another alias_pool",
        pid.map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    Running {
        /// The pool that it has.
        pool: IpNet,
        /// The process; unknown for the moment before it has written it down.
        pid: Option<u32>,
    },
    /// The lock could not be made.
    #[error("the aliases of {pool} cannot be kept: {source}")]
    Unlockable {
        /// The pool.
        pool: IpNet,
        /// Why not.
        source: ClaimError,
    },
    /// There is a file, and the system refuses to show it.
    #[error("cannot read {}: {}", shown(.path), reason(.source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// There is a file of another release, whose clients are not to be lost.
    #[error("{} was written by another release of portolan: use that one, move it away, or give another alias_pool", shown(.path))]
    OtherRelease {
        /// The file.
        path: PathBuf,
    },
    /// There is a file that cannot be used, and it cannot be moved aside either.
    #[error("{} cannot be used ({problem}), nor moved aside: {}", shown(.path), reason(.source))]
    Immovable {
        /// The file.
        path: PathBuf,
        /// What is the matter with it.
        problem: String,
        /// Why it stays.
        source: io::Error,
    },
}

impl AliasFileError {
    /// The pool that this very process has, where that is why.
    pub fn held_here(&self) -> Option<IpNet> {
        match self {
            Self::Running { pool, pid } if *pid == Some(std::process::id()) => Some(*pool),
            _ => None,
        }
    }
}

impl AliasFile {
    /// Takes the table of a pool for this process. Blocks.
    pub fn open(pool: Pool, locations: &Locations) -> Result<OpenedAliases, AliasFileError> {
        let folder = folder(locations);
        let path = folder.join(file_name(&pool, TABLE));
        let lock = folder.join(file_name(&pool, LOCK));
        let network = pool.network();
        let claim = Claim::take_lock(&lock, &path).map_err(|error| match error {
            ClaimError::Running { pid, .. } => AliasFileError::Running { pool: network, pid },
            source @ ClaimError::Unlockable { .. } => AliasFileError::Unlockable { pool: network, source },
        })?;
        // Two that do this at one moment find each other, and neither goes on: better than both.
        for (other, path) in files(&folder, LOCK) {
            if other != network && pool.overlaps(other) {
                Claim::free(&path).map_err(|pid| AliasFileError::Running { pool: other, pid })?;
            }
        }
        remove_leftovers(&path);
        let (saved, warning) = match read(&path, pool) {
            Ok(saved) => (saved, None),
            Err(ReadError::Io(source)) => return Err(AliasFileError::Unreadable { path, source }),
            Err(ReadError::OtherRelease) => return Err(AliasFileError::OtherRelease { path }),
            Err(error) => (None, Some(move_aside(&path, &error)?)),
        };
        Ok(OpenedAliases { file: Self { path, saving: Mutex::default(), _claim: claim }, saved, warning })
    }

    /// Writes the table as it is once nobody else writes it. Blocks.
    pub fn save(&self, aliases: impl FnOnce() -> SavedAliases) -> Result<(), SaveError> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        let aliases = &aliases();
        let folder = folder_of(&self.path);
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(SaveError::unwritable(folder))?;
        write_atomically(&self.path, text(aliases).as_bytes(), None)
    }
}

/// Every table that is saved, whoever has it, and of those that cannot be read why. Blocks.
pub fn saved_aliases(locations: &Locations) -> (Vec<SavedAliases>, Vec<SafeText>) {
    let (mut tables, mut unread) = (Vec::new(), Vec::new());
    for (network, path) in files(&folder(locations), TABLE) {
        let Ok(pool) = Pool::new(network) else { continue };
        match read(&path, pool) {
            Ok(table) => tables.extend(table),
            Err(error) => unread.push(SafeText::new(&format!("{} cannot be read: {error}", shown(&path)))),
        }
    }
    (tables, unread)
}

fn folder(locations: &Locations) -> PathBuf {
    locations.state().join("aliases")
}

/// `198.18.0.0_15.aliases`
fn file_name(pool: &Pool, kind: &str) -> String {
    format!("{}_{}.{kind}", pool.network().network(), pool.network().prefix_len())
}

/// The files of that kind, with their pools.
fn files(folder: &Path, kind: &str) -> Vec<(IpNet, PathBuf)> {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(io::Result::ok);
    let files = entries.filter_map(|entry| {
        let name = entry.file_name();
        let (address, prefix) = name.to_str()?.strip_suffix(kind)?.strip_suffix('.')?.split_once('_')?;
        Some((IpNet::new(address.parse().ok()?, prefix.parse().ok()?).ok()?, entry.path()))
    });
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
}

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{}", reason(.0))]
    Io(#[from] io::Error),
    #[error("it is no regular file")]
    NotRegular,
    #[error("it is larger than {} MiB", MOST_BYTES >> 20)]
    TooLarge,
    #[error("another release has written it")]
    OtherRelease,
    #[error("it does not begin as a table does")]
    Unknown,
    #[error("it was cut or changed")]
    Damaged,
    #[error("line {0} is none that a table has")]
    Line(usize),
}

fn read(path: &Path, pool: Pool) -> Result<Option<SavedAliases>, ReadError> {
    // Without O_NONBLOCK a FIFO would hold us until somebody writes to it.
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ReadError::NotRegular);
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(ReadError::TooLarge);
    }
    parse(&bytes, pool).map(Some)
}

/// Out of the way, beside those that were before; with what is told of it.
fn move_aside(path: &Path, error: &ReadError) -> Result<SafeText, AliasFileError> {
    let names = (1u32..).map(|number| {
        let mut aside = path.as_os_str().to_owned();
        aside.push(if number == 1 { ".damaged".to_owned() } else { format!(".damaged-{number}") });
        PathBuf::from(aside)
    });
    // The lock is ours: nobody takes the name meanwhile.
    let is_free =
        |aside: &PathBuf| fs::symlink_metadata(aside).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let aside = names.take(MOST_DAMAGED).find(is_free).ok_or_else(|| io::Error::from(io::ErrorKind::AlreadyExists));
    match aside.and_then(|aside| fs::rename(path, &aside).map(|()| aside)) {
        Ok(aside) => {
            let said = format!(
                "clients get new aliases: {} cannot be used ({error}); it is kept as {}",
                shown(path),
                shown(&aside)
            );
            Ok(SafeText::new(&said))
        }
        Err(source) => Err(AliasFileError::Immovable { path: path.to_owned(), problem: error.to_string(), source }),
    }
}

fn text(aliases: &SavedAliases) -> String {
    let SavedAliases { pool, key, entries, former } = aliases;
    let mut text = String::with_capacity(entries.len() * 64 + 128);
    let key = u128::from_be_bytes(*key);
    // Writing to a string does not fail.
    let _ = writeln!(text, "{HEADER}\npool {pool}\nkey {key:032x}");
    for SavedAlias { slot, client, since, last_seen, is_known } in entries {
        let claimed = if *is_known { "" } else { CLAIMED };
        let _ = writeln!(text, "{} {} {since} {last_seen}{claimed}", pool.address(*slot), IpAddr::from(*client));
    }
    for FormerAlias { slot, client, since, last_seen, until } in former {
        let _ = writeln!(text, "former {} {} {since} {last_seen} {until}", pool.address(*slot), IpAddr::from(*client));
    }
    let sum = sum(text.as_bytes());
    let _ = writeln!(text, "sum {sum:016x}");
    text
}

fn parse(bytes: &[u8], pool: Pool) -> Result<SavedAliases, ReadError> {
    let text = std::str::from_utf8(bytes).map_err(|_| ReadError::Damaged)?;
    match text.lines().next() {
        Some(HEADER) => {}
        Some(other) if other.strip_prefix(KIND).is_some_and(|release| release.parse::<u32>().is_ok()) => {
            return Err(ReadError::OtherRelease);
        }
        _ => return Err(ReadError::Unknown),
    }
    let body = text.strip_suffix('\n').ok_or(ReadError::Damaged)?;
    let (body, last) = body.rsplit_once('\n').ok_or(ReadError::Damaged)?;
    let told = last.strip_prefix("sum ").and_then(|sum| u64::from_str_radix(sum, 16).ok()).ok_or(ReadError::Damaged)?;
    if told != sum(&bytes[..=body.len()]) {
        return Err(ReadError::Damaged);
    }
    let mut lines = body.lines().enumerate().skip(1).map(|(at, line)| (at + 1, line));
    let mut after = |word: &str| {
        let (at, line) = lines.next().ok_or(ReadError::Damaged)?;
        line.strip_prefix(word).map(|rest| (at, rest)).ok_or(ReadError::Line(at))
    };
    let (at, network) = after("pool ")?;
    if network != pool.to_string() {
        return Err(ReadError::Line(at));
    }
    let (at, hex) = after("key ")?;
    let key = u128::from_str_radix(hex, 16).map_err(|_| ReadError::Line(at))?.to_be_bytes();
    let mut saved = SavedAliases { pool, key, entries: Vec::new(), former: Vec::new() };
    let mut taken = Taken::default();
    for (at, line) in lines {
        let is_known = !line.ends_with(CLAIMED);
        let mut words = line.strip_suffix(CLAIMED).unwrap_or(line).split(' ');
        let is_former = line.starts_with("former ");
        let line_of = || ReadError::Line(at);
        if is_former {
            words.next();
        }
        let slot = word(&mut words).and_then(|alias: IpAddr| pool.slot(alias)).ok_or_else(line_of)?;
        let client =
            word(&mut words).map(|client: IpAddr| ClientKey::from(client.to_canonical())).ok_or_else(line_of)?;
        let since = word(&mut words).ok_or_else(line_of)?;
        let last_seen = word(&mut words).ok_or_else(line_of)?;
        if is_former {
            let until = word(&mut words).ok_or_else(line_of)?;
            saved.former.push(FormerAlias { slot, client, since, last_seen, until });
        } else if taken.enter(slot, client) {
            saved.entries.push(SavedAlias { slot, client, since, last_seen, is_known });
        } else {
            return Err(line_of());
        }
        let is_odd = is_former && !is_known;
        let is_too_long = saved.entries.len() > MOST_ALIASES as usize || saved.former.len() > MOST_FORMER;
        if words.next().is_some() || is_too_long || is_odd {
            return Err(line_of());
        }
    }
    Ok(saved)
}

/// Which slots and clients have been read, to find one that is there twice.
#[derive(Default)]
struct Taken {
    slots: std::collections::HashSet<Slot>,
    clients: std::collections::HashSet<ClientKey>,
}

impl Taken {
    fn enter(&mut self, slot: Slot, client: ClientKey) -> bool {
        self.slots.insert(slot) && self.clients.insert(client)
    }
}

fn word<'a, T: std::str::FromStr>(words: &mut impl Iterator<Item = &'a str>) -> Option<T> {
    words.next()?.parse().ok()
}

/// FNV-1a: enough to know a file that was cut, or of which a block is another's.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str) -> Pool {
        Pool::new(text.parse().unwrap()).unwrap()
    }

    fn key(text: &str) -> ClientKey {
        ClientKey::from(text.parse::<IpAddr>().unwrap())
    }

    fn some(pool: Pool) -> SavedAliases {
        let entry = |slot, client: &str| SavedAlias {
            slot: Slot(slot),
            client: key(client),
            since: 1_764_284_000,
            last_seen: 1_764_284_572,
            is_known: slot != 3,
        };
        SavedAliases {
            pool,
            key: *b"0123456789abcdef",
            entries: vec![entry(0, "2001:db8::41"), entry(3, "192.0.2.7"), entry(131_069, "fd00::1")],
            former: vec![FormerAlias { slot: Slot(3), client: key("2001:db8::9"), since: 4, last_seen: 5, until: 6 }],
        }
    }

    fn place() -> (tempfile::TempDir, Locations) {
        let folder = tempfile::tempdir().unwrap();
        let locations = Locations::new(folder.path(), folder.path().join("state"));
        (folder, locations)
    }

    #[test]
    fn what_is_saved_is_read_again_and_is_for_its_owner_alone() {
        let (_folder, locations) = place();
        let pool = pool("198.18.0.0/15");
        let opened = AliasFile::open(pool, &locations).unwrap();
        assert_eq!((opened.saved, opened.warning), (None, None));
        opened.file.save(|| some(pool)).unwrap();
        let path = locations.state().join("aliases/198.18.0.0_15.aliases");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(saved_aliases(&locations), (vec![some(pool)], Vec::new()));
        drop(opened.file);
        let opened = AliasFile::open(pool, &locations).unwrap();
        assert_eq!((opened.saved, opened.warning), (Some(some(pool)), None));
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with(
            "portolan aliases 1\npool 198.18.0.0/15\nkey 30313233343536373839616263646566\n\
             198.18.0.1 2001:db8::41 1764284000 1764284572\n198.18.0.4 192.0.2.7 1764284000 1764284572 claimed\n"
        ));
    }

    #[test]
    fn a_pool_has_one_owner_and_so_have_pools_that_overlap() {
        let (_folder, locations) = place();
        let opened = AliasFile::open(pool("198.18.0.0/15"), &locations).unwrap();
        let pid = std::process::id();
        for (other, is_free) in [("198.18.0.0/15", false), ("198.18.4.0/24", false), ("198.20.0.0/15", true)] {
            let second = AliasFile::open(pool(other), &locations);
            assert_eq!(second.is_ok(), is_free, "{other}");
            if let Err(error) = second {
                let said = format!(
                    "the aliases of 198.18.0.0/15 are kept by another portolan (pid {pid}): give this mapping another \
                     alias_pool"
                );
                assert_eq!(error.to_string(), said);
            }
        }
        drop(opened);
        assert!(AliasFile::open(pool("198.18.4.0/24"), &locations).is_ok());
    }

    #[test]
    fn a_damaged_file_is_moved_aside_with_a_word_and_a_new_table_begins() {
        let (_folder, locations) = place();
        let pool = pool("198.18.0.0/15");
        let path = locations.state().join("aliases/198.18.0.0_15.aliases");
        let whole = text(&some(pool));
        let again = |body: String| format!("{body}sum {:016x}\n", sum(body.as_bytes()));
        let body = &whole[..whole.rfind("sum ").unwrap()];
        let huge = "x".repeat(usize::try_from(MOST_BYTES).unwrap() + 1);
        for (number, (content, why)) in [
            (String::new(), "it does not begin as a table does"),
            ("portolan aliases\n".to_owned(), "it does not begin as a table does"),
            (whole[..whole.len() / 2].to_owned(), "it was cut or changed"),
            (whole.replace("192.0.2.7", "192.0.2.8"), "it was cut or changed"),
            // Whole, and yet none of ours.
            (again(format!("{body}198.18.0.1 2001:db8::42 1 1\n")), "line 8 is none"),
            (again(format!("{body}198.18.9.1 2001:db8::41 1 1\n")), "line 8 is none"),
            (again(format!("{body}198.20.0.1 2001:db8::42 1 1\n")), "line 8 is none"),
            (again(format!("{body}198.18.9.1 2001:db8::42 1\n")), "line 8 is none"),
            (again(format!("{body}198.18.9.1 2001:db8::42 1 1 1\n")), "line 8 is none"),
            (again(body.replace("/15", "/16")), "line 2 is none"),
            (huge, "it is larger than 16 MiB"),
        ]
        .into_iter()
        .enumerate()
        {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &content).unwrap();
            let opened = AliasFile::open(pool, &locations).unwrap();
            let warning = opened.warning.unwrap();
            assert!(opened.saved.is_none() && warning.as_str().contains(why), "{warning}");
            let aside =
                if number == 0 { "aliases.damaged".to_owned() } else { format!("aliases.damaged-{}", number + 1) };
            assert_eq!(fs::read_to_string(path.with_extension(aside)).unwrap(), content);
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_file_of_another_release_or_one_that_cannot_be_read_is_left_alone() {
        let (_folder, locations) = place();
        let pool = pool("198.18.0.0/15");
        let path = locations.state().join("aliases/198.18.0.0_15.aliases");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "portolan aliases 2\nwho knows\n").unwrap();
        let said = AliasFile::open(pool, &locations).unwrap_err().to_string();
        assert!(said.contains("was written by another release of portolan"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "portolan aliases 2\nwho knows\n");
        // A link is not followed: what it leads to may be anything.
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let said = AliasFile::open(pool, &locations).unwrap_err().to_string();
        assert!(said.starts_with("cannot read "), "{said}");
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 2, "it, and the lock");
    }

    #[test]
    fn of_two_that_save_at_once_the_one_that_was_copied_last_stands() {
        let (_folder, locations) = place();
        let pool = pool("198.18.0.0/15");
        let opened = AliasFile::open(pool, &locations).unwrap();
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (go_on, may_go_on) = std::sync::mpsc::channel();
        let newer = SavedAliases { key: [9; 16], ..some(pool) };
        let file = &opened.file;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let slow = || {
                    begun.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    some(pool)
                };
                file.save(slow).unwrap();
            });
            has_begun.recv().unwrap();
            let second = scope.spawn(|| file.save(|| newer.clone()).unwrap());
            assert!(file.saving.try_lock().is_err());
            go_on.send(()).unwrap();
            second.join().unwrap();
        });
        assert_eq!(saved_aliases(&locations), (vec![newer], Vec::new()));
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let (_folder, locations) = place();
        let pool = pool("198.18.0.0/15");
        let path = locations.state().join("aliases/198.18.0.0_15.aliases");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (tables, unread) = saved_aliases(&locations);
        assert!(tables.is_empty());
        assert_eq!(unread.len(), 1);
        assert!(
            unread[0].as_str().ends_with("198.18.0.0_15.aliases cannot be read: it is no regular file"),
            "{unread:?}"
        );
        let opened = AliasFile::open(pool, &locations).unwrap();
        assert!(opened.warning.is_some_and(|warning| warning.as_str().contains("it is no regular file")));
        opened.file.save(|| some(pool)).unwrap();
        assert_eq!(saved_aliases(&locations), (vec![some(pool)], Vec::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic_or_two_clients_share(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0usize..250) {
            let pool = pool("198.18.0.0/15");
            let mut text = text(&some(pool)).into_bytes();
            let _ = parse(&bytes, pool);
            let end = (at + bytes.len()).min(text.len());
            text.splice(at.min(end)..end, bytes);
            if let Ok(saved) = parse(&text, pool) {
                prop_assert_eq!(saved, some(pool));
            }
        }
    }
}
