//! `/clusters`: hosts with their health and numbers, in Envoy's text and JSON.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meltemi_proxy_core::runtime::Health;
use serde_json::{Value, json};

use super::config_dump::socket_address;
use crate::upstream::{Host, Upstream};
use crate::worker::Shared;

/// All clusters by name, each compiled when it is its turn if it is not in use.
fn sorted(shared: &Shared) -> impl Iterator<Item = Arc<Upstream>> {
    let clusters = shared.store.clusters.load();
    let mut all: Vec<_> = clusters
        .iter()
        .map(|(name, known)| (name.clone(), known.clone()))
        .collect();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all.into_iter().filter_map(|(_, known)| known.shown())
}

pub(super) fn text(shared: &Shared) -> String {
    let mut out = String::new();
    for upstream in sorted(shared) {
        let name = &upstream.config.name;
        for (priority, thresholds) in [
            ("default", upstream.thresholds(false)),
            ("high", upstream.thresholds(true)),
        ] {
            let limits = [
                ("max_connections", thresholds.max_connections),
                ("max_pending_requests", thresholds.max_pending_requests),
                ("max_requests", thresholds.max_requests),
                ("max_retries", thresholds.max_retries),
            ];
            for (what, limit) in limits {
                put(
                    &mut out,
                    &format!("{name}::{priority}_priority::{what}::{limit}"),
                );
            }
        }
        put(&mut out, &format!("{name}::added_via_api::true"));
        for host in upstream.hosts() {
            let at = format!("{name}::{}", host.address);
            for (what, value) in numbers(&host) {
                put(&mut out, &format!("{at}::{what}::{value}"));
            }
            put(
                &mut out,
                &format!("{at}::hostname::{}", host.endpoint.hostname),
            );
            put(&mut out, &format!("{at}::health_flags::{}", flags(&host)));
            put(&mut out, &format!("{at}::weight::{}", host.endpoint.weight));
            put(
                &mut out,
                &format!("{at}::region::{}", host.endpoint.locality.region),
            );
            put(
                &mut out,
                &format!("{at}::zone::{}", host.endpoint.locality.zone),
            );
            put(
                &mut out,
                &format!("{at}::sub_zone::{}", host.endpoint.locality.sub_zone),
            );
            put(
                &mut out,
                &format!("{at}::priority::{}", host.endpoint.priority),
            );
        }
    }
    out
}

fn put(out: &mut String, line: &str) {
    let result = writeln!(out, "{line}");
    debug_assert!(result.is_ok(), "a String takes every write");
}

fn numbers(host: &Host) -> [(&'static str, u64); 8] {
    let state = &host.state;
    [
        (
            "cx_active",
            u64::from(state.active_connections.load(Ordering::Relaxed)),
        ),
        ("cx_connect_fail", state.connect_failures.get()),
        ("cx_total", state.connections.get()),
        (
            "rq_active",
            u64::from(state.active_requests.load(Ordering::Relaxed)),
        ),
        ("rq_error", state.errors.get()),
        ("rq_success", state.successes.get()),
        ("rq_timeout", state.timeouts.get()),
        ("rq_total", state.requests.get()),
    ]
}

fn flags(host: &Host) -> String {
    let mut flags = Vec::new();
    if host.state.outlier.is_ejected() {
        flags.push("/failed_outlier_check");
    }
    match host.endpoint.health {
        Health::Healthy => {}
        Health::Degraded => flags.push("/degraded_eds_health"),
        Health::Unhealthy | Health::Draining => flags.push("/failed_eds_health"),
    }
    if flags.is_empty() {
        "healthy".to_owned()
    } else {
        flags.concat()
    }
}

pub(super) fn json(shared: &Shared) -> Value {
    let statuses: Vec<Value> = sorted(shared).map(|upstream| cluster(&upstream)).collect();
    json!({ "cluster_statuses": statuses })
}

fn cluster(upstream: &Upstream) -> Value {
    let hosts: Vec<Value> = upstream
        .hosts()
        .iter()
        .map(|host| self::host(host))
        .collect();
    let breakers: Vec<Value> = [
        ("DEFAULT", upstream.thresholds(false)),
        ("HIGH", upstream.thresholds(true)),
    ]
    .map(|(priority, thresholds)| {
        json!({
            "priority": priority,
            "max_connections": thresholds.max_connections,
            "max_pending_requests": thresholds.max_pending_requests,
            "max_requests": thresholds.max_requests,
            "max_retries": thresholds.max_retries,
        })
    })
    .into();
    json!({
        "name": &*upstream.config.name,
        "observability_name": &*upstream.config.stat_name,
        "added_via_api": true,
        "host_statuses": hosts,
        "circuit_breakers": { "thresholds": breakers },
    })
}

fn host(host: &Host) -> Value {
    let stats: Vec<Value> = numbers(host)
        .iter()
        .map(|(name, value)| {
            let kind = if name.ends_with("active") {
                "GAUGE"
            } else {
                "COUNTER"
            };
            json!({ "name": name, "value": value.to_string(), "type": kind })
        })
        .collect();
    let eds = match host.endpoint.health {
        Health::Healthy => "HEALTHY",
        Health::Degraded => "DEGRADED",
        Health::Unhealthy => "UNHEALTHY",
        Health::Draining => "DRAINING",
    };
    let mut health = json!({ "eds_health_status": eds });
    if host.state.outlier.is_ejected() {
        health["failed_outlier_check"] = Value::Bool(true);
    }
    let locality = &host.endpoint.locality;
    json!({
        "address": socket_address(host.address),
        "stats": stats,
        "health_status": health,
        "weight": host.endpoint.weight,
        "hostname": &*host.endpoint.hostname,
        "priority": host.endpoint.priority,
        "locality": { "region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone },
    })
}
