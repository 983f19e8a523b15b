//! The benchmarks: of the proxy against its peers, `cargo xtask bench proxy`, and of the control plane, `cargo xtask bench control`.
//!
//! ```text
//! load -> proxy A (plaintext in, mutual TLS out) -> proxy B (mutual TLS in, plaintext out) -> server, answers of 1 KiB
//! ```
//! Nobody at all, our proxy, a stock Envoy and HAProxy stand in the place of A and B by turns, in one run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to its terminal"
)]

mod backend;
mod campaign;
mod control;
mod echo;
mod figures;
mod load;
mod measure;
mod metric;
mod peer;
mod pki;
mod plan;
mod report;
mod rig;
mod stats;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;

use figures::{Figure, Verdict};
use peer::{Fleet, Programs};
use plan::Pace;
use report::{Machine, Report};
use rig::Rig;

#[derive(Debug, Parser)]
enum Command {
    /// Measures our proxy beside a stock Envoy and HAProxy
    Proxy(Options),
    /// Measures the control plane with many services and many proxies
    Control(control::Options),
}

#[derive(Debug, clap::Args)]
struct Options {
    /// Fewer and shorter rounds, under five minutes
    #[arg(long)]
    quick: bool,
    /// Only the tests whose name contains this text
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Rounds, instead of the usual number
    #[arg(long)]
    rounds: Option<usize>,
    /// Seconds of each measurement, instead of the usual number
    #[arg(long)]
    seconds: Option<u64>,
    /// Write every sample and figure here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the ratios to Envoy as SVG here
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Our proxy
    #[arg(long, value_name = "FILE")]
    proxy: PathBuf,
    /// The `meltemi` whose control plane configures it
    #[arg(long, value_name = "FILE")]
    control_plane: PathBuf,
    /// The Envoy to compare with
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// The HAProxy to compare with
    #[arg(long, value_name = "FILE")]
    haproxy: Option<PathBuf>,
    /// Keep the configurations and logs of the proxies here
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Proxy(options) => prepare_and_run(&options),
        Command::Control(options) => control::run(&options),
    };
    rig::end_all();
    done.unwrap_or_else(|error| {
        eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}

fn prepare_and_run(options: &Options) -> anyhow::Result<ExitCode> {
    let temporary = tempfile::tempdir().context("making a folder")?;
    let folder = options
        .keep
        .clone()
        .unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let rig = Rig::set_up(&folder)?;
    end_with_signals(temporary.path().to_owned())?;
    run(options, &rig, &folder)
}

fn run(options: &Options, rig: &Rig, folder: &std::path::Path) -> anyhow::Result<ExitCode> {
    let programs = Programs {
        proxy: options.proxy.clone(),
        control_plane: options.control_plane.clone(),
        envoy: options.envoy.clone(),
        haproxy: options.haproxy.clone(),
    };
    let groups = plan::groups(options.only.as_deref());
    anyhow::ensure!(!groups.is_empty(), "no test has that name");
    let mut pace = Pace::new(options.quick);
    pace.rounds = options.rounds.unwrap_or(pace.rounds).max(1);
    if let Some(seconds) = options.seconds {
        pace.window.length = Duration::from_secs(seconds.max(1));
    }

    backend::start(rig.server())?;
    let fleet = Fleet::new(rig, folder, programs.clone())?;
    load::tls::serve(rig.server(), fleet.pki())?;
    let machine = Machine::look(&programs, rig::has_priority());
    eprintln!("{machine}");
    let mut failures = Vec::new();
    let samples = campaign::run(rig, &fleet, &groups, pace, &mut failures);
    let figures = figures::figures(&samples);
    let report = Report {
        machine: &machine,
        figures: &figures,
        samples: &samples,
    };
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&report)?).context("writing the JSON")?;
    }
    if let Some(file) = &options.chart {
        std::fs::write(file, report::chart(&figures)).context("writing the chart")?;
    }
    println!("{machine}\n\n{}", report::table(&figures));
    for failure in &failures {
        println!("FAILED {failure}");
    }
    Ok(verdict(&figures, failures.len()))
}

/// Failure when a target is missed by more than the noise, or something could not be measured.
fn verdict(figures: &[Figure], failures: usize) -> ExitCode {
    let checks = figures.iter().flat_map(|figure| &figure.checks);
    let count = |verdict| {
        checks
            .clone()
            .filter(|check| check.verdict == verdict)
            .count()
    };
    let missed = count(Verdict::Missed);
    println!(
        "targets: {} met, {} within the noise, {missed} missed",
        count(Verdict::Met),
        count(Verdict::Unclear)
    );
    ExitCode::from(u8::from(missed + failures > 0))
}

/// Ends what the run has started, then the run, at Ctrl-C and SIGTERM.
fn end_with_signals(temporary: PathBuf) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let wait = move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        rig::end_all();
        std::fs::remove_dir_all(&temporary).ok();
        #[allow(clippy::exit, reason = "the measuring threads know no signals")]
        std::process::exit(130);
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(wait)?;
    Ok(())
}
