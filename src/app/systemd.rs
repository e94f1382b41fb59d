//! What systemd and the program have to say to each other.
//!
//! Systemd is told how the service does (`sd_notify(3)`): ready, what listens, alive, stopping. One more client of the
//! service's handle does it, on a thread of its own, so that a manager that does not listen holds up nothing else.
//! Without `NOTIFY_SOCKET` there is no such client. That the program is alive is said only after the service's own task
//! has answered: a timer would go on for a service that hangs.
//!
//! It may hand in sockets (`sd_listen_fds(3)`), which are data for the engine.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::parts::on_own_thread;
use crate::forward::handed::HandedSocket;
use crate::headless::is_short;
use crate::model::count::count;
use crate::model::event::MappingState;
use crate::model::id::{MappingId, Revision};
use crate::model::request::{Call, Request, RequestError};
use crate::model::update::{Interest, Update};
use crate::service::Handle;

/// How often states are looked at until the service is ready, and from then on, in milliseconds.
const SAMPLES: [u64; 2] = [100, 2_000];
/// How long a manager that does not listen may hold up the end.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The sockets that were handed in to this process.
pub(super) fn handed_in() -> Vec<HandedSocket> {
    // Of names that do not fit the sockets, none is used.
    let named = sd_notify::listen_fds_with_names().map(Iterator::collect::<Vec<_>>);
    let numbers = named.or_else(|_| Ok(sd_notify::listen_fds()?.map(|number| (number, String::new())).collect()));
    let numbers: io::Result<Vec<_>> = numbers;
    match numbers.and_then(|numbers| {
        numbers.into_iter().map(|(number, name)| HandedSocket::of_descriptor(number, name)).collect()
    }) {
        Ok(sockets) => sockets,
        Err(error) => {
            tracing::warn!(%error, "the sockets that were handed in cannot be taken (LISTEN_FDS)");
            Vec::new()
        }
    }
}

/// Whoever is told.
pub(super) struct Manager {
    ending: CancellationToken,
    told: oneshot::Receiver<()>,
}

impl Manager {
    /// Tells from now on, if somebody is to be told. `strict`: as [`is_short`] has it.
    pub(super) fn attend(handle: Handle, strict: bool) -> anyhow::Result<Option<Self>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let ending = CancellationToken::new();
        let until = ending.clone();
        let told = on_own_thread("systemd", handle, move |handle| tell_all(handle, strict, until))?;
        Ok(Some(Self { ending, told }))
    }

    /// Says that the end begins.
    pub(super) async fn stopping(self) {
        self.ending.cancel();
        // It is help for who looks, not a duty.
        let _ = timeout(LAST_WORD, self.told).await;
    }
}

async fn tell_all(handle: Handle, strict: bool, ending: CancellationToken) {
    let is_heard = Cell::new(true);
    let say = |states: &[NotifyState<'_>]| {
        if let Err(error) = sd_notify::notify(states)
            && is_heard.replace(false)
        {
            tracing::warn!(%error, "systemd cannot be told how the service does (NOTIFY_SOCKET)");
        }
    };
    // Half of the time after which it would be taken for dead, as sd_watchdog_enabled(3) advises.
    let period = sd_notify::watchdog_enabled().map(|patience| patience / 2).filter(|period| !period.is_zero());
    let telling = async {
        tokio::join!(tell_states(&handle, strict, &say), async {
            if let Some(period) = period {
                tell_alive(&handle, period, &say).await;
            }
        })
    };
    tokio::select! {
        () = ending.cancelled() => {}
        _ = telling => {}
    }
    say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

/// Says that it is ready, once it is clear that it will not give up, and what listens, whenever that is another.
async fn tell_states(handle: &Handle, strict: bool, say: &impl Fn(&[NotifyState<'_>])) {
    let mut told = String::new();
    for sample_ms in SAMPLES {
        let interest = Interest { mappings: true, sample_ms, ..Interest::default() };
        let Ok(mut subscription) = handle.subscribe(interest).await else { return };
        let mut seen = Seen::default();
        while let Some(update) = subscription.next().await {
            seen.take(&update);
            let is_first = told.is_empty();
            if is_first && (!seen.is_ready || is_short(seen.states.values().copied(), strict)) {
                continue;
            }
            let now = seen.summary();
            if now != told {
                let states = [NotifyState::Ready, NotifyState::Status(&now)];
                say(if is_first { &states } else { &states[1..] });
                told = now;
            }
            if is_first {
                break;
            }
        }
    }
}

/// Says again and again that the service answers, for as long as it does.
async fn tell_alive(handle: &Handle, period: Duration, say: &impl Fn(&[NotifyState<'_>])) {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // From a state that never was: the owner itself refuses it, at once, and does nothing else.
        let call = Call { expected: Some(Revision(u64::MAX)), request: Request::Containers };
        match handle.call(call).await {
            Err(RequestError::Gone) => return,
            // However late: systemd has the clock.
            _ => say(&[NotifyState::Watchdog]),
        }
    }
}

/// What is known of the mappings.
#[derive(Default)]
struct Seen {
    states: HashMap<MappingId, MappingState>,
    is_ready: bool,
}

impl Seen {
    fn take(&mut self, update: &Update) {
        for id in &update.mappings_removed {
            self.states.remove(id);
        }
        self.states.extend(update.mappings.iter().map(|row| (row.id, row.state)));
        self.is_ready |= update.overview.as_ref().is_some_and(|overview| overview.is_ready);
    }

    /// One line for `systemctl status`, such as `3 mappings, 2 listening, 1 failed`.
    fn summary(&self) -> String {
        let of = |state| self.states.values().filter(|is| **is == state).count();
        let (stopped, failed) = (of(MappingState::Stopped), of(MappingState::Failed));
        let enabled = self.states.len() - stopped;
        let mut parts = vec![count(enabled as u64, "mapping"), format!("{} listening", enabled - failed)];
        let more = [(failed, "failed"), (stopped, "stopped")].into_iter().filter(|(number, _)| *number > 0);
        parts.extend(more.map(|(number, what)| format!("{number} {what}")));
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::service::ServiceCall;

    /// What would be sent.
    #[derive(Default)]
    struct Said(RefCell<Vec<String>>);

    impl Said {
        fn say(&self, states: &[NotifyState<'_>]) {
            self.0.borrow_mut().extend(states.iter().map(ToString::to_string));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_does_not_answer_is_not_said_to_be_alive() {
        let (handle, mut incoming) = Handle::channel();
        let said = Said::default();
        let period = Duration::from_secs(1);
        let say = |states: &[NotifyState<'_>]| said.say(states);
        let service = async {
            for _ in 0..3 {
                let Some(ServiceCall::Request { reply, .. }) = incoming.recv().await else { panic!("a request") };
                let stale = RequestError::Stale { current: Revision(0) };
                reply.send(Err(stale)).expect("it waits for the answer");
            }
            // And from here on it hangs.
            tokio::time::sleep(100 * period).await;
        };
        tokio::select! {
            () = tell_alive(&handle, period, &say) => panic!("the service is there"),
            () = service => {}
        }
        assert_eq!(*said.0.borrow(), ["WATCHDOG=1"; 3]);
        drop(incoming);
        timeout(2 * period, tell_alive(&handle, period, &say)).await.expect("one that is gone is not asked again");
    }

    #[test]
    fn the_status_counts_what_listens() {
        use MappingState::{Failed, Half, Stopped, Up};
        let summary = |states: &[MappingState]| {
            let states = states.iter().enumerate().map(|(at, state)| (MappingId(at as u64), *state)).collect();
            Seen { states, is_ready: true }.summary()
        };
        assert_eq!(summary(&[]), "0 mappings, 0 listening");
        assert_eq!(summary(&[Up]), "1 mapping, 1 listening");
        assert_eq!(summary(&[Up, Half, Failed]), "3 mappings, 2 listening, 1 failed");
        assert_eq!(summary(&[Up, Stopped]), "1 mapping, 1 listening, 1 stopped");
    }
}
