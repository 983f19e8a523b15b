//! Resources as the control plane sends them, in proto-JSON, and what becomes of bad ones.

use std::net::SocketAddr;

use meltemi_proto::type_url;
use serde_json::{Value, json};

use super::mesh::{Authority, Sidecar};

pub(crate) const LOG: &str = "%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER% %UPSTREAM_REQUEST_ATTEMPT_COUNT%\n";

fn filters(inbound: bool) -> Value {
    let exchange = if inbound {
        json!({"downstreamDiscovery": [{"istioHeaders": {}}], "downstreamPropagation": [{"istioHeaders": {}}]})
    } else {
        json!({"upstreamDiscovery": [{"istioHeaders": {}}], "upstreamPropagation": [{"istioHeaders": {}}]})
    };
    let mut exchange = exchange;
    exchange["@type"] = type_url::PEER_METADATA.into();
    let alpn = json!({"@type": type_url::ISTIO_ALPN, "alpnOverride": [
        {"upstreamProtocol": "HTTP11", "alpnOverride": ["istio-http/1.1", "istio", "http/1.1"]},
        {"upstreamProtocol": "HTTP2", "alpnOverride": ["istio-h2", "istio", "h2"]}]});
    json!([
        {"name": "istio.metadata_exchange", "typedConfig": exchange},
        {"name": "istio.alpn", "typedConfig": alpn},
        {"name": "istio.stats", "typedConfig": {"@type": type_url::ISTIO_STATS}},
        {"name": "envoy.filters.http.router", "typedConfig": {"@type": type_url::ROUTER}},
    ])
}

pub(crate) fn manager(inbound: bool, route: Value) -> Value {
    json!({
        "@type": type_url::HTTP_CONNECTION_MANAGER,
        "statPrefix": "test",
        "routeConfig": {"name": "local", "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [route], "includeRequestAttemptCount": true}]},
        "httpFilters": filters(inbound),
        "serverName": if inbound { "istio-envoy" } else { "envoy" },
        "streamIdleTimeout": "0s",
        "forwardClientCertDetails": if inbound { "APPEND_FORWARD" } else { "SANITIZE" },
        "setCurrentClientCertDetails": {"subject": true, "uri": true},
        "upgradeConfigs": [{"upgradeType": "websocket"}],
        "normalizePath": true,
        "accessLog": [{"name": "envoy.access_loggers.file", "typedConfig": {
            "@type": type_url::FILE_ACCESS_LOG, "path": "/dev/stdout",
            "logFormat": {"textFormatSource": {"inlineString": LOG}}}}],
    })
}

pub(crate) fn sds(name: &str) -> Value {
    json!({"name": name, "sdsConfig": {"ads": {}, "resourceApiVersion": "V3"}})
}

fn downstream_tls(alpn: &[&str]) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typedConfig": {
        "@type": type_url::DOWNSTREAM_TLS,
        "requireClientCertificate": true,
        "commonTlsContext": {
            "alpnProtocols": alpn,
            "tlsCertificateSdsSecretConfigs": [sds("default")],
            "combinedValidationContext": {"defaultValidationContext": {}, "validationContextSdsSecretConfig": sds("ROOTCA")}}}})
}

fn upstream_tls(alpn: &[&str], peer: &str) -> Value {
    json!({"name": "envoy.transport_sockets.tls", "typedConfig": {
        "@type": type_url::UPSTREAM_TLS,
        "sni": "outbound_.80_._.echo.default.svc.cluster.local",
        "commonTlsContext": {
            "alpnProtocols": alpn,
            "tlsCertificateSdsSecretConfigs": [sds("default")],
            "combinedValidationContext": {
                "defaultValidationContext": {"matchTypedSubjectAltNames": [
                    {"sanType": "URI", "matcher": {"exact": format!("spiffe://cluster.local/ns/default/sa/{peer}")}}]},
                "validationContextSdsSecretConfig": sds("ROOTCA")}}}})
}

pub(crate) fn forward(cluster: &str) -> Value {
    json!({"name": "default", "match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}})
}

fn listener(name: &str, direction: &str, filters: Value, chains: Value) -> Value {
    json!({
        "name": name,
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}},
        "trafficDirection": direction,
        "listenerFilters": filters,
        "listenerFiltersTimeout": "1s",
        "filterChains": chains,
    })
}

pub(crate) fn http_filter(manager: Value) -> Value {
    json!([{"name": "envoy.filters.network.http_connection_manager", "typedConfig": manager}])
}

fn inspectors() -> Value {
    json!([
        {"name": "envoy.filters.listener.tls_inspector", "typedConfig": {"@type": type_url::TLS_INSPECTOR}},
        {"name": "envoy.filters.listener.http_inspector", "typedConfig": {"@type": type_url::HTTP_INSPECTOR}}])
}

/// An outbound HTTP listener whose only route is `route`.
pub(crate) fn outbound_http(route: Value) -> Value {
    listener(
        "outbound",
        "OUTBOUND",
        json!([]),
        json!([{"filters": http_filter(manager(false, route))}]),
    )
}

/// An inbound HTTP listener with mutual TLS; PERMISSIVE also takes plain text.
pub(crate) fn inbound_http(cluster: &str, permissive: bool) -> Value {
    let http = || http_filter(manager(true, forward(cluster)));
    let mut chains = vec![json!({
        "name": "tls",
        "filterChainMatch": {"transportProtocol": "tls"},
        "filters": http(),
        "transportSocket": downstream_tls(&["h2", "http/1.1"])})];
    if permissive {
        chains.push(json!({"name": "plain", "filterChainMatch": {"transportProtocol": "raw_buffer"}, "filters": http()}));
    }
    listener("inbound", "INBOUND", inspectors(), chains.into())
}

fn tcp(cluster: &str) -> Value {
    json!([
        {"name": "istio.metadata_exchange", "typedConfig": {"@type": type_url::TCP_METADATA_EXCHANGE, "protocol": "istio-peer-exchange"}},
        {"name": "istio.stats", "typedConfig": {"@type": type_url::ISTIO_STATS}},
        {"name": "envoy.filters.network.tcp_proxy", "typedConfig": {"@type": type_url::TCP_PROXY, "statPrefix": "x", "cluster": cluster}}])
}

pub(crate) fn outbound_tcp(cluster: &str) -> Value {
    listener(
        "outbound",
        "OUTBOUND",
        json!([]),
        json!([{"filters": tcp(cluster)}]),
    )
}

pub(crate) fn inbound_tcp(cluster: &str) -> Value {
    let socket = downstream_tls(&["istio-peer-exchange", "h2", "http/1.1"]);
    let chain = json!({"filterChainMatch": {"transportProtocol": "tls"}, "filters": tcp(cluster), "transportSocket": socket});
    listener("inbound", "INBOUND", inspectors(), json!([chain]))
}

/// A cluster of fixed endpoints in plain text.
pub(crate) fn cluster(name: &str, endpoints: &[SocketAddr]) -> Value {
    let endpoint = |address: &SocketAddr| json!({"endpoint": {"address": {"socketAddress": {"address": address.ip().to_string(), "portValue": address.port()}}}});
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    json!({
        "name": name,
        "type": "STATIC",
        "connectTimeout": "2s",
        "lbPolicy": "ROUND_ROBIN",
        "loadAssignment": {"clusterName": name, "endpoints": [{"lbEndpoints": endpoints}]},
    })
}

/// The same with mutual TLS to peers of the service account `peer`.
pub(crate) fn mesh_cluster(
    name: &str,
    endpoints: &[SocketAddr],
    peer: &str,
    alpn: &[&str],
) -> Value {
    let mut cluster = cluster(name, endpoints);
    cluster["transportSocket"] = upstream_tls(alpn, peer);
    cluster
}

/// Speaks HTTP/2 to the endpoints.
pub(crate) fn with_http2(mut cluster: Value) -> Value {
    cluster["typedExtensionProtocolOptions"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": type_url::HTTP_PROTOCOL_OPTIONS,
            "explicitHttpConfig": {"http2ProtocolOptions": {}}}});
    cluster
}

pub(crate) fn nowhere() -> SocketAddr {
    // Port 1 of loopback: nothing listens there.
    SocketAddr::from(([127, 0, 0, 1], 1))
}

#[tokio::test]
async fn a_bad_resource_is_rejected_alone_and_the_last_good_one_stays() {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("a", &[nowhere()])]);
    let mut bad = cluster("a", &[nowhere()]);
    bad["lbSubsetConfig"] = json!({"fallbackPolicy": "ANY_ENDPOINT"});
    let rejected = sidecar.try_apply(type_url::CLUSTER, &[bad, cluster("b", &[nowhere()])]);
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    let upstream = |name| sidecar.shared.store.upstream(name);
    assert_eq!(upstream("a").unwrap().hosts().len(), 1);
    assert!(upstream("b").is_some());
}

fn eds_cluster(name: &str) -> Value {
    let mut cluster = cluster(name, &[]);
    let fields = cluster.as_object_mut().unwrap();
    fields.remove("loadAssignment");
    fields.insert("type".to_owned(), "EDS".into());
    let source = json!({"serviceName": name, "edsConfig": {"ads": {}, "resourceApiVersion": "V3"}});
    fields.insert("edsClusterConfig".to_owned(), source);
    cluster
}

#[tokio::test]
async fn a_cluster_starts_at_its_first_use_with_the_endpoints_of_then() {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[eds_cluster("a")]);
    let assignment = |addresses: &[SocketAddr]| cluster("a", addresses)["loadAssignment"].take();
    sidecar.apply(type_url::ENDPOINT, &[assignment(&[nowhere()])]);
    assert_eq!(sidecar.shared.store.upstreams_in_use().len(), 0);
    let upstream = sidecar.shared.store.upstream("a").unwrap();
    assert_eq!(upstream.hosts().len(), 1);
    assert_eq!(sidecar.shared.store.upstreams_in_use().len(), 1);
    // From now on it follows, also through a new version of the cluster.
    let other = SocketAddr::new(nowhere().ip(), 2);
    sidecar.apply(type_url::ENDPOINT, &[assignment(&[nowhere(), other])]);
    assert_eq!(upstream.hosts().len(), 2);
    let mut changed = eds_cluster("a");
    changed["connectTimeout"] = "1s".into();
    sidecar.apply(type_url::CLUSTER, &[changed]);
    let upstreams = sidecar.shared.store.upstreams_in_use();
    assert_eq!(upstreams.len(), 1);
    assert_eq!(upstreams[0].hosts().len(), 2);
    assert_eq!(upstreams[0].config.connect_timeout.as_secs(), 1);
}

#[tokio::test]
async fn a_cluster_that_comes_back_waits_for_its_endpoints_anew() {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[eds_cluster("a")]);
    let mut assignment = cluster("a", &[nowhere()]);
    let assignment = assignment["loadAssignment"].take();
    sidecar.apply(type_url::ENDPOINT, std::slice::from_ref(&assignment));
    let hosts = || sidecar.shared.store.upstream("a").unwrap().hosts().len();
    assert_eq!(hosts(), 1);
    let gone = ["a".to_owned()];
    let rejected = sidecar
        .configurator()
        .apply(type_url::CLUSTER, Vec::new(), &gone);
    assert_eq!(rejected, []);
    sidecar.apply(type_url::CLUSTER, &[eds_cluster("a")]);
    assert_eq!(hosts(), 0, "nobody vouches for the endpoints it had");
    sidecar.apply(type_url::ENDPOINT, &[assignment]);
    assert_eq!(hosts(), 1);
}
