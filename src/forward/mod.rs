//! The engine: forwards, counts, and tells. It knows `model` and `wire`; nothing of files, Docker or screens.

pub mod context;
pub mod descriptors;
pub mod meter;
pub mod registry;
pub mod udp;
