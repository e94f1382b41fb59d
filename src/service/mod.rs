//! The owner of engine, profile, resolver and Docker; clients hold a [`Handle`].
//!
//! One task ([`core`]) owns it all. [`desired`] says what shall be, [`reconcile`] makes it so, [`known`] what came of
//! it. [`requests`] answers what clients ask, [`changes`] makes the changes among it, one after the other.
//! [`subscribers`] tells each client what changed since it last looked, [`told`] what the log keeps of it, [`metrics`]
//! what was counted. [`aliases`] keeps the tables of aliases and looks after their routes. [`lookups`] reads this machine's tables, [`published`] watches what Docker itself publishes. Where
//! a target is, [`resolve`] says, by what [`reach`] knows of networks and [`place`] of the engine.

mod aliases;
mod changes;
mod core;
mod desired;
pub mod dns;
mod docker_watch;
mod handle;
mod known;
mod lookups;
mod metrics;
mod place;
mod profile;
mod published;
mod reach;
mod reconcile;
mod requests;
pub mod resolve;
mod subscribers;
mod surroundings;
mod told;
mod why;

pub use aliases::{Saved, who_is_saved};
pub use core::{Options, Running};
pub use handle::{Handle, Incoming, ServiceCall, Subscription};
pub use profile::{OpenError, OpenedProfile, ReadProfile, log_folder};
pub use why::examine;
