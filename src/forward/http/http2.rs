//! Requests of HTTP/2 before they are passed on: held to what those of HTTP/1 are, since the target may be one that makes
//! them such.
//!
//! The library sees to much of it: it takes no fields of a hop, and no body of another length than was said.

use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{HeaderMap, Method, Uri};

use super::teller::remove_where;
use crate::wire::http::{MAX_FIELDS, Refusal, is_look_alike, is_of_head, is_of_host};

/// Lets a request through with its host in its URI, or says what is wrong with it.
pub(super) fn admit(head: &mut Parts) -> Result<(), Refusal> {
    if head.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    if head.headers.len() > MAX_FIELDS {
        return Err(Refusal::TooManyFields);
    }
    if head.headers.keys().any(|name| name != CONTENT_LENGTH && is_look_alike(name.as_str())) {
        return Err(Refusal::LookAlike);
    }
    if head.headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Refusal::Length);
    }
    name_host(head)
}

/// Sees to it that the host stands in the URI: of who passes on requests of HTTP/1 it stands in the field alone. Where it
/// stands in both, they are to be the same: who chooses by the one would be told the other.
fn name_host(head: &mut Parts) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = hosts.next().map(HeaderValue::as_bytes);
    if hosts.next().is_some() {
        return Err(Refusal::Hosts);
    }
    let is_host = |text: &[u8]| text.iter().all(|byte| is_of_host(*byte));
    if let Some(authority) = head.uri.authority().map(|authority| authority.as_str().as_bytes()) {
        if !is_host(authority) {
            return Err(Refusal::Target);
        }
        let is_contradicted = host.is_some_and(|host| !authority.eq_ignore_ascii_case(host));
        return if is_contradicted { Err(Refusal::Host) } else { Ok(()) };
    }
    let host = host.ok_or(Refusal::Hosts)?;
    if !is_host(host) {
        return Err(Refusal::Host);
    }
    let authority = Authority::try_from(host).map_err(|_| Refusal::Host)?;
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(parts).map_err(|_| Refusal::Target)?;
    Ok(())
}

/// Removes from a trailer section what belongs into a head. HTTP/1 refuses such a message; here it has come by then.
pub(super) fn strip_trailers(fields: &mut HeaderMap) {
    remove_where(fields, is_of_head);
}
