//! Plays a script on one connection and writes down what each end sees.
//!
//! Two things are left out because a direct connection does not decide them: how many bytes arrive before a reset in
//! the midst of them (those that do are checked), and whether a refused client hears of it at its connect or after.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::script::{After, Op, Pace, Script, Side};
use crate::seen::{self, Failure, Payload, Saw, Seen, Stream, Then};

/// Written to a reader who does not read: more than fits between them, so that some is under way.
const MIDWAY: usize = 2 << 20;

/// Where a script is played.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stage<'a> {
    /// Where the client connects.
    pub(crate) door: SocketAddr,
    /// The target that is reached there, and through no other door.
    pub(crate) target: &'a TcpListener,
    /// The door is the target's own.
    pub(crate) is_direct: bool,
    /// How long any one thing may take.
    pub(crate) patience: Duration,
}

/// Plays a script, up to where `expected` is not met.
pub(crate) fn play(script: &Script, stage: Stage<'_>, payload: &Payload, expected: Option<&[Saw]>) -> Vec<Saw> {
    let mut player = Player { stage, payload, script, ends: Default::default(), saws: Vec::new(), op: 0 };
    if let [Op::MeetRefusal { says, ends }] = script.ops[..] {
        player.meet_refusal(says, ends);
        return player.saws;
    }
    match seen::connect(stage.door, script.small_client, stage.patience) {
        Ok(stream) => player.ends[0].socket = Some(stream),
        Err(error) => {
            player.saw(Side::Client, Seen::Failed(error.into()));
            return player.saws;
        }
    }
    for (number, op) in script.ops.iter().enumerate() {
        player.op = number;
        let before = player.saws.len();
        player.act(*op);
        let meets = |(at, saw): (usize, &Saw)| expected.is_none_or(|expected| expected.get(at) == Some(saw));
        if !player.saws.iter().enumerate().skip(before).all(meets) {
            break;
        }
    }
    player.leave()
}

#[derive(Debug, Default)]
struct End {
    socket: Option<TcpStream>,
    sent: usize,
    taken: usize,
}

struct Player<'a> {
    stage: Stage<'a>,
    payload: &'a Payload,
    script: &'a Script,
    ends: [End; 2],
    saws: Vec<Saw>,
    op: usize,
}

impl Player<'_> {
    fn act(&mut self, op: Op) {
        let by = op.side();
        let patience = self.stage.patience;
        match op {
            Op::Accept => self.accept(),
            Op::Write { length, .. } => self.write(by, length),
            Op::Read { length, .. } => self.read(by, Some(length)),
            Op::ReadToEnd { .. } => self.read(by, None),
            Op::Transfer { length, pace, then, .. } => self.transfer(by, length, pace, then),
            Op::Exchange { out, back } => self.exchange([out, back]),
            Op::HalfClose { .. } => {
                let seen = self.socket(by).shutdown(Shutdown::Write).into();
                self.saw(by, seen);
            }
            Op::Close { .. } => drop(self.take_socket(by)),
            Op::CloseUnread { .. } => {
                let seen = seen::wait_for_unread(self.socket(by), self.unread(by), patience);
                self.saw(by, seen);
                self.let_arrive(by);
                drop(self.take_socket(by));
            }
            Op::Reset { .. } => {
                self.let_arrive(by);
                seen::reset(self.take_socket(by));
            }
            Op::ResetMidway { .. } => self.reset_midway(by),
            Op::ResetWriter { length, .. } => self.reset_writer(by, length),
            Op::WriteToClosed { .. } => {
                self.write(by, 1);
                let seen = seen::wait_for_error(self.socket(by), patience);
                self.saw(by, seen);
            }
            Op::WriteToBroken { .. } => match seen::wait_for_error(self.socket(by), patience) {
                Seen::Done => self.write(by, 1),
                late => self.saw(by, late),
            },
            Op::Pause { time } => thread::sleep(Duration::from_millis(time)),
            Op::MeetRefusal { .. } => unreachable!("it is a script of its own"),
        }
    }

    fn saw(&mut self, side: Side, seen: Seen) {
        if let Seen::Took { bytes: Some(bytes), .. } = seen {
            self.ends[side.index()].taken += bytes;
        }
        self.saws.push(Saw { op: self.op, side, seen });
    }

    fn socket(&self, side: Side) -> &TcpStream {
        self.ends[side.index()].socket.as_ref().expect("scripts use open ends")
    }

    fn take_socket(&mut self, side: Side) -> TcpStream {
        self.ends[side.index()].socket.take().expect("scripts use open ends")
    }

    /// What a side sends next.
    fn outgoing(&self, side: Side) -> Stream<'_> {
        self.payload.stream(self.script.seed, side, self.ends[side.index()].sent)
    }

    /// What a side is to read next.
    fn incoming(&self, side: Side) -> Stream<'_> {
        self.payload.stream(self.script.seed, side.other(), self.ends[side.index()].taken)
    }

    /// Bytes that were sent to a side and that it has not read.
    fn unread(&self, side: Side) -> usize {
        self.ends[side.other().index()].sent - self.ends[side.index()].taken
    }

    /// Directly, what a side has sent is at the other end before it goes; a forwarder is to see to that by itself.
    fn let_arrive(&self, side: Side) {
        let to = side.other();
        if let (true, Some(socket)) = (self.stage.is_direct, &self.ends[to.index()].socket) {
            seen::wait_for_unread(socket, self.unread(to), self.stage.patience);
        }
    }

    fn accept(&mut self) {
        let seen = match seen::accept(self.stage.target, self.stage.patience) {
            Ok(socket) => {
                self.ends[1].socket = Some(socket);
                Seen::Done
            }
            Err(error) => Seen::Failed(error.into()),
        };
        self.saw(Side::Target, seen);
    }

    fn write(&mut self, by: Side, length: usize) {
        let seen = seen::write(self.socket(by), self.outgoing(by), length);
        self.ends[by.index()].sent += length;
        self.saw(by, seen);
    }

    fn read(&mut self, by: Side, length: Option<usize>) {
        let seen = seen::read(self.socket(by), self.incoming(by), length, Pace::Fast);
        self.saw(by, seen);
    }

    /// The writer goes on to `then` while the reader may still have all of it to read.
    fn transfer(&mut self, by: Side, length: usize, pace: Pace, then: After) {
        let to = by.other();
        let asked = (then == After::Nothing).then(|| self.unread(to) + length);
        let socket = self.take_socket(by);
        let (written, read, socket) = thread::scope(|scope| {
            let reading = scope.spawn(|| seen::read(self.socket(to), self.incoming(to), asked, pace));
            let written = seen::write(&socket, self.outgoing(by), length);
            let kept = match then {
                After::Nothing => Some(socket),
                After::HalfClose => {
                    // Fails only on a broken connection, which the reader sees.
                    let _ = socket.shutdown(Shutdown::Write);
                    Some(socket)
                }
                After::Close => {
                    drop(socket);
                    None
                }
            };
            (written, reading.join().expect("no panic"), kept)
        });
        self.ends[by.index()].socket = socket;
        self.ends[by.index()].sent += length;
        self.saw(by, written);
        self.saw(to, read);
    }

    fn exchange(&mut self, lengths: [usize; 2]) {
        let asked = [self.unread(Side::Client) + lengths[1], self.unread(Side::Target) + lengths[0]];
        let (this, length_of) = (&*self, |side: Side| lengths[side.index()]);
        let (written, read) = thread::scope(|scope| {
            let writing = Side::BOTH
                .map(|side| scope.spawn(move || seen::write(this.socket(side), this.outgoing(side), length_of(side))));
            let reading = Side::BOTH.map(|side| {
                let asked = Some(asked[side.index()]);
                scope.spawn(move || seen::read(this.socket(side), this.incoming(side), asked, Pace::Fast))
            });
            let written = writing.map(|thread| thread.join().expect("no panic"));
            (written, reading.map(|thread| thread.join().expect("no panic")))
        });
        for side in Side::BOTH {
            self.ends[side.index()].sent += lengths[side.index()];
            self.saw(side, written[side.index()]);
        }
        for side in Side::BOTH {
            self.saw(side, read[side.index()]);
        }
    }

    fn reset_midway(&mut self, by: Side) {
        let to = by.other();
        self.let_arrive(by);
        let before = self.unread(to);
        let socket = self.take_socket(by);
        socket.set_nonblocking(true).expect("it can be set");
        // Until nothing more is taken.
        let _ = seen::write(&socket, self.outgoing(by), MIDWAY);
        seen::reset(socket);
        let mut read = seen::read(self.socket(to), self.incoming(to), None, Pace::Fast);
        if let Seen::Took { bytes, as_sent, .. } = &mut read {
            *as_sent &= bytes.take().is_some_and(|bytes| bytes >= before);
        }
        self.saw(to, read);
    }

    fn reset_writer(&mut self, by: Side, length: usize) {
        let to = by.other();
        self.let_arrive(by);
        let socket = self.take_socket(by);
        let (read, written) = thread::scope(|scope| {
            let writing = scope.spawn(|| seen::write(self.socket(to), self.outgoing(to), usize::MAX));
            let read = seen::read(&socket, self.incoming(by), Some(length), Pace::Fast);
            seen::reset(socket);
            (read, writing.join().expect("no panic"))
        });
        self.saw(by, read);
        self.saw(to, written);
    }

    fn meet_refusal(&mut self, says: usize, ends: bool) {
        let seen = match seen::connect(self.stage.door, false, self.stage.patience) {
            Err(error) => match error.into() {
                Failure::Refused | Failure::Reset => Seen::Refused,
                other => Seen::Failed(other),
            },
            Ok(socket) => {
                let written = seen::write(&socket, self.outgoing(Side::Client), says);
                if ends {
                    // Fails where the reset has come already.
                    let _ = socket.shutdown(Shutdown::Write);
                }
                // A socket tells of a reset once: to the call that comes first.
                match (written, seen::read(&socket, self.incoming(Side::Client), None, Pace::Fast)) {
                    (Seen::Failed(Failure::Reset), _)
                    | (_, Seen::Took { bytes: Some(0), then: Then::Failed(Failure::Reset), .. }) => Seen::Refused,
                    (_, other) => other,
                }
            }
        };
        self.saw(Side::Client, seen);
    }

    /// Leaves nothing behind: a connection that nobody accepted would be the next script's.
    fn leave(mut self) -> Vec<Saw> {
        if !self.saws.iter().any(|saw| saw.side == Side::Target) {
            let _ = seen::accept(self.stage.target, self.stage.patience);
        }
        std::mem::take(&mut self.saws)
    }
}
