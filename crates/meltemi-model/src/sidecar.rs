//! What a proxy beside an application may call, and what it serves.
//!
//! Istio's words: a Sidecar *imports* the services that its egress hosts name. One listener of it is for each port: the one
//! with that port, else the one without any. What routes of imported VirtualServices lead to is called too, by those routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_api::istio::{Destination, EgressListener, Sidecar};
use meltemi_api::{Object, Resource};
use meltemi_core::{Hostname, Labels, ObjectRef};

use crate::{MeshVirtualService, Service};

/// A Sidecar object.
#[derive(Clone, Debug)]
pub struct MeshSidecar {
    pub object: Arc<Object>,
    pub origin: ObjectRef,
    pub spec: Sidecar,
    egress: Vec<Egress>,
}

impl PartialEq for MeshSidecar {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
    }
}

impl MeshSidecar {
    pub(crate) fn new(object: &Arc<Object>) -> Option<Self> {
        let Resource::Sidecar(spec) = &object.resource else {
            return None;
        };
        let egress = match &spec.egress[..] {
            [] => vec![Egress::everything()],
            listeners => listeners.iter().map(Egress::new).collect(),
        };
        Some(Self {
            object: Arc::clone(object),
            origin: object.reference(),
            spec: spec.as_ref().clone(),
            egress,
        })
    }

    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    /// The workloads that it is for, unless it is for all.
    pub(crate) fn selector(&self) -> Option<&Labels> {
        let selector = self.spec.workload_selector.as_ref();
        selector.map(|selector| &selector.labels)
    }

    /// Whether it means other services for clients of other namespaces.
    pub fn is_relative(&self) -> bool {
        let listeners = self.egress.iter();
        let mut hosts = listeners.flat_map(|own| own.imported.iter().chain(&own.excluded));
        hosts.any(|host| host.namespace == ".")
    }

    fn listener(&self, port: u16) -> Option<&Egress> {
        let of_port = self.egress.iter().find(|own| own.port == Some(port));
        of_port.or_else(|| self.egress.iter().find(|own| own.port.is_none()))
    }

    /// Whether clients in `namespace` may call a port of a service.
    pub fn imports(&self, namespace: &str, service: &Service, port: u16) -> bool {
        let covers = |host: &Hostname| host.covers(&service.hostname);
        let listener = self.listener(port);
        listener.is_some_and(|own| own.admits(namespace, &service.namespace, covers))
    }

    /// The same of any of its ports.
    pub fn imports_any(&self, namespace: &str, service: &Service) -> bool {
        let mut ports = service.ports.iter();
        ports.any(|port| self.imports(namespace, service, port.number))
    }

    /// Whether the routes of a VirtualService are obeyed by clients in `namespace` on a port. Either host may cover the
    /// other (Istio, `hostClassification.VSMatches`).
    pub fn imports_routes(&self, namespace: &str, routed: &MeshVirtualService, port: u16) -> bool {
        self.listener(port)
            .is_some_and(|own| own.admits_routes(namespace, routed))
    }

    /// The same on any port.
    pub fn imports_routes_somewhere(&self, namespace: &str, routed: &MeshVirtualService) -> bool {
        let mut listeners = self.egress.iter();
        listeners.any(|own| own.admits_routes(namespace, routed))
    }

    /// Where calls go that are of no service.
    pub fn egress_proxy(&self) -> Option<&Destination> {
        let policy = self.spec.outbound_traffic_policy.as_ref()?;
        policy.egress_proxy.as_ref()
    }
}

/// One egress listener.
#[derive(Clone, Debug)]
struct Egress {
    /// None: every port that no other listener is for.
    port: Option<u16>,
    imported: Vec<EgressHost>,
    /// Left out of them, whatever they say.
    excluded: Vec<EgressHost>,
}

impl Egress {
    fn new(listener: &EgressListener) -> Self {
        let number = |number: u32| u16::try_from(number).unwrap_or_default();
        let mut egress = Self {
            port: listener.port.as_ref().map(|port| number(port.number)),
            imported: Vec::new(),
            excluded: Vec::new(),
        };
        for host in &listener.hosts {
            match host.strip_prefix('~') {
                // No namespace at all: nothing.
                Some(rest) if rest.starts_with('/') => {}
                Some(rest) => egress.excluded.extend(EgressHost::parse(rest)),
                None => egress.imported.extend(EgressHost::parse(host)),
            }
        }
        egress
    }

    fn everything() -> Self {
        Self::new(&EgressListener {
            hosts: vec!["*/*".to_owned()],
            ..EgressListener::default()
        })
    }

    /// Whether something of the namespace `of`, of which one host has to be covered, is for clients in `namespace`.
    fn admits(&self, namespace: &str, of: &str, covers: impl Fn(&Hostname) -> bool) -> bool {
        let names = |host: &EgressHost| host.is_of(of, namespace) && covers(&host.host);
        self.imported.iter().any(names) && !self.excluded.iter().any(names)
    }

    fn admits_routes(&self, namespace: &str, routed: &MeshVirtualService) -> bool {
        let of = |host: &&EgressHost| host.is_of(routed.namespace(), namespace);
        let is_left_out = |host: &Hostname| {
            let mut excluded = self.excluded.iter().filter(of);
            excluded.any(|own| own.host.covers(host))
        };
        let mut hosts = routed.hosts.iter().filter(|host| !is_left_out(host));
        hosts.any(|host| {
            let mut imported = self.imported.iter().filter(of);
            imported.any(|own| own.host.covers(host) || host.covers(&own.host))
        })
    }
}

/// `namespace/dns`.
#[derive(Clone, Debug)]
struct EgressHost {
    /// `.` is the client's own, `*` is any.
    namespace: String,
    host: Hostname,
}

impl EgressHost {
    fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        Some(Self {
            namespace: namespace.to_owned(),
            host: Hostname::new(name).ok()?,
        })
    }

    fn is_of(&self, namespace: &str, client_namespace: &str) -> bool {
        match self.namespace.as_str() {
            "*" => true,
            "." => namespace == client_namespace,
            own => namespace == own,
        }
    }
}

/// By namespace, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sidecars {
    pub(crate) by_namespace: BTreeMap<String, Vec<Arc<MeshSidecar>>>,
}

impl Sidecars {
    /// The oldest that selects the workload, else the oldest of its namespace that is for all, else the root namespace's
    /// (Istio reference, Sidecar).
    pub(crate) fn lookup(
        &self,
        namespace: &str,
        labels: &Labels,
        root: &str,
    ) -> Option<&Arc<MeshSidecar>> {
        let of = |namespace| self.by_namespace.get(namespace).into_iter().flatten();
        let selects = |own: &&Arc<MeshSidecar>| {
            let selector = own.selector();
            selector.is_some_and(|selector| selector.selects(labels))
        };
        let is_for_all = |own: &&Arc<MeshSidecar>| own.selector().is_none();
        of(namespace)
            .find(selects)
            .or_else(|| of(namespace).find(is_for_all))
            .or_else(|| of(root).find(is_for_all))
    }
}
