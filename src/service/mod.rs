//! The owner of engine, profile, resolver and Docker; clients hold a [`Handle`].

mod handle;

pub use handle::{Handle, Incoming, ServiceCall, Subscription};
