//! The engine: forwards, counts, and tells. It knows `model` and `wire`; nothing of files, Docker or screens.

pub mod alias;
pub mod context;
pub mod descriptors;
pub mod engine;
pub mod handed;
pub mod meter;
pub mod pressure;
pub mod registry;
pub mod tap;
pub mod tcp;
pub mod udp;

pub mod exchanges;
mod http;
mod kill;
mod lanes;
mod listen;
mod outcomes;
mod own;
mod relay;
mod running;
mod status;
mod sys;
