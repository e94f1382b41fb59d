//! portolan maps host ports to containers and shows what flows through them.
pub mod demo;
pub mod docker;
pub mod forward;
pub mod host;
pub mod model;
pub mod service;
pub mod store;
pub mod tui;
