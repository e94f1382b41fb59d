//! As much of HTTP/1.1 as the load needs: heads with fields in any order and with whatever a proxy adds, and bodies with
//! Content-Length.

use anyhow::{Context, Result, ensure};

/// Between a head and its body.
const END: &[u8] = b"\r\n\r\n";

/// Longest head that is read.
pub(super) const MOST: usize = 8 * 1_024;

/// A request of which the answer is told by its number.
pub(super) fn request(nth: u64) -> String {
    format!(
        "GET /item/{nth} HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: portolan-peers/1\r\nAccept: */*\r\n\
         Accept-Encoding: identity\r\n\r\n"
    )
}

/// The head of an answer.
pub(super) fn answer(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nServer: portolan-peers\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n")
}

/// The answer to what the target cannot take, in words.
pub(super) fn refusal(error: &anyhow::Error) -> String {
    let words = format!("{error:#}\n");
    format!("HTTP/1.1 400 {}\r\nContent-Length: {}\r\n\r\n{words}", words.trim_end(), words.len())
}

/// A head: its first line and its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head<'a> {
    bytes: &'a [u8],
}

impl<'a> Head<'a> {
    /// The one that these bytes start with, and where its body begins, or `None` while it is not complete.
    pub(super) fn split(bytes: &'a [u8]) -> Result<Option<(Self, usize)>> {
        let end = bytes.windows(END.len()).position(|window| window == END);
        ensure!(end.is_some() || bytes.len() < MOST, "a head has no end");
        Ok(end.map(|end| (Self { bytes: &bytes[..end] }, end + END.len())))
    }

    fn first_line(self) -> &'a str {
        let line = self.bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
        std::str::from_utf8(line).unwrap_or_default()
    }

    /// The value of a field.
    fn field(self, name: &str) -> Option<&'a str> {
        self.bytes.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
            let (key, value) = line.split_at_checked(name.len())?;
            let value = key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)?.strip_prefix(b":")?;
            std::str::from_utf8(value).ok().map(str::trim)
        })
    }

    /// The number in a request's path.
    pub(super) fn requested(self) -> Result<u64> {
        let line = self.first_line();
        let path = line.strip_prefix("GET /item/").and_then(|rest| rest.strip_suffix(" HTTP/1.1"));
        path.and_then(|nth| nth.parse().ok()).with_context(|| format!("a request came as {line:?}"))
    }

    /// Fails unless the request names that client.
    pub(super) fn ensure_names(self, client: std::net::IpAddr) -> Result<()> {
        let named = self.field("x-forwarded-for").context("no X-Forwarded-For")?;
        ensure!(named == client.to_string(), "X-Forwarded-For is {named:?}, and the client {client}");
        Ok(())
    }

    /// The length of the body of an answer, which has to be a good one.
    pub(super) fn answered(self) -> Result<usize> {
        let line = self.first_line();
        ensure!(line.starts_with("HTTP/1.1 200 "), "an answer came as {line:?}");
        ensure!(self.field("transfer-encoding").is_none(), "an answer came with another framing than it was sent with");
        Ok(self.field("content-length").context("an answer came without Content-Length")?.parse()?)
    }
}
