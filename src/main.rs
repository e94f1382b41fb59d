//! The binary: reads the arguments, runs, and maps the result to an exit status.

use std::process::ExitCode;

use clap::Parser;
use portolan::{app, cli::Cli};

fn main() -> ExitCode {
    match app::run(&Cli::parse()) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("portolan: {error:#}");
            ExitCode::FAILURE
        }
    }
}
