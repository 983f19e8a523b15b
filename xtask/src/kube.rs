//! `cargo xtask kube`: a real Kubernetes on this machine (docs/testbed.md).

mod images;
pub(crate) mod test;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{setup, shell};

const PROGRAM: &str = "meltemi-testbed";

/// Makes and loads images, runs the tests that need a cluster, or passes its arguments on to the program `meltemi-testbed`, with everything that `up` needs.
///
/// # Errors
/// Set-up or build fails, or the command does.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    match args.split_first() {
        Some((first, rest)) if first == "images" => images::run(rest, &folder()),
        Some((first, rest)) if first == "test" => test::run(rest),
        Some((first, [])) if first == "env" => {
            testbed(args, &folder())?;
            put_programs_in_path()
        }
        _ => testbed(args, &folder()),
    }
}

/// Where a person's cluster lives.
fn folder() -> PathBuf {
    std::env::var_os("MELTEMI_KUBE_DIR")
        .map_or_else(|| shell::cache_dir().join("kube"), PathBuf::from)
}

/// `meltemi` and its like, as they are built here.
#[allow(clippy::print_stdout, reason = "a shell evaluates it")]
fn put_programs_in_path() -> Result<(), String> {
    let programs = shell::target_dir()?.join("debug");
    println!("export PATH=\"{}:$PATH\"", programs.display());
    Ok(())
}

/// Runs the program `meltemi-testbed` with everything that it needs, for the cluster of a folder.
fn testbed(args: &[String], folder: &Path) -> Result<(), String> {
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
    command.env("MELTEMI_KUBE_DIR", folder);
    shell::run(&mut command)
}
