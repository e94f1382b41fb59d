//! A process like docker-proxy that does what it likes, and looks at it that are not of one moment.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::*;

/// One session of the process, as it truly is.
#[derive(Clone, Debug, Default)]
struct Session {
    client: Socket,
    target: Socket,
    /// Read from one side, not yet written to the other.
    buffered: [u64; 2],
}

#[derive(Clone, Debug, Default)]
struct Socket {
    id: u64,
    is_held: bool,
    /// Reset: the process holds it, the kernel no longer lists it.
    is_hidden: bool,
    sent: u64,
    received: u64,
    has_ended: bool,
    is_end_acked: bool,
}

#[derive(Default)]
struct Process {
    sessions: Vec<Session>,
    next_id: u64,
}

/// What may happen next; numbers choose the session and the amount.
#[derive(Clone, Copy, Debug)]
enum Step {
    Accept,
    Arrive(usize, bool, u64),
    Write(usize, bool, u64),
    End(usize, bool),
    Reset(usize, bool),
    Close(usize),
    Look,
}

/// What has begun is done before the next look begins: a thread is not asleep for a whole second.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    Accepted(usize),
    ClosedOne(usize),
}

impl Process {
    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn accept(&mut self) -> Half {
        let id = self.id();
        let client = Socket { id, is_held: true, ..Socket::default() };
        self.sessions.push(Session { client, ..Session::default() });
        Half::Accepted(self.sessions.len() - 1)
    }

    fn finish(&mut self, half: Half) {
        match half {
            Half::Accepted(at) => {
                let id = self.id();
                self.sessions[at].target = Socket { id, is_held: true, ..Socket::default() };
            }
            Half::ClosedOne(at) => self.sessions[at].target.is_held = false,
        }
    }

    fn step(&mut self, step: Step, halves: &mut Vec<Half>) {
        let count = self.sessions.len().max(1);
        let at = match step {
            Step::Accept | Step::Look => 0,
            Step::Arrive(at, ..) | Step::Write(at, ..) | Step::End(at, _) | Step::Reset(at, _) | Step::Close(at) => {
                at % count
            }
        };
        if let Step::Accept = step {
            halves.push(self.accept());
            return;
        }
        let is_half = halves.contains(&Half::Accepted(at));
        let Some(session) = self.sessions.get_mut(at) else { return };
        if !session.client.is_held || is_half {
            return;
        }
        match step {
            Step::Arrive(_, by_client, bytes) => {
                let from = if by_client { &mut session.client } else { &mut session.target };
                if !from.is_hidden {
                    from.received += bytes;
                    session.buffered[usize::from(by_client)] += bytes;
                }
            }
            Step::Write(_, by_client, bytes) => {
                let to = if by_client { &mut session.target } else { &mut session.client };
                if !to.is_hidden && !to.has_ended {
                    let bytes = bytes.min(session.buffered[usize::from(by_client)]);
                    session.buffered[usize::from(by_client)] -= bytes;
                    to.sent += bytes;
                }
            }
            Step::End(_, of_client) => {
                let end = if of_client { &mut session.client } else { &mut session.target };
                end.is_end_acked = end.has_ended;
                end.has_ended = true;
            }
            Step::Reset(_, of_client) => {
                let end = if of_client { &mut session.client } else { &mut session.target };
                end.is_hidden = true;
            }
            Step::Close(_) => {
                session.client.is_held = false;
                halves.push(Half::ClosedOne(at));
            }
            Step::Accept | Step::Look => {}
        }
    }

    fn held(&self) -> Vec<(u64, End)> {
        let ends = self.sessions.iter().flat_map(|s| [(&s.client, End::Client), (&s.target, End::Target)]);
        ends.filter(|(socket, _)| socket.is_held).map(|(socket, end)| (socket.id, end)).collect()
    }

    fn socket(&self, id: u64) -> Option<&Socket> {
        self.sessions.iter().flat_map(|s| [&s.client, &s.target]).find(|socket| socket.id == id)
    }

    /// As the kernel lists it: the state is read a moment before the counts, which is where the end is counted.
    fn reading(&self, id: u64, state: &Socket) -> Option<Reading> {
        let now = self.socket(id).filter(|socket| !socket.is_hidden)?;
        let counted = now.sent + u64::from(now.is_end_acked);
        Some(Reading {
            sent: counted - u64::from(state.is_end_acked),
            received: now.received,
            may_count_end: state.has_ended && !state.is_end_acked,
        })
    }

    fn is_true_pair(&self, client: u64, target: u64) -> bool {
        self.sessions.iter().any(|session| session.client.id == client && session.target.id == target)
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let small = prop_oneof![Just(1u64), Just(2), Just(10), 0u64..1_000];
    let step = prop_oneof![
        3 => Just(Step::Accept),
        6 => (any::<usize>(), any::<bool>(), small.clone()).prop_map(|(at, side, bytes)| Step::Arrive(at, side, bytes)),
        6 => (any::<usize>(), any::<bool>(), prop_oneof![Just(u64::MAX), small]).prop_map(|(at, side, bytes)| Step::Write(at, side, bytes)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, side)| Step::End(at, side)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, side)| Step::Reset(at, side)),
        1 => any::<usize>().prop_map(Step::Close),
        5 => Just(Step::Look),
    ];
    prop::collection::vec(step, 1..50)
}

/// Runs a schedule; while a look goes on, the steps after it go on too. Gives pairs joined, and pairs there were.
fn run(steps: &[Step]) -> Result<(usize, usize), TestCaseError> {
    let (mut process, mut joiner, mut halves) = (Process::default(), Joiner::default(), Vec::new());
    let mut hidden_ends: HashMap<u64, End> = HashMap::new();
    let mut rest = steps.iter().copied();
    let mut found = HashSet::new();
    while let Some(step) = rest.next() {
        if !matches!(step, Step::Look) {
            process.step(step, &mut halves);
            continue;
        }
        // What was half done when the last look ended is done; what begins now may be half done while it lasts.
        let before = process.held();
        let mut during = rest.clone();
        let mut legs = Vec::new();
        let is_disturbed = before.len() % 3 == 0;
        for (id, end) in &before {
            let state = process.socket(*id).expect("it is there").clone();
            if is_disturbed && let Some(step) = during.next().filter(|step| !matches!(step, Step::Look)) {
                process.step(step, &mut halves);
                rest.next();
            }
            let reading = process.reading(*id, &state);
            if reading.is_some() || hidden_ends.contains_key(id) {
                hidden_ends.insert(*id, *end);
                legs.push(Leg { id: *id, end: *end, reading });
            }
        }
        let after = process.held();
        let is_whole = before == after && legs.len() == after.len();
        legs.retain(|leg| after.iter().any(|(id, _)| *id == leg.id));
        joiner.look(&legs, is_whole);
        for half in halves.drain(..) {
            process.finish(half);
        }
        for (client, target) in &joiner.pairs {
            prop_assert!(process.is_true_pair(*client, *target), "{client} and {target} in {steps:?}");
            found.insert(*client);
        }
    }
    Ok((found.len(), process.sessions.iter().filter(|session| session.target.id != 0).count()))
}

#[test]
fn no_schedule_joins_a_wrong_pair() {
    let config = Config { cases: 10_000, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let totals = std::cell::Cell::new((0, 0));
    runner
        .run(&steps(), |steps| {
            let (joined, pairs) = run(&steps)?;
            let (all_joined, all_pairs) = totals.get();
            totals.set((all_joined + joined, all_pairs + pairs));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let (joined, pairs) = totals.get();
    println!("joined {joined} of {pairs} pairs in 10000 schedules, none wrongly");
    assert!(joined * 10 > pairs, "only {joined} of {pairs} pairs were joined: it proves little");
}

fn quiet(joiner: &mut Joiner, sizes: &[(u64, u64)]) {
    let mut legs = Vec::new();
    for (at, (bytes_in, bytes_out)) in sizes.iter().enumerate() {
        let id = at as u64;
        let client = Reading { sent: *bytes_out, received: *bytes_in, may_count_end: false };
        let target = Reading { sent: *bytes_in, received: *bytes_out, may_count_end: false };
        legs.push(Leg { id, end: End::Client, reading: Some(client) });
        legs.push(Leg { id: 1_000_000 - id, end: End::Target, reading: Some(target) });
    }
    for _ in 0..3 {
        joiner.look(&legs, true);
    }
}

#[test]
fn sizes_that_differ_join_and_equal_ones_do_not() {
    for (sizes, certain) in [
        (vec![(1, 0), (2, 0), (3, 0)], vec![0, 1, 2]),
        (vec![(5, 5), (5, 5), (7, 7)], vec![2]),
        // In each direction alone nobody has one partner only.
        (vec![(5, 0), (5, 0), (7, 0), (9, 0), (9, 0)], vec![2]),
        (vec![(1, 9), (9, 1), (5, 5)], vec![0, 1, 2]),
        (vec![(0, 0)], vec![0]),
        (vec![(0, 0), (0, 0)], vec![]),
    ] {
        let mut joiner = Joiner::default();
        quiet(&mut joiner, &sizes);
        let found: Vec<u64> =
            (0..sizes.len() as u64).filter(|id| joiner.target_of(*id) == Some(1_000_000 - id)).collect();
        assert_eq!(found, certain, "{sizes:?}");
        assert_eq!(joiner.pairs.len(), certain.len());
    }
}

#[test]
fn whoever_comes_alone_is_joined_whatever_it_carries() {
    let mut joiner = Joiner::default();
    for count in 1..20 {
        quiet(&mut joiner, &vec![(7, 7); count]);
        assert_eq!(joiner.pairs.len(), count);
    }
}

#[test]
fn five_hundred_sessions_are_joined_at_once_and_more_are_given_up() {
    let sizes: Vec<(u64, u64)> = (0..512).map(|at| (at, 3 * at)).collect();
    let mut joiner = Joiner::default();
    let start = std::time::Instant::now();
    quiet(&mut joiner, &sizes);
    println!("512 sessions joined within three looks of {:?} in all", start.elapsed());
    assert_eq!((joiner.pairs.len(), joiner.is_over()), (512, false));
    let mut joiner = Joiner::default();
    quiet(&mut joiner, &(0..600).map(|at| (at, at)).collect::<Vec<_>>());
    assert_eq!((joiner.pairs.len(), joiner.is_over()), (0, true));
    // When most of them have gone, the rest is joined.
    quiet(&mut joiner, &(0..100).map(|at| (at, at)).collect::<Vec<_>>());
    assert_eq!((joiner.pairs.len(), joiner.is_over()), (100, false));
}

#[test]
fn a_leg_whose_partner_was_reset_takes_nobody_elses() {
    let reading = |bytes| Some(Reading { sent: bytes, received: bytes, may_count_end: false });
    let leg = |id, end, reading| Leg { id, end, reading };
    let mut joiner = Joiner::default();
    // Of two sessions, one has lost its client and the other its target; the process still holds both.
    for _ in 0..3 {
        joiner.look(
            &[
                leg(1, End::Client, reading(5)),
                leg(2, End::Client, None),
                leg(3, End::Target, None),
                leg(4, End::Target, reading(5)),
            ],
            true,
        );
    }
    assert_eq!(joiner.pairs.len(), 0);
    // A socket that nobody has ever seen listed makes the look one that says nothing.
    let mut joiner = Joiner::default();
    for _ in 0..3 {
        joiner.look(&[leg(1, End::Client, reading(5)), leg(4, End::Target, reading(5))], false);
    }
    assert_eq!(joiner.pairs.len(), 0);
}
