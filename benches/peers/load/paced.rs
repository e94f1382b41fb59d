//! UDP at a steady pace, one flow, sent back by the target: how much of it comes back, whatever a proxy drops.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use super::datagrams::{BATCH, Client, Mark, send_back, socket};
use super::{Clock, Figures, Order, figures};

/// What has not come back after a silence of that length is lost.
const SILENCE: Duration = Duration::from_millis(100);

/// Between two bursts of the sender.
const PAUSE: Duration = Duration::from_micros(60);

/// Sends at that pace for the time ordered, and counts what comes back until nothing does any more.
pub(super) fn run(order: &Order, per_second: u32, size: usize) -> Result<Figures> {
    let (target, client) = (socket(Some(order.target), None)?, socket(None, Some(order.client))?);
    let (is_over, is_sent) = (AtomicBool::new(false), AtomicBool::new(false));
    let (reached, returned) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let target = scope.spawn(|| send_back(order, &target, 2_048, &reached, &is_over));
        let receiver = scope.spawn(|| receive(order, &client, size, &returned, &is_sent));
        introduce(&client, size, &returned)?;
        let before = (reached.load(Ordering::Relaxed), returned.load(Ordering::Relaxed));
        let clock = Clock::start(&order.cpu)?;
        let sent = send(&client, per_second, size, order.duration());
        let seconds = clock.start.elapsed().as_secs_f64();
        is_sent.store(true, Ordering::Relaxed);
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
        let (_, cpu) = clock.stop()?;
        is_over.store(true, Ordering::Relaxed);
        target.join().map_err(|_| anyhow!("the target panicked"))??;
        let sent = sent? as f64;
        let reached = (reached.load(Ordering::Relaxed) - before.0) as f64;
        let returned = (returned.load(Ordering::Relaxed) - before.1) as f64;
        Ok(figures([
            ("sent_per_s", Some(sent / seconds)),
            ("reached_per_s", Some(reached / seconds)),
            ("received_per_s", Some(returned / seconds)),
            ("lost_percent", Some(100.0 * (sent - returned) / sent)),
            ("cpu_s_per_million", cpu.map(|cpu| cpu * 1e6 / returned)),
        ]))
    })
}

/// One datagram at a time until one comes back: the proxy knows the flow then.
fn introduce(client: &std::net::UdpSocket, size: usize, returned: &AtomicU64) -> Result<()> {
    let mut room = Client::new(size);
    for _ in 0..200 {
        room.send(client, Mark { flow: 0, nth: 0 }, 1)?;
        std::thread::sleep(Duration::from_millis(20));
        if returned.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
    }
    Err(anyhow!("no datagram came back"))
}

fn send(client: &std::net::UdpSocket, per_second: u32, size: usize, duration: Duration) -> Result<u64> {
    // The default lets a short sleep last fifty microseconds more.
    nix::sys::prctl::set_timerslack(1_000)?;
    let (mut room, mut sent, start) = (Client::new(size), 0_u64, Instant::now());
    loop {
        let elapsed = start.elapsed().min(duration);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
        let due = (elapsed.as_secs_f64() * f64::from(per_second)) as u64;
        while sent < due {
            let count = usize::try_from(due - sent)?.min(BATCH);
            let nth = u32::try_from(sent & 0xffff_ffff)?;
            sent += room.send(client, Mark { flow: 0, nth }, count)? as u64;
            // On few processors, proxy and target can leave too little to the sender; what it sent is told.
            if start.elapsed() > duration * 2 {
                return Ok(sent);
            }
        }
        if elapsed == duration {
            return Ok(sent);
        }
        std::thread::sleep(PAUSE);
    }
}

fn receive(
    order: &Order,
    client: &std::net::UdpSocket,
    size: usize,
    returned: &AtomicU64,
    is_sent: &AtomicBool,
) -> Result<()> {
    let (mut room, mut last) = (Client::new(size), Instant::now());
    while !is_sent.load(Ordering::Relaxed) || last.elapsed() < SILENCE {
        let mut count = 0;
        room.receive(client, order.is_check, |_| count += 1)?;
        if count > 0 {
            returned.fetch_add(count, Ordering::Relaxed);
            last = Instant::now();
        }
    }
    Ok(())
}
