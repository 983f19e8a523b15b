use std::net::IpAddr;
use std::sync::Arc;

use meltemi_api::Kind;
use meltemi_core::names::label;
use meltemi_core::{Hostname, Identity, Labels, Locality, ObjectRef};

use crate::service_entry;

/// One running instance: a Pod or a WorkloadEntry.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    pub name: String,
    pub namespace: String,
    pub origin: ObjectRef,
    pub addresses: Vec<IpAddr>,
    pub labels: Labels,
    pub service_account: String,
    /// None where the names make no SPIFFE ID.
    pub identity: Option<Identity>,
    pub locality: Locality,
    /// The machine that it runs on; empty where that is not known.
    pub node: String,
    pub ready: bool,
    /// The owner's name, such as the Deployment's; the pod's own name without an owner.
    pub workload_name: String,
    /// Declared container ports, for named target ports.
    pub ports: Vec<WorkloadPort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPort {
    pub name: String,
    pub number: u16,
    pub transport: String,
}

impl Workload {
    /// Whether a sidecar terminates mTLS there: of a pod by the label that injection sets
    /// (`security.istio.io/tlsMode: istio`), of a WorkloadEntry also by its service account.
    pub fn accepts_mtls(&self) -> bool {
        if self.origin.kind == Kind::WorkloadEntry.as_str() {
            return service_entry::accepts_mtls(&self.labels, &self.service_account);
        }
        self.labels.get(label::TLS_MODE) == Some("istio")
    }

    pub fn is_pod(&self) -> bool {
        self.origin.kind == Kind::Pod.as_str()
    }

    pub fn port_named(&self, name: &str) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| port.name == name)
            .map(|port| port.number)
    }

    /// The telemetry name: label, then `app.kubernetes.io/name`, then `app`, then the owner's name.
    pub fn canonical_name(&self) -> &str {
        [label::CANONICAL_NAME, label::K8S_APP_NAME, label::APP]
            .into_iter()
            .find_map(|key| self.labels.get(key))
            .unwrap_or(&self.workload_name)
    }

    pub fn canonical_revision(&self) -> &str {
        [
            label::CANONICAL_REVISION,
            label::K8S_APP_VERSION,
            label::VERSION,
        ]
        .into_iter()
        .find_map(|key| self.labels.get(key))
        .unwrap_or("latest")
    }
}

/// Where an endpoint is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EndpointAddress {
    Ip(IpAddr),
    /// A DNS name that the proxy resolves.
    Name(Hostname),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    Ready,
    /// Known, but not to be used unless nothing else is left.
    NotReady,
    /// Going away: open connections may finish.
    Terminating,
}

/// An address and port that serves one port of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub port: u16,
    /// The name of the service port it serves.
    pub service_port: String,
    pub namespace: String,
    pub labels: Labels,
    pub identity: Option<Identity>,
    /// Whether a sidecar terminates mTLS there.
    pub accepts_mtls: bool,
    pub locality: Locality,
    /// Relative weight; 0 means unset.
    pub weight: u32,
    pub health: Health,
    pub workload: Option<Arc<Workload>>,
}

/// The endpoints of one service, sorted by address and port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceEndpoints {
    pub endpoints: Vec<Endpoint>,
}

impl ServiceEndpoints {
    /// The endpoints of a service port, by the port's name.
    pub fn of_port<'a>(&'a self, port_name: &'a str) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints
            .iter()
            .filter(move |endpoint| endpoint.service_port == port_name)
    }

    /// The identities behind the service, sorted, each once. They are what a client checks the server's SAN against.
    pub fn identities(&self) -> Vec<&Identity> {
        let mut all: Vec<_> = self
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.identity.as_ref())
            .collect();
        all.sort();
        all.dedup();
        all
    }
}
