//! `cargo xtask kube`: a real Kubernetes on this machine (docs/testbed.md).

use std::process::Command;

use crate::{setup, shell};

const PROGRAM: &str = "meltemi-testbed";

/// Passes its arguments on to the program `meltemi-testbed`, with everything that `up` needs.
///
/// # Errors
/// Set-up or build fails, or the command does.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let cache = shell::cache_dir();
    // Only `up` takes long enough for its compiler to be worth hearing.
    let is_up = args.iter().any(|arg| arg == "up");
    if is_up {
        setup::kube()?;
    }
    let mut build = shell::cargo();
    build.args(["build", "--locked", "--bin", PROGRAM]);
    if !is_up {
        build.arg("--quiet");
    }
    shell::run(&mut build)?;
    let mut command = Command::new(shell::target_dir()?.join("debug").join(PROGRAM));
    command.args(args);
    if is_up {
        command
            .env("MELTEMI_KUBECTL", setup::kubectl()?)
            .env("MELTEMI_KUBE_CACHE", &cache)
            .env(
                "MELTEMI_KUBE_MODULE",
                shell::project_root().join("testbed/kube"),
            );
    }
    if std::env::var_os("MELTEMI_KUBE_DIR").is_none() {
        command.env("MELTEMI_KUBE_DIR", cache.join("kube"));
    }
    shell::run(&mut command)
}
