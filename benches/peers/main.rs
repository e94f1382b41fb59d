//! portolan beside the programs that people use today, on the same work, in the same minutes: `cargo bench --bench peers`.
//!
//! The program runs three times over. As started it is only the [`enclosure`]: it starts itself again in a network
//! and process namespace of its own, where nothing of this machine is in the way and from where nothing is left
//! behind. In there it is the judge: it starts every [`contestants`], gives all of them the same work in [`rounds`],
//! and writes a [`report`]. For each piece of work it starts itself once more as the [`load`]: client and target.

mod cases;
mod configuration;
mod contestants;
mod counting;
mod cpu;
mod enclosure;
mod group;
mod listening;
mod load;
mod memory;
mod mode;
mod options;
mod packages;
mod phase;
mod record;
mod report;
mod rounds;
mod standing;
mod statistics;
mod targets;

use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

use options::Options;

fn main() -> ExitCode {
    // Cargo says `--bench` under `cargo bench` alone; `cargo test --all-targets` must not measure for half an hour.
    let mut arguments = std::env::args_os().skip(1);
    if let Some(order) = load::order_of(&mut arguments) {
        return done(order.and_then(|order| load::run(&order)));
    }
    if !std::env::args_os().any(|argument| argument == "--bench") {
        println!("peers: measures under `cargo bench --bench peers` only");
        return ExitCode::SUCCESS;
    }
    done(measure(&Options::parse()))
}

fn measure(options: &Options) -> Result<()> {
    let cases = options.cases()?;
    let contestants = options.contestants(&cases)?;
    if options.list {
        report::list();
        return Ok(());
    }
    if !enclosure::is_inside() {
        packages::install_missing(&contestants)?;
        return enclosure::run_inside();
    }
    let enclosure = enclosure::prepare(cases.iter().any(|case| case.mode == mode::Mode::Alias))?;
    let record = rounds::run(options, &cases, &contestants, enclosure.folder())?;
    report::print(&record);
    let path = options.json_path();
    record.write(&path)?;
    println!("\nraw rounds: {}", path.display());
    ensure!(!record.has_failed, "portolan or the load could not do everything");
    Ok(())
}

fn done(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}
