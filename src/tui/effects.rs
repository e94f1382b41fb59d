//! Carries effects out: requests through the service's handle, the clipboard, the browser.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tokio::task::JoinSet;

use crate::model::request::{Call, RequestError};
use crate::model::untrusted::SafeText;
use crate::service::Handle;

use super::state::Severity;
use super::update::{Asked, Msg};

/// Requests under way at once; a person does not get there, and what comes then is refused in words.
const REQUESTS: usize = 32;
/// Text that is copied at most: what a pipe takes without its reader.
const LONGEST_COPY: usize = 60_000;

/// Owns what effects have started.
#[derive(Debug)]
pub(super) struct Runner {
    handle: Handle,
    requests: JoinSet<Msg>,
    children: Vec<(Child, Started)>,
}

#[derive(Debug)]
enum Started {
    /// `tmux load-buffer`, with the text.
    Tmux(String),
    Browser,
}

impl Runner {
    pub(super) fn new(handle: Handle) -> Self {
        Self { handle, requests: JoinSet::new(), children: Vec::new() }
    }

    /// Asks the service; the answer comes out of [`Runner::next`].
    pub(super) fn ask(&mut self, asked: Asked, call: Call) -> Option<Msg> {
        if self.requests.len() >= REQUESTS {
            return Some(Msg::News(Severity::Warn, SafeText::new("too much at once; try again")));
        }
        let handle = self.handle.clone();
        self.requests.spawn(async move { Msg::Answer(asked, Box::new(handle.call(call).await)) });
        None
    }

    /// The next answer; pending while none is under way.
    pub(super) async fn next(&mut self) -> Msg {
        match self.requests.join_next().await {
            Some(Ok(msg)) => msg,
            Some(Err(_)) => Msg::News(Severity::Error, SafeText::new(&RequestError::Gone.to_string())),
            None => std::future::pending().await,
        }
    }

    /// Copies: inside tmux by its own command, since its default setting ignores OSC 52. Answers with the
    /// bytes to send to the terminal otherwise.
    pub(super) fn copy(&mut self, text: &str) -> (Option<Vec<u8>>, Msg) {
        if text.len() > LONGEST_COPY {
            return (None, Msg::News(Severity::Warn, SafeText::new("too long to copy")));
        }
        if std::env::var_os("TMUX").is_some()
            && let Ok(child) = load_buffer(text)
        {
            self.children.push((child, Started::Tmux(text.to_owned())));
            return (None, said("sent to tmux", text));
        }
        (Some(osc52(text)), said("sent to the terminal", text))
    }

    /// Opens an address in the browser.
    pub(super) fn browse(&mut self, url: &str) -> Msg {
        let child =
            Command::new("xdg-open").arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        match child {
            Ok(child) => {
                self.children.push((child, Started::Browser));
                Msg::News(Severity::None, SafeText::new(&format!("opening {url}")))
            }
            Err(error) => Msg::News(Severity::Error, SafeText::new(&format!("xdg-open: {error}"))),
        }
    }

    /// Looks after programs that were started; answers with bytes for the terminal where tmux refused.
    pub(super) fn reap(&mut self) -> Vec<Vec<u8>> {
        let mut bytes = Vec::new();
        self.children.retain_mut(|(child, started)| match child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                if let (Started::Tmux(text), false) = (started, status.success()) {
                    bytes.push(osc52(text));
                }
                false
            }
            Err(_) => false,
        });
        bytes
    }

    /// Whether started programs have to be looked after.
    pub(super) fn has_children(&self) -> bool {
        !self.children.is_empty()
    }
}

fn said(how: &str, text: &str) -> Msg {
    let first = text.lines().next().unwrap_or_default();
    Msg::News(Severity::None, SafeText::new(&format!("{how}: {first}")))
}

fn load_buffer(text: &str) -> std::io::Result<Child> {
    let mut child = Command::new("tmux")
        .args(["load-buffer", "-w", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A pipe takes this much without its reader, so this does not wait.
        let _ = stdin.write_all(text.as_bytes());
    }
    Ok(child)
}

/// Whether there is a browser to open: a display, and the command that finds the browser.
pub(super) fn can_browse() -> bool {
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|v| !v.is_empty()));
    has_display
        && std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| is_program(&folder.join("xdg-open"))))
}

fn is_program(path: &Path) -> bool {
    path.is_file()
}

/// The sequence that puts text on the terminal's clipboard.
fn osc52(text: &str) -> Vec<u8> {
    format!("\x1b]52;c;{}\x07", base64(text.as_bytes())).into_bytes()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            if place <= chunk.len() {
                let letter = group >> (18 - 6 * place) & 63;
                out.push(char::from(LETTERS[letter as usize]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(osc52("a"), b"\x1b]52;c;YQ==\x07");
    }
}
