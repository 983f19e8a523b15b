//! A stock Envoy in the same place, with a static configuration of the shape that Istio gives a sidecar: HTTP connection
//! manager with grpc_stats, fault, cors and router, a retry policy, XFCC, and upstream SPIFFE names checked.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::{Fleet, Protocol};
use crate::pki::{Account, KeyType};
use crate::rig::{BACK, INBOUND, OUTBOUND};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub(super) fn pair(
    fleet: &Fleet<'_>,
    protocol: Protocol,
    workers: usize,
) -> anyhow::Result<[Command; 2]> {
    let a = bootstrap(
        OUTBOUND,
        protocol,
        Side::Outbound,
        None,
        &cluster(
            protocol,
            &BACK.to_string(),
            protocol.port().target(),
            Some(&upstream_tls(fleet, protocol)),
        ),
    );
    let b = bootstrap(
        INBOUND,
        protocol,
        Side::Inbound,
        Some(&downstream_tls(fleet, protocol)),
        &cluster(protocol, "127.0.0.1", protocol.port_b().target(), None),
    );
    Ok([
        command(fleet, "envoy-a", &a, workers)?,
        command(fleet, "envoy-b", &b, workers)?,
    ])
}

/// Envoy with a bootstrap that leads to the control plane.
pub(super) fn subscriber(fleet: &Fleet<'_>, bootstrap: &Path) -> anyhow::Result<Command> {
    run(fleet, "envoy-subscriber", bootstrap, 1)
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Outbound,
    Inbound,
}

fn command(
    fleet: &Fleet<'_>,
    name: &str,
    config: &Value,
    workers: usize,
) -> anyhow::Result<Command> {
    let path = fleet.write(&format!("{name}.json"), &config.to_string())?;
    run(fleet, name, &path, workers)
}

fn run(fleet: &Fleet<'_>, name: &str, config: &Path, workers: usize) -> anyhow::Result<Command> {
    let program = fleet.programs.envoy.as_ref().context("Envoy is not here")?;
    let mut command = fleet.command(program, &format!("{name}.log"))?;
    command
        .arg("-c")
        .arg(config)
        .args(["--concurrency", &workers.to_string()])
        .args(["--disable-hot-restart", "--log-level", "error"]);
    Ok(command)
}

fn bootstrap(
    port: u16,
    protocol: Protocol,
    side: Side,
    tls: Option<&Value>,
    cluster: &Value,
) -> Value {
    let filter = match protocol {
        Protocol::Tcp | Protocol::Tls(_) => json!({
            "name": "tcp",
            "typed_config": {
                "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                "stat_prefix": "server", "cluster": "server"
            }
        }),
        Protocol::Http1 | Protocol::Http2 => json!({ "name": "http", "typed_config": http(side) }),
    };
    let mut chain = json!({ "filters": [filter] });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    json!({
        "static_resources": {
            "listeners": [{
                "name": "bench",
                "address": address("0.0.0.0", port),
                "filter_chains": [chain],
            }],
            "clusters": [cluster],
        }
    })
}

fn address(ip: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": ip, "port_value": port } })
}

fn http(side: Side) -> Value {
    let filter = |name: &str, message: &str| json!({ "name": name, "typed_config": { "@type": format!("{TYPES}.filters.http.{message}") } });
    let mut manager = json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "server",
        "use_remote_address": side == Side::Outbound,
        "normalize_path": true,
        "route_config": {
            "virtual_hosts": [{
                "name": "server", "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "route": {
                        "cluster": "server", "timeout": "0s",
                        "retry_policy": {
                            "retry_on": "connect-failure,refused-stream,unavailable,cancelled", "num_retries": 2
                        }
                    }
                }]
            }]
        },
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "http_filters": [
            filter("grpc_stats", "grpc_stats.v3.FilterConfig"),
            filter("fault", "fault.v3.HTTPFault"),
            filter("cors", "cors.v3.Cors"),
            filter("router", "router.v3.Router"),
        ],
    });
    if side == Side::Inbound {
        manager["forward_client_cert_details"] = json!("APPEND_FORWARD");
        manager["set_current_client_cert_details"] =
            json!({ "subject": true, "uri": true, "dns": true });
    }
    manager
}

fn cluster(protocol: Protocol, ip: &str, port: u16, tls: Option<&Value>) -> Value {
    let mut cluster = json!({
        "name": "server", "type": "STATIC", "connect_timeout": "10s", "lb_policy": "LEAST_REQUEST",
        "circuit_breakers": { "thresholds": [{
            "max_connections": u32::MAX, "max_pending_requests": u32::MAX,
            "max_requests": u32::MAX, "max_retries": u32::MAX
        }] },
        "load_assignment": { "cluster_name": "server", "endpoints": [{
            "lb_endpoints": [{ "endpoint": { "address": address(ip, port) } }]
        }] },
    });
    if protocol == Protocol::Http2 {
        let options = format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions");
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options, "explicit_http_config": { "http2_protocol_options": {} }
            }
        });
    }
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls.clone();
    }
    cluster
}

fn upstream_tls(fleet: &Fleet<'_>, protocol: Protocol) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"),
        "sni": "outbound_.80_._.server.bench.svc.cluster.local",
        "common_tls_context": context(fleet, Account::Client, Account::Server, protocol),
    } })
}

fn downstream_tls(fleet: &Fleet<'_>, protocol: Protocol) -> Value {
    json!({ "name": "tls", "typed_config": {
        "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"),
        "require_client_certificate": true,
        "common_tls_context": context(fleet, Account::Server, Account::Client, protocol),
    } })
}

fn context(fleet: &Fleet<'_>, own: Account, peer: Account, protocol: Protocol) -> Value {
    let files = fleet.pki.files(own, KeyType::EcdsaP256);
    let alpn = match protocol {
        Protocol::Http1 => "http/1.1",
        Protocol::Http2 => "h2",
        Protocol::Tcp | Protocol::Tls(_) => "istio",
    };
    json!({
        "alpn_protocols": [alpn],
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [{
            "certificate_chain": { "filename": files.certificate },
            "private_key": { "filename": files.key },
        }],
        "validation_context": {
            "trusted_ca": { "filename": fleet.pki.root() },
            "match_typed_subject_alt_names": [{ "san_type": "URI", "matcher": { "exact": peer.spiffe() } }],
        },
    })
}
