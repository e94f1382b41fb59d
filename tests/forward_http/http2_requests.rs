//! Requests of HTTP/2: how they name their host, and what none may say.

use std::net::SocketAddr;

use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use hyper::header::HeaderName;
use hyper::{HeaderMap, Request, Version};
use tokio::net::TcpStream;

use crate::sockets::{Bench, Server, connect};
use crate::support::map;

/// A server that answers with what it was asked for, as `METHOD AUTHORITY PATH`, the host field behind it, and with which
/// trailers.
fn server() -> Server {
    Server::start("127.0.0.1", |stream: TcpStream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let (head, mut body) = request.into_parts();
                while let Some(piece) = body.data().await {
                    let length = piece.unwrap().len();
                    body.flow_control().release_capacity(length).unwrap();
                }
                let asked = body.trailers().await.unwrap().unwrap_or_default();
                let host = head.headers.get("host").map_or("-", |host| host.to_str().unwrap());
                let (authority, path) = (head.uri.authority().unwrap(), head.uri.path_and_query().unwrap());
                let response = hyper::Response::builder()
                    .header("asked", format!("{} {authority} {path} {host}", head.method))
                    .header("trailers", names(&asked));
                let mut answer = respond.send_response(response.body(()).unwrap(), false).unwrap();
                let mut trailers = HeaderMap::new();
                for name in ["grpc-status", "content-length", "content_length", "host", "trailer", "x-forwarded-for"] {
                    trailers.insert(name, "0".parse().unwrap());
                }
                answer.send_trailers(trailers).unwrap();
            });
        }
    })
}

fn names(fields: &HeaderMap) -> String {
    fields.keys().map(HeaderName::as_str).collect::<Vec<_>>().join(" ")
}

async fn speak(listener: SocketAddr) -> SendRequest<Bytes> {
    let (sender, connection) = h2::client::handshake(connect(listener).await).await.unwrap();
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// A request that has no `:authority` where `uri` has none. The library sends one only as the passing on of another version.
fn request(uri: &str, fields: &[(&str, &str)]) -> Request<()> {
    let version = if uri.starts_with('/') || uri == "*" { Version::HTTP_11 } else { Version::HTTP_2 };
    let mut request = Request::builder().method(if uri == "*" { "OPTIONS" } else { "GET" }).uri(uri).version(version);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

async fn ask(sender: &mut SendRequest<Bytes>, uri: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let (response, _): (ResponseFuture, SendStream<Bytes>) = sender.send_request(request(uri, fields), true).unwrap();
    let response = response.await.unwrap();
    let asked = response.headers().get("asked").map_or("", |asked| asked.to_str().unwrap()).to_owned();
    (response.status().as_u16(), asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_of_a_request_without_authority_is_that_of_its_field() {
    let bench = Bench::start();
    let server = server();
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut sender = speak(listener).await;
    for (uri, host, asked) in [
        ("/a?b", "a.example:80", "GET a.example:80 /a?b a.example:80"),
        ("/", "[::1]:80", "GET [::1]:80 / [::1]:80"),
        ("*", "a.example", "OPTIONS a.example * a.example"),
    ] {
        let (status, was_asked) = ask(&mut sender, uri, &[("host", host)]).await;
        assert_eq!((status, &*was_asked), (200, asked), "{host}");
    }
    for fields in [
        &[][..],
        &[("host", "")],
        &[("host", "a b")],
        &[("host", "user@a.example")],
        &[("host", "a.example/path")],
        &[("host", "a.example,b.example")],
        &[("host", "a:b:c")],
        &[("host", "a.example"), ("host", "a.example")],
    ] {
        assert_eq!(ask(&mut sender, "/", fields).await.0, 400, "{fields:?}");
    }
    // The connection goes on all the same.
    assert_eq!(ask(&mut sender, "/", &[("host", "a")]).await.0, 200);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_http_1_refuses_is_refused_here_too() {
    let bench = Bench::start();
    let server = server();
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut sender = speak(listener).await;
    let at = "http://a.example/";
    for fields in [
        &[("content_length", "5")][..],
        &[("content.length", "5")],
        &[("transfer_encoding", "chunked")],
        &[("content-length", "0"), ("content-length", "0")],
    ] {
        assert_eq!(ask(&mut sender, at, fields).await.0, 400, "{fields:?}");
    }
    for uri in ["http://user@a.example/", "http://user:word@a.example/"] {
        assert_eq!(ask(&mut sender, uri, &[]).await.0, 400, "{uri}");
    }
    assert_eq!(ask(&mut sender, at, &[("content-type", "a"), ("content-length", "0")]).await.0, 200);
    bench.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trailers_say_nothing_that_belongs_into_a_head() {
    let bench = Bench::start();
    let server = server();
    let listener = map(&bench, 1, "127.0.0.1", server.address).await;
    let mut sender = speak(listener).await;
    let (response, mut body) = sender.send_request(request("http://a.example/", &[]), false).unwrap();
    let mut trailers = HeaderMap::new();
    for name in ["checksum", "content-length", "transfer_encoding", "host", "trailer", "x-forwarded-for"] {
        trailers.insert(HeaderName::from_static(name), "0".parse().unwrap());
    }
    body.send_trailers(trailers).unwrap();
    let (head, mut body): (_, RecvStream) = response.await.unwrap().into_parts();
    assert_eq!(head.headers["trailers"], "checksum");
    assert!(body.data().await.is_none());
    // What a target says of clients is its own affair.
    assert_eq!(names(&body.trailers().await.unwrap().unwrap()), "grpc-status x-forwarded-for");
    bench.shutdown().await;
}
