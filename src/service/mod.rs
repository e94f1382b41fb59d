//! The owner of engine, profile, resolver and Docker; clients hold a [`Handle`].
//!
//! One task ([`core`]) owns it all. [`desired`] says what shall be, [`reconcile`] makes it so, [`requests`]
//! carries out what clients ask, [`subscribers`] tells each of them what changed since it last looked.

mod core;
mod desired;
pub mod dns;
mod handle;
mod profile;
mod reconcile;
mod requests;
pub mod resolve;
mod subscribers;

pub use core::{Options, Running};
pub use handle::{Handle, Incoming, ServiceCall, Subscription};
pub use profile::{OpenError, OpenedProfile, ReadProfile, log_folder};
