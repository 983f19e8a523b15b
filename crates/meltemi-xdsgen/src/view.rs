use std::net::IpAddr;
use std::sync::Arc;

use meltemi_core::{Labels, Locality, ObjectRef};
use meltemi_model::{MeshSidecar, MeshSnapshot, Workload};

/// Which program reads the configuration, and so which filters it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Flavour {
    /// Our own proxy, or Istio's build of Envoy: the `istio.*` filters exist.
    Meltemi,
    /// A stock Envoy: only what it ships; client ALPN is static in the cluster instead of set per request.
    Envoy,
}

/// What a proxy is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Stands beside an application, whose connections are captured.
    #[default]
    Sidecar,
    /// Stands at the edge, and listens where Gateways say.
    Router,
}

/// What the control plane knows of one connected proxy. All that generation may read of it is here.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyView {
    /// The workload's addresses, the first being the one it is known by.
    pub addresses: Vec<IpAddr>,
    pub namespace: String,
    pub labels: Labels,
    pub service_account: String,
    /// Where it says that it is; what the objects know of its workload counts before.
    pub locality: Locality,
    /// The Sidecar that it obeys: found by its state, whatever stands here before.
    pub sidecar: Option<ObjectRef>,
    pub flavour: Flavour,
    pub role: Role,
    /// Such as `default.svc.cluster.local`; the part after the namespace is the cluster's domain.
    pub dns_domain: String,
    /// Accepts HTTP/1.0 (node metadata `HTTP10`).
    pub http10: bool,
    /// Is sent what it asks for by name, and nothing else (node metadata `ON_DEMAND`).
    pub on_demand: bool,
}

/// A field of a view that something generated may depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field {
    Addresses,
    Namespace,
    Labels,
    Flavour,
    ClusterDomain,
    Http10,
    Role,
    ServiceAccount,
    Locality,
    Sidecar,
}

/// A set of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(u16);

impl Fields {
    #[must_use]
    pub(crate) fn with(self, field: Field) -> Self {
        Self(self.0 | 1 << field as u8)
    }

    pub(crate) fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn contains(self, field: Field) -> bool {
        self.0 & 1 << field as u8 != 0
    }
}

impl ProxyView {
    /// Whether another proxy is the same as far as these fields go.
    pub(crate) fn agrees(&self, other: &Self, fields: Fields) -> bool {
        let differs = |field, same: bool| fields.contains(field) && !same;
        !(differs(Field::Namespace, self.namespace == other.namespace)
            || differs(Field::Flavour, self.flavour == other.flavour)
            || differs(Field::Http10, self.http10 == other.http10)
            || differs(Field::Role, self.role == other.role)
            || differs(Field::Locality, self.locality == other.locality)
            || differs(Field::Sidecar, self.sidecar == other.sidecar)
            || differs(
                Field::ServiceAccount,
                self.service_account == other.service_account,
            )
            || differs(Field::Addresses, self.addresses == other.addresses)
            || differs(Field::Labels, self.labels == other.labels)
            || differs(
                Field::ClusterDomain,
                self.cluster_domain() == other.cluster_domain(),
            ))
    }

    /// A view with Istio's defaults, for a workload of our own proxy.
    pub fn new(address: IpAddr, namespace: &str, service_account: &str, labels: Labels) -> Self {
        Self {
            addresses: vec![address],
            namespace: namespace.to_owned(),
            labels,
            service_account: service_account.to_owned(),
            locality: Locality::default(),
            sidecar: None,
            flavour: Flavour::Meltemi,
            role: Role::Sidecar,
            dns_domain: format!("{namespace}.svc.cluster.local"),
            http10: false,
            on_demand: false,
        }
    }

    /// The workload at one of its addresses, if it is who the proxy has proven to be.
    pub(crate) fn workload<'a>(&self, mesh: &'a MeshSnapshot) -> Option<&'a Arc<Workload>> {
        let mut at = self.addresses.iter().filter_map(|ip| mesh.workload(*ip));
        at.find(|workload| {
            workload.namespace == self.namespace && workload.service_account == self.service_account
        })
    }

    /// Follows what the objects say of where the workload is and of the Sidecar that it obeys, and says which of the two changed.
    pub(crate) fn follow(self: &mut Arc<Self>, mesh: &MeshSnapshot) -> Fields {
        let mut changed = Fields::default();
        if let Some(known) = self
            .known_locality(mesh)
            .filter(|known| **known != self.locality)
        {
            Arc::make_mut(self).locality = known.clone();
            changed = changed.with(Field::Locality);
        }
        let sidecar = self.obeyed_sidecar(mesh).map(|sidecar| &sidecar.origin);
        if sidecar != self.sidecar.as_ref() {
            Arc::make_mut(self).sidecar = sidecar.cloned();
            changed = changed.with(Field::Sidecar);
        }
        changed
    }

    /// Where the workload is, as far as the objects say so: its node may be known later than itself.
    fn known_locality<'a>(&self, mesh: &'a MeshSnapshot) -> Option<&'a Locality> {
        let locality = &self.workload(mesh)?.locality;
        (*locality != Locality::default()).then_some(locality)
    }

    /// By the labels that the objects know; by the proxy's own only until they know any. Gateways obey none.
    fn obeyed_sidecar<'a>(&self, mesh: &'a MeshSnapshot) -> Option<&'a Arc<MeshSidecar>> {
        if self.role == Role::Router || !mesh.has_sidecars() {
            return None;
        }
        let known = self.workload(mesh).map(|workload| &workload.labels);
        mesh.sidecar(&self.namespace, known.unwrap_or(&self.labels))
    }

    /// The domain behind `svc.`, such as `cluster.local`.
    pub(crate) fn cluster_domain(&self) -> &str {
        self.dns_domain
            .split_once(".svc.")
            .map_or("cluster.local", |(_, domain)| domain)
    }
}
