//! One request and its response, whichever version of HTTP they are in.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, HeaderValue, UPGRADE};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};

use super::body::{Answer, Asking, Error, Noted};
use super::census::Census;
use super::channel::{Channel, Spoken};
use super::common::{Common, Expectation};
use super::hop::strip_hop_of_response;
use super::http2;
use super::target::{Target, Trouble};
use super::teller::Teller;
use crate::model::event::CloseReason;
use crate::wire::http::Asked;

/// What the exchanges of one connection share.
pub(super) struct Proxy {
    pub(super) common: Arc<Common>,
    pub(super) client: Arc<Channel>,
    pub(super) target: Target,
    pub(super) teller: Mutex<Teller>,
    pub(super) spoken: Spoken,
}

/// Passes on a request and gives its response. An error ends the connection without one, or of HTTP/2 the stream.
pub(super) async fn exchange(proxy: Arc<Proxy>, request: Request<Incoming>) -> Result<Response<Answer>, Error> {
    let Proxy { common, client, target, teller, .. } = &*proxy;
    let nth = common.next_request();
    if let Some(refused) = common.refused().filter(|refused| refused.nth == nth) {
        let noted = Noted::begin(common, "-", "-");
        return Ok(refusal(refused.status, &refused.why, noted));
    }
    let (mut head, body) = request.into_parts();
    let is_2 = head.version == Version::HTTP_2;
    if !is_2 {
        // The answer before this one was passed on whole.
        common.forget_target();
    }
    let path = head.uri.path_and_query().map_or("*", |path| path.as_str());
    let noted = Noted::begin(common, head.method.as_str(), path);
    if is_2 && let Err(refused) = http2::admit(&mut head) {
        return Ok(refusal(refused.status(), &refused.to_string(), noted));
    }
    common.take_to_interim(head.version == Version::HTTP_11);
    // As they came; the next lines take one away and add one.
    let census = Census::of(&head.headers);
    let is_expecting = census.has_expect && expects(head.version, &head.headers);
    let expectation = is_expecting.then(Arc::<Expectation>::default);
    let authority: Option<&str> = head.uri.authority().filter(|_| is_2).map(AsRef::as_ref);
    if head.version == Version::HTTP_10 {
        // It has no upgrades, so what the client sends next is no other protocol.
        head.headers.remove(UPGRADE);
    }
    let has_host = is_2 || census.has_host;
    if !has_host {
        // HTTP/1.0 may leave it out, the version that it becomes may not.
        let named = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        head.headers.extend(named.map(|named| (HOST, named)));
    }
    let wishes = teller.lock().unwrap_or_else(PoisonError::into_inner).tell(&mut head.headers, census, is_2, authority);
    if !is_2 {
        // What the target is asked for is a path; where it was named in full, `Host` says the same.
        if head.uri.scheme().is_some() {
            let path = head.uri.into_parts().path_and_query;
            head.uri = path.map_or_else(Uri::default, Uri::from);
        }
        head.version = Version::HTTP_11;
        if !has_host {
            // Not told as what the client has asked for.
            head.headers.entry(HOST).or_insert_with(|| dialled(common));
        }
    }
    head.extensions.clear();
    let asked = Asked { is_head: head.method == Method::HEAD, is_upgrade: wishes.upgrade };
    if expectation.is_some() {
        common.expect(expectation.clone());
    }
    let request = Request::from_parts(head, Asking::new(body, expectation.clone(), common, is_2));
    let sent = target.send(request, asked).await;
    if expectation.is_some() {
        common.expect(None);
    }
    let stay = || {
        if census.has_upgrade {
            client.stay(nth);
        }
    };
    let response = match sent {
        Ok(response) => response,
        Err(Trouble::Reset(reason)) => return Err(h2::Error::from(reason).into()),
        Err(trouble) => {
            stay();
            return Ok(failure(common, nth, &trouble, noted));
        }
    };
    let (mut head, body) = response.into_parts();
    let is_switch = head.status == StatusCode::SWITCHING_PROTOCOLS;
    noted.answered(head.status.as_u16());
    strip_hop_of_response(&mut head.headers, is_switch || head.status == StatusCode::UPGRADE_REQUIRED);
    if is_switch {
        common.upgrade();
    } else {
        stay();
    }
    let expectation = expectation.filter(|expectation| !is_switch && !expectation.is_granted.load(Relaxed));
    if expectation.is_some() {
        // The body may come or not: nobody can tell where the next request begins.
        head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if !is_2 {
        head.version = Version::HTTP_11;
    }
    Ok(Response::from_parts(head, Answer::of_target(body, is_2, noted, expectation)))
}

/// What the client has dialled, as a host.
fn dialled(common: &Common) -> HeaderValue {
    let address = common.record.dialled();
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    HeaderValue::from_str(&address.to_string()).expect("an address has no control character")
}

/// Whether the client waits for leave to send its body.
fn expects(version: Version, fields: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && fields.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// An answer of ours to a request that is not passed on; the connection ends with it.
fn refusal(status: u16, why: &str, noted: Noted) -> Response<Answer> {
    let mut response = answer(status, why, noted);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// An answer of ours to a request that has met trouble.
fn failure(common: &Common, nth: u64, trouble: &Trouble, noted: Noted) -> Response<Answer> {
    if let Some(refused) = common.refused().filter(|refused| refused.nth == nth) {
        // The body was at fault.
        return refusal(refused.status, &refused.why, noted);
    }
    common.forget_target();
    match trouble {
        Trouble::NotReached(outcome) if outcome.reason == CloseReason::ConnectTimeout => {
            answer(504, "the target has not answered in time", noted)
        }
        Trouble::NotReached(outcome) if outcome.reason == CloseReason::Limit => {
            answer(503, "there is no room for another connection to the target just now", noted)
        }
        Trouble::NotReached(_) => answer(502, "the target cannot be reached", noted),
        Trouble::Malformed(refusal) => {
            answer(502, &format!("the target's response is not passed on: {refusal}"), noted)
        }
        Trouble::Broken | Trouble::Reset(_) => {
            answer(502, "the target has ended the connection without a response", noted)
        }
    }
}

fn answer(status: u16, why: &str, noted: Noted) -> Response<Answer> {
    noted.answered(status);
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = Response::new(Answer::of_us(format!("{status}: {why}\n"), noted));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
