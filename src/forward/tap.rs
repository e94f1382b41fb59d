//! The hook of those who want to see what a connection carries: capture, a look at the payload, identity.
//!
//! A connection with a tap is copied through user memory; without one nothing is looked at and nothing is paid for it.

use std::fmt;

use super::meter::Direction;

/// Sees the payload of one connection.
pub trait Tap: fmt::Debug + Send + Sync {
    /// These bytes were received and are about to be passed on. Called for all bytes of a direction in their order, from
    /// the tap's first step on, by the connection's task: it must not block.
    fn saw(&self, direction: Direction, bytes: &[u8]);
}
