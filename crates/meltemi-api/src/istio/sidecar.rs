use serde::Deserialize;

use super::{
    ConnectionPool, Destination, OutboundTrafficPolicyMode, ServerTlsSettings, WorkloadSelector,
};

/// What proxies beside applications may call, and what they serve (`networking.v1.Sidecar`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Sidecar {
    /// The workloads of its namespace that it is for; absent: all of them, or of the mesh in the root namespace.
    pub workload_selector: Option<WorkloadSelector>,
    /// Empty: what the workload's services say.
    pub ingress: Vec<IngressListener>,
    /// Empty: everything that is exported to the workload's namespace.
    pub egress: Vec<EgressListener>,
    pub inbound_connection_pool: Option<ConnectionPool>,
    /// Absent: the mesh's.
    pub outbound_traffic_policy: Option<SidecarOutboundPolicy>,
}

/// A port of the workload.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IngressListener {
    pub port: Option<SidecarPort>,
    pub capture_mode: CaptureMode,
    /// An address of the application; empty: the one that was called.
    pub default_endpoint: String,
    pub tls: Option<ServerTlsSettings>,
    pub connection_pool: Option<ConnectionPool>,
}

/// Services that may be called: on one port, or on all that no other listener is for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EgressListener {
    pub port: Option<SidecarPort>,
    pub capture_mode: CaptureMode,
    /// As written: `namespace/name`.
    pub hosts: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarPort {
    pub number: u32,
    pub protocol: String,
    pub name: String,
}

/// How connections come to a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CaptureMode {
    #[default]
    Default,
    Iptables,
    /// By an application that knows the proxy.
    None,
}

/// What happens to calls of names and addresses that no service has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarOutboundPolicy {
    mode: Option<OutboundTrafficPolicyMode>,
    /// Takes them all, instead of the place that was called.
    pub egress_proxy: Option<Destination>,
}

impl SidecarOutboundPolicy {
    /// REGISTRY_ONLY unless it is said, for it is the first value of Istio's enumeration.
    pub fn mode(&self) -> OutboundTrafficPolicyMode {
        self.mode.unwrap_or(OutboundTrafficPolicyMode::RegistryOnly)
    }
}
