//! A proxy under test: a process with listeners.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::configuration::{Line, bootstrap};
use super::control::ControlPlane;

/// How long a proxy may take to open its listeners.
const START_LIMIT: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// The proxies get one worker each, so that CPU figures compare.
const WORKERS: &str = "1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ours,
    Envoy,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "meltemi",
            Self::Envoy => "envoy",
        }
    }
}

/// Where the programs lie.
#[derive(Clone, Debug)]
pub struct Programs {
    pub proxy: PathBuf,
    pub envoy: Option<PathBuf>,
}

/// A running proxy; dropped, it ends.
pub struct Subject {
    pub kind: Kind,
    process: Child,
    addresses: HashMap<String, SocketAddr>,
    log: PathBuf,
    _control: Option<ControlPlane>,
    _folder: TempDir,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

impl Subject {
    /// Starts a proxy and waits until each of its listeners accepts.
    ///
    /// # Errors
    /// It cannot be started, or does not take its configuration.
    pub async fn start(kind: Kind, programs: &Programs, lines: &[Line]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("meltemi-conformance-")
            .tempdir()?;
        let lines = with_addresses(lines).await?;
        let log = folder.path().join("log");
        let (mut command, control) = match kind {
            Kind::Ours => {
                let control = ControlPlane::start(&lines, folder.path()).await?;
                (
                    our_command(programs, folder.path(), control.address),
                    Some(control),
                )
            }
            Kind::Envoy => (envoy_command(programs, folder.path(), &lines)?, None),
        };
        let output = File::create(&log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true);
        let process = command
            .spawn()
            .with_context(|| format!("cannot start {}", kind.name()))?;
        let addresses = lines
            .into_iter()
            .map(|(line, address)| (line.name, address))
            .collect();
        let mut subject = Self {
            kind,
            process,
            addresses,
            log,
            _control: control,
            _folder: folder,
        };
        subject.wait_until_open().await?;
        Ok(subject)
    }

    async fn wait_until_open(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        for address in self.addresses.values() {
            while TcpStream::connect(address).await.is_err() {
                if let Some(control) = &mut self._control
                    && let Ok(reason) = control.rejected.try_recv()
                {
                    bail!("the proxy rejects its configuration: {reason}");
                }
                if Instant::now() > deadline || self.process.try_wait()?.is_some() {
                    bail!(
                        "{} does not listen; its log:\n{}",
                        self.kind.name(),
                        self.log()
                    );
                }
                tokio::time::sleep(LOOK_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Where a line's listener is.
    ///
    /// # Panics
    /// There is no such line.
    pub fn address(&self, line: &str) -> SocketAddr {
        self.addresses[line]
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether the process still runs.
    pub fn lives(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    /// Lets the peak of its memory begin anew.
    ///
    /// # Errors
    /// It has ended.
    pub fn forget_peak(&self) -> Result<()> {
        let pid = self.process.id().context("the process has ended")?;
        Ok(std::fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
    }

    /// What the process has used since it began.
    ///
    /// # Errors
    /// It has ended.
    pub fn usage(&self) -> Result<Usage> {
        let pid = self.process.id().context("the process has ended")?;
        Usage::of(pid)
    }
}

/// CPU time and memory of a process.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub resident_kib: u64,
    /// The most it ever held.
    pub peak_kib: u64,
}

impl Usage {
    fn of(pid: u32) -> Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold blanks; utime and stime are the 12th and 13th field after it.
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        let ticks = |at: usize| {
            fields
                .get(at)
                .and_then(|t| t.parse::<f64>().ok())
                .unwrap_or_default()
        };
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line
                .and_then(|line| line.split_whitespace().next())
                .and_then(|n| n.parse().ok());
            number.unwrap_or_default()
        };
        #[allow(
            clippy::cast_precision_loss,
            reason = "clock ticks per second are a hundred"
        )]
        let per_second = per_second as f64;
        Ok(Self {
            cpu_seconds: (ticks(11) + ticks(12)) / per_second,
            resident_kib: kib("VmRSS:"),
            peak_kib: kib("VmHWM:"),
        })
    }
}

/// Gives each line a port that is free. Nobody else is in this network, so it stays free.
async fn with_addresses(lines: &[Line]) -> Result<Vec<(Line, SocketAddr)>> {
    let mut held = Vec::new();
    for line in lines {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = socket.local_addr()?;
        held.push((line.clone(), address, socket));
    }
    Ok(held
        .into_iter()
        .map(|(line, address, _)| (line, address))
        .collect())
}

fn our_command(programs: &Programs, root: &Path, control: SocketAddr) -> Command {
    let mut command = Command::new(&programs.proxy);
    command
        .args(["proxy", "sidecar", "--concurrency", WORKERS])
        .env_clear()
        .env("MELTEMI_ROOT", root)
        .env("POD_NAME", "subject")
        .env("POD_NAMESPACE", "default")
        .env("INSTANCE_IP", "127.0.0.1")
        .env(
            "PROXY_CONFIG",
            format!(r#"{{"discoveryAddress":"{control}"}}"#),
        );
    command
}

fn envoy_command(
    programs: &Programs,
    folder: &Path,
    lines: &[(Line, SocketAddr)],
) -> Result<Command> {
    let envoy = programs.envoy.as_ref().context("no stock Envoy is named")?;
    let path = folder.join("envoy.json");
    std::fs::write(&path, bootstrap(lines).to_string())?;
    let mut command = Command::new(envoy);
    command
        .args([
            "--concurrency",
            WORKERS,
            "--disable-hot-restart",
            "--log-level",
            "error",
            "-c",
        ])
        .arg(path);
    Ok(command)
}
