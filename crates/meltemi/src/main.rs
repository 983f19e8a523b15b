//! The `meltemi` program: command line, lab and control plane in one.
//!
//! Called as `istioctl` or `kubectl-meltemi` (argv[0]) it is the same program; only its help speaks of the other name.

mod access;
mod demo;
mod kubernetes;
mod tips;

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use meltemi_cli::{Io, behind_the_command, exit, with_istioctl_flags};
use meltemi_process::logging::{self, LogOptions};
use meltemi_process::shutdown;

/// A service mesh that speaks Istio: the commands that watch and explain it, the lab, and the control plane.
#[derive(Debug, Parser)]
#[command(
    name = "meltemi",
    version,
    max_term_width = 110,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings a mesh up and proves every claim about it
    Demo(demo::Options),
    /// A mesh on this machine, without Kubernetes
    Lab(meltemi_lab::cli::Lab),
    /// Runs the control plane
    #[command(
        after_help = "Examples:\n  meltemi control-plane --config-dir manifests/ --state-dir /var/lib/meltemi\n  \
            meltemi control-plane --kubernetes --state-dir /var/lib/meltemi"
    )]
    ControlPlane(Box<ControlPlane>),
    #[command(flatten)]
    Mesh(meltemi_cli::Command),
}

#[derive(Debug, clap::Args)]
struct ControlPlane {
    #[command(flatten)]
    options: meltemi_control::Options,
    /// Log levels, [scope:]level separated by commas
    #[arg(long = "log_output_level", default_value = "default:info")]
    log_output_level: String,
    /// Write logs as JSON
    #[arg(long = "log_as_json")]
    log_as_json: bool,
}

fn main() -> ExitCode {
    if let Some(code) = meltemi_lab::launch::intercept() {
        return code;
    }
    let called = called();
    let words = behind_the_command(std::env::args_os());
    let parsed = program(&called)
        .try_get_matches_from(words)
        .and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return usage(error),
    };
    run(cli.command, called, &matches).unwrap_or_else(|error| {
        if is_closed_pipe(&error) {
            return ExitCode::SUCCESS;
        }
        anstream::eprintln!("Error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Whoever read the output has had enough of it, as `head` has.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The name to speak of in help texts: as kubectl shows its plugins, else the file name.
fn called() -> String {
    let path = std::env::args_os().next().unwrap_or_default();
    match Path::new(&path).file_name().and_then(|name| name.to_str()) {
        Some("kubectl-meltemi") => "kubectl meltemi".to_owned(),
        Some("istioctl") => "istioctl".to_owned(),
        _ => "meltemi".to_owned(),
    }
}

fn program(called: &str) -> clap::Command {
    with_istioctl_flags(Cli::command())
        .name(called.to_owned())
        .bin_name(called.to_owned())
}

/// Prints help to stdout with status 0, and a usage error to stderr with istioctl's status for it.
fn usage(mut error: clap::Error) -> ExitCode {
    tips::forget_far_suggestions(&mut error);
    if error.print().is_err() {
        return ExitCode::FAILURE;
    }
    if let Some(ContextValue::String(command)) = error.get(ContextKind::InvalidSubcommand) {
        let program = Cli::command();
        let lab = program.find_subcommand("lab");
        let commands = lab.into_iter().flat_map(clap::Command::get_subcommands);
        let commands: Vec<&str> = commands.map(clap::Command::get_name).collect();
        let in_lab = std::env::args().nth(1).is_some_and(|word| word == "lab");
        if let Some(tip) = tips::instead_of(command, in_lab, &commands) {
            anstream::eprintln!("\n  tip: {tip}");
        }
    }
    if error.use_stderr() {
        ExitCode::from(exit::USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

fn run(command: Command, called: String, matches: &clap::ArgMatches) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(options) => demo::run(&options),
        Command::Lab(lab) => client_runtime()?.block_on(meltemi_lab::cli::run(&lab)),
        Command::ControlPlane(control_plane) => run_control_plane(*control_plane),
        Command::Mesh(command) => {
            let status = client_runtime()?.block_on(mesh(command, called, matches));
            Ok(ExitCode::from(status))
        }
    }
}

fn run_control_plane(command: ControlPlane) -> anyhow::Result<ExitCode> {
    let log = LogOptions {
        levels: command.log_output_level,
        json: command.log_as_json,
    };
    let _levels = logging::init(&log).context("cannot start the log")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime
        .context("cannot start the runtime")?
        .block_on(async {
            let shutdown = shutdown::on_signal().context("cannot wait for signals")?;
            if command.options.kubernetes {
                return Box::pin(kubernetes::run(command.options, shutdown)).await;
            }
            meltemi_control::run(command.options, shutdown)
                .await
                .context("the control plane ended")
        })?;
    Ok(ExitCode::SUCCESS)
}

async fn mesh(command: meltemi_cli::Command, called: String, matches: &clap::ArgMatches) -> u8 {
    let access = access::of_command_line(matches).await;
    let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (mut stdin, mut stdout, mut stderr) =
        (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut io = Io {
        stdin: &mut stdin,
        stdout: &mut stdout,
        stderr: &mut stderr,
        color,
        program: program(&called),
        called,
        now: jiff::Timestamp::now(),
    };
    meltemi_cli::run(command, access.as_ref(), &mut io).await
}

fn client_runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}
