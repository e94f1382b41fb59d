//! The Docker API as model types: which containers there are and where they are now.
//!
//! Docker's socket is as good as root, and what answers there need not be Docker: only GET is ever sent, an answer
//! is read up to a limit and no further, and every text is made safe as it enters. What a name means for a
//! mapping is decided by [`lookup`], a pure function; [`watch`] keeps the list current by the event stream, without
//! polling. Which engine is meant, [`Environment`] says. Nothing here resolves names, dials containers or knows of
//! mappings.

mod ask;
mod bounded;
mod decode;
mod ended;
mod endpoint;
mod engine;
mod environment;
pub(crate) mod fuzzing;
pub mod lookup;
mod lost;
mod transport;
mod watch;

pub use endpoint::{Endpoint, EndpointError};
pub use engine::{EngineFacts, Network};
pub use environment::Environment;
pub use watch::{DockerView, Timing, watch, watch_with};
