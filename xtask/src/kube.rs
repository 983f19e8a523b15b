//! `cargo xtask kube`: a real Kubernetes on this machine (docs/testbed.md).

mod images;

use std::process::Command;

use crate::{setup, shell};

const PROGRAM: &str = "meltemi-testbed";

/// Makes and loads images, or passes its arguments on to the program `meltemi-testbed`, with everything that `up` needs.
///
/// # Errors
/// Set-up or build fails, or the command does.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    match args.split_first() {
        Some((first, rest)) if first == "images" => images::run(rest),
        _ => testbed(args),
    }
}

/// Runs the program `meltemi-testbed` with everything that it needs.
fn testbed(args: &[String]) -> Result<(), String> {
    let cache = shell::cache_dir();
    // The other commands are answered at once, and in silence: a shell evaluates what `env` prints.
    let calls_tools = args.iter().any(|arg| arg == "up" || arg == "smoke");
    if calls_tools {
        setup::run()?;
        setup::kube()?;
    }
    let mut build = shell::cargo();
    build.args(["build", "--locked", "--bin", PROGRAM]);
    if !calls_tools {
        build.arg("--quiet");
    }
    shell::run(&mut build)?;
    let mut command = Command::new(shell::target_dir()?.join("debug").join(PROGRAM));
    command.args(args);
    let module = shell::project_root().join("testbed/kube");
    command
        .env("MELTEMI_KUBE_CACHE", &cache)
        .env("MELTEMI_KUBE_MODULE", module);
    if calls_tools {
        command.env("MELTEMI_KUBECTL", setup::kubectl()?);
    }
    if std::env::var_os("MELTEMI_KUBE_DIR").is_none() {
        command.env("MELTEMI_KUBE_DIR", cache.join("kube"));
    }
    shell::run(&mut command)
}
