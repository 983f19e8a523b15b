use std::net::IpAddr;
use std::sync::Arc;

use meltemi_core::{Hostname, Labels, ObjectRef};

use crate::Protocol;

/// A name that the mesh can call: a Kubernetes Service or one host of a ServiceEntry.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub hostname: Hostname,
    pub name: String,
    pub namespace: String,
    pub origin: ObjectRef,
    /// Virtual addresses; none for headless services and for names that only DNS knows.
    pub addresses: Vec<ServiceAddress>,
    pub ports: Vec<ServicePort>,
    pub resolution: Resolution,
    /// Outside the mesh: no auto-mTLS (ServiceEntry `MESH_EXTERNAL`).
    pub mesh_external: bool,
    pub export_to: ExportTo,
    /// The pods it selects; empty where endpoints are given otherwise.
    pub selector: Labels,
    /// Services of type `ExternalName` that stand for it.
    pub aliases: Vec<ServiceAlias>,
    /// Upstream identities that replace the ones of the endpoints (ServiceEntry `subjectAltNames`).
    pub subject_alt_names: Vec<String>,
}

impl Service {
    /// The port of a number that proxies serve: the number may be that of a UDP port too.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        let proxied = |port: &&ServicePort| port.protocol != Protocol::Udp;
        let mut ports = self.ports.iter().filter(proxied);
        ports.find(|port| port.number == number)
    }

    pub fn port_named(&self, name: &str) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.name == name)
    }

    pub fn is_kubernetes(&self) -> bool {
        self.origin.kind == "Service"
    }

    /// A Kubernetes Service without a virtual address, whose clients connect to its pods.
    pub fn is_headless(&self) -> bool {
        self.is_kubernetes() && self.resolution == Resolution::Passthrough
    }

    pub fn visible_to(&self, namespace: &str) -> bool {
        self.export_to.includes(namespace)
    }
}

/// A Kubernetes Service of type `ExternalName`: another name of a host, nothing of its own (Istio,
/// `ENABLE_EXTERNAL_NAME_ALIAS`, on by default).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAlias {
    pub hostname: Hostname,
    pub name: String,
    pub namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub number: u16,
    pub target_port: TargetPort,
    pub protocol: Protocol,
}

/// The port of the workload behind a service port; a name is looked up in each pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Name(String),
}

/// A virtual address: one address, or a range that a ServiceEntry claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceAddress {
    pub ip: IpAddr,
    pub prefix_len: u8,
}

impl ServiceAddress {
    pub fn single(ip: IpAddr) -> Self {
        let prefix_len = if ip.is_ipv4() { 32 } else { 128 };
        Self { ip, prefix_len }
    }

    /// Reads `10.0.0.1` or `10.0.0.0/8`.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((ip, length)) = text.split_once('/') else {
            return text.parse().ok().map(Self::single);
        };
        let single = Self::single(ip.parse().ok()?);
        let prefix_len = length.parse().ok()?;
        (prefix_len <= single.prefix_len).then_some(Self {
            prefix_len,
            ..single
        })
    }

    pub fn is_single(&self) -> bool {
        *self == Self::single(self.ip)
    }
}

/// Who finds the endpoints of a service (ServiceEntry `resolution`, and its like for Kubernetes Services).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// The control plane knows them (ClusterIP services, `STATIC`).
    Endpoints,
    /// The client chose an address already (headless services, `NONE`).
    Passthrough,
    /// The proxy resolves every name (`DNS`).
    StrictDns,
    /// The proxy resolves one name and takes the first answer (`DNS_ROUND_ROBIN`).
    LogicalDns,
}

/// The namespaces that may see an object (`exportTo`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExportTo {
    #[default]
    All,
    Namespaces(Arc<[String]>),
}

impl ExportTo {
    /// Reads a list of `*`, `.` (the object's namespace), `~` (nobody) and names. An empty list means `default`.
    pub fn new(values: &[String], default: &[String], own_namespace: &str) -> Self {
        let values = if values.is_empty() { default } else { values };
        if values.is_empty() || values.iter().any(|value| value == "*") {
            return Self::All;
        }
        let mut namespaces: Vec<String> = values
            .iter()
            .filter(|value| *value != "~")
            .map(|value| match value.as_str() {
                "." => own_namespace.to_owned(),
                name => name.to_owned(),
            })
            .collect();
        namespaces.sort();
        namespaces.dedup();
        Self::Namespaces(namespaces.into())
    }

    /// Whether a client in `namespace` sees the object.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(list) => list.iter().any(|listed| listed == namespace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn export_to_reads_istios_words() {
        let list = |values: &[&str]| values.iter().map(|&v| v.to_owned()).collect::<Vec<_>>();
        let visible = |values: &[&str], default: &[&str], ns: &str| {
            ExportTo::new(&list(values), &list(default), "own").includes(ns)
        };
        assert!(visible(&[], &[], "other"));
        assert!(visible(&["*"], &["."], "other"));
        assert!(visible(&["."], &[], "own"));
        assert!(!visible(&["."], &[], "other"));
        assert!(!visible(&[], &["."], "other"));
        assert!(visible(&["a", "b"], &[], "b"));
        assert!(!visible(&["~"], &[], "own"));
    }

    #[test]
    fn addresses_are_single_or_ranges() {
        assert!(ServiceAddress::parse("10.0.0.1").unwrap().is_single());
        assert!(ServiceAddress::parse("10.0.0.1/32").unwrap().is_single());
        assert!(!ServiceAddress::parse("10.0.0.0/8").unwrap().is_single());
        for bad in ["", "10.0.0", "10.0.0.0/33", "a/8"] {
            assert!(ServiceAddress::parse(bad).is_none(), "{bad}");
        }
    }
}
