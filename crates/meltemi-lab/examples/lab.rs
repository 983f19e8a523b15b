//! The lab's commands alone, without the rest of `meltemi`.

use clap::Parser as _;
use std::process::ExitCode;

#[derive(Debug, clap::Parser)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Lab(meltemi_lab::cli::Lab),
}

fn main() -> ExitCode {
    if let Some(code) = meltemi_lab::launch::intercept() {
        return code;
    }
    let Command::Lab(lab) = Program::parse().command;
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(meltemi_lab::cli::run(&lab)).unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}
