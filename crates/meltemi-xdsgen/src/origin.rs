//! The objects of users that a proxy's configuration was made from.

use std::sync::Arc;

use meltemi_core::ObjectRef;
use meltemi_model::{HostRule, MeshGateway, MeshSidecar, MeshVirtualService, Service, Workload};

/// What a generator found and used.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    VirtualService(Arc<MeshVirtualService>),
    DestinationRule(Arc<HostRule>),
    Service(Arc<Service>),
    Workload(Arc<Workload>),
    Gateway(Arc<MeshGateway>),
    Sidecar(Arc<MeshSidecar>),
    Policy(Arc<ObjectRef>),
}

impl Origin {
    pub(crate) fn objects(&self) -> &[ObjectRef] {
        match self {
            Self::VirtualService(service) => &service.from,
            Self::DestinationRule(rule) => &rule.from,
            Self::Service(service) => std::slice::from_ref(&service.origin),
            Self::Workload(workload) => std::slice::from_ref(&workload.origin),
            Self::Gateway(gateway) => std::slice::from_ref(&gateway.origin),
            Self::Sidecar(sidecar) => std::slice::from_ref(&sidecar.origin),
            Self::Policy(object) => std::slice::from_ref(object),
        }
    }

    /// Whether both are of the same objects.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::VirtualService(a), Self::VirtualService(b)) => Arc::ptr_eq(a, b),
            (Self::DestinationRule(a), Self::DestinationRule(b)) => Arc::ptr_eq(a, b),
            (Self::Service(a), Self::Service(b)) => Arc::ptr_eq(a, b),
            (Self::Workload(a), Self::Workload(b)) => Arc::ptr_eq(a, b),
            (Self::Gateway(a), Self::Gateway(b)) => Arc::ptr_eq(a, b),
            (Self::Sidecar(a), Self::Sidecar(b)) => Arc::ptr_eq(a, b),
            (Self::Policy(a), Self::Policy(b)) => a == b,
            _ => false,
        }
    }
}
