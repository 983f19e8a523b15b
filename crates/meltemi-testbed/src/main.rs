//! `cargo xtask kube`: a real Kubernetes for tests and for people.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to its terminal"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use meltemi_testbed::cluster::{self, Cluster};
use meltemi_testbed::image::Image;
use meltemi_testbed::program::Programs;
use meltemi_testbed::smoke;
use meltemi_testbed::supervisor::{self, Options};
use meltemi_testbed::{Plan, State};

/// A real Kubernetes on this machine, in namespaces that end with it.
#[derive(Debug, Parser)]
#[command(name = "meltemi-testbed", bin_name = "cargo xtask kube")]
struct Program {
    /// The cluster's folder; clusters in other folders run beside it
    #[arg(long, value_name = "FOLDER", env = "MELTEMI_KUBE_DIR")]
    dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster and returns when its nodes and its DNS are ready; a second `up` says what runs
    Up(UpArgs),
    /// Ends the cluster and removes its folder
    Down,
    /// Says what runs, and where its files are
    Status,
    /// Prints the path of the kubeconfig
    Kubeconfig,
    /// Prints what a shell needs: eval "$(cargo xtask kube env)"
    Env,
    /// Proves that the cluster has what a sidecar mesh asks of one
    Smoke(KubectlArgs),
    /// Loads image archives into every node
    Load {
        #[arg(required = true, value_name = "ARCHIVE")]
        archives: Vec<PathBuf>,
    },
    /// Makes an image of programs of this machine and the libraries they load
    Image(ImageArgs),
    /// Runs a command inside of a node
    Node {
        /// n1, n2...
        name: String,
        #[arg(last = true, required = true, value_name = "COMMAND")]
        words: Vec<String>,
    },
    #[command(hide = true)]
    Supervise(SuperviseArgs),
}

#[derive(Debug, clap::Args)]
struct UpArgs {
    /// How many nodes; the first one also runs the control plane
    #[arg(long, default_value_t = 2)]
    nodes: u8,
    /// Stay, and end the cluster at Ctrl-C
    #[arg(long)]
    foreground: bool,
    #[command(flatten)]
    programs: ProgramsArgs,
    #[command(flatten)]
    kubectl: KubectlArgs,
}

#[derive(Debug, clap::Args)]
struct ProgramsArgs {
    /// The Go module that the programs are built from
    #[arg(long, value_name = "FOLDER", env = "MELTEMI_KUBE_MODULE")]
    module: PathBuf,
    /// Where built programs are kept
    #[arg(long, value_name = "FOLDER", env = "MELTEMI_KUBE_CACHE")]
    cache: PathBuf,
}

#[derive(Debug, clap::Args)]
struct KubectlArgs {
    #[arg(
        long,
        value_name = "PROGRAM",
        default_value = "kubectl",
        env = "MELTEMI_KUBECTL"
    )]
    kubectl: PathBuf,
}

#[derive(Debug, clap::Args)]
struct ImageArgs {
    /// As pods name it: meltemi.test/echo:1
    name: String,
    /// The archive to write
    #[arg(short, long, value_name = "ARCHIVE")]
    output: PathBuf,
    /// PATH-IN-IMAGE=FILE; the first one is the command
    #[arg(required = true, value_name = "PATH=FILE")]
    files: Vec<String>,
    /// PATH-IN-IMAGE=TARGET, a symbolic link
    #[arg(long, value_name = "PATH=TARGET")]
    link: Vec<String>,
    /// A word behind the command that a pod's `args` do not replace
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    word: Vec<String>,
    /// A word behind the command that a pod's `args` replace
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    arg: Vec<String>,
    /// A variable of the command
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The user's number; root otherwise
    #[arg(long, value_name = "UID")]
    user: Option<String>,
    #[command(flatten)]
    programs: ProgramsArgs,
}

#[derive(Debug, clap::Args)]
struct SuperviseArgs {
    #[arg(long)]
    nodes: u8,
    #[arg(long)]
    programs: PathBuf,
    #[arg(long)]
    kubectl: PathBuf,
}

fn main() -> ExitCode {
    let program = Program::parse();
    match run(program) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kube: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(program: Program) -> Result<ExitCode> {
    let Program { dir, command } = program;
    // It makes its network namespace before there is a runtime.
    if let Command::Supervise(args) = command {
        supervisor::run(&Options {
            state: State::open(&dir)?,
            plan: Plan::new(args.nodes)?,
            programs: Programs::at(args.programs),
            kubectl: args.kubectl,
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(dispatch(dir, command))
}

async fn dispatch(dir: PathBuf, command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(args) => up(&State::open(&dir)?, args).await?,
        Command::Down => down(&dir).await?,
        Command::Status => return status(&dir),
        Command::Kubeconfig => println!("{}", running(&dir)?.kubeconfig().display()),
        Command::Env => print_environment(&running(&dir)?),
        Command::Smoke(args) => smoke::run(&running(&dir)?, &args.kubectl, say).await?,
        Command::Load { archives } => {
            let state = running(&dir)?;
            for archive in archives {
                cluster::load(&state, &archive).await?;
            }
        }
        Command::Image(args) => image(args).await?,
        Command::Node { name, words } => {
            let status = cluster::inside(&running(&dir)?, &name, &words)?
                .status()
                .context("cannot start nsenter")?;
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(code.map_or(ExitCode::FAILURE, ExitCode::from));
        }
        Command::Supervise(_) => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn up(state: &State, args: UpArgs) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a node needs control groups and mounts, so please run this as root"
    );
    if cluster::is_running(state)? {
        say("up already");
        print_use(state);
        return Ok(());
    }
    let options = Options {
        state: state.clone(),
        plan: Plan::new(args.nodes)?,
        programs: Programs::ensure(&args.programs.module, &args.programs.cache, say).await?,
        kubectl: args.kubectl.kubectl,
    };
    let exe = std::env::current_exe().context("cannot find this program's own path")?;
    let mut cluster = Cluster::start(&exe, &options).await?;
    let ready = tokio::select! {
        ready = cluster.ready(say) => ready,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if let Err(error) = ready {
        end_failed(state).await;
        return Err(error);
    }
    print_use(state);
    if !args.foreground {
        return cluster.detach().await;
    }
    say("Ctrl-C ends it");
    let result = tokio::select! {
        ended = cluster.ended() => ended,
        _ = tokio::signal::ctrl_c() => Ok(()),
    };
    cluster::down(state).await?;
    result
}

/// Ends what has come up, and keeps the logs: they are why it failed.
async fn end_failed(state: &State) {
    match cluster::end(state).await {
        Ok(()) => say(&format!("logs: {}", state.logs().display())),
        Err(error) => say(&format!("{error:#}")),
    }
}

/// Also removes what a cluster that has crashed left behind.
async fn down(dir: &Path) -> Result<()> {
    let Some(state) = State::find(dir)? else {
        say("nothing runs");
        return Ok(());
    };
    cluster::down(&state).await?;
    say("down");
    Ok(())
}

fn status(dir: &Path) -> Result<ExitCode> {
    let Ok(state) = running(dir) else {
        println!("nothing runs");
        return Ok(ExitCode::FAILURE);
    };
    println!("running     {}", state.root().display());
    println!("kubeconfig  {}", state.kubeconfig().display());
    println!("logs        {}", state.logs().display());
    println!("nodes       {}", state.nodes()?.join(" "));
    Ok(ExitCode::SUCCESS)
}

async fn image(args: ImageArgs) -> Result<()> {
    let programs = Programs::ensure(&args.programs.module, &args.programs.cache, say).await?;
    let mut image = Image::new(&programs.image_name(&args.name).await?);
    for file in &args.files {
        let (at, from) = pair(file)?;
        image = image.program(at, from.as_ref());
    }
    for link in &args.link {
        let (at, target) = pair(link)?;
        image = image.link(at, target);
    }
    image.entrypoint.extend(args.word);
    image.args = args.arg;
    image.env = args.env;
    image.user = args.user;
    image.write(&args.output).await
}

fn pair(text: &str) -> Result<(&str, &str)> {
    let (at, value) = text
        .split_once('=')
        .with_context(|| format!("\"{text}\" is not PATH=VALUE"))?;
    Ok((at.trim_start_matches('/'), value))
}

fn running(dir: &Path) -> Result<State> {
    State::find(dir)?
        .filter(|state| cluster::is_running(state).unwrap_or(false))
        .context("nothing runs; start it: cargo xtask kube up")
}

fn print_environment(state: &State) {
    println!("export KUBECONFIG={}", state.kubeconfig().display());
    println!("export KUBECACHEDIR={}", state.kubectl_cache().display());
}

fn print_use(state: &State) {
    say(&format!(
        "export KUBECONFIG={}",
        state.kubeconfig().display()
    ));
}

fn say(line: &str) {
    eprintln!("kube: {line}");
}
