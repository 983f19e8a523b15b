//! What the proxy tells of its traffic: metrics, access log, evidence of TLS.

pub(crate) mod access_log;
pub(crate) mod labels;
pub(crate) mod peer;
pub(crate) mod rbac;
pub(crate) mod series;
pub(crate) mod tls;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use access_log::LogSink;
use labels::Service;
use meltemi_core::names;
use meltemi_pki::HandshakeInfo;
use parking_lot::Mutex;
use series::{Counter, Family, HttpSeries, TcpSeries};

/// All telemetry of the process, shared by its workers.
pub(crate) struct Telemetry {
    pub(crate) own: peer::Own,
    pub(crate) http: Family<HttpSeries>,
    pub(crate) tcp: Family<TcpSeries>,
    pub(crate) rbac: rbac::RbacFamily,
    pub(crate) hosts: Hosts,
    pub(crate) counters: Counters,
    pub(crate) tls: Arc<tls::Evidence>,
    pub(crate) log: LogSink,
    /// From the start of the process until it was first ready.
    startup: OnceLock<Duration>,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident => $name:literal,)*) => {
        /// Counters of the process without labels.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $field: Counter,)*
        }

        impl Counters {
            fn all(&self) -> Vec<(&'static str, &Counter)> {
                vec![$(($name, &self.$field),)*]
            }
        }
    };
}

counters! {
    no_filter_chain => "envoy_listener_no_filter_chain_match",
    downstream_handshake_failures => "envoy_listener_ssl_connection_error",
    downstream_connections => "envoy_http_downstream_cx_total",
    downstream_requests => "envoy_http_downstream_rq_total",
    refused_requests => "meltemi_refused_requests_total",
    /// HTTP/2 connections ended because a frame budget was used up (Envoy `inbound_*_frames_flood`).
    frame_floods => "meltemi_http2_frame_floods_total",
    /// Requests in which we failed; each ended alone.
    panics => "meltemi_request_panics_total",
    jwt_allowed => "envoy_http_jwt_authn_allowed",
    jwt_denied => "envoy_http_jwt_authn_denied",
    jwt_preflights => "envoy_http_jwt_authn_cors_preflight_bypassed",
    jwks_fetches => "envoy_http_jwt_authn_jwks_fetch_success",
    jwks_fetch_failures => "envoy_http_jwt_authn_jwks_fetch_failed",
    ext_authz_ok => "envoy_http_ext_authz_ok",
    ext_authz_denied => "envoy_http_ext_authz_denied",
    ext_authz_error => "envoy_http_ext_authz_error",
    ext_authz_invalid => "envoy_http_ext_authz_invalid",
    ext_authz_disabled => "envoy_http_ext_authz_disabled",
    ext_authz_failure_mode_allowed => "envoy_http_ext_authz_failure_mode_allowed",
    tcp_ext_authz_total => "envoy_ext_authz_tcp_total",
    tcp_ext_authz_ok => "envoy_ext_authz_tcp_ok",
    tcp_ext_authz_denied => "envoy_ext_authz_tcp_denied",
    tcp_ext_authz_error => "envoy_ext_authz_tcp_error",
    tcp_ext_authz_disabled => "envoy_ext_authz_tcp_disabled",
    tcp_ext_authz_failure_mode_allowed => "envoy_ext_authz_tcp_failure_mode_allowed",
    tcp_ext_authz_cx_closed => "envoy_ext_authz_tcp_cx_closed",
    unmirrored => "meltemi_unmirrored_requests_total",
    certificates => "istio_agent_cert_renewals_total",
    control_connections => "istio_agent_xds_connections_total",
    control_failures => "istio_agent_istiod_connection_failures",
    applied_updates => "istio_agent_xds_proxy_responses",
    rejected_resources => "istio_agent_xds_rejected_resources_total",
    /// Removals by a control plane that came back empty.
    refused_removals => "meltemi_refused_removals_total",
    scrapes => "istio_agent_scrapes_total",
    scrape_failures => "istio_agent_scrape_failures_total",
}

impl Telemetry {
    pub(crate) fn new(own: peer::Own, log: LogSink) -> Self {
        Self {
            own,
            http: Family::default(),
            tcp: Family::default(),
            rbac: rbac::RbacFamily::default(),
            hosts: Hosts::default(),
            counters: Counters::default(),
            tls: Arc::default(),
            log,
            startup: OnceLock::new(),
        }
    }

    /// Notes that the process is ready, for the first time or again.
    pub(crate) fn started_within(&self, startup: Duration) {
        self.startup.get_or_init(|| startup);
    }

    /// 0 until the process was ready.
    pub(crate) fn startup_seconds(&self) -> f64 {
        self.startup.get().map_or(0.0, Duration::as_secs_f64)
    }

    /// Appends every series of the proxy's own in the text exposition format.
    pub(crate) fn encode(&self, out: &mut String) {
        self.http.encode(out);
        self.tcp.encode(out);
        self.rbac.encode(out);
        for (name, counter) in self.counters.all() {
            put(out, name, "counter", "", counter.get());
        }
        put(
            out,
            "meltemi_access_log_dropped_total",
            "counter",
            "",
            self.log.dropped(),
        );
    }
}

/// Destinations that are no service: named after the cluster that takes or refuses what nobody knows.
const NO_SERVICE: [&str; 5] = [
    names::BLACKHOLE_CLUSTER,
    names::PASSTHROUGH_CLUSTER,
    names::INBOUND_PASSTHROUGH_CLUSTER,
    "InboundPassthroughClusterIpv4",
    "InboundPassthroughClusterIpv6",
];

/// What a route of Istio's for unknown destinations is called in metrics.
pub(crate) fn unknown_destination(route: &str) -> Option<&'static str> {
    match route {
        "block_all" => Some(names::BLACKHOLE_CLUSTER),
        "allow_any" => Some(names::PASSTHROUGH_CLUSTER),
        _ => None,
    }
}

/// The service that was called, as Istio's stats filter has it: the cluster's; where no service is known what the client
/// called it, and the workload itself at its own side.
fn destination_service<'a>(sides: &labels::Sides<'a>) -> Service<'a> {
    let by_route = sides.route.and_then(unknown_destination);
    let cluster = sides.cluster_name;
    let nobody = by_route.or_else(|| cluster.filter(|name| NO_SERVICE.contains(name)));
    let services = sides.cluster.map_or(&[][..], |cluster| &cluster.services);
    let host = sides.host.unwrap_or_default();
    let mut service = match (nobody, services.first()) {
        (None, Some(service)) => Service {
            host: &service.host,
            name: &service.name,
            namespace: &service.namespace,
        },
        (nobody, _) => Service {
            host,
            name: nobody.unwrap_or(host),
            namespace: "",
        },
    };
    if sides.inbound {
        let or = |value: &'a str, own: &'a str| if value.is_empty() { own } else { value };
        service.host = or(service.host, &sides.own.canonical_name);
        service.name = or(service.name, &sides.own.canonical_name);
        service.namespace = or(service.namespace, &sides.own.namespace);
    }
    service
}

/// Host names of requests that become labels; names beyond it do not, so that no client can use up the room of all series.
pub(crate) const HOST_LIMIT: usize = 200;

/// The names that stand in `destination_service` because a request bore them.
#[derive(Debug, Default)]
pub(crate) struct Hosts(Mutex<HashSet<Box<str>>>);

impl Hosts {
    /// Whether the name may be a label.
    pub(crate) fn admits(&self, host: &str) -> bool {
        let mut hosts = self.0.lock();
        hosts.contains(host) || (hosts.len() < HOST_LIMIT && hosts.insert(host.into()))
    }
}

/// `connection_security_policy`: only the destination knows what it received.
fn security(inbound: bool, handshake: Option<&HandshakeInfo>) -> &'static str {
    match (inbound, tls::mode(handshake)) {
        (false, _) => "unknown",
        (true, "mtls") => "mutual_tls",
        (true, _) => "none",
    }
}

/// Appends one sample with its type line.
pub(crate) fn put(
    out: &mut String,
    name: &str,
    kind: &str,
    labels: &str,
    value: impl std::fmt::Display,
) {
    let result = if labels.is_empty() {
        writeln!(out, "# TYPE {name} {kind}\n{name} {value}")
    } else {
        writeln!(out, "# TYPE {name} {kind}\n{name}{{{labels}}} {value}")
    };
    debug_assert!(result.is_ok(), "a String takes every write");
}
