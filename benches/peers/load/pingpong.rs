//! One connection on which a small request waits for its answer: what a proxy adds to a round trip.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};

use super::told::accept;
use super::{Clock, Figures, Order, WARM_UP, figures, listen};
use crate::statistics::percentile_us;

/// Bytes of a request, and of its answer.
pub(super) const MESSAGE: usize = 64;

/// A request that no other one equals.
pub(super) fn message(nth: u64) -> [u8; MESSAGE] {
    let mut message = [0x5a; MESSAGE];
    message[..8].copy_from_slice(&nth.to_le_bytes());
    message[MESSAGE - 8..].copy_from_slice(&(!nth).to_le_bytes());
    message
}

/// Runs it for the time ordered.
pub(super) fn run(order: &Order) -> Result<Figures> {
    with_target(order, |client| {
        exchange(client, 0, WARM_UP)?;
        let clock = Clock::start(&order.cpu)?;
        let mut samples = exchange(client, 1 << 32, order.duration())?;
        let (seconds, cpu) = clock.stop()?;
        Ok(of_samples(&mut samples, seconds, cpu))
    })
}

/// So many of them, however long they take.
pub(super) fn count(order: &Order, transactions: u32) -> Result<Figures> {
    with_target(order, |client| {
        (0..u64::from(transactions)).try_for_each(|nth| round_trip(client, nth))?;
        Ok(Figures::new())
    })
}

fn with_target(order: &Order, work: impl FnOnce(&mut TcpStream) -> Result<Figures>) -> Result<Figures> {
    let listener = listen(order)?;
    let mut client = TcpStream::connect(order.client)?;
    client.set_nodelay(true)?;
    let target = accept(order, &listener)?;
    target.set_nodelay(true)?;
    std::thread::scope(|scope| {
        let target = scope.spawn(|| answer(target));
        let found = work(&mut client)?;
        drop(client);
        target.join().map_err(|_| anyhow!("the target panicked"))??;
        Ok(found)
    })
}

/// The figures of these round trips, in nanoseconds.
pub(super) fn of_samples(samples: &mut [u32], seconds: f64, cpu: Option<f64>) -> Figures {
    let count = samples.len() as f64;
    figures([
        ("tx_per_s", Some(count / seconds)),
        ("p50_us", Some(percentile_us(samples, 0.5))),
        ("p99_us", Some(percentile_us(samples, 0.99))),
        ("cpu_us_per_tx", cpu.map(|cpu| cpu * 1e6 / count)),
    ])
}

fn answer(mut stream: TcpStream) -> Result<()> {
    let mut request = [0; MESSAGE];
    loop {
        let count = stream.read(&mut request)?;
        if count == 0 {
            return Ok(());
        }
        stream.read_exact(&mut request[count..])?;
        stream.write_all(&request)?;
    }
}

fn exchange(stream: &mut TcpStream, first: u64, duration: Duration) -> Result<Vec<u32>> {
    let mut samples = Vec::with_capacity(1 << 20);
    let start = Instant::now();
    let mut before = Duration::ZERO;
    for nth in first.. {
        round_trip(stream, nth)?;
        let now = start.elapsed();
        samples.push(nanoseconds(now.saturating_sub(before)));
        if now >= duration {
            break;
        }
        before = now;
    }
    Ok(samples)
}

fn round_trip(stream: &mut TcpStream, nth: u64) -> Result<()> {
    let (request, mut answer) = (message(nth), [0; MESSAGE]);
    stream.write_all(&request)?;
    stream.read_exact(&mut answer)?;
    ensure!(answer == request, "an answer is not the one to its request");
    Ok(())
}

/// A round trip as it is kept: four seconds are as good as for ever.
pub(super) fn nanoseconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX)
}
