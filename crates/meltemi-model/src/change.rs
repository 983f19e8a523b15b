use std::collections::BTreeSet;
use std::net::IpAddr;

use meltemi_core::Hostname;

use crate::JwksSource;

/// A part of the snapshot that something generated from it may depend on.
///
/// A generator declares those it read; a [`ChangeSet`] lists those that differ. What a generator reads but does not
/// declare would be served stale, so every accessor of [`crate::MeshSnapshot`] names its part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    MeshConfig,
    /// Which services exist.
    ServiceNames,
    /// Which services have this port, and with what kind of protocol.
    ServicePort(u16),
    Service(Hostname),
    Endpoints(Hostname),
    /// The set of identities behind a service, which changes far less often than its endpoints.
    Identities(Hostname),
    /// DestinationRules that cover the host.
    DestinationRule(Hostname),
    /// VirtualServices that name or cover the host.
    VirtualService(Hostname),
    /// VirtualServices that sidecars obey, and where they lead.
    VirtualServices,
    /// VirtualServices for hosts that are no service.
    ForeignVirtualServices,
    /// Which Gateways there are, and what they say.
    Gateways,
    /// VirtualServices that are bound to Gateways.
    GatewayVirtualServices,
    /// The certificates in a Secret, by namespace and name.
    Credential(String, String),
    /// Sidecars of a namespace.
    Sidecar(String),
    /// PeerAuthentications of a namespace without a selector.
    PeerAuthentication(String),
    /// PeerAuthentications of a namespace with a selector.
    WorkloadPeerAuthentication(String),
    /// AuthorizationPolicies of a namespace.
    AuthorizationPolicy(String),
    /// RequestAuthentications of a namespace.
    RequestAuthentication(String),
    /// The keys that are published there.
    Keys(JwksSource),
    /// The workload at an address, and the services it stands behind.
    Workload(IpAddr),
}

/// The parts of the snapshot that one [`crate::Mesh::apply`] changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeSet {
    parts: BTreeSet<Part>,
}

impl ChangeSet {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    pub fn contains(&self, part: &Part) -> bool {
        self.parts.contains(part)
    }

    pub fn touches<'a>(&self, parts: impl IntoIterator<Item = &'a Part>) -> bool {
        !self.parts.is_empty() && parts.into_iter().any(|part| self.parts.contains(part))
    }

    /// The same of parts in their order.
    pub fn touches_sorted(&self, parts: &[Part]) -> bool {
        if self.parts.len() > parts.len() {
            return self.touches(parts);
        }
        let mut changed = self.parts.iter();
        changed.any(|part| parts.binary_search(part).is_ok())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter()
    }

    /// Adds a part; the owner of a [`crate::MeshSnapshot`] calls it, and tests.
    pub fn insert(&mut self, part: Part) {
        self.parts.insert(part);
    }

    /// Joins the changes of a later application, for pushes that merge.
    pub fn merge(&mut self, later: &Self) {
        self.parts.extend(later.parts.iter().cloned());
    }
}

impl FromIterator<Part> for ChangeSet {
    fn from_iter<T: IntoIterator<Item = Part>>(parts: T) -> Self {
        Self {
            parts: parts.into_iter().collect(),
        }
    }
}
