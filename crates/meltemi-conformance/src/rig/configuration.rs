//! What the proxies are told: plaintext listeners, each with one route to one upstream.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// A listener of the proxy under test and what is behind it.
#[derive(Clone, Debug)]
pub struct Line {
    pub name: String,
    pub upstream: SocketAddr,
    /// Whether the proxy speaks HTTP/2 to the upstream; HTTP/1.1 else.
    pub upstream_http2: bool,
}

impl Line {
    pub fn new(name: impl Into<String>, upstream: SocketAddr, upstream_http2: bool) -> Self {
        Self {
            name: name.into(),
            upstream,
            upstream_http2,
        }
    }

    /// The listener at `address`, as Istio configures one for plain HTTP: both protocols, canonical paths, WebSocket.
    pub(super) fn listener(&self, address: SocketAddr) -> Value {
        let route = json!({"name": "all", "match": {"prefix": "/"}, "route": {"cluster": self.name, "timeout": "0s"}});
        let manager = json!({
            "@type": meltemi_proto::type_url::HTTP_CONNECTION_MANAGER,
            "statPrefix": self.name,
            "routeConfig": {"name": self.name, "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": {"@type": meltemi_proto::type_url::ROUTER}}],
            "upgradeConfigs": [{"upgradeType": "websocket"}],
            "normalizePath": true,
        });
        json!({
            "name": self.name,
            "address": socket(address),
            "filterChains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typedConfig": manager}]}],
        })
    }

    pub(super) fn cluster(&self) -> Value {
        let endpoint = json!({"endpoint": {"address": socket(self.upstream)}});
        let mut cluster = json!({
            "name": self.name,
            "type": "STATIC",
            "connectTimeout": "2s",
            "loadAssignment": {"clusterName": self.name, "endpoints": [{"lbEndpoints": [endpoint]}]},
        });
        if self.upstream_http2 {
            cluster["typedExtensionProtocolOptions"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": meltemi_proto::type_url::HTTP_PROTOCOL_OPTIONS,
                    "explicitHttpConfig": {"http2ProtocolOptions": {}}}});
        }
        cluster
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({"socketAddress": {"address": address.ip().to_string(), "portValue": address.port()}})
}

/// The whole configuration of a stock Envoy.
pub(super) fn bootstrap(lines: &[(Line, SocketAddr)]) -> Value {
    let listeners: Vec<Value> = lines
        .iter()
        .map(|(line, address)| line.listener(*address))
        .collect();
    let clusters: Vec<Value> = lines.iter().map(|(line, _)| line.cluster()).collect();
    json!({"staticResources": {"listeners": listeners, "clusters": clusters}})
}
