//! Names that users' YAML, scripts and dashboards contain, and therefore must be Istio's.

/// Well-known ports of a sidecar and of the control plane (Istio "Ports used by Istio").
pub mod port {
    pub const ADMIN: u16 = 15000;
    pub const OUTBOUND: u16 = 15001;
    pub const INBOUND: u16 = 15006;
    pub const XDS_PLAIN: u16 = 15010;
    pub const XDS_TLS: u16 = 15012;
    pub const MONITORING: u16 = 15014;
    pub const WEBHOOK: u16 = 15017;
    pub const MERGED_STATS: u16 = 15020;
    pub const READINESS: u16 = 15021;
    pub const DNS: u16 = 15053;
    pub const ENVOY_STATS: u16 = 15090;
}

pub mod label {
    pub const ISTIO_INJECTION: &str = "istio-injection";
    pub const ISTIO_REV: &str = "istio.io/rev";
    pub const SIDECAR_INJECT: &str = "sidecar.istio.io/inject";
    pub const TLS_MODE: &str = "security.istio.io/tlsMode";
    pub const CANONICAL_NAME: &str = "service.istio.io/canonical-name";
    pub const CANONICAL_REVISION: &str = "service.istio.io/canonical-revision";
    pub const APP: &str = "app";
    pub const VERSION: &str = "version";
    pub const K8S_APP_NAME: &str = "app.kubernetes.io/name";
    pub const K8S_APP_VERSION: &str = "app.kubernetes.io/version";
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
    pub const TOPOLOGY_REGION: &str = "topology.kubernetes.io/region";
    pub const TOPOLOGY_ZONE: &str = "topology.kubernetes.io/zone";
}

/// The uid and gid of the proxy, exempt from redirection.
pub const PROXY_UID: u32 = 1337;
/// The socket mark that exempts the proxy where only one uid can be mapped.
pub const PROXY_MARK: u32 = 1337;
/// The namespace of the control plane and, by default, of mesh-wide configuration.
pub const ISTIO_SYSTEM: &str = "istio-system";
/// The Service and Deployment of the control plane.
pub const ISTIOD: &str = "istiod";
/// The name of the revision that unmarked workloads belong to.
pub const DEFAULT_REVISION: &str = "default";
/// The ConfigMap with the MeshConfig, in the control plane's namespace.
pub const MESH_CONFIG_MAP: &str = "istio";
/// The ConfigMap and the webhook configuration of injection.
pub const INJECTOR: &str = "istio-sidecar-injector";

/// The name of one of a control plane's objects: `istiod`, or `istiod-canary` for a revision besides the default one.
pub fn of_revision(name: &str, revision: &str) -> String {
    if revision == DEFAULT_REVISION {
        name.to_owned()
    } else {
        format!("{name}-{revision}")
    }
}

/// The container that holds the sidecar.
pub const PROXY_CONTAINER: &str = "istio-proxy";
/// The init container that applies the capture rules.
pub const INIT_CONTAINER: &str = "istio-init";
/// The ConfigMap with the root certificate, in every namespace, under the key `root-cert.pem`.
pub const CA_ROOT_CONFIG_MAP: &str = "istio-ca-root-cert";
/// The audience of the projected token that authenticates a proxy.
pub const TOKEN_AUDIENCE: &str = "istio-ca";
/// Node metadata, and with `ISTIO_META_` before it the variable: the proxy asks for configuration as it needs it.
pub const ON_DEMAND: &str = "ON_DEMAND";
pub const CLUSTER_DOMAIN: &str = "cluster.local";

pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
pub const BLACKHOLE_CLUSTER: &str = "BlackHoleCluster";
pub const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";
/// Source address of inbound passthrough connections; the capture rules let it through.
pub const INBOUND_PASSTHROUGH_SOURCE: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 6);

/// SDS resource names of the workload certificate and of the trust bundle.
pub const SDS_WORKLOAD: &str = "default";
pub const SDS_ROOT_CA: &str = "ROOTCA";

/// ALPN values (Istio's `istio.alpn` filter and inbound filter-chain matches).
pub mod alpn {
    pub const ISTIO: &str = "istio";
    pub const ISTIO_PEER_EXCHANGE: &str = "istio-peer-exchange";
    pub const ISTIO_HTTP10: &str = "istio-http/1.0";
    pub const ISTIO_HTTP11: &str = "istio-http/1.1";
    pub const ISTIO_H2: &str = "istio-h2";
    pub const HTTP10: &str = "http/1.0";
    pub const HTTP11: &str = "http/1.1";
    pub const H2: &str = "h2";
    /// Cleartext HTTP/2, as the HTTP inspector reports it.
    pub const H2C: &str = "h2c";
}
