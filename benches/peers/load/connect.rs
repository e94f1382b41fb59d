//! Connections in a second, and connections that do nothing.
//!
//! The target greets with one byte and closes first: the one who closes first keeps the port busy for a minute, and
//! for a client that would be a port of which there are only some ten thousands.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, anyhow, ensure};

use super::told::accept;
use super::{Clock, Figures, HELD, Order, WARM_UP, figures, listen};

/// Clients that connect one after the other.
const CLIENTS: usize = 8;

/// Threads that accept.
const ACCEPTORS: usize = 2;

const GREETING: u8 = b'.';

/// Connections that stay open, both ends of each.
struct Held {
    clients: Vec<TcpStream>,
    targets: Vec<TcpStream>,
}

impl Held {
    /// Opens them; each has carried a byte in both directions.
    fn open(order: &Order, listener: &TcpListener, count: usize) -> Result<Self> {
        let mut held = Self { clients: Vec::new(), targets: Vec::new() };
        for _ in 0..count {
            let mut client = TcpStream::connect(order.client)?;
            client.write_all(&[GREETING])?;
            let mut target = accept(order, listener)?;
            let mut byte = [0];
            target.read_exact(&mut byte)?;
            target.write_all(&byte)?;
            client.read_exact(&mut byte)?;
            held.clients.push(client);
            held.targets.push(target);
        }
        Ok(held)
    }

    /// Ends them from the target's side, and waits until every end has come through.
    fn close(mut self) -> Result<()> {
        for target in &self.targets {
            target.shutdown(Shutdown::Write)?;
        }
        for client in &mut self.clients {
            // A reset is an end too.
            ensure!(client.read(&mut [0]).unwrap_or(0) == 0, "an idle connection received something");
        }
        Ok(())
    }
}

/// Opens connections and holds them until its input ends.
pub(super) fn hold(order: &Order, connections: usize) -> Result<Figures> {
    let held = Held::open(order, &listen(order)?, connections)?;
    println!("{HELD}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    held.close()?;
    Ok(Figures::new())
}

/// What the clients of one round have seen.
#[derive(Default)]
struct Seen {
    done: AtomicU64,
    failed: AtomicU64,
    is_over: AtomicBool,
}

/// Runs it for the time ordered, beside that many idle connections.
pub(super) fn run(order: &Order, idle: usize) -> Result<Figures> {
    let listener = listen(order)?;
    let held = Held::open(order, &listener, idle)?;
    let (seen, is_closed) = (Seen::default(), AtomicBool::new(false));
    let found = std::thread::scope(|scope| {
        let acceptors: Vec<_> = (0..ACCEPTORS).map(|_| scope.spawn(|| greet(order, &listener, &is_closed))).collect();
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| connect(order, &seen))).collect();
        std::thread::sleep(WARM_UP);
        let (clock, before) = (Clock::start(&order.cpu)?, seen.done.load(Ordering::Relaxed));
        std::thread::sleep(order.duration());
        let count = (seen.done.load(Ordering::Relaxed) - before) as f64;
        let (seconds, cpu) = clock.stop()?;
        seen.is_over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        is_closed.store(true, Ordering::Relaxed);
        for acceptor in acceptors {
            // Wakes one of those that wait.
            while !acceptor.is_finished() {
                TcpStream::connect(order.target)?;
            }
            acceptor.join().map_err(|_| anyhow!("the target panicked"))?;
        }
        let failed = seen.failed.load(Ordering::Relaxed) as f64;
        ensure!(failed <= count / 100.0, "{failed} connections failed beside {count} that did not");
        Ok(figures([
            ("conn_per_s", Some(count / seconds)),
            ("cpu_us_per_conn", cpu.map(|cpu| cpu * 1e6 / count)),
            ("failed", Some(failed)),
        ]))
    })?;
    held.close()?;
    Ok(found)
}

fn greet(order: &Order, listener: &TcpListener, is_closed: &AtomicBool) {
    while !is_closed.load(Ordering::Relaxed) {
        let mut stream = match accept(order, listener) {
            Ok(stream) => stream,
            // Whoever wakes this thread to end it tells it nothing.
            Err(_) if is_closed.load(Ordering::Relaxed) => break,
            Err(error) => give_up(&error),
        };
        // Whoever woke this thread to end it may be gone.
        let _ = stream.write_all(&[GREETING]);
    }
}

/// Ends the load: its clients would wait for ever for a target that does not take them.
fn give_up(error: &anyhow::Error) -> ! {
    eprintln!("peers: {error:#}");
    std::process::exit(1);
}

fn connect(order: &Order, seen: &Seen) {
    while !seen.is_over.load(Ordering::Relaxed) {
        let counter = if is_greeted(order).unwrap_or(false) { &seen.done } else { &seen.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// One connection: the greeting, and then the end.
fn is_greeted(order: &Order) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(order.client)?;
    let mut bytes = [0; 2];
    let is_right = stream.read(&mut bytes)? == 1 && bytes[0] == GREETING;
    Ok(is_right && stream.read(&mut bytes)? == 0)
}
