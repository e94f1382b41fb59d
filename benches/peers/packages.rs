//! The Debian packages that the peers come in. A peer that cannot be had fails the bench: a table that silently lacks
//! its strongest row is worse than none.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::contestants::Contestant;

/// Installs what is missing, with apt-get and as root.
pub(crate) fn install_missing(contestants: &[Contestant]) -> Result<()> {
    let missing: Vec<&str> = contestants
        .iter()
        .filter(|contestant| !contestant.needs().iter().all(|path| Path::new(path).exists()))
        .flat_map(|contestant| contestant.packages())
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!("peers are missing, and only root can install them: apt-get install {list}");
    }
    println!("peers: installing {list}");
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], &missing[..]].concat())?;
    for path in contestants.iter().flat_map(|contestant| contestant.needs()) {
        ensure!(Path::new(path).exists(), "{path} is still missing after apt-get install {list}");
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(["-q"])
        .args(arguments)
        // A peer's own service would hold ports and processors while it is measured.
        .env("RUNLEVEL", "1")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    ensure!(status.success(), "apt-get {} failed: {status}", arguments.join(" "));
    Ok(())
}

/// The version of an installed package, as dpkg says it.
pub(crate) fn version(package: &str) -> Option<String> {
    let output = Command::new("dpkg-query").args(["-W", "-f=${Version}", package]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
