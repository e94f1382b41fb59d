//! Keeps keepalive from destroying what waits for a slow reader.
//!
//! A peer that has sent everything, its end included, and has closed is forgotten by its kernel after a while
//! (`net.ipv4.tcp_fin_timeout`, a minute by default), and a probe of our kernel is then answered with a reset. Nobody
//! learns anything by that probe: the peer has said its last word. While all that came from it is passed on at once,
//! its end is seen at once, too; while something waits, this looks for the end now and then.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use super::leg::{KEEPALIVE, Leg};

/// Time between two looks: so short that each end is seen before the first probe after it.
const INTERVAL: Duration = Duration::from_secs(KEEPALIVE.as_secs() / 3);

/// When to look next. It costs nothing until something waits for the first time.
#[derive(Debug, Default)]
pub(super) struct Vigil {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Vigil {
    /// Looks at the legs from which something waits to be passed on, when it is time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, waiting: [Option<&Leg>; 2]) {
        if waiting.iter().all(Option::is_none) {
            return;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + INTERVAL)));
        while timer.as_mut().poll(cx) == Poll::Ready(()) {
            for leg in waiting.into_iter().flatten().filter(|leg| leg.has_peer_ended()) {
                leg.stop_keepalive();
            }
            timer.as_mut().reset(Instant::now() + INTERVAL);
        }
    }
}
