//! `cargo xtask demo`: from a fresh clone to four applications that talk over mutual TLS.

use std::process::Command;

use crate::{setup, shell};

/// # Errors
/// Set-up, build or a proof of the demo fails.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    setup::run()?;
    let programs = shell::build_programs()?;
    let args = args.iter().filter(|arg| *arg != "--");
    shell::run(
        Command::new(programs.join("meltemi"))
            .arg("demo")
            .args(args)
            .current_dir(shell::project_root()),
    )
}
