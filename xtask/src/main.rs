//! Everything a contributor runs: `cargo xtask demo | test | conformance | fuzz | bench | kube | lint | setup`.
//!
//! It depends on the standard library alone, so that it is there a second after `cargo xtask` was typed.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to its terminal"
)]

mod bench;
mod conformance;
mod demo;
mod fuzz;
mod kube;
mod lint;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

const HELP: &str = r#"Everything a contributor runs. Each command does its own set-up.

Usage: cargo xtask <COMMAND>

Commands:
  demo [-- ARGS]    builds Meltemi and runs `meltemi demo ARGS` (try: cargo xtask demo -- --once)
  test [FILTER]     builds Meltemi and runs every test tier, then prints the count of each
  conformance ARGS  builds the proxy and shows what it does with hostile peers, beside a stock Envoy
                    (`http`; see: cargo xtask conformance --help)
  bench proxy       measures our proxy beside a stock Envoy and HAProxy (options: cargo xtask bench proxy --help)
  bench control     measures the control plane with many services and proxies (options: cargo xtask bench control --help)
  fuzz TARGET [--for 10m]
                    feeds a parser or a decider inputs that it makes up as it goes (see fuzz/Cargo.toml)
  kube up|down|...  a real Kubernetes of two nodes on this machine (docs/testbed.md; cargo xtask kube --help)
  kube images       builds our programs and loads them, and stand-ins for the samples' images, into its nodes
  lint              rustfmt and clippy, as CI wants them
  setup             only the set-up: installs the Debian packages that are missing (as root)

Examples:
  cargo xtask demo
  cargo xtask demo -- --once
  cargo xtask test
  cargo xtask test lab::guide
  cargo xtask conformance http --only smuggling
  cargo xtask bench proxy --quick
  cargo xtask kube up && eval "$(cargo xtask kube env)" && kubectl get nodes
"#;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    let result = match command {
        "demo" => demo::run(rest),
        "test" => test::run(rest),
        "conformance" => conformance::run(rest),
        "bench" => bench::run(rest),
        "fuzz" => fuzz::run(rest),
        "kube" => kube::run(rest),
        "lint" => lint::run(),
        "setup" => setup::run(),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("no command \"{other}\"; see `cargo xtask help`")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}
