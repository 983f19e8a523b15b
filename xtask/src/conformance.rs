//! `cargo xtask conformance`: protocol cases against our proxy and a stock Envoy, side by side.

use std::process::Command;

use crate::{setup, shell};

/// Passes its arguments on to the program `meltemi-conformance`.
///
/// # Errors
/// Set-up or build fails, or our proxy misses a required verdict.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    setup::run()?;
    let envoy = setup::envoy()?;
    let programs = shell::build(&["meltemi-proxy", "meltemi-conformance"])?;
    let mut command = Command::new(programs.join("meltemi-conformance"));
    command
        .args(args.iter().filter(|arg| *arg != "--"))
        .env("MELTEMI_PROXY", programs.join("meltemi-proxy"))
        .env("ENVOY_BINARY", envoy);
    shell::run(&mut command)
}
