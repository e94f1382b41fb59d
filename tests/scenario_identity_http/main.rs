//! Identity by HTTP with those who speak it: nginx, HAProxy and Python's servers behind us, curl and Python's clients in
//! front. What is malformed reaches none of them, and what reaches them they understand as we did.

#[path = "../common/mod.rs"]
mod common;
mod malformed;
mod programs;
mod vectors;
mod world;
