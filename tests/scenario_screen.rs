//! The screen beside the forwarder costs it nothing: not while it lists thousands of connections, and not while nobody
//! reads what it paints (fault 27).

mod common;
#[path = "common/sockets.rs"]
mod sockets;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use common::gauge::{p99, used};
use common::ports::free_port;
use common::program::Home;
use common::soak::{amount, within};
use common::{Need, Running, require};
use sockets::{PATIENCE, Server, connect, noise, until};

/// How much more processor time the same bytes may take with the screen open.
const DEARER: f64 = 0.05;
/// By how much a slow echo may be slower while the terminal does not read.
const SLOWER: Duration = Duration::from_millis(5);

/// The program with its screen on a pseudo-terminal that this test reads, or does not.
struct Painted {
    program: Running,
    is_read: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    keys: File,
    reader: Option<JoinHandle<()>>,
}

impl Painted {
    fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 50, ws_col: 160, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a pseudo-terminal");
        for end in [&pty.master, &pty.slave] {
            // Other programs that start meanwhile would keep it open.
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("it can be marked");
        }
        let slave = |slave: &OwnedFd| Stdio::from(slave.try_clone().expect("another descriptor"));
        command.env("TERM", "xterm-256color");
        command.stdin(slave(&pty.slave)).stdout(slave(&pty.slave)).stderr(slave(&pty.slave));
        let program = Running(command.spawn().expect("the program starts"));
        drop((command, pty.slave));
        let (is_read, bytes) = (Arc::new(AtomicBool::new(true)), Arc::<AtomicU64>::default());
        let (reads, counted) = (Arc::clone(&is_read), Arc::clone(&bytes));
        let mut master = File::from(pty.master);
        let keys = master.try_clone().expect("another descriptor");
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4_096];
            loop {
                if !reads.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
                // Linux ends it with an error, EIO.
                let Ok(count @ 1..) = master.read(&mut buffer) else { return };
                counted.fetch_add(count as u64, Ordering::SeqCst);
            }
        });
        Self { program, is_read, bytes, keys, reader: Some(reader) }
    }

    fn press(&mut self, key: char) {
        write!(self.keys, "{key}").expect("the terminal takes keys");
    }

    fn painted(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

impl Drop for Painted {
    fn drop(&mut self) {
        self.is_read.store(true, Ordering::SeqCst);
        let _ = self.program.0.kill();
        let _ = self.program.0.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Echoes in a process of its own: with thousands of connections its ends and the clients' are more than one may open.
const ECHO: &str = "
import asyncio, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
async def serve(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
";

fn start_echo() -> (Running, SocketAddr) {
    let mut command = Command::new("python3");
    let mut child = command.args(["-c", ECHO]).stdout(Stdio::piped()).spawn().expect("python3 starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its port");
    (Running(child), SocketAddr::from(([127, 0, 0, 1], line.trim().parse().expect("a port"))))
}

/// A mapping on `[::1]` and how to start the program with it.
fn with_mapping(home: &Home, port: u16, target: SocketAddr, command: &[&str]) -> Command {
    let mut program = home.command(None);
    program.args(command).args(["-p", &format!("[::1]:{port}:{target}")]);
    program
}

async fn listens(port: u16) -> SocketAddr {
    let address = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], port));
    until("the mapping to listen", || std::net::TcpStream::connect(address).ok()).await;
    address
}

async fn echo(stream: &mut TcpStream) -> Duration {
    let start = Instant::now();
    stream.write_all(b"x").await.expect("taken");
    timeout(PATIENCE, stream.read_exact(&mut [0])).await.expect("in time").expect("an echo");
    start.elapsed()
}

/// Connections that stand, each of which has said something.
async fn crowd(listener: SocketAddr, count: usize) -> Vec<TcpStream> {
    // Each takes one or two of this process: its client's end, and its server's where that is one of ours.
    portolan::forward::descriptors::raise_limit().expect("the limit is read");
    let mut crowd = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = connect(listener).await;
        echo(&mut stream).await;
        crowd.push(stream);
    }
    crowd
}

/// The p99 of many echoes, one after the other.
async fn slow_echo(stream: &mut TcpStream, count: usize) -> Duration {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        times.push(echo(stream).await);
        sleep(Duration::from_micros(500)).await;
    }
    p99(&mut times)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarding_goes_on_while_the_terminal_stops_reading() {
    let server = Server::echo("127.0.0.1");
    let (home, port) = (Home::new(), free_port());
    let mut screen = Painted::start(with_mapping(&home, port, server.address, &[]));
    let listener = listens(port).await;
    let crowd = crowd(listener, amount(300, 5_000)).await;
    let mut stream = connect(listener).await;
    let count = amount(1_000, 5_000);
    let read = slow_echo(&mut stream, count).await;

    screen.is_read.store(false, Ordering::SeqCst);
    // What the terminal holds is full, and the program waits to paint.
    // The engine with its screen, behind the process in front.
    let pid = common::child_of(screen.program.0.id()).expect("it runs");
    let before = screen.painted();
    let patience = Instant::now() + PATIENCE;
    while !is_stuck_on_terminal(pid) {
        assert!(Instant::now() < patience, "the screen is not stuck");
        // Views by turns: all of it is painted anew.
        for view in ['2', '1'] {
            screen.press(view);
            sleep(Duration::from_millis(50)).await;
        }
    }
    let unread = slow_echo(&mut stream, count).await;
    assert!(is_stuck_on_terminal(pid), "nobody has read");
    echo(&mut connect(listener).await).await;
    println!(
        "p99 of an echo beside {} connections: {read:?} while the screen is read, {unread:?} while not",
        crowd.len()
    );
    assert!(unread < read + within(SLOWER), "{unread:?}, {read:?} before");

    // Read again, it paints again.
    screen.is_read.store(true, Ordering::SeqCst);
    until("it to paint", || (screen.painted() > before + 4_096).then_some(())).await;
    echo(&mut stream).await;
}

/// Whether a thread of the process waits in a write to its terminal.
fn is_stuck_on_terminal(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is alive");
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("syscall")).ok()).any(|call| {
        // The number of the call and its first argument, the descriptor.
        let mut words = call.split_whitespace();
        let is_write = words.next().is_some_and(|number| number == nix::libc::SYS_write.to_string());
        let descriptor = words.next().and_then(|word| i32::from_str_radix(word.strip_prefix("0x")?, 16).ok());
        let place = descriptor.and_then(|number| std::fs::read_link(format!("/proc/{pid}/fd/{number}")).ok());
        is_write && place.is_some_and(|place| place.starts_with("/dev/pts"))
    })
}

/// Pushes `length` bytes to a target that throws them away; the processor time that it took the program.
async fn push(listener: SocketAddr, block: &[u8], length: usize, pid: u32) -> Duration {
    let mut stream = connect(listener).await;
    let before = used(pid);
    for _ in 0..length / block.len() {
        stream.write_all(block).await.expect("taken");
    }
    stream.shutdown().await.expect("ended");
    let told = timeout(3 * PATIENCE, stream.read_u64()).await.expect("in time").expect("the count");
    assert_eq!(told, length as u64);
    used(pid).saturating_sub(before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_cost_the_same_with_the_screen_open_and_thousands_of_connections_listed() {
    if !require(&[Need::Python]) {
        return;
    }
    let standing = amount(300, 5_000);
    let length: usize = amount(256 << 20, 16 << 30);
    let rounds = amount(1, 9);
    // The bytes and the crowd have a target each.
    let server = Server::start("127.0.0.1", |mut stream| async move {
        let (mut buffer, mut count) = (vec![0; 256 << 10], 0);
        while let Ok(got @ 1..) = stream.read(&mut buffer).await {
            count += got as u64;
        }
        let _ = stream.write_u64(count).await;
    });
    let (_echo, echo) = start_echo();
    let homes = [Home::new(), Home::new()];
    let ports = [free_port(), free_port()];
    let doors = [free_port(), free_port()];
    let program = |which: usize, command: &[&str]| {
        let mut program = with_mapping(&homes[which], ports[which], server.address, command);
        program.args(["-p", &format!("[::1]:{}:{echo}", doors[which])]);
        program
    };
    let screen = Painted::start(program(0, &[]));
    let mut headless = program(1, &["run"]);
    let headless = Running(headless.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("it starts"));
    let listeners = [listens(ports[0]).await, listens(ports[1]).await];
    let pids = [common::child_of(screen.program.0.id()).expect("it runs"), headless.0.id()];
    let _standing = [crowd(listens(doors[0]).await, standing).await, crowd(listens(doors[1]).await, standing).await];
    let block = noise(27, 1 << 20);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let mut costs = [Duration::ZERO; 2];
        // Each first as often as the other.
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            costs[which] = push(listeners[which], &block, length, pids[which]).await;
        }
        println!("{} MiB: {:?} of processor time with the screen, {:?} without", length >> 20, costs[0], costs[1]);
        ratios.push(costs[0].as_secs_f64() / costs[1].as_secs_f64().max(0.001));
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    println!(
        "{standing} connections listed: with the screen {median:.3} times the processor time without, of {ratios:.2?}"
    );
    assert!(screen.painted() > 0);
    // An unoptimised screen paints many times as dearly; it is the outcome that counts there.
    if common::soak::is_soak() && !cfg!(debug_assertions) {
        assert!(median <= 1.0 + DEARER, "{median:.3} times the processor time");
    }
}
