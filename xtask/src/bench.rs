//! `cargo xtask bench proxy`: our proxy beside a stock Envoy and HAProxy, in one run.
//! `cargo xtask bench control`: the control plane with many services and proxies.

use std::path::PathBuf;
use std::process::Command;

use crate::{setup, shell};

/// Close to the shipped profile in speed, and far quicker to build.
const PROFILE: &str = "quick-release";
const PROGRAMS: [&str; 3] = ["meltemi", "meltemi-proxy", "meltemi-bench"];

/// # Errors
/// Set-up or build fails, the run fails, or it misses a target.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (what, rest) = match args.split_first() {
        Some((what, rest)) if what == "proxy" || what == "control" => (what.as_str(), rest),
        _ => return Err("say what to measure: cargo xtask bench proxy|control".to_owned()),
    };
    setup::run()?;
    let programs = build(rest.iter().any(|arg| arg == "--release"))?;
    let mut bench = Command::new(programs.join("meltemi-bench"));
    bench.arg(what);
    bench.arg("--control-plane").arg(programs.join("meltemi"));
    if what == "proxy" {
        bench.arg("--proxy").arg(programs.join("meltemi-proxy"));
        bench.arg("--envoy").arg(setup::envoy()?);
        if let Some(haproxy) = setup::haproxy()? {
            bench.arg("--haproxy").arg(haproxy);
        }
    }
    shell::run(bench.args(rest.iter().filter(|arg| *arg != "--release")))
}

/// Builds the programs and returns their folder.
fn build(shipped: bool) -> Result<PathBuf, String> {
    let profile = if shipped { "release" } else { PROFILE };
    let mut build = shell::cargo();
    build.args(["build", "--locked", "--profile", profile]);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    shell::run(&mut build)?;
    Ok(shell::target_dir()?.join(profile))
}
