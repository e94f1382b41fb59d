//! Who has a place, and who makes way for whom.
//!
//! A place that is needed is taken from whoever has kept us waiting longest, though never before that one could have
//! been heard: clients that stall or send garbage make way for one that asks, and a crowd at the door does not push out
//! those who have just come in. Whoever waits for us keeps its place. So does a stream, which nobody need read at once: a
//! screen that is stopped for a while finds its own as it was. Only when there may be no further one, or when too much
//! is kept for those at rest, makes that way which has rested longest.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{Interest, Ready};
use tokio::net::UnixStream;
use tokio::task::{AbortHandle, Id};
use tokio::time::Instant;

use super::stage::{Progress, Stage};

/// How long a client may take to send a request, or to take an answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to take a list of connections that others wait for.
const LIST_PATIENCE: Duration = Duration::from_secs(1);
/// Time that everybody has to be heard, before its place can be somebody else's.
const GRACE: Duration = Duration::from_millis(20);
/// Rows, each about a kilobyte, that may be kept for streams at rest.
const KEPT: usize = 32 << 10;

/// The clients, each in its place.
#[derive(Debug)]
pub(super) struct Seats {
    places: usize,
    taken: Vec<Seat>,
}

#[derive(Debug)]
struct Seat {
    id: Id,
    abort: AbortHandle,
    stream: Arc<UnixStream>,
    progress: Progress,
}

/// Whether there is room for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// There is, or somebody will make it.
    Now,
    /// Whoever is to make it has the right to be heard until then.
    From(Instant),
    /// Everybody waits for us, so perhaps somebody goes soon.
    Soon,
}

impl Seats {
    pub(super) fn new(places: usize) -> Self {
        Self { places, taken: Vec::new() }
    }

    pub(super) fn are_full(&self) -> bool {
        self.taken.len() >= self.places
    }

    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// How many of them streams may take; the rest is for questions.
    pub(super) fn streams(&self) -> usize {
        self.places * 3 / 4
    }

    /// Whether somebody else can come in.
    pub(super) fn room(&self) -> Room {
        if !self.are_full() {
            return Room::Now;
        }
        match self.longest(Seat::idle_since) {
            None => Room::Soon,
            Some((_, since)) if since.elapsed() >= GRACE => Room::Now,
            Some((_, since)) => Room::From(since + GRACE),
        }
    }

    /// Gives a place to who has come in, somebody else's if it must be.
    pub(super) fn take(&mut self, abort: AbortHandle, stream: Arc<UnixStream>, progress: Progress) {
        if self.are_full()
            && let Some((at, _)) = self.longest(Seat::idle_since)
        {
            self.send_away(at);
        }
        self.taken.push(Seat { id: abort.id(), abort, stream, progress });
    }

    /// Whoever had this place has gone.
    pub(super) fn leave(&mut self, id: Id) {
        self.taken.retain(|seat| seat.id != id);
    }

    /// Sends away who has kept us waiting too long, with `lists_wanted` also who keeps others from a list, and streams
    /// that nobody reads, if there can be no others or too much is kept for them.
    pub(super) fn sweep(&mut self, lists_wanted: bool) {
        self.taken.retain(|seat| {
            let is_over = seat.is_over(lists_wanted);
            if is_over {
                seat.abort.abort();
            }
            !is_over
        });
        if self.taken.iter().filter(|seat| seat.is_stream()).count() >= self.streams()
            && let Some((at, since)) = self.longest(Seat::resting_since)
            && since.elapsed() > PATIENCE
        {
            self.send_away(at);
        }
        while self.taken.iter().map(Seat::kept).sum::<usize>() > KEPT
            && let Some((at, since)) = self.longest(|seat| seat.resting_since().filter(|_| seat.kept() > 0))
            && since.elapsed() > LIST_PATIENCE
        {
            self.send_away(at);
        }
    }

    fn send_away(&mut self, at: usize) {
        self.taken.swap_remove(at).abort.abort();
    }

    /// The place with the earliest time, and that.
    fn longest(&self, since: impl Fn(&Seat) -> Option<Instant>) -> Option<(usize, Instant)> {
        let known = self.taken.iter().enumerate().filter_map(|(at, seat)| Some((at, since(seat)?)));
        known.min_by_key(|(_, since)| *since)
    }
}

impl Seat {
    fn is_over(&self, lists_wanted: bool) -> bool {
        let keeps_others = |since: Instant| lists_wanted && since.elapsed() > LIST_PATIENCE;
        match self.progress.stage() {
            Stage::Following(resting) => {
                let holds_turn = self.progress.kept().is_some_and(|kept| kept.holds_turn());
                has_hung_up(&self.stream) || (holds_turn && resting.is_some_and(keeps_others))
            }
            Stage::Taking { since, is_list: true } if keeps_others(since) => true,
            stage => stage.idle_since().is_some_and(|since| since.elapsed() > PATIENCE),
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        self.progress.stage().idle_since()
    }

    fn is_stream(&self) -> bool {
        matches!(self.progress.stage(), Stage::Following(_))
    }

    fn resting_since(&self) -> Option<Instant> {
        if let Stage::Following(since) = self.progress.stage() { since } else { None }
    }

    /// Rows that are kept for a stream at rest.
    fn kept(&self) -> usize {
        let kept = self.resting_since().and_then(|_| self.progress.kept());
        kept.map_or(0, |kept| kept.rows())
    }
}

/// Whether the other end is closed. It is not read before a stream ends, and need not be written to.
fn has_hung_up(stream: &UnixStream) -> bool {
    let ready = stream.ready(Interest::WRITABLE).now_or_never();
    ready.and_then(Result::ok).is_some_and(Ready::is_write_closed)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::JoinSet;
    use tokio::time::advance;

    use super::super::stream::Kept;
    use super::*;

    /// Clients that stay until they are sent away, and the other ends of their connections.
    struct Hall {
        seats: Seats,
        tasks: JoinSet<()>,
        ends: Vec<UnixStream>,
        progress: Vec<Progress>,
    }

    impl Hall {
        fn new(places: usize) -> Self {
            Self { seats: Seats::new(places), tasks: JoinSet::new(), ends: Vec::new(), progress: Vec::new() }
        }

        fn enter(&mut self) {
            let (stream, end) = UnixStream::pair().expect("a pair");
            let progress = Progress::new();
            self.seats.take(self.tasks.spawn(pending()), Arc::new(stream), progress.clone());
            self.ends.push(end);
            self.progress.push(progress);
        }

        /// Those who have been sent away, by the order in which they came.
        async fn gone(&mut self) -> Vec<usize> {
            tokio::task::yield_now().await;
            let is_there = |progress: &Progress| self.seats.taken.iter().any(|seat| seat.progress.is(progress));
            (0..self.progress.len()).filter(|number| !is_there(&self.progress[*number])).collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_kept_us_waiting_longest_makes_way_but_not_before_it_could_be_heard() {
        let mut hall = Hall::new(3);
        for _ in 0..3 {
            assert_eq!(hall.seats.room(), Room::Now);
            hall.enter();
            advance(Duration::from_millis(1)).await;
        }
        let first = Instant::now() - Duration::from_millis(3);
        assert_eq!(hall.seats.room(), Room::From(first + GRACE));
        // The first one is being answered now.
        hall.progress[0].set(Stage::Waiting);
        assert_eq!(hall.seats.room(), Room::From(first + Duration::from_millis(1) + GRACE));
        advance(GRACE).await;
        assert_eq!(hall.seats.room(), Room::Now);
        hall.enter();
        assert_eq!(hall.gone().await, [1]);
        for number in [0, 2, 3] {
            hall.progress[number].set(Stage::Waiting);
        }
        advance(PATIENCE * 10).await;
        assert_eq!(hall.seats.room(), Room::Soon);
        hall.seats.sweep(true);
        assert_eq!(hall.gone().await, [1], "whoever waits for us may do so");
    }

    #[tokio::test(start_paused = true)]
    async fn each_thing_that_a_client_has_to_do_may_take_ten_seconds() {
        let mut hall = Hall::new(9);
        (0..4).for_each(|_| hall.enter());
        let start = Instant::now();
        hall.progress[1].asks();
        hall.progress[2].set(Stage::Taking { since: Instant::now(), is_list: false });
        hall.progress[3].set(Stage::Taking { since: Instant::now(), is_list: true });
        advance(LIST_PATIENCE + Duration::from_millis(1)).await;
        hall.seats.sweep(false);
        assert!(hall.gone().await.is_empty());
        hall.seats.sweep(true);
        assert_eq!(hall.gone().await, [3], "others wait for its list");
        advance(PATIENCE.saturating_sub(start.elapsed())).await;
        hall.seats.sweep(false);
        assert_eq!(hall.gone().await, [3]);
        // One of them begins to ask, which is no reason to wait longer for the others.
        hall.progress[0].asks();
        advance(Duration::from_millis(1)).await;
        hall.seats.sweep(false);
        assert_eq!(hall.gone().await, [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_rests_until_another_needs_its_place_or_too_much_is_kept() {
        let mut hall = Hall::new(4);
        (0..3).for_each(|_| hall.enter());
        let kept: Vec<_> = (0..3).map(|_| Arc::<Kept>::default()).collect();
        (0..2).for_each(|number| hall.progress[number].follow(Arc::clone(&kept[number])));
        hall.progress[0].rests();
        advance(Duration::from_secs(1)).await;
        hall.progress[1].rests();
        advance(PATIENCE * 2).await;
        hall.progress[2].set(Stage::Waiting);
        hall.seats.sweep(true);
        assert!(hall.gone().await.is_empty(), "there is room for another stream");
        hall.progress[2].follow(Arc::clone(&kept[2]));
        hall.seats.sweep(true);
        assert_eq!(hall.gone().await, [0]);
        // Two are left, of which one is read; what is kept for that one is on its way.
        kept[2].keeps(KEPT * 2);
        hall.seats.sweep(true);
        assert_eq!(hall.gone().await, [0]);
        kept[1].keeps(KEPT + 1);
        hall.seats.sweep(true);
        assert_eq!(hall.gone().await, [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_has_gone_goes_with_it() {
        let mut hall = Hall::new(4);
        (0..2).for_each(|_| hall.enter());
        for progress in &hall.progress {
            progress.follow(Arc::default());
        }
        hall.ends.truncate(1);
        while hall.gone().await.is_empty() {
            hall.seats.sweep(false);
        }
        assert_eq!(hall.gone().await, [1]);
    }
}
