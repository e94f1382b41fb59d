//! The owner of engine, profile, resolver and Docker; clients hold a [`Handle`].

pub mod dns;
mod handle;
pub mod resolve;

pub use handle::{Handle, Incoming, ServiceCall, Subscription};
