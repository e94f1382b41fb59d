//! Programs that people use, through us.

use std::process::Command;

use crate::common::peers::curl;
use crate::common::{Need, Running, SOON, output, python, require, wait_until};
use crate::world::{CLIENT, HOST, NEEDS, World};

#[test]
fn curl_keeps_its_connection_and_each_request_names_the_client() {
    if !require(NEEDS) {
        return;
    }
    let mut world = World::new();
    let urls: Vec<String> = (0..5).map(|nth| format!("http://[{HOST}]:8002/{nth}")).collect();
    let mut command = curl(Some(&world.namespace), &["-f", "--interface", CLIENT, "-H", "X-Forwarded-For: evil"]);
    let seen = output(command.args(&urls)).to_lowercase();
    let count = |line: &str| seen.matches(line).count();
    assert_eq!(count(&format!("x-forwarded-for: {CLIENT}\n")), 5, "{seen}");
    assert_eq!(count(&format!("forwarded: for=\"[{CLIENT}]:")), 5, "{seen}");
    assert_eq!((count("x-forwarded-proto: http\n"), count("evil")), (5, 0), "{seen}");
    let closed = world.run.event("it closes", SOON, |event| {
        event["event"] == "closed"
            && event["connection"]["client"].as_str().is_some_and(|client| client.contains(CLIENT))
    });
    assert_eq!((&closed["connection"]["requests"], &closed["connection"]["reason"]), (&5.into(), &"finished".into()));
    // A body that waits for leave, and one in chunks.
    for fields in [&["-H", "Expect: 100-continue"][..], &["-H", "Transfer-Encoding: chunked"]] {
        let body = "x".repeat(200_000);
        let mut command = curl(Some(&world.namespace), &["-f", "--data-binary", "@-"]);
        command.args(fields).arg(format!("http://[{HOST}]:8002/upload"));
        let mut child = command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("curl starts");
        std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), body.as_bytes()).expect("curl reads");
        assert!(child.wait().expect("it ends").success());
        assert_eq!(world.read_by(8002).last().map(String::as_str), Some("POST /upload 200000"));
    }
    assert!(world.run.stop().status.success());
}

#[test]
fn nginx_learns_the_client_by_http_2() {
    if !require(NEEDS) {
        return;
    }
    let world = World::new();
    let url = format!("http://[{HOST}]:8003/");
    let arguments = ["-f", "-i", "--http2-prior-knowledge", "--interface", CLIENT, "-H", "X-Real-IP: evil", &url];
    let seen = output(&mut curl(Some(&world.namespace), &arguments));
    assert_eq!(seen.matches(&format!("HTTP/2.0 {CLIENT} ")).count(), 1, "{seen}");
    assert_eq!(seen.matches(&format!("host=\"[{HOST}]:8003\";proto=http")).count(), 1, "{seen}");
    assert!(!seen.contains("evil"), "{seen}");
    assert!(world.run.stop().status.success());
}

/// A server that sends back what it is told, and says whom it takes for its client.
const ECHO: &str = r#"
import asyncio, sys, websockets
async def echo(socket):
    await socket.send(socket.request.headers["X-Forwarded-For"])
    async for message in socket:
        await socket.send(message)
async def main():
    async with websockets.serve(echo, "127.0.0.1", 7002, max_size=None):
        await asyncio.Future()
asyncio.run(main())
"#;

/// A client that checks what comes back.
const ASK: &str = r#"
import asyncio, os, sys, websockets
async def main():
    async with websockets.connect(sys.argv[1], local_addr=(sys.argv[2], 0), max_size=None) as socket:
        print(await socket.recv())
        for size in (0, 1, 125, 126, 65535, 65536, 3_000_000):
            message = os.urandom(size)
            await socket.send(message)
            assert await socket.recv() == message, size
        await (await socket.ping())
        print("done")
asyncio.run(main())
"#;

#[test]
fn a_web_socket_opens_and_echoes() {
    if !require(NEEDS) || !require(&[Need::PythonPackages]) {
        return;
    }
    let (namespace, home) = (crate::common::netns::Namespace::new("sockets"), crate::common::program::Home::new());
    for address in [CLIENT, HOST] {
        namespace.ip(&format!("address add {address}/128 dev lo nodad"));
    }
    let inside = |script: &str| -> Command {
        let mut command = namespace.command(python().get_program());
        command.args(["-c", script]);
        command
    };
    let _server = Running(inside(ECHO).spawn().expect("python starts"));
    wait_until("the server listens", SOON, || {
        namespace.enter(|| std::net::TcpStream::connect("127.0.0.1:7002").is_ok())
    });
    home.write_profile(
        "default",
        r#"{ "version": 1, "mappings": [{ "listen": "any:8002", "target": "127.0.0.1:7002", "identity": "http" }] }"#,
    );
    let mut run = home.run(Some(&namespace), [] as [&str; 0]);
    run.ready();
    let said = output(inside(ASK).arg(format!("ws://[{HOST}]:8002/chat")).arg(CLIENT));
    assert_eq!(said, format!("{CLIENT}\ndone\n"));
    let closed =
        run.event("it closes", SOON, |event| event["event"] == "closed" && event["connection"]["requests"] == 1);
    assert_eq!(closed["connection"]["reason"], "finished", "{closed}");
    assert!(run.stop().status.success());
}
