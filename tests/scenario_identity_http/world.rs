//! A host with two servers, each behind a mapping, and what they say of the requests that reached them.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::netns::Namespace;
use crate::common::program::{Home, Run};
use crate::common::servers::ConfiguredServer;
use crate::common::{Need, Running, SOON, wait_until};

pub(crate) const NEEDS: &[Need] = &[Need::Namespaces, Need::Servers, Need::Curl, Need::Ss, Need::Python];

/// A client and the host, by their addresses.
pub(crate) const CLIENT: &str = "2001:db8::c1";
pub(crate) const HOST: &str = "2001:db8::1";

/// Python's own server, which says what it has read: one line for each request.
pub(crate) const PYTHON: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        if "Transfer-Encoding" in self.headers:
            length = 0
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
                length += size
            while self.rfile.readline() != b"\r\n":
                pass
        else:
            length = int(self.headers.get("Content-Length", 0))
            self.rfile.read(length)
        with open(sys.argv[1], "a") as log:
            log.write(f"{self.command} {self.path} {length}\n")
        body = "".join(f"{name}: {value}\n" for name, value in self.headers.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_OPTIONS = answer
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 7002), Handler).serve_forever()
"#;

/// nginx, which logs what it has read the same way; it speaks HTTP/2 on 7003.
pub(crate) const NGINX: &str = r#"http {
    log_format read '$request_method $request_uri $body';
    map $content_length $stated { default $content_length; "" 0; }
    map $http_transfer_encoding $body { default $stated; chunked chunked; }
    # A request of which the rest never came is not one that it has read.
    map $status $is_whole { default 1; 400 0; 499 0; }
    access_log FOLDER/access read if=$is_whole;
    client_max_body_size 0;
    keepalive_requests 100000;
    server {
        listen 127.0.0.1:7001;
        location / { proxy_pass http://127.0.0.1:7004; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
    server {
        listen 127.0.0.1:7003 http2;
        location / { add_header seen $http_forwarded; return 200 '$server_protocol $http_x_forwarded_for $http_x_real_ip'; }
    }
    server {
        listen 127.0.0.1:7004; access_log off;
        location / { return 200 '$http_x_forwarded_for'; }
    }
}"#;

pub(crate) struct World {
    pub(crate) namespace: Namespace,
    pub(crate) run: Run,
    pub(crate) nginx: ConfiguredServer,
    home: Home,
    /// Of the connection that was said last: a client's port comes again sooner or later.
    last: u64,
    _python: Running,
}

impl World {
    /// nginx is on 8001, Python's server on 8002, nginx by HTTP/2 on 8003.
    pub(crate) fn new() -> Self {
        let (namespace, home) = (Namespace::new("http"), Home::new());
        for address in [CLIENT, HOST] {
            namespace.ip(&format!("address add {address}/128 dev lo nodad"));
        }
        let nginx = ConfiguredServer::nginx(&namespace, NGINX, &[7001, 7003, 7004]);
        let log = home.path().join("python.log");
        let mut python = namespace.command("python3");
        let python = Running(python.args(["-c", PYTHON]).arg(&log).spawn().expect("python3 starts"));
        wait_until("Python's server listens", SOON, || {
            namespace.enter(|| TcpStream::connect("127.0.0.1:7002").is_ok())
        });
        let mappings: Vec<_> = [1, 2, 3]
            .map(|nth| json!({ "listen": format!("any:800{nth}"), "target": format!("127.0.0.1:700{nth}"), "identity": "http" }))
            .into();
        home.write_profile("default", &json!({ "version": 1, "mappings": mappings }).to_string());
        let mut run = home.run(Some(&namespace), [] as [&str; 0]);
        run.ready();
        Self { namespace, run, nginx, home, last: 0, _python: python }
    }

    /// What a server has read so far, a request a line.
    pub(crate) fn read_by(&self, server: u16) -> Vec<String> {
        let log = match server {
            8001 => self.nginx.file("access"),
            _ => std::fs::read_to_string(self.home.path().join("python.log")).unwrap_or_default(),
        };
        log.lines().map(str::to_owned).collect()
    }

    pub(crate) fn connect(&self, server: u16) -> TcpStream {
        let stream = self.namespace.enter(|| TcpStream::connect((HOST, server)).expect("the mapping listens"));
        stream.set_read_timeout(Some(SOON)).expect("it can be set");
        stream.set_nodelay(true).expect("it can be set");
        stream
    }

    /// Sends bytes, in pieces, and gives all that comes back, and how the connection ended in our events.
    pub(crate) fn say(&mut self, server: u16, pieces: &[&[u8]]) -> (Vec<u8>, Value) {
        let mut stream = self.connect(server);
        let client = stream.local_addr().expect("it has one").to_string();
        for piece in pieces {
            // It may have been refused in the middle.
            if stream.write_all(piece).is_err() {
                break;
            }
            if pieces.len() > 1 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            answer.extend_from_slice(&buffer[..count]);
        }
        let _ = stream.shutdown(Shutdown::Both);
        drop(stream);
        let last = self.last;
        let closed = self.run.event("the connection has closed", SOON, |event| {
            event["event"] == "closed"
                && event["connection"]["client"] == client.as_str()
                && event["connection"]["id"].as_u64().is_some_and(|id| id > last)
        });
        self.last = closed["connection"]["id"].as_u64().expect("it is a number");
        (answer, closed["connection"].clone())
    }
}
