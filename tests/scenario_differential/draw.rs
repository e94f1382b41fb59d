//! Draws a script from a seed, with a model of what a direct connection allows at each moment.

use std::cmp::Ordering;

use crate::script::{After, Families, Op, Pace, Script, Side};

/// Most operations before the ends are wound up.
const LONGEST: u64 = 14;
/// Most bytes that lie unread, by whether the receive buffer is small.
const UNREAD: [usize; 2] = [24_000, 2_000];
/// One script of so many meets a closed port.
const REFUSED: u64 = 16;

/// The script of a seed: always the same one.
pub(crate) fn script(seed: u64) -> Script {
    let mut random = Random(seed);
    let families = Families::ALL[random.below(4)];
    if random.below(REFUSED) == 0 {
        let says = [0, 1, 5_000][random.below(3)];
        let ops = vec![Op::MeetRefusal { says, ends: random.below(2) == 0 }];
        return Script { seed, families, small_client: false, ops };
    }
    let small_client = random.below(4) == 0;
    let mut model = Model { small_buffer: [small_client, families == Families::SixToFourSmall], ..Model::default() };
    let mut ops = Vec::new();
    for _ in 0..2 + random.below(LONGEST) {
        let choices = model.choices(&mut random);
        let Some(op) = random.weighted(&choices) else { break };
        model.take(op);
        ops.push(op);
    }
    model.wind_up(&mut random, &mut ops);
    Script { seed, families, small_client, ops }
}

/// What has come from the other end, beside bytes. Later ones contain the earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    #[default]
    Alive,
    /// It sends no more.
    Ended,
    /// It is closed: what is sent to it comes back as a reset.
    Closed,
    /// A reset.
    Broken,
}

#[derive(Clone, Copy, Debug)]
struct End {
    open: bool,
    sending: bool,
    /// Sent to it and not read.
    unread: usize,
    /// Of its peer.
    fate: Fate,
    /// It has read all, the end too, or has had the kernel's error.
    knows: bool,
}

impl Default for End {
    fn default() -> Self {
        Self { open: true, sending: true, unread: 0, fate: Fate::Alive, knows: false }
    }
}

#[derive(Debug, Default)]
struct Model {
    accepted: bool,
    ends: [End; 2],
    small_buffer: [bool; 2],
}

impl Model {
    fn end(&self, side: Side) -> End {
        self.ends[side.index()]
    }

    fn change(&mut self, side: Side) -> &mut End {
        &mut self.ends[side.index()]
    }

    fn raise(&mut self, side: Side, fate: Fate) {
        let end = self.change(side);
        end.fate = end.fate.max(fate);
    }

    /// Every operation that may come next, with its weight.
    fn choices(&self, random: &mut Random) -> Vec<(u64, Op)> {
        let mut choices = Vec::new();
        if !self.accepted {
            choices.push((8, Op::Accept));
        }
        for by in Side::BOTH {
            self.choices_of(by, random, &mut choices);
        }
        let [client, target] = self.ends;
        if self.accepted && client.is_talking() && target.is_talking() {
            choices.push((2, Op::Exchange { out: random.bulk(), back: random.bulk() }));
        }
        if client.open || target.open {
            choices.push((1, Op::Pause { time: 1 + random.below(4) as u64 }));
        }
        choices
    }

    fn choices_of(&self, by: Side, random: &mut Random, choices: &mut Vec<(u64, Op)>) {
        let (me, peer) = (self.end(by), self.end(by.other()));
        if !me.open || (by == Side::Target && !self.accepted) {
            return;
        }
        let both_ended = !me.sending && !peer.sending;
        let room = UNREAD[usize::from(self.small_buffer[by.other().index()])].saturating_sub(peer.unread);
        let hears = peer.open && me.fate <= Fate::Ended;
        if me.sending && hears && room > 0 {
            // Short ones as often as long ones.
            let longest = 1 + random.below(room as u64);
            choices.push((6, Op::Write { by, length: 1 + random.below(longest as u64) }));
        }
        if me.unread > 0 {
            choices.push((4, Op::Read { by, length: 1 + random.below(me.unread as u64) }));
        }
        if me.fate > Fate::Alive && !me.knows {
            choices.push((4, Op::ReadToEnd { by }));
        }
        if me.sending && me.fate < Fate::Broken {
            choices.push((1, Op::HalfClose { by }));
        }
        if me.unread == 0 {
            choices.push((1, Op::Close { by }));
        } else if peer.open && !both_ended {
            choices.push((1, Op::CloseUnread { by }));
        }
        // The forwarder need not dial for a client that has gone without a word.
        if !both_ended && me.fate < Fate::Broken && (self.accepted || peer.unread > 0) {
            choices.push((1, Op::Reset { by }));
        }
        if me.sending && me.fate == Fate::Closed {
            choices.push((6, Op::WriteToClosed { by }));
        }
        if me.sending && me.fate == Fate::Broken {
            choices.push((if me.knows { 1 } else { 4 }, Op::WriteToBroken { by }));
        }
        if self.accepted && me.sending && hears && peer.fate == Fate::Alive {
            let then = match random.below(6) {
                0 => After::HalfClose,
                1 if me.unread == 0 => After::Close,
                _ => After::Nothing,
            };
            let pace = [Pace::Fast, Pace::Fast, Pace::Small, Pace::Slow][random.below(4)];
            choices.push((3, Op::Transfer { by, length: random.bulk(), pace, then }));
            choices.push((1, Op::ResetMidway { by }));
        }
        if self.accepted && peer.open && peer.sending && me.fate == Fate::Alive && peer.fate <= Fate::Ended {
            choices.push((1, Op::ResetWriter { by, length: me.unread + random.bulk() }));
        }
    }

    fn take(&mut self, op: Op) {
        let by = op.side();
        let other = by.other();
        match op {
            Op::Accept => self.accepted = true,
            Op::Write { length, .. } => self.change(other).unread += length,
            Op::Read { length, .. } => self.change(by).unread -= length,
            Op::ReadToEnd { .. } => {
                let end = self.change(by);
                (end.unread, end.knows) = (0, true);
            }
            Op::Transfer { then, .. } => {
                self.change(other).unread = 0;
                match then {
                    After::Nothing => {}
                    After::HalfClose => {
                        self.change(by).sending = false;
                        self.raise(other, Fate::Ended);
                    }
                    After::Close => {
                        self.close(by);
                        self.raise(other, Fate::Closed);
                    }
                }
                self.change(other).knows = then != After::Nothing;
            }
            Op::Exchange { .. } => self.ends.iter_mut().for_each(|end| end.unread = 0),
            Op::HalfClose { .. } => {
                self.change(by).sending = false;
                self.raise(other, Fate::Ended);
            }
            Op::Close { .. } => {
                self.close(by);
                self.raise(other, Fate::Closed);
            }
            Op::CloseUnread { .. } | Op::Reset { .. } | Op::ResetWriter { .. } => {
                self.close(by);
                self.raise(other, Fate::Broken);
            }
            Op::ResetMidway { .. } => {
                self.close(by);
                self.raise(other, Fate::Broken);
                let end = self.change(other);
                (end.unread, end.knows) = (0, true);
            }
            Op::WriteToClosed { .. } => self.change(by).fate = Fate::Broken,
            Op::WriteToBroken { .. } | Op::Pause { .. } | Op::MeetRefusal { .. } => {}
        }
    }

    fn close(&mut self, side: Side) {
        let end = self.change(side);
        (end.open, end.sending, end.unread) = (false, false, 0);
    }

    /// Lets each end that is still open learn how it ends.
    fn wind_up(&mut self, random: &mut Random, ops: &mut Vec<Op>) {
        let mut more = Vec::new();
        if !self.accepted {
            more.push(Op::Accept);
        }
        let sides = if random.below(2) == 0 { [Side::Client, Side::Target] } else { [Side::Target, Side::Client] };
        for by in sides.into_iter().filter(|side| self.end(*side).open) {
            let end = self.end(by);
            match end.fate.cmp(&Fate::Broken) {
                Ordering::Less if end.sending => more.push(Op::HalfClose { by }),
                Ordering::Equal if end.sending && random.below(2) == 0 => more.push(Op::WriteToBroken { by }),
                _ => {}
            }
        }
        more.extend(
            sides
                .into_iter()
                .filter(|side| self.end(*side).open && !self.end(*side).knows)
                .map(|by| Op::ReadToEnd { by }),
        );
        for op in more {
            self.take(op);
            ops.push(op);
        }
    }
}

impl End {
    fn is_talking(self) -> bool {
        self.open && self.sending && self.fate == Fate::Alive
    }
}

/// Numbers that look random: `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> usize {
        usize::try_from(self.next() % limit).expect("limits are small")
    }

    /// The length of a transfer: of any size up to a megabyte, often what a direction takes for bulk.
    fn bulk(&mut self) -> usize {
        let size = 1 << (8 + self.below(12));
        size + self.below(size as u64)
    }

    fn weighted(&mut self, choices: &[(u64, Op)]) -> Option<Op> {
        let mut rest = self.next() % choices.iter().map(|(weight, _)| weight).sum::<u64>().max(1);
        choices.iter().find_map(|(weight, op)| {
            let taken = rest < *weight;
            rest = rest.wrapping_sub(*weight);
            taken.then_some(*op)
        })
    }
}
