//! One group of tests with one pair of proxies.

mod config;

use std::time::Duration;

use anyhow::Context as _;

use crate::load::tls::{Caller, Terms};
use crate::load::{self, Drive, Kind, Lane, Outcome, Target, Window, bytes};
use crate::metric::Metric;
use crate::peer::{Cpus, Fleet, Pair, Peer, Protocol};
use crate::plan::{Group, Test, Work};
use crate::rig::{Process, Rig, Usage};

/// Test, metric, value.
type Value = (&'static str, Metric, f64);

/// Before its memory is looked at, a proxy that has answered once rests for so long.
const REST: Duration = Duration::from_secs(1);
/// Connections that handshakes are made on at the same time.
const HANDSHAKING: usize = 8;

/// Measures a group. A test that fails is told in `failures` and leaves its values out; the others go on.
///
/// # Errors
/// A proxy does not start.
pub(crate) fn group(
    rig: &Rig,
    fleet: &Fleet<'_>,
    peer: Peer,
    group: &Group,
    window: Window,
    failures: &mut Vec<String>,
) -> anyhow::Result<Vec<Value>> {
    let mut bench = Bench {
        rig,
        fleet,
        peer,
        protocol: group.protocol,
        window,
    };
    if let [Test { name, work }] = group.tests[..] {
        match work {
            Work::TwoWorkers { kind } => return bench.two_workers(name, kind),
            Work::Push { services } => return config::push(rig, fleet, peer, name, services),
            Work::OnDemand { services } => {
                return config::on_demand(rig, fleet, peer, name, services);
            }
            _ => {}
        }
    }
    let mut pair = bench.start(1, Cpus::One)?;
    let mut values = Vec::new();
    for test in &group.tests {
        match bench.test(&mut pair, test) {
            Ok(measured) => {
                let measured = measured.into_iter();
                values.extend(measured.map(|(metric, value)| (test.name, metric, value)));
            }
            Err(error) => failures.push(format!("{}: {}: {error:#}", peer.name(), test.name)),
        }
    }
    Ok(values)
}

struct Bench<'run> {
    rig: &'run Rig,
    fleet: &'run Fleet<'run>,
    peer: Peer,
    protocol: Protocol,
    window: Window,
}

impl Bench<'_> {
    /// Starts a pair and waits until it serves.
    fn start(&self, workers: usize, cpus: Cpus) -> anyhow::Result<Pair> {
        let pair = self.fleet.start(self.peer, self.protocol, workers, cpus)?;
        self.answered()?;
        Ok(pair)
    }

    fn answered(&self) -> anyhow::Result<Duration> {
        let (target, kind) = (self.target(), self.protocol.kind());
        self.rig
            .load()
            .block_on(|| load::until_answered(target, kind))?
    }

    fn target(&self) -> Target {
        let port = self.protocol.port();
        if self.peer == Peer::Direct {
            Target::Direct(port)
        } else {
            Target::Mesh(port)
        }
    }

    fn test(&mut self, pair: &mut Pair, test: &Test) -> anyhow::Result<Vec<(Metric, f64)>> {
        let has_proxies = self.peer != Peer::Direct;
        match test.work {
            Work::Empty
            | Work::Idle { .. }
            | Work::ColdStart
            | Work::TwoWorkers { .. }
            | Work::Push { .. }
            | Work::OnDemand { .. }
            | Work::Handshakes(_)
                if !has_proxies =>
            {
                Ok(Vec::new())
            }
            Work::Empty => {
                self.rig.load().pause(REST)?;
                Ok(vec![resident(pair)?])
            }
            Work::Requests {
                kind,
                drive,
                connections,
                streams,
            } => {
                let outcome = self.requests(pair, kind, drive, connections, streams)?;
                let mut values = latencies(&outcome);
                if has_proxies {
                    values.insert(0, (Metric::CpuPer1000, outcome.cpu_per_1000()));
                    if matches!(drive, Drive::Saturate) {
                        values.push(resident(pair)?);
                    }
                }
                Ok(values)
            }
            Work::Download { streams } => self.download(pair, streams),
            Work::Idle { connections } => {
                let target = self.target();
                let usage = || pair.usage();
                let each = self
                    .rig
                    .load()
                    .block_on(|| bytes::idle(target, connections, &usage))??;
                Ok(vec![(Metric::BytesEach, each)])
            }
            Work::Handshakes(terms) => self.handshakes(pair, terms),
            Work::ColdStart => {
                drop(pair.a.take());
                let start = tokio::time::Instant::now();
                pair.a = Some(self.fleet.start_a(self.peer, self.protocol)?);
                self.answered()?;
                Ok(vec![(
                    Metric::Milliseconds,
                    start.elapsed().as_secs_f64() * 1000.0,
                )])
            }
            Work::TwoWorkers { .. } | Work::Push { .. } | Work::OnDemand { .. } => {
                anyhow::bail!("it is a group of its own")
            }
        }
    }

    fn requests(
        &self,
        pair: &Pair,
        kind: Kind,
        drive: Drive,
        connections: usize,
        streams: usize,
    ) -> anyhow::Result<Outcome> {
        let (target, window) = (self.target(), self.window);
        let usage = || pair.usage();
        let outcome = self.rig.load().block_on(|| async {
            let lanes = load::open(target, kind, connections, streams).await?;
            load::run(lanes, drive, window, &usage).await
        })??;
        checked(outcome)
    }

    fn download(&self, pair: &Pair, streams: usize) -> anyhow::Result<Vec<(Metric, f64)>> {
        let (target, window) = (self.target(), self.window);
        let usage = || pair.usage();
        let download = || bytes::download(target, streams, window, &usage);
        let carried = self.rig.load().block_on(download)??;
        let mut values = vec![(Metric::MegabytesPerSecond, carried.megabytes_per_second)];
        if self.peer != Peer::Direct {
            values.insert(0, (Metric::CpuPerGb, carried.cpu_per_gb));
        }
        Ok(values)
    }

    /// Proxy A as the client of our TLS server, then proxy B as the server of our TLS client.
    fn handshakes(&self, pair: &Pair, terms: Terms) -> anyhow::Result<Vec<(Metric, f64)>> {
        let window = self.window;
        let measure = |process: &Option<Process>, lanes: Vec<Lane>| {
            let process = process.as_ref().context("no proxy")?;
            let usage = || process.usage();
            let run = || load::run(lanes, Drive::Saturate, window, &usage);
            checked(self.rig.load().block_on(run)??)
        };
        let connecting = (0..HANDSHAKING)
            .map(|_| Lane::Connections(self.target()))
            .collect();
        let a = measure(&pair.a, connecting)?;
        let caller = Caller::new(self.fleet.pki(), terms)?;
        let calling = (0..HANDSHAKING)
            .map(|_| Lane::Handshakes(caller.clone()))
            .collect();
        let b = measure(&pair.b, calling)?;
        // One CPU serves both in a mesh on one node.
        let per_second = 1.0 / (1.0 / a.per_second() + 1.0 / b.per_second());
        Ok(vec![
            (Metric::CpuPer1000, a.cpu_per_1000() + b.cpu_per_1000()),
            (Metric::PerSecond, per_second),
        ])
    }

    fn two_workers(&mut self, name: &'static str, kind: Kind) -> anyhow::Result<Vec<Value>> {
        let (connections, streams) = if kind == Kind::Http2 {
            (4, 16)
        } else {
            (64, 1)
        };
        let mut cpu = Vec::new();
        for workers in [1, 2] {
            let pair = self.start(workers, Cpus::Both)?;
            let outcome = self.requests(&pair, kind, Drive::Saturate, connections, streams)?;
            cpu.push(outcome.cpu_per_1000());
        }
        let [one, two] = cpu[..] else {
            anyhow::bail!("two measurements were made");
        };
        Ok(vec![(name, Metric::OverOneWorker, two / one)])
    }
}

fn checked(outcome: Outcome) -> anyhow::Result<Outcome> {
    let first = outcome
        .first_failure
        .as_deref()
        .unwrap_or("too many were due at once");
    anyhow::ensure!(
        outcome.errors == 0,
        "{} failures, the first: {first}",
        outcome.errors
    );
    anyhow::ensure!(outcome.requests > 0, "nothing was answered");
    Ok(outcome)
}

fn latencies(outcome: &Outcome) -> Vec<(Metric, f64)> {
    vec![
        (Metric::PerSecond, outcome.per_second()),
        (Metric::P50, outcome.quantile(0.5)),
        (Metric::P90, outcome.quantile(0.9)),
        (Metric::P99, outcome.quantile(0.99)),
        (Metric::P999, outcome.quantile(0.999)),
    ]
}

/// The mean of the two.
fn resident(pair: &Pair) -> anyhow::Result<(Metric, f64)> {
    let Usage { resident_bytes, .. } = pair.usage()?;
    Ok((Metric::ResidentBytes, load::to_f64(resident_bytes) / 2.0))
}
