//! The command line, with the names of `pilot-agent`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use meltemi_core::names::port;
use meltemi_process::logging::{self, LogControl, LogOptions};
use meltemi_process::shutdown;

use super::curl::{self, CurlArgs};
use super::{capture, request};
use crate::bootstrap::{Bootstrap, Role};
use crate::envoy;

/// The proxy of a Meltemi mesh.
#[derive(Debug, Parser)]
#[command(name = "meltemi-proxy", version)]
pub struct Program {
    /// Log level, `scope:level[,scope:level]`
    #[arg(
        long = "log_output_level",
        global = true,
        default_value = "default:info"
    )]
    log_output_level: String,
    /// Log as JSON
    #[arg(long = "log_as_json", global = true)]
    log_as_json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the proxy
    Proxy(ProxyArgs),
    /// Waits until the proxy is ready
    Wait(WaitArgs),
    /// Asks the proxy's admin interface
    Request(RequestArgs),
    /// Puts the capture rules of a pod in place, or takes them away
    #[command(subcommand)]
    Capture(CaptureCommand),
    /// The same with the flags of istio-iptables
    #[command(name = "istio-iptables")]
    IstioIptables(Box<meltemi_capture::Args>),
    /// Transfers a URL through the proxy
    Curl(CurlArgs),
    /// Gets and renews the certificate of a stock Envoy and serves it by SDS
    Sds(SdsArgs),
    /// The same, and runs Envoy
    Envoy(EnvoyArgs),
}

#[derive(Debug, clap::Args)]
struct SdsArgs {
    /// The unix socket to serve SDS on
    #[arg(long = "sds-socket", default_value = "/tmp/meltemi-sds.sock")]
    sds_socket: PathBuf,
    /// Write an Envoy bootstrap that uses the socket and the control plane
    #[arg(long = "write-bootstrap")]
    write_bootstrap: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct EnvoyArgs {
    #[arg(long = "envoy-binary", default_value = "envoy")]
    envoy_binary: PathBuf,
    #[arg(long, default_value_t = 1)]
    concurrency: u32,
    /// Envoy's log level
    #[arg(long = "proxyLogLevel", default_value = "warning")]
    proxy_log_level: String,
    /// Where the SDS socket and the bootstrap lie
    #[arg(long = "config-path", default_value = "/tmp/meltemi-envoy")]
    config_path: PathBuf,
    /// Arguments that injection gave the container for our own proxy
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    injected: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct ProxyArgs {
    /// `sidecar`, or `router` for a gateway
    #[arg(default_value = "sidecar", value_parser = Role::parse)]
    role: Role,
    /// The DNS domain of the namespace; the node's id is made from POD_NAMESPACE
    #[arg(long)]
    domain: Option<String>,
    /// Log level of the data path
    #[arg(long = "proxyLogLevel")]
    proxy_log_level: Option<String>,
    /// Log levels of Envoy's components, which this proxy does not have
    #[arg(long = "proxyComponentLogLevel")]
    proxy_component_log_level: Option<String>,
    /// Worker threads, instead of PROXY_CONFIG's concurrency
    #[arg(long)]
    concurrency: Option<usize>,
}

#[derive(Debug, clap::Args)]
struct WaitArgs {
    #[arg(long = "timeoutSeconds", default_value_t = 60)]
    timeout_seconds: u64,
    #[arg(long = "periodMillis", default_value_t = 500)]
    period_millis: u64,
    /// Where readiness is served
    #[arg(long, default_value_t = port::READINESS)]
    port: u16,
}

#[derive(Debug, clap::Args)]
struct RequestArgs {
    /// GET or POST
    method: String,
    /// Such as `clusters?format=json`
    path: String,
    /// Another port of the proxy, 15020 for the agent's
    #[arg(long = "debug-port", default_value_t = port::ADMIN)]
    debug_port: u16,
}

#[derive(Debug, Subcommand)]
enum CaptureCommand {
    Apply(Box<meltemi_capture::Args>),
    Remove {
        /// Print the rules instead of applying them
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

/// Reads the command line and does what it says. Invoked as `curl`, the program is curl.
///
/// # Errors
/// What the command could not do.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<ExitCode> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    let invoked_as = arguments.first().map(PathBuf::from).unwrap_or_default();
    if invoked_as.file_name().is_some_and(|name| name == "curl") {
        arguments.insert(1, "curl".into());
    }
    let program = Program::parse_from(arguments);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let code = runtime.block_on(Box::pin(execute(program)));
    // Blocking look-ups that nobody waits for must not hold the exit.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn execute(program: Program) -> anyhow::Result<ExitCode> {
    if let Command::Curl(args) = &program.command {
        return Ok(ExitCode::from(curl::curl(args).await));
    }
    let log = logging::init(&LogOptions {
        levels: levels(&program),
        json: program.log_as_json,
    })?;
    match program.command {
        Command::Proxy(args) => proxy(args, log).await?,
        Command::Wait(args) => {
            let (limit, period) = (
                Duration::from_secs(args.timeout_seconds),
                Duration::from_millis(args.period_millis),
            );
            request::wait(args.port, limit, period).await?;
        }
        Command::Request(args) => {
            request::request(&args.method, &args.path, args.debug_port).await?
        }
        Command::Capture(CaptureCommand::Apply(args)) | Command::IstioIptables(args) => {
            capture::apply(&args)?
        }
        Command::Capture(CaptureCommand::Remove { dry_run }) => capture::remove(dry_run)?,
        Command::Curl(_) => {}
        Command::Sds(args) => {
            let options = envoy::Options {
                socket: args.sds_socket,
                write_bootstrap: args.write_bootstrap,
                run: None,
            };
            return stock_envoy(options, Role::Sidecar).await;
        }
        Command::Envoy(args) => {
            tracing::debug!(arguments = args.injected.join(" "), "not for Envoy");
            let options = envoy::Options {
                socket: args.config_path.join("sds.sock"),
                write_bootstrap: Some(args.config_path.join("bootstrap.json")),
                run: Some(envoy::Run {
                    binary: args.envoy_binary,
                    concurrency: args.concurrency,
                    log_level: args.proxy_log_level,
                }),
            };
            return stock_envoy(options, injected_role(&args.injected)?).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `--proxyLogLevel` speaks of the data path, `--log_output_level` of the rest.
fn levels(program: &Program) -> String {
    match &program.command {
        Command::Proxy(ProxyArgs {
            proxy_log_level: Some(level),
            ..
        }) if !level.is_empty() => {
            let level = level.split(',').next().unwrap_or("warning");
            format!("{},proxy-core:{level}", program.log_output_level)
        }
        _ => program.log_output_level.clone(),
    }
}

async fn proxy(args: ProxyArgs, log: LogControl) -> anyhow::Result<()> {
    // Huge pages under an allocator's arenas make a small process resident at many times of what it uses.
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
    let mut bootstrap = Bootstrap::from_process()?;
    bootstrap.role = args.role;
    if let Some(workers) = args.concurrency {
        bootstrap.workers = workers.max(1);
    }
    if let Some(levels) = args.proxy_component_log_level {
        tracing::debug!(levels, "this proxy has none of Envoy's components");
    }
    if let Some(domain) = args
        .domain
        .filter(|domain| !domain.starts_with(&bootstrap.namespace))
    {
        tracing::warn!(
            domain,
            namespace = bootstrap.namespace,
            "--domain is not of the pod's namespace"
        );
    }
    let shutdown = shutdown::on_signal()?;
    Box::pin(crate::run(bootstrap, Some(log), shutdown)).await
}

/// The role in `proxy <role> ...`, which injection gave.
fn injected_role(injected: &[String]) -> anyhow::Result<Role> {
    match injected {
        [command, role, ..] if command == "proxy" => Role::parse(role).map_err(anyhow::Error::msg),
        _ => Ok(Role::Sidecar),
    }
}

async fn stock_envoy(options: envoy::Options, role: Role) -> anyhow::Result<ExitCode> {
    let mut bootstrap = Bootstrap::from_process()?;
    bootstrap.role = role;
    let shutdown = shutdown::on_signal()?;
    Ok(ExitCode::from(
        Box::pin(envoy::agent(bootstrap, options, shutdown)).await?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_injected_pods() {
        for line in [
            "pilot-agent proxy sidecar --domain default.svc.cluster.local --proxyLogLevel=warning --proxyComponentLogLevel=misc:error --log_output_level=default:info",
            "pilot-agent proxy router --domain istio-system.svc.cluster.local --proxyLogLevel=warning",
            "pilot-agent request --debug-port=15020 POST drain",
            "pilot-agent request GET config_dump",
            "pilot-agent wait",
            "pilot-agent istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x= -b * -d 15090,15021,15020 --log_output_level=default:info",
            "meltemi-proxy capture remove",
            "pilot-agent envoy --envoy-binary /usr/local/bin/envoy",
            "pilot-agent envoy proxy sidecar --domain default.svc.cluster.local --proxyLogLevel=warning",
            "meltemi-proxy sds --sds-socket /tmp/s --write-bootstrap /tmp/b.json",
            "meltemi-proxy curl -sS http://reviews:9080/",
        ] {
            let parsed = Program::try_parse_from(line.split(' '));
            assert!(
                parsed.is_ok(),
                "{line}: {}",
                parsed.err().map(|e| e.to_string()).unwrap_or_default()
            );
        }
    }
}
