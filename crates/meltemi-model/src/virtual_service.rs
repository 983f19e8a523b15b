//! Which VirtualService routes the requests of a host.

mod delegate;

use std::sync::Arc;

use meltemi_api::istio::{MeshConfig, VirtualService};
use meltemi_api::{Object, Resource};
use meltemi_core::{Hostname, ObjectRef};

pub(crate) use delegate::Delegates;

use crate::{ExportTo, MESH, gateway_name};

/// A VirtualService with its hosts and gateways resolved.
#[derive(Clone, Debug)]
pub struct MeshVirtualService {
    pub object: Arc<Object>,
    /// The object itself, and the delegates that its routes come from.
    pub from: Vec<ObjectRef>,
    /// With the delegates' routes in the place of those that lead to them.
    pub spec: VirtualService,
    pub hosts: Vec<Hostname>,
    /// The hosts that its routes lead to, as they are named.
    pub destinations: Vec<Hostname>,
    /// The Gateways that it is bound to, as `namespace/name`; sidecars are none.
    pub gateways: Vec<String>,
    export_to: ExportTo,
}

impl PartialEq for MeshVirtualService {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
            && self.spec == other.spec
            && self.from == other.from
            && self.hosts == other.hosts
            && self.export_to == other.export_to
    }
}

impl MeshVirtualService {
    pub(crate) fn new(
        object: &Arc<Object>,
        delegates: &Delegates<'_>,
        config: &MeshConfig,
        domain: &str,
    ) -> Option<Self> {
        let Resource::VirtualService(spec) = &object.resource else {
            return None;
        };
        let namespace = &object.meta.namespace;
        let hosts: Vec<_> = spec
            .hosts
            .iter()
            .filter_map(|host| Hostname::resolve(host, namespace, domain).ok())
            .collect();
        if hosts.is_empty() {
            return None;
        }
        let gateways = spec.gateways.iter().filter(|gateway| *gateway != MESH);
        let gateways: Vec<_> = gateways
            .map(|gateway| gateway_name(gateway, namespace))
            .collect();
        let export_to = ExportTo::new(
            &spec.export_to,
            &config.default_virtual_service_export_to,
            namespace,
        );
        let (spec, used) = delegates.resolve(spec, namespace, config, domain);
        let used = used.into_iter().map(|object| object.reference());
        let mut destinations: Vec<_> = spec
            .destinations()
            .filter_map(|to| Hostname::resolve(&to.host, namespace, domain).ok())
            .collect();
        destinations.sort_unstable();
        destinations.dedup();
        Some(Self {
            object: Arc::clone(object),
            from: std::iter::once(object.reference()).chain(used).collect(),
            gateways,
            spec,
            hosts,
            destinations,
            export_to,
        })
    }

    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    pub fn visible_to(&self, namespace: &str) -> bool {
        self.export_to.includes(namespace)
    }

    /// Whether some namespaces do not see it.
    pub(crate) fn is_private(&self) -> bool {
        self.export_to != ExportTo::All
    }

    /// The most specific of its hosts that covers `host`.
    fn host_covering(&self, host: &Hostname) -> Option<&Hostname> {
        self.hosts
            .iter()
            .filter(|own| own.covers(host))
            .min_by(|a, b| Hostname::by_specificity(a, b))
    }
}

/// The oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct VirtualServices {
    /// Those that sidecars obey.
    pub(crate) by_age: Vec<Arc<MeshVirtualService>>,
    /// Those that gateways obey; one may be both.
    pub(crate) at_gateways: Vec<Arc<MeshVirtualService>>,
}

impl VirtualServices {
    /// Those of sidecars and those of gateways; one may be both.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<MeshVirtualService>> {
        self.by_age.iter().chain(&self.at_gateways)
    }

    /// The one whose host is most specific; of those for the same host the oldest, the others do not count (IST0109).
    pub(crate) fn lookup(
        &self,
        host: &Hostname,
        sees: impl Fn(&MeshVirtualService) -> bool,
    ) -> Option<&Arc<MeshVirtualService>> {
        self.by_age
            .iter()
            .filter(|service| sees(service))
            .filter_map(|service| Some((service.host_covering(host)?, service)))
            // `min_by` keeps the first of equals.
            .min_by(|(a, _), (b, _)| Hostname::by_specificity(a, b))
            .map(|(_, service)| service)
    }
}
