//! Why the engine counts as lost, and how that is said to people.

use std::error::Error;
use std::io;
use std::time::Duration;

use bollard::errors::Error as ApiError;

use super::endpoint::Endpoint;
use super::transport::TransportError;
use crate::model::untrusted::SafeText;

/// Why the engine counts as lost.
#[derive(Debug, thiserror::Error)]
pub(super) enum Lost {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("events")]
    Events(#[from] ApiError),
    #[error("the event stream ended")]
    Ended,
    #[error("no answer")]
    Stalled,
    #[error("not what Docker would say")]
    Nonsense(#[from] serde_json::Error),
}

/// Why the engine cannot be reached, for people.
pub(super) fn reason(endpoint: &Endpoint, lost: &Lost, patience: Duration) -> String {
    let unlike_docker = |error: &(dyn Error + 'static)| {
        let chain = chain(error);
        if chain.iter().any(|error| is_end(*error)) {
            return format!("{endpoint} has closed the connection");
        }
        let innermost = chain.last().map(ToString::to_string).unwrap_or_default();
        format!("{endpoint} does not answer as Docker does: {}", SafeText::quoted(&innermost))
    };
    match lost {
        Lost::Transport(TransportError::CannotOpen(error)) => cannot_open(endpoint, error),
        // An error number can come only from opening the connection: all later ones are wrapped.
        Lost::Events(ApiError::IOError { err }) if err.raw_os_error().is_some() => cannot_open(endpoint, err),
        // bollard keeps only the words of what ends the stream; whatever they are, it has ended.
        Lost::Events(ApiError::IOError { err }) if !is_of_the_transport(err) => {
            format!("{endpoint} has closed the connection")
        }
        Lost::Stalled => format!("{endpoint} has not answered for {} s", patience.as_secs_f32()),
        Lost::Ended => format!("{endpoint} has closed the connection"),
        Lost::Transport(TransportError::Status { status, message }) => {
            format!("{endpoint} answers {status}: {}", SafeText::quoted(message))
        }
        Lost::Events(ApiError::DockerResponseServerError { status_code, message }) => {
            format!("{endpoint} answers {status_code}: {}", SafeText::quoted(message))
        }
        Lost::Transport(error) => unlike_docker(error),
        Lost::Events(error) => unlike_docker(error),
        Lost::Nonsense(error) => unlike_docker(error),
    }
}

fn is_of_the_transport(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<TransportError>()).is_some()
}

fn cannot_open(endpoint: &Endpoint, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => format!("cannot open {endpoint}: not running"),
        io::ErrorKind::PermissionDenied => format!("cannot open {endpoint}: permission denied"),
        _ => format!("cannot open {endpoint}: {error}"),
    }
}

/// An error that was wrapped again and again, layer by layer, what happened last.
fn chain<'a>(error: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut chain = vec![error];
    let mut next = Some(error);
    while let Some(error) = next {
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
        chain.extend(next);
    }
    chain
}

/// Whether the other side simply went away, as an engine does that is restarted.
fn is_end(error: &(dyn Error + 'static)) -> bool {
    let by_http = error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
    let by_socket = error.downcast_ref::<io::Error>().map(io::Error::kind);
    by_http
        || matches!(
            by_socket,
            Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
        )
}
