//! Statistics in Prometheus' and in Envoy's plain format.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use super::Admin;
use crate::telemetry::labels::label;
use crate::telemetry::put;

/// Every series of the proxy itself.
pub(crate) fn prometheus(admin: &Admin) -> String {
    let mut out = String::with_capacity(16 * 1024);
    let shared = &admin.shared;
    shared.telemetry.encode(&mut out);
    let live = u8::from(admin.readiness.is_ready() && !shared.drain.is_draining());
    put(&mut out, "envoy_server_live", "gauge", "", live);
    put(
        &mut out,
        "envoy_server_uptime",
        "gauge",
        "",
        admin.started.elapsed().as_secs(),
    );
    put(
        &mut out,
        "envoy_server_concurrency",
        "gauge",
        "",
        admin.bootstrap.workers,
    );
    put(
        &mut out,
        "envoy_http_downstream_cx_active",
        "gauge",
        "",
        shared.drain.connections(),
    );
    let mut build = String::new();
    label(&mut build, "component", "proxy");
    label(&mut build, "tag", meltemi_process::VERSION);
    put(&mut out, "istio_build", "gauge", &build, 1);
    put(
        &mut out,
        "istio_agent_startup_duration_seconds",
        "gauge",
        "",
        shared.telemetry.startup_seconds(),
    );
    put(
        &mut out,
        "process_resident_memory_bytes",
        "gauge",
        "",
        resident_bytes(),
    );
    certificates(admin, &mut out);
    clusters(admin, &mut out);
    demand(admin, &mut out);
    out
}

/// Configuration that is asked for on first use.
fn demand(admin: &Admin, out: &mut String) {
    let Some(demand) = &admin.shared.store.demand else {
        return;
    };
    let counts = &demand.counts;
    let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    for (name, kind, value) in [
        ("meltemi_on_demand_entries", "gauge", read(&counts.entries)),
        (
            "meltemi_on_demand_waits_total",
            "counter",
            read(&counts.waits),
        ),
        (
            "meltemi_on_demand_timeouts_total",
            "counter",
            read(&counts.timeouts),
        ),
        (
            "meltemi_on_demand_refused_total",
            "counter",
            read(&counts.refused),
        ),
        (
            "meltemi_on_demand_evicted_total",
            "counter",
            read(&counts.evicted),
        ),
        (
            "meltemi_on_demand_expired_total",
            "counter",
            read(&counts.expired),
        ),
        (
            "meltemi_on_demand_wait_microseconds_total",
            "counter",
            read(&counts.waited_micros),
        ),
    ] {
        put(out, name, kind, "", value);
    }
}

fn certificates(admin: &Admin, out: &mut String) {
    let Some(credentials) = admin.shared.credentials.get() else {
        return;
    };
    let until = credentials.certificate.validity().not_after;
    let seconds = until
        .duration_since(SystemTime::now())
        .map_or(0, |left| left.as_secs());
    let mut labels = String::new();
    label(
        &mut labels,
        "resource_name",
        meltemi_core::names::SDS_WORKLOAD,
    );
    put(
        out,
        "istio_agent_cert_expiry_seconds",
        "gauge",
        &labels,
        seconds,
    );
}

/// Families of cluster metrics; only clusters that were used have series.
fn clusters(admin: &Admin, out: &mut String) {
    let known = admin.shared.store.clusters.load();
    let warming = known.values().filter(|known| !known.has_endpoints());
    for (state, count) in [("active", known.len()), ("warming", warming.count())] {
        let name = format!("envoy_cluster_manager_{state}_clusters");
        put(out, &name, "gauge", "", count);
    }
    let upstreams = admin.shared.store.upstreams_in_use();
    let mut rows: Vec<(String, [u64; 10])> = upstreams
        .iter()
        .filter_map(|upstream| {
            let mut labels = String::new();
            label(&mut labels, "cluster_name", &upstream.config.stat_name);
            let stats = &upstream.stats;
            let now = |gauge: &AtomicU32| u64::from(gauge.load(Ordering::Relaxed));
            let values = [
                now(&stats.active_connections),
                stats.connections.get(),
                stats.connect_failures.get(),
                stats.connection_overflows.get(),
                now(&stats.active_requests),
                now(&stats.pending_requests),
                stats.requests.get(),
                stats.retries.get(),
                stats.overflows.get(),
                stats.ejections.get(),
            ];
            values
                .iter()
                .any(|value| *value > 0)
                .then_some((labels, values))
        })
        .collect();
    rows.sort();
    let names = [
        ("envoy_cluster_upstream_cx_active", "gauge"),
        ("envoy_cluster_upstream_cx_total", "counter"),
        ("envoy_cluster_upstream_cx_connect_fail", "counter"),
        ("envoy_cluster_upstream_cx_overflow", "counter"),
        ("envoy_cluster_upstream_rq_active", "gauge"),
        ("envoy_cluster_upstream_rq_pending_active", "gauge"),
        ("envoy_cluster_upstream_rq_total", "counter"),
        ("envoy_cluster_upstream_rq_retry", "counter"),
        ("envoy_cluster_upstream_rq_pending_overflow", "counter"),
        ("envoy_cluster_outlier_detection_ejections_total", "counter"),
    ];
    for (i, (name, kind)) in names.iter().enumerate() {
        for (row, (labels, values)) in rows.iter().enumerate() {
            if row == 0 {
                out.push_str(&format!("# TYPE {name} {kind}\n"));
            }
            out.push_str(&format!("{name}{{{labels}}} {}\n", values[i]));
        }
    }
}

/// Envoy's `name: value` lines: the same samples, with labels after the name, and what users look for by Envoy's own name.
pub(super) fn plain(admin: &Admin, filter: Option<&str>) -> String {
    let samples = prometheus(admin);
    let samples = samples.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.filter_map(|line| line.rsplit_once(' '));
    let mut lines: String = samples
        .map(|(name, value)| format!("{name}: {value}\n"))
        .collect();
    admin.shared.telemetry.rbac.plain(&mut lines);
    let Some(filter) = filter else {
        return lines;
    };
    let chosen = lines.split_inclusive('\n');
    chosen.filter(|line| line.contains(filter)).collect()
}

/// The resident set of this process.
pub(super) fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| {
        text.split(' ')
            .nth(1)
            .and_then(|pages| pages.parse::<u64>().ok())
    });
    pages.unwrap_or(0) * 4096
}
