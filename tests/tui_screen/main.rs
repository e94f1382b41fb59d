//! The screen as a machine: keys and updates in, effects and pictures out. No terminal, no clock, no sockets;
//! the simulated service answers, and everything that passes between the two goes through JSON.

mod containers;
mod dialogs;
mod import;
mod keys;
mod lists;
mod panels;
mod player;
mod published;
mod why;
