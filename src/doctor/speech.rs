//! What is spoken: TLS or plain text. Without evidence of real clients nothing is looked at; with it, the target is
//! asked once, by the greeting that opens TLS.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::finding::Finding;
use super::subject::Subject;
use crate::model::mapping::Protocol;
use crate::model::report::{CauseKind, StepKind, Verdict};
use crate::model::speech::Said;

/// How long connecting and the answer may take.
const PATIENCE: Duration = Duration::from_millis(900);
/// So many of the last conversations count.
const LAST: usize = 4;

/// What real clients have met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Nothing that points to a misunderstanding.
    None,
    /// Clients spoke TLS, and the target did not answer in it.
    TlsToPlain,
    /// Clients spoke plainly, and the target answered in TLS, or not at all.
    PlainToTls,
}

/// What the target has answered to a TLS greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// In TLS.
    Tls,
    /// In something else, or by hanging up.
    Plain,
    /// Nothing in time.
    Silent,
}

/// What the last conversations point to: the newest of them decides.
pub(super) fn evidence(subject: &Subject) -> Evidence {
    let Some(engine) = &subject.engine else { return Evidence::None };
    if subject.protocol() != Protocol::Tcp {
        return Evidence::None;
    }
    let last = engine.conversations.iter().rev().take(LAST).filter(|one| one.client.is_some());
    for conversation in last {
        if conversation.is_tls_to_plain() {
            return Evidence::TlsToPlain;
        }
        if conversation.is_plain_to_tls() {
            return Evidence::PlainToTls;
        }
        if conversation.target.is_some() {
            return Evidence::None;
        }
    }
    Evidence::None
}

/// Greets the target in TLS.
pub(super) async fn greet(address: SocketAddr) -> Answer {
    let talk = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        stream.write_all(&client_hello()).await.ok()?;
        let mut answer = [0; 64];
        // Hung up, in order or not: it is no TLS server.
        let count = stream.read(&mut answer).await.unwrap_or(0);
        Some(match Said::of(&answer[..count]) {
            Some(Said::Tls | Said::TlsAlert) => Answer::Tls,
            _ => Answer::Plain,
        })
    };
    timeout(PATIENCE, talk).await.ok().flatten().unwrap_or(Answer::Silent)
}

/// A greeting that every TLS 1.2 and 1.3 server answers, if only by an alert.
fn client_hello() -> Vec<u8> {
    let prefixed = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes(), bytes].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &prefixed(body)].concat();
    // AES-GCM and ChaCha20 of 1.3, ECDHE and RSA of 1.2.
    let suites: [u16; 7] = [0x1301, 0x1302, 0x1303, 0xc02f, 0xc02b, 0xc030, 0x009c];
    let suites: Vec<u8> = suites.iter().flat_map(|suite| suite.to_be_bytes()).collect();
    let extensions = [
        // Groups: P-256, P-384. Without a key of ours a 1.3 server asks again, which is an answer.
        extension(10, &prefixed(&[0, 0x17, 0, 0x18])),
        extension(11, &[1, 0]),
        // Signatures: ECDSA and RSA with SHA-256, RSA-PSS.
        extension(13, &prefixed(&[4, 3, 4, 1, 8, 4])),
    ]
    .concat();
    let body = [&[3, 3][..], &[0x50; 32], &[0], &prefixed(&suites), &[1, 0], &prefixed(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap_or(0).to_be_bytes();
    let handshake = [&[1][..], &length[1..], &body].concat();
    [&[0x16, 3, 1][..], &prefixed(&handshake)].concat()
}

/// The step, and what is wrong. `answer` is there where there was evidence.
pub(super) fn judge(subject: &Subject, evidence: Evidence, answer: Option<Answer>) -> Finding {
    let target = &subject.config.mapping.target;
    let mut finding = Finding::default();
    let mut add = |verdict, text: &str| finding.add(StepKind::Speech, None, verdict, text);
    match (evidence, answer) {
        (Evidence::None, _) if subject.engine.is_none() => {
            add(Verdict::Skipped, "only the portolan that runs it knows what clients speak");
        }
        (Evidence::None, _) => add(Verdict::Skipped, "no client has met a misunderstanding"),
        (Evidence::TlsToPlain, Some(Answer::Plain)) => {
            add(Verdict::Bad, "clients speak TLS, and the target does not");
            finding.cause(
                CauseKind::TlsToPlainPort,
                &format!("Clients speak TLS (https://) to {target}, which does not."),
                &["http:// instead of https://", "e: the target's port for TLS"],
            );
        }
        (Evidence::PlainToTls, Some(Answer::Tls)) => {
            add(Verdict::Bad, "clients speak plain text, and the target wants TLS");
            finding.cause(
                CauseKind::PlainToTlsPort,
                &format!("Clients speak plain text (http://) to {target}, which wants TLS."),
                &["https:// instead of http://", "e: the target's port for plain text"],
            );
        }
        (_, Some(Answer::Tls)) => add(Verdict::Ok, "the target speaks TLS"),
        (_, Some(Answer::Plain)) => add(Verdict::Ok, "the target speaks plain text"),
        (_, Some(Answer::Silent) | None) => add(Verdict::Skipped, "the target has not answered a greeting in TLS"),
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_is_a_whole_record() {
        let hello = client_hello();
        assert_eq!(Said::of(&hello), Some(Said::Tls));
        assert_eq!(usize::from(u16::from_be_bytes([hello[3], hello[4]])), hello.len() - 5);
        let length = u32::from_be_bytes([0, hello[6], hello[7], hello[8]]);
        assert_eq!(length as usize, hello.len() - 9);
    }
}
