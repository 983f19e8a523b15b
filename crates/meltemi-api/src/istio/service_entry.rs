use std::collections::BTreeMap;

use meltemi_core::Labels;
use serde::Deserialize;

/// A service that the mesh did not discover itself (`networking.v1.ServiceEntry`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServiceEntry {
    pub hosts: Vec<String>,
    /// IPs or CIDR ranges.
    pub addresses: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub location: Location,
    pub resolution: Resolution,
    pub endpoints: Vec<WorkloadEntry>,
    /// Selects pods and WorkloadEntries of the same namespace, instead of `endpoints`.
    pub workload_selector: Option<WorkloadSelector>,
    /// `.`, `*` or namespace names; empty means the mesh's default.
    pub export_to: Vec<String>,
    pub subject_alt_names: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServicePort {
    pub number: u32,
    pub protocol: String,
    pub name: String,
    /// Absent: `number`.
    pub target_port: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Location {
    /// Outside the mesh: no automatic mutual TLS.
    #[default]
    MeshExternal,
    MeshInternal,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// To the address that the application dialled.
    #[default]
    None,
    Static,
    Dns,
    DnsRoundRobin,
    DynamicDns,
}

/// `networking.v1.WorkloadSelector`, written `labels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    pub labels: Labels,
}

/// One workload outside Kubernetes (`networking.v1.WorkloadEntry`), also an endpoint of a ServiceEntry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadEntry {
    /// An IP, a DNS name, or `unix://` and a path.
    pub address: String,
    /// Port name to number.
    pub ports: BTreeMap<String, u32>,
    pub labels: Labels,
    pub network: String,
    /// `region/zone/subzone`.
    pub locality: String,
    pub weight: Option<u32>,
    pub service_account: String,
}
