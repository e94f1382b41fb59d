//! The binary: reads the arguments, runs, and maps the result to an exit status.

use std::process::ExitCode;

use portolan::{app, cli::Cli, model::untrusted::one_line};

fn main() -> ExitCode {
    let cli = Cli::read().unwrap_or_else(|error| error.exit());
    match app::run(&cli) {
        Ok(status) => status,
        Err(error) => {
            // Its parts are safe already where they quote; this is for those that a library words.
            app::complain(format_args!("portolan: {}", one_line(&format!("{error:#}"), usize::MAX)));
            ExitCode::FAILURE
        }
    }
}
