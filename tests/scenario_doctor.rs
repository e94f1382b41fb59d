//! Live troubleshooting on the screen with a real engine (acceptance 15): an application that listens on its container's
//! own loopback, and a Docker socket that is cut.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use common::docker::Engine;
use common::netns::Namespace;
use common::program::Home;
use common::screen::Screen;
use common::{Need, SOON, require, wait_for};

/// A way to the engine's socket that can be cut.
struct Line {
    path: PathBuf,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<UnixStream>>>,
}

impl Line {
    fn to(engine: &Path, path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).expect("a socket of the test's own");
        let (is_cut, open) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<UnixStream>>>::default());
        let (engine, cut, streams) = (engine.to_owned(), Arc::clone(&is_cut), Arc::clone(&open));
        // Both ends of each way are closed by the cut, which ends its thread.
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if cut.load(Ordering::SeqCst) {
                    return;
                }
                let far = UnixStream::connect(&engine).expect("the engine runs");
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let mut ends = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
                    thread::spawn(move || carry(&mut ends.0, &mut ends.1));
                }
                streams.lock().unwrap_or_else(PoisonError::into_inner).extend([near, far]);
            }
        });
        Self { path, is_cut, open }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        std::fs::remove_file(&self.path).expect("it is there");
        for stream in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn carry(from: &mut UnixStream, to: &mut UnixStream) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// What a web server says at this port of the engine's host.
fn fetch(docker: &Namespace, port: u16) -> Option<String> {
    docker.enter(|| {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer).filter(|answer| answer.contains("well"))
    })
}

#[test]
fn the_cause_is_named_in_time_and_a_cut_socket_stops_no_forwarding() {
    if !require(&[Need::Tmux, Need::Docker, Need::Namespaces]) {
        return;
    }
    let (engine, docker) = (Engine::connect(), Namespace::of_docker());
    let _lonely = engine.start("doctor_lonely", &["httpd", "-f", "-p", "127.0.0.1:8443", "-h", "/www"]);
    let page = "echo well >/www/index.html; exec httpd -f -p 0.0.0.0:80 -h /www";
    let _web = engine.start("doctor_web", &["sh", "-c", page]);
    let socket = std::env::var("PORTOLAN_TEST_DOCKER").expect("Need::Docker was asked for");
    let folder = tempfile::tempdir().expect("a folder");
    let line = Line::to(Path::new(socket.trim_start_matches("unix://")), folder.path().join("docker.sock"));
    let home = Home::with_engine(&format!("unix://{}", line.path.display()));
    let mappings = ["-p", "8493:doctor_lonely:443", "-p", "8480:doctor_web:80"];
    let screen = Screen::open_with((100, 30), &home, Some(&docker), &mappings, &[]);
    screen.wait_for_row("MAPPINGS", &[":8493", "up"]);
    screen.wait_for_row("MAPPINGS", &[":8480", "up"]);
    wait_for("the web server answers through the mapping", SOON, || fetch(&docker, 8480));

    screen.keys(&["g", "w"]);
    let pressed = Instant::now();
    let named = |text: &str| text.contains("CAUSE  doctor_lonely listens only on its own loopback, on port 8443");
    screen.terminal.wait_for("the cause", SOON, named);
    let took = pressed.elapsed();
    println!("the cause is named {took:?} after w");
    assert!(took < Duration::from_secs(3), "{took:?}");
    screen.keys(&["Escape"]);

    line.cut();
    let cut = Instant::now();
    screen.terminal.wait_for("the badge", SOON, |text| text.contains("docker not reachable"));
    let took = cut.elapsed();
    println!("the badge stands {took:?} after the cut");
    assert!(took < Duration::from_secs(5), "{took:?}");
    for _ in 0..20 {
        assert!(fetch(&docker, 8480).is_some(), "forwarding goes on");
    }
    screen.quit();
}
