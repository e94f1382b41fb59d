//! The rules of the packet filter, as data: read by the tools that list them, with a limit in time and size.
//!
//! There is more than one filter on a host: the older one of the kernel and the newer, each with its own tool. Who
//! reads the rules needs root; what could not be read is said ([`Rules::unseen`]), and nothing is ever changed.

mod condition;
pub(super) mod nft;
pub(super) mod save;

use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::libc;

pub use condition::{Condition, Packet, State, Truth, What};

use super::netlink::{Netlink, attribute};
use crate::model::mapping::Family;
use crate::model::untrusted::SafeText;

/// How long one tool may take.
const PATIENCE: Duration = Duration::from_millis(800);
/// Most bytes that are read of one.
const MOST_BYTES: u64 = 8 * 1024 * 1024;
/// Where tools are that an ordinary user's PATH lacks.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Tables of the newer filter that the tools of the older one list too.
const COMMON: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

/// Every table that could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The tables, each of one filter and family.
    pub tables: Vec<Table>,
    /// What could not be read, and what that needs.
    pub unseen: Vec<SafeText>,
    /// Families of which the tools of the older filter could not list every table of the newer one; why.
    unlisted: Vec<(Family, SafeText)>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Who lists it, such as `iptables` or `nft inet`.
    pub source: String,
    /// Such as `filter`.
    pub name: String,
    /// The families that it is about; `None`: both.
    pub family: Option<Family>,
    /// Its chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A chain of rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where packets enter it by themselves; `None`: by a jump alone.
    pub hook: Option<Hook>,
    /// Earlier ones first among the chains of a hook.
    pub priority: i32,
    /// What becomes of a packet that no rule has decided.
    pub policy: Policy,
    /// Packets that met the policy.
    pub policy_packets: Option<u64>,
    /// In order.
    pub rules: Vec<Rule>,
}

/// Where packets enter chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// As they come in.
    Prerouting,
    /// For this host.
    Input,
    /// For another.
    Forward,
    /// From this host.
    Output,
    /// As they go out.
    Postrouting,
}

/// What becomes of a packet at the end of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It goes on.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// As its tool writes it.
    pub text: SafeText,
    /// All of them must hold.
    pub conditions: Vec<Condition>,
    /// What is done then.
    pub action: Action,
    /// Packets that it met; `None` where nobody counts.
    pub packets: Option<u64>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The packet goes on to the next chain.
    Accept,
    /// It is dropped in silence.
    Drop,
    /// It is answered with a refusal.
    Reject,
    /// It goes to another address.
    Redirect {
        /// Where, as the tool writes it.
        to: SafeText,
    },
    /// It gets another source, and goes on to the next chain.
    Rewrite,
    /// Another chain goes on, and then this one.
    Jump(String),
    /// Another chain goes on instead.
    Goto(String),
    /// Back to the chain before.
    Return,
    /// Nothing that decides: a mark, a log line.
    Continue,
    /// Something that is not known here.
    Unknown,
}

impl Rules {
    /// As they stand now, in this thread's network namespace.
    pub fn read() -> Self {
        let mut rules = Self::default();
        if !nix::unistd::geteuid().is_root() {
            rules.unseen.push("cannot read rules without root".into());
            return rules;
        }
        let natives = tables_of_the_newer_filter();
        // On a kernel that has had none, each tool would answer with as many empty tables.
        let newer = natives.as_ref().map_or(true, |natives| natives.iter().any(Native::is_common));
        let older = has_older("/proc/thread-self/net/ip_tables_names");
        let older6 = has_older("/proc/thread-self/net/ip6_tables_names");
        rules.by_save("iptables", &["iptables-nft-save"], newer, Family::V4);
        rules.by_save("ip6tables", &["ip6tables-nft-save"], newer, Family::V6);
        rules.by_save("iptables-legacy", &["iptables-legacy-save", "iptables-save"], older, Family::V4);
        rules.by_save("ip6tables-legacy", &["ip6tables-legacy-save", "ip6tables-save"], older6, Family::V6);
        match natives {
            Ok(natives) if natives.iter().all(Native::is_common) && rules.unlisted.is_empty() => {}
            Ok(_) => match run("nft", &["-j", "list", "ruleset"]) {
                Ok(text) => match nft::tables(&text, &rules.unlisted) {
                    Some(tables) => {
                        rules.tables.extend(tables);
                        rules.unlisted.clear();
                    }
                    None => rules.unseen.push("the list of nft is of an unknown form".into()),
                },
                Err(error) => rules.unseen.push(SafeText::new(&format!("rules of nftables: {error}"))),
            },
            Err(error) => rules.unseen.push(SafeText::new(&format!("cannot list tables: {error}"))),
        }
        let unlisted = std::mem::take(&mut rules.unlisted);
        rules.unseen.extend(unlisted.into_iter().map(|(_, why)| why));
        rules
    }

    /// Runs the first of `tools` that is there, if it is `needed`.
    fn by_save(&mut self, source: &str, tools: &[&str], needed: bool, family: Family) {
        if !needed {
            return;
        }
        let mut missing = None;
        for tool in tools {
            match run(tool, &["-c"]) {
                Ok(text) => {
                    if text.lines().any(|line| line.ends_with("use 'nft' tool.")) {
                        self.unlisted.push((family, SafeText::new(&format!("{tool} cannot list every table"))));
                    }
                    return self.tables.extend(save::tables(&text, source, family));
                }
                Err(error) => missing = missing.or(Some(error)),
            }
        }
        if let Some(error) = missing {
            let why = SafeText::new(&format!("rules of {source}: {error}"));
            match tools {
                // Another tool may list them.
                [_] => self.unlisted.push((family, why)),
                _ => self.unseen.push(why),
            }
        }
    }

    /// How many rules there are.
    pub fn count(&self) -> usize {
        self.tables.iter().flat_map(|table| table.chains.values()).map(|chain| chain.rules.len()).sum()
    }
}

/// Whether the older filter has tables; a kernel without it has no such file.
fn has_older(names: &str) -> bool {
    match std::fs::read_to_string(names) {
        Ok(names) => !names.trim().is_empty(),
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

/// What a tool prints.
fn run(tool: &str, arguments: &[&str]) -> Result<String, String> {
    let path = std::env::var("PATH").unwrap_or_default();
    // The system's own first: root runs it, and the rest of the path may be somebody else's.
    let mut child = Command::new(find(tool, &format!("{SYSTEM_PATH}:{path}")).ok_or_else(|| format!("needs {tool}"))?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{tool}: {error}"))?;
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(stdout) = stdout {
            let _ = stdout.take(MOST_BYTES).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(1);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < end => std::thread::sleep(pause),
            Ok(None) => break Err(format!("{tool} does not answer")),
            Err(error) => break Err(format!("{tool}: {error}")),
        }
        pause = (pause * 2).min(Duration::from_millis(10));
    };
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    // A child of its own may hold the other end for ever; nobody waits for it.
    let status = status?;
    let text = reader.join().unwrap_or_default();
    match status {
        status if status.success() => Ok(text),
        status => Err(format!("{tool} fails ({status})")),
    }
}

fn find(tool: &str, path: &str) -> Option<std::path::PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(tool)).find(|file| file.is_absolute() && file.is_file())
}

/// A table of the newer filter.
pub(super) struct Native {
    family: u8,
    pub(in crate::host) name: String,
}

impl Native {
    /// Out of an `nfgenmsg` and its attributes.
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        const NFTA_TABLE_NAME: u16 = 1;
        let (family, name) = (*message.first()?, attribute(message.get(4..)?, NFTA_TABLE_NAME)?);
        let name = String::from_utf8_lossy(name.strip_suffix(&[0]).unwrap_or(name)).into_owned();
        Some(Self { family, name })
    }

    /// The tools of the older filter list it too.
    fn is_common(&self) -> bool {
        let family = i32::from(self.family);
        (family == libc::NFPROTO_IPV4 || family == libc::NFPROTO_IPV6) && COMMON.contains(&self.name.as_str())
    }

    /// It is about packets of IP; filters of bridges and devices are another matter.
    fn is_of_ip(&self) -> bool {
        [libc::NFPROTO_INET, libc::NFPROTO_IPV4, libc::NFPROTO_IPV6].contains(&i32::from(self.family))
    }
}

/// The tables of the newer filter, in this thread's network namespace.
fn tables_of_the_newer_filter() -> std::io::Result<Vec<Native>> {
    const NFNL_SUBSYS_NFTABLES: u16 = 10;
    const NFT_MSG_GETTABLE: u16 = 1;
    let mut netlink = Netlink::open(libc::NETLINK_NETFILTER)?;
    // `nfgenmsg` of any family.
    match netlink.table(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, &[0; 4]) {
        Ok(messages) => {
            Ok(messages.iter().filter_map(|message| Native::of(message)).filter(Native::is_of_ip).collect())
        }
        // A kernel without the newer filter.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_by_root_and_others_are_told_what_it_needs() {
        let rules = Rules::read();
        if nix::unistd::geteuid().is_root() {
            assert!(!rules.unseen.iter().any(|text| text.as_str().contains("root")), "{:?}", rules.unseen);
        } else {
            assert_eq!(rules.unseen, [SafeText::from("cannot read rules without root")]);
        }
    }

    #[test]
    fn a_tool_that_is_missing_or_fails_is_an_answer() {
        assert_eq!(run("no-such-tool-here", &[]), Err("needs no-such-tool-here".to_owned()));
        assert!(run("false", &[]).is_err_and(|error| error.starts_with("false fails")));
        assert_eq!(run("echo", &["a"]), Ok("a\n".to_owned()));
        let started = Instant::now();
        assert_eq!(run("sleep", &["60"]), Err("sleep does not answer".to_owned()));
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
