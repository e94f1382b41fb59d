//! What two ends do, drawn from a seed: a list of operations in one total order.
//!
//! An operation begins when the one before it is over, so both ends agree on what came first, and the kernel alone decides
//! what each of them sees. Whatever would be a race between the two ends of a direct connection is not drawn:
//!
//! - bytes that nobody reads at once are few, so that the peer's kernel has them all before anything else happens;
//! - an end closes in order only when it has read all that was sent to it: the kernel makes a reset of the other kind,
//!   which is an operation of its own ([`Op::CloseUnread`]);
//! - no end resets or closes unread what both ends have ended already: nobody could see it;
//! - a client that is reset before it was accepted has said something first. One that has not need never be dialled for.

use std::fmt;

/// One of the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Target,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Client, Self::Target];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Target,
            Self::Target => Self::Client,
        }
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self == Self::Target)
    }
}

/// The families of the client's and of the target's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Families {
    SixToFour,
    /// With a small receive buffer at the target.
    SixToFourSmall,
    FourToFour,
    SixToSix,
}

impl Families {
    pub(crate) const ALL: [Self; 4] = [Self::SixToFour, Self::SixToFourSmall, Self::FourToFour, Self::SixToSix];

    pub(crate) fn index(self) -> usize {
        Self::ALL.iter().position(|one| *one == self).expect("one of them")
    }

    pub(crate) fn client(self) -> &'static str {
        if self == Self::FourToFour { "127.0.0.1" } else { "::1" }
    }

    pub(crate) fn target(self) -> &'static str {
        if self == Self::SixToSix { "::1" } else { "127.0.0.1" }
    }
}

/// How a reader takes a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it comes.
    Fast,
    /// In small pieces.
    Small,
    /// With pauses, so that every buffer on the way fills.
    Slow,
}

/// What a writer does as soon as its kernel has taken all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Nothing,
    HalfClose,
    Close,
}

/// One operation. Lengths are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// The target takes the connection, which its kernel has taken long before.
    Accept,
    /// A few bytes, which nobody need read.
    Write {
        by: Side,
        length: usize,
    },
    /// Some of what has been sent.
    Read {
        by: Side,
        length: usize,
    },
    /// All of what has been sent, and how the stream ends.
    ReadToEnd {
        by: Side,
    },
    /// Many bytes, which the other side reads meanwhile.
    Transfer {
        by: Side,
        length: usize,
        pace: Pace,
        then: After,
    },
    /// Many bytes both ways at once.
    Exchange {
        out: usize,
        back: usize,
    },
    HalfClose {
        by: Side,
    },
    /// Having read all.
    Close {
        by: Side,
    },
    /// Having left unread what has come, which the kernel answers with a reset.
    CloseUnread {
        by: Side,
    },
    /// By `SO_LINGER` of no time, once all that was sent has been delivered.
    Reset {
        by: Side,
    },
    /// With bytes on their way, of which any number may arrive; the other side reads to the end.
    ResetMidway {
        by: Side,
    },
    /// `by` reads so much and resets, while the other writes until it cannot.
    ResetWriter {
        by: Side,
        length: usize,
    },
    /// To one that has closed, until the kernel says that it is gone.
    WriteToClosed {
        by: Side,
    },
    /// To one that has reset, which the kernel has heard.
    WriteToBroken {
        by: Side,
    },
    /// Milliseconds.
    Pause {
        time: u64,
    },
    /// The whole script of a target that nobody listens at: the client says so much and reads to the end.
    MeetRefusal {
        says: usize,
        ends: bool,
    },
}

impl Op {
    pub(crate) const NAMES: [&str; 16] = [
        "accept",
        "write",
        "read",
        "read to end",
        "transfer",
        "exchange",
        "half-close",
        "close",
        "close unread",
        "reset",
        "reset midway",
        "reset of a writer",
        "write to closed",
        "write to broken",
        "pause",
        "refusal",
    ];

    pub(crate) fn name(self) -> &'static str {
        let index = match self {
            Self::Accept => 0,
            Self::Write { .. } => 1,
            Self::Read { .. } => 2,
            Self::ReadToEnd { .. } => 3,
            Self::Transfer { .. } => 4,
            Self::Exchange { .. } => 5,
            Self::HalfClose { .. } => 6,
            Self::Close { .. } => 7,
            Self::CloseUnread { .. } => 8,
            Self::Reset { .. } => 9,
            Self::ResetMidway { .. } => 10,
            Self::ResetWriter { .. } => 11,
            Self::WriteToClosed { .. } => 12,
            Self::WriteToBroken { .. } => 13,
            Self::Pause { .. } => 14,
            Self::MeetRefusal { .. } => 15,
        };
        Self::NAMES[index]
    }

    /// Who begins it; the client, of what both do.
    pub(crate) fn side(self) -> Side {
        match self {
            Self::Write { by, .. }
            | Self::Read { by, .. }
            | Self::ReadToEnd { by }
            | Self::Transfer { by, .. }
            | Self::HalfClose { by }
            | Self::Close { by }
            | Self::CloseUnread { by }
            | Self::Reset { by }
            | Self::ResetMidway { by }
            | Self::ResetWriter { by, .. }
            | Self::WriteToClosed { by }
            | Self::WriteToBroken { by } => by,
            Self::Accept => Side::Target,
            Self::Exchange { .. } | Self::Pause { .. } | Self::MeetRefusal { .. } => Side::Client,
        }
    }
}

/// What happens on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) families: Families,
    /// Whether the client has a small receive buffer.
    pub(crate) small_client: bool,
    pub(crate) ops: Vec<Op>,
}

impl Script {
    /// Whether nobody listens at its target.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.ops[0], Op::MeetRefusal { .. })
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, {:?}{}:", self.seed, self.families, if self.small_client { ", small client" } else { "" })?;
        for (number, op) in self.ops.iter().enumerate() {
            write!(f, "\n  {number:2} {op:?}")?;
        }
        Ok(())
    }
}
