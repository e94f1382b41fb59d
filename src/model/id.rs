//! Numbers that name things, each its own type so that they cannot be confused.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A mapping of this run. It survives renames and edits, and comes back with an undone delete.
    MappingId
}
id! {
    /// A connection or UDP flow, unique within a run (contract: `connection.id`).
    ConnectionId
}
id! {
    /// Counts the changes of the desired state. A request that names an old one is refused, so two
    /// clients never overwrite each other unseen.
    Revision
}
