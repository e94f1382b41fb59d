//! portolan maps host ports to containers and shows what flows through them.
pub mod app;
pub mod cli;
pub mod demo;
pub mod docker;
pub mod forward;
pub mod headless;
pub mod host;
mod logging;
pub mod model;
mod sample;
pub mod service;
pub mod store;
pub mod tui;
