//! `cargo xtask conformance`: the cases of this crate against our proxy and a stock Envoy.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to its terminal"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use meltemi_conformance::report::Report;
use meltemi_conformance::rig::{Kind, Programs, namespace};
use meltemi_conformance::smuggling::{self, Extent};
use meltemi_conformance::{floods, http2};

/// Shows what the proxy does with what hostile and broken peers send, beside a stock Envoy.
#[derive(Debug, Parser)]
#[command(name = "meltemi-conformance", bin_name = "cargo xtask conformance")]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// HTTP/1 and HTTP/2
    Http(HttpArgs),
}

#[derive(Debug, clap::Args)]
struct HttpArgs {
    /// Only these groups
    #[arg(long, value_enum)]
    only: Vec<Group>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Only the cases that every test run holds
    #[arg(long)]
    core: bool,
    /// Also the cases in which both proxies do what is required
    #[arg(long)]
    all: bool,
    /// The proxy under test
    #[arg(long, env = "MELTEMI_PROXY")]
    proxy: PathBuf,
    /// The stock Envoy; without it ours runs alone
    #[arg(long, env = "ENVOY_BINARY")]
    envoy: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    /// Requests and responses that two servers could read differently
    Smuggling,
    /// HTTP/2 behaviour, as server and as client
    Http2,
    /// Peers that never stop, with what they cost
    Floods,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> Result<ExitCode> {
    let Command::Http(args) = Program::parse().command;
    namespace::enter()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut report = runtime.block_on(http(&args))?;
    report.summarise();
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Output::Table => {
            print!("{}\n{}", report.table(args.all), report.summary_text());
        }
    }
    let missed = report.missed().count();
    if missed == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("meltemi misses {missed} required verdicts");
    Ok(ExitCode::FAILURE)
}

async fn http(args: &HttpArgs) -> Result<Report> {
    let programs = Programs {
        proxy: args.proxy.clone(),
        envoy: args.envoy.clone(),
    };
    let extent = if args.core {
        Extent::Core
    } else {
        Extent::Full
    };
    let wants = |group| args.only.is_empty() || args.only.contains(&group);
    let mut report = Report::default();
    if wants(Group::Smuggling) {
        let ours = smuggling::run(Kind::Ours, &programs, extent)
            .await
            .context("smuggling")?;
        let envoy = match programs.envoy {
            Some(_) => Some(smuggling::run(Kind::Envoy, &programs, extent).await?),
            None => None,
        };
        report.add(smuggling::cases(extent), ours, envoy);
    }
    if wants(Group::Http2) {
        let ours = http2::run(Kind::Ours, &programs).await.context("HTTP/2")?;
        let envoy = match programs.envoy {
            Some(_) => Some(http2::run(Kind::Envoy, &programs).await?),
            None => None,
        };
        report.add(http2::cases(), ours, envoy);
    }
    if wants(Group::Floods) {
        let extent = if args.core {
            floods::Extent::Core
        } else {
            floods::Extent::Full
        };
        let ours = floods::run(Kind::Ours, &programs, extent)
            .await
            .context("floods")?;
        let envoy = match programs.envoy {
            Some(_) => Some(floods::run(Kind::Envoy, &programs, extent).await?),
            None => None,
        };
        report.add(floods::cases(extent), ours, envoy);
    }
    Ok(report)
}
