//! The control plane with many services and many proxies: memory, CPU, and how long a change takes to reach a proxy.
//!
//! The proxies are streams of this process that subscribe as an Envoy does: all clusters and listeners, then endpoints and
//! routes by the names found there.

mod mesh;
mod subscriber;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde_json::json;
use tokio::sync::mpsc;

use crate::pki::Pki;
use crate::rig::{Process, Usage};
use mesh::Mesh;
use subscriber::{Arrival, Subscriber};

/// The most memory for 1,000 services of five endpoints and 200 proxies.
const RESIDENT_TARGET_BYTES: u64 = 150 << 20;
const DELAY_TARGET: Duration = Duration::from_millis(100);
/// Everything is sent when nothing has come for so long.
const REST: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(300);
/// How long one change may take before it counts as lost.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// Arrivals that wait to be counted.
const ARRIVAL_LIMIT: usize = 4096;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Services in the mesh
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Endpoints of each
    #[arg(long, default_value_t = 5)]
    endpoints: usize,
    /// Connected proxies, each with the full set
    #[arg(long, default_value_t = 200)]
    proxies: usize,
    /// Namespaces over which services and proxies are spread
    #[arg(long, default_value_t = 10)]
    namespaces: usize,
    /// Endpoint changes, one after the other
    #[arg(long, default_value_t = 100)]
    changes: usize,
    /// Write the figures here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The `meltemi` under test
    #[arg(long, value_name = "FILE")]
    control_plane: PathBuf,
    /// Keep the configuration and the log of the control plane here
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// # Errors
/// The control plane does not start, or does not send what it should.
pub(crate) fn run(options: &Options) -> anyhow::Result<std::process::ExitCode> {
    let temporary = tempfile::tempdir().context("making a folder")?;
    let folder = options.keep.as_deref().unwrap_or_else(|| temporary.path());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(measure(options, folder))
}

async fn measure(
    options: &Options,
    folder: &std::path::Path,
) -> anyhow::Result<std::process::ExitCode> {
    let pki = Pki::found(&folder.join("state"))?;
    let mesh = Mesh::write(
        &folder.join("config"),
        options.services,
        options.endpoints,
        options.namespaces,
    )?;
    let plane = ControlPlane::start(options, &pki, folder, &mesh)?;
    plane.until_ready().await?;
    let alone = plane.process.usage()?;

    let (sender, mut arrivals) = mpsc::channel(ARRIVAL_LIMIT);
    let connect = Arc::new(subscriber::Way::new(&pki, plane.xds)?);
    let mut running = tokio::task::JoinSet::new();
    for index in 0..options.proxies {
        let subscriber = Subscriber::new(index, options.namespaces, &pki)?;
        running.spawn(subscriber.run(Arc::clone(&connect), sender.clone()));
    }
    let started = Instant::now();
    let initial = settle(&mut arrivals, &mut running).await?;
    let connected = started.elapsed().saturating_sub(REST);
    let full = plane.process.usage()?;

    let mut delays = Histogram::<u64>::new(3)?;
    for change in 0..options.changes {
        let name = mesh.change_endpoints(change)?;
        let noticed = Instant::now();
        let mut missing = options.proxies;
        while missing > 0 {
            let arrival = tokio::time::timeout(CHANGE_PATIENCE, arrivals.recv()).await;
            let arrival = arrival.context("a change did not reach every proxy")?;
            let arrival = arrival.context("no proxy is left")?;
            if arrival.endpoints.contains(&name) {
                let delay = arrival.at.saturating_duration_since(noticed);
                delays.record(u64::try_from(delay.as_micros())?)?;
                missing -= 1;
            }
        }
    }
    let changed = plane.process.usage()?;
    let figures = Figures {
        alone,
        full,
        changed,
        connected,
        initial,
        changes: options.changes,
        delays,
    };
    figures.print(options);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&figures.json(options))?)?;
    }
    Ok(std::process::ExitCode::from(u8::from(!figures.hold())))
}

/// Waits until nothing comes any more; the number of resources that came.
async fn settle(
    arrivals: &mut mpsc::Receiver<Arrival>,
    running: &mut tokio::task::JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<usize> {
    let started = Instant::now();
    let mut resources = 0;
    loop {
        tokio::select! {
            arrival = tokio::time::timeout(REST, arrivals.recv()) => match arrival {
                Ok(arrival) => resources += arrival.context("no proxy is left")?.resources,
                Err(_rest) if resources > 0 => return Ok(resources),
                Err(_rest) => {}
            },
            Some(ended) = running.join_next() => ended?.context("a proxy's stream ended")?,
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "the proxies do not get their configuration"
        );
    }
}

struct ControlPlane {
    process: Process,
    xds: std::net::SocketAddr,
    monitoring: std::net::SocketAddr,
}

impl ControlPlane {
    fn start(
        options: &Options,
        pki: &Pki,
        folder: &std::path::Path,
        mesh: &Mesh,
    ) -> anyhow::Result<Self> {
        let (xds, monitoring) = (free_address()?, free_address()?);
        let log = std::fs::File::create(folder.join("control-plane.log"))?;
        let mut command = std::process::Command::new(&options.control_plane);
        command.arg("control-plane");
        command.arg("--config-dir").arg(mesh.folder());
        command.arg("--state-dir").arg(pki.state());
        command.arg("--token-issuer-key").arg(pki.token_keys());
        command.args(["--xds-addr", &xds.to_string()]);
        command.args(["--monitoring-addr", &monitoring.to_string()]);
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Self {
            process: Process::spawn(command)?,
            xds,
            monitoring,
        })
    }

    async fn until_ready(&self) -> anyhow::Result<()> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let ask = async || -> anyhow::Result<String> {
            let mut stream = tokio::net::TcpStream::connect(self.monitoring).await?;
            let request = "GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            Ok(answer)
        };
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if ask().await.unwrap_or_default().starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("the control plane does not become ready")
    }
}

/// A port of the loopback that is free now.
fn free_address() -> anyhow::Result<std::net::SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

struct Figures {
    alone: Usage,
    full: Usage,
    changed: Usage,
    connected: Duration,
    initial: usize,
    changes: usize,
    /// Microseconds from the change to its arrival at a proxy.
    delays: Histogram<u64>,
}

impl Figures {
    fn resident(&self) -> u64 {
        self.full.resident_bytes.max(self.changed.resident_bytes)
    }

    fn delay(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.delays.value_at_quantile(quantile))
    }

    fn per_change(&self) -> Duration {
        let spent = self.changed.cpu.saturating_sub(self.full.cpu);
        spent / u32::try_from(self.changes.max(1)).unwrap_or(u32::MAX)
    }

    fn hold(&self) -> bool {
        self.resident() <= RESIDENT_TARGET_BYTES && self.delay(0.99) <= DELAY_TARGET
    }

    fn print(&self, options: &Options) {
        let mebibytes = |bytes: u64| bytes >> 20;
        println!(
            "{} services of {} endpoints in {} namespaces, {} proxies with the full set\n",
            options.services, options.endpoints, options.namespaces, options.proxies
        );
        println!(
            "memory, services alone        {:>8} MiB",
            mebibytes(self.alone.resident_bytes)
        );
        println!(
            "memory, with the proxies      {:>8} MiB   (target: at most {})",
            mebibytes(self.resident()),
            mebibytes(RESIDENT_TARGET_BYTES)
        );
        println!(
            "first configuration           {:>8.1} s     {} resources, {:.1} s of CPU",
            self.connected.as_secs_f64(),
            self.initial,
            self.full.cpu.saturating_sub(self.alone.cpu).as_secs_f64()
        );
        println!(
            "an endpoint changes, p50/p99  {:>8.1} ms    {:.1} ms (target: at most {})",
            self.delay(0.5).as_secs_f64() * 1e3,
            self.delay(0.99).as_secs_f64() * 1e3,
            DELAY_TARGET.as_millis()
        );
        println!(
            "CPU of a change               {:>8.1} ms",
            self.per_change().as_secs_f64() * 1e3
        );
    }

    fn json(&self, options: &Options) -> serde_json::Value {
        json!({
            "services": options.services,
            "endpoints": options.endpoints,
            "namespaces": options.namespaces,
            "proxies": options.proxies,
            "residentBytesAlone": self.alone.resident_bytes,
            "residentBytes": self.resident(),
            "firstConfigurationSeconds": self.connected.as_secs_f64(),
            "firstConfigurationCpuSeconds": self.full.cpu.saturating_sub(self.alone.cpu).as_secs_f64(),
            "changeSecondsP50": self.delay(0.5).as_secs_f64(),
            "changeSecondsP99": self.delay(0.99).as_secs_f64(),
            "changeCpuSeconds": self.per_change().as_secs_f64(),
        })
    }
}
