//! What configuration costs a proxy: the whole of a large mesh, or what its workload uses of one.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Value;
use crate::load::{self, Kind, Target};
use crate::metric::Metric;
use crate::peer::{Fleet, Peer, mesh};
use crate::rig::{Process, Rig, Usage};

/// A proxy has taken in what there is when it has rested for so long.
const REST: Duration = Duration::from_secs(1);
/// What it may spend while it rests: timers.
const RESTING: Duration = Duration::from_millis(5);
/// How long a push may take, the control plane's part included.
const PATIENCE: Duration = Duration::from_secs(240);
/// Envoy's and ours.
const ADMIN_PORT: u16 = 15000;
const ACTIVE: &str = "envoy_cluster_manager_active_clusters";
/// Those whose endpoints have not come.
const WARMING: &str = "envoy_cluster_manager_warming_clusters";

/// CPU time of taking in a mesh of so many services, and the memory that each takes.
pub(super) fn push(
    rig: &Rig,
    fleet: &Fleet<'_>,
    peer: Peer,
    test: &'static str,
    services: usize,
) -> anyhow::Result<Vec<Value>> {
    let mesh = fleet.mesh();
    resize(rig, fleet, &mesh, mesh::FEW)?;
    let Some(subscriber) = fleet.subscriber(peer)? else {
        return Ok(Vec::new());
    };
    let before = settled(rig, &subscriber.proxy, mesh::FEW)?;
    mesh.resize(services)?;
    let after = settled(rig, &subscriber.proxy, services)?;
    let cpu = after.cpu.saturating_sub(before.cpu);
    let grown = load::to_f64(after.resident_bytes) - load::to_f64(before.resident_bytes);
    let added = load::to_f64((services - mesh::FEW) as u64);
    Ok(vec![
        (test, Metric::CpuSeconds, cpu.as_secs_f64()),
        (test, Metric::BytesEach, grown / added),
    ])
}

/// What a proxy that asks for what it uses takes more in a mesh of so many services than in a small one.
pub(super) fn on_demand(
    rig: &Rig,
    fleet: &Fleet<'_>,
    peer: Peer,
    test: &'static str,
    services: usize,
) -> anyhow::Result<Vec<Value>> {
    if peer != Peer::Ours {
        return Ok(Vec::new());
    }
    let mesh = fleet.mesh();
    let mut resident = Vec::new();
    for size in [mesh::FEW, services] {
        resize(rig, fleet, &mesh, size)?;
        let pair = fleet.on_demand()?;
        for index in 0..mesh::CALLED {
            let answered = || load::until_answered(Target::Member(index), Kind::Http1);
            rig.load().block_on(answered)??;
        }
        let proxy = pair.a.as_ref().context("no proxy")?;
        resident.push(load::to_f64(settled(rig, proxy, 1)?.resident_bytes));
    }
    let [small, large] = resident[..] else {
        anyhow::bail!("two measurements were made");
    };
    Ok(vec![(test, Metric::GrowthBytes, large - small)])
}

/// Changes the mesh and waits until the control plane knows, so that what starts now does not begin with another one.
fn resize(rig: &Rig, fleet: &Fleet<'_>, mesh: &mesh::Mesh, services: usize) -> anyhow::Result<()> {
    mesh.resize(services)?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let before = fleet.control_plane().usage()?;
        rig.load().pause(REST)?;
        let spent = fleet
            .control_plane()
            .usage()?
            .cpu
            .saturating_sub(before.cpu);
        if spent < RESTING {
            return Ok(());
        }
    }
    anyhow::bail!("the control plane does not rest")
}

/// What the proxy has used when it has so many clusters and rests; what it spent on being asked does not count.
fn settled(rig: &Rig, proxy: &Process, clusters: usize) -> anyhow::Result<Usage> {
    let start = Instant::now();
    let mut asking = Duration::ZERO;
    loop {
        let before = proxy.usage()?;
        rig.load().pause(REST)?;
        let usage = proxy.usage()?;
        if usage.cpu.saturating_sub(before.cpu) < RESTING {
            let held = rig.load().run(complete_clusters).unwrap_or_default();
            if held >= clusters {
                let cpu = usage.cpu.saturating_sub(asking);
                return Ok(Usage { cpu, ..usage });
            }
            asking += proxy.usage()?.cpu.saturating_sub(usage.cpu);
        }
        anyhow::ensure!(
            start.elapsed() < PATIENCE,
            "the proxy does not hold {clusters} clusters"
        );
    }
}

/// The number of clusters with endpoints, by the proxy's own word.
fn complete_clusters() -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, ADMIN_PORT))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    write!(
        stream,
        "GET /stats/prometheus?filter=cluster_manager HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let gauge = |name: &str| -> anyhow::Result<usize> {
        let line = text.lines().find(|line| line.starts_with(name));
        let number = line.and_then(|line| line.rsplit(' ').next());
        Ok(number
            .with_context(|| format!("no {name}"))?
            .trim()
            .parse()?)
    };
    Ok(gauge(ACTIVE)?.saturating_sub(gauge(WARMING)?))
}
