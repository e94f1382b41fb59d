//! A port at which a socket was handed in is free for a mapping, and not in use by ourselves.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use portolan::docker::Endpoint;
use portolan::forward::handed::HandedSocket;
use portolan::model::mapping::Protocol;
use portolan::model::profile::WrittenMapping;
use portolan::model::request::{PortReport, Reply, Request, RequestError};
use portolan::service::{Options, Running};
use tokio::sync::mpsc;

use crate::ports::free_port;

#[tokio::test]
async fn where_a_socket_was_handed_in_one_mapping_can_be_added_and_no_second_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let given = TcpListener::bind(address).expect("nobody is there");
    let (_sender, warnings) = mpsc::channel(1);
    let running = Running::start(Options {
        profile: None,
        session: Vec::new(),
        docker: Endpoint::parse(&format!("unix://{}", folder.path().join("none.sock").display()), false),
        always_docker: false,
        descriptor_limit: 4_000,
        sockets: vec![HandedSocket { name: "web".into(), fd: given.try_clone().expect("ours").into() }],
        warnings,
        session_name: portolan::model::engine::EngineName::Session { pid: std::process::id() },
    });
    let handle = running.handle();
    let listen = address.to_string();
    let ask = async || match handle
        .request(Request::WhoHolds {
            listen: listen.parse().expect("a listen side"),
            protocol: Protocol::Tcp,
            except: None,
        })
        .await
    {
        Ok(Reply::Port(PortReport { conflicts, .. })) => conflicts.len(),
        other => panic!("no report: {other:?}"),
    };
    let add = async || {
        let mapping =
            WrittenMapping { listen: listen.clone(), target: "127.0.0.1:9".into(), ..WrittenMapping::default() };
        handle.request(Request::Add { mapping, even_if_busy: false }).await
    };
    assert_eq!(ask().await, 0, "it waits for a mapping");
    let Ok(Reply::Done { ids, .. }) = add().await else { panic!("not added") };
    assert_eq!(ask().await, 1, "a mapping has it");
    assert!(matches!(add().await, Err(RequestError::Invalid { .. })), "two mappings at one address");
    handle.request(Request::Remove { ids }).await.expect("removed");
    assert_eq!(ask().await, 0, "it waits for another");
    add().await.expect("added again");
    running.shutdown(Duration::ZERO).await;
}
