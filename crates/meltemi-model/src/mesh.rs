//! The owner of the indexes: applies changes and tells which parts of the mesh differ.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Kind, Meta, Object, ObjectKey, Resource};
use meltemi_core::names::{CLUSTER_DOMAIN, label};
use meltemi_core::{Hostname, Labels};

use crate::destination_rule::consolidate;
use crate::{
    ChangeSet, Endpoint, EndpointAddress, MeshSnapshot, MeshVirtualService, Part, Service,
    ServiceEndpoints, Workload, kubernetes, service_entry,
};

/// Builds [`MeshSnapshot`]s from a stream of changes. One task owns it.
///
/// An application costs what the changed objects touch; every other part is shared with the snapshot before.
#[derive(Debug)]
pub struct Mesh {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    snapshot: MeshSnapshot,
    /// The domain of Kubernetes services.
    domain: String,
    /// The objects that define a host; the first counts, and Service sorts before ServiceEntry.
    claims: BTreeMap<Hostname, BTreeSet<ObjectKey>>,
    /// The hosts each Service or ServiceEntry defines.
    hosts: BTreeMap<ObjectKey, Vec<Service>>,
    workloads: BTreeMap<ObjectKey, Arc<Workload>>,
    /// EndpointSlices by the namespace and name of their Service.
    slices: BTreeMap<(String, String), BTreeSet<ObjectKey>>,
    /// The hosts whose endpoints point at a pod by name, whether or not it exists yet.
    pod_users: BTreeMap<ObjectKey, BTreeSet<Hostname>>,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new(MeshConfig::default())
    }
}

/// What one application has to look at again.
#[derive(Default)]
struct Dirty {
    services: BTreeSet<ObjectKey>,
    workloads: BTreeSet<ObjectKey>,
    endpoints: BTreeSet<Hostname>,
    destination_rules: BTreeSet<String>,
    peer_authentications: BTreeSet<String>,
    virtual_services: bool,
    changes: ChangeSet,
}

impl Mesh {
    pub fn new(config: MeshConfig) -> Self {
        Self {
            objects: BTreeMap::new(),
            snapshot: MeshSnapshot {
                config: Arc::new(config),
                ..MeshSnapshot::default()
            },
            domain: CLUSTER_DOMAIN.to_owned(),
            claims: BTreeMap::new(),
            hosts: BTreeMap::new(),
            workloads: BTreeMap::new(),
            slices: BTreeMap::new(),
            pod_users: BTreeMap::new(),
        }
    }

    /// The current state, shared.
    pub fn snapshot(&self) -> Arc<MeshSnapshot> {
        Arc::new(self.snapshot.clone())
    }

    /// Every object applied so far, by kind, namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    pub fn object(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// The objects of one kind, in all namespaces.
    pub fn objects_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.objects
            .range(ObjectKey::new(kind, "", "")..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, object)| object)
    }

    /// Takes a new mesh configuration. Everything derived is derived again, for defaults reach into all of it.
    pub fn set_config(&mut self, config: MeshConfig) -> ChangeSet {
        if *self.snapshot.config == config {
            return ChangeSet::default();
        }
        self.snapshot.config = Arc::new(config);
        let keys: Vec<_> = self.objects.keys().cloned().collect();
        let mut dirty = Dirty::default();
        dirty.changes.insert(Part::MeshConfig);
        for key in &keys {
            self.mark(key, &mut dirty);
        }
        self.refresh(dirty)
    }

    /// Applies changes that belong together and answers which parts differ from before.
    pub fn apply(&mut self, changes: &[Change]) -> ChangeSet {
        let mut dirty = Dirty::default();
        for change in changes {
            self.record(change, &mut dirty);
        }
        self.refresh(dirty)
    }

    fn record(&mut self, change: &Change, dirty: &mut Dirty) {
        let key = change.key();
        self.unlink_slice(&key, dirty);
        let (before, after) = match change {
            Change::Upsert(object) => (
                self.objects.insert(key.clone(), Arc::clone(object)),
                Some(object),
            ),
            Change::Delete(_) => (self.objects.remove(&key), None),
        };
        self.link_slice(&key, dirty);
        if before.as_ref() != after {
            self.mark(&key, dirty);
        }
    }

    fn mark(&self, key: &ObjectKey, dirty: &mut Dirty) {
        match key.kind {
            Kind::Service | Kind::ServiceEntry => {
                dirty.services.insert(key.clone());
            }
            Kind::Pod | Kind::WorkloadEntry => {
                dirty.workloads.insert(key.clone());
            }
            Kind::DestinationRule => {
                dirty.destination_rules.insert(key.namespace.clone());
            }
            Kind::VirtualService => dirty.virtual_services = true,
            Kind::PeerAuthentication => {
                dirty.peer_authentications.insert(key.namespace.clone());
            }
            // Slices mark their service's endpoints when they are linked; the rest is not the model's.
            _ => {}
        }
    }

    fn slice_service(&self, key: &ObjectKey) -> Option<(String, String)> {
        if key.kind != Kind::EndpointSlice {
            return None;
        }
        let object = self.objects.get(key)?;
        let service = object.meta.labels.get(label::SERVICE_NAME)?;
        Some((key.namespace.clone(), service.to_owned()))
    }

    fn unlink_slice(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let Some(service) = self.slice_service(key) else {
            return;
        };
        dirty.endpoints.extend(self.service_host(&service));
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
    }

    fn link_slice(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        if let Some(service) = self.slice_service(key) {
            dirty.endpoints.extend(self.service_host(&service));
            self.slices.entry(service).or_default().insert(key.clone());
        }
    }

    fn service_host(&self, (namespace, name): &(String, String)) -> Option<Hostname> {
        Hostname::new(&format!("{name}.{namespace}.svc.{}", self.domain)).ok()
    }

    fn refresh(&mut self, mut dirty: Dirty) -> ChangeSet {
        self.refresh_workloads(&mut dirty);
        self.refresh_services(&mut dirty);
        self.refresh_endpoints(&mut dirty);
        self.refresh_destination_rules(&mut dirty);
        self.refresh_virtual_services(&mut dirty);
        self.refresh_peer_authentications(&mut dirty);
        dirty.changes
    }

    fn build_workload(&self, key: &ObjectKey) -> Option<Workload> {
        let object = self.objects.get(key)?;
        let trust_domain = self.snapshot.trust_domain();
        match &object.resource {
            Resource::Pod(pod) => kubernetes::workload(object, pod, &trust_domain),
            Resource::WorkloadEntry(entry) => service_entry::workload(object, entry, &trust_domain),
            _ => None,
        }
    }

    fn refresh_workloads(&mut self, dirty: &mut Dirty) {
        for key in std::mem::take(&mut dirty.workloads) {
            let after = self.build_workload(&key);
            let before = self.workloads.get(&key).cloned();
            if before.as_deref() == after.as_ref() {
                continue;
            }
            let after = after.map(Arc::new);
            for workload in [&before, &after].into_iter().flatten() {
                self.mark_users(&key, workload, dirty);
            }
            self.place_workload(&key, before.as_ref(), after.as_ref());
            match after {
                Some(workload) => self.workloads.insert(key, workload),
                None => self.workloads.remove(&key),
            };
        }
    }

    /// Marks what a workload, old or new, takes part in.
    fn mark_users(&self, key: &ObjectKey, workload: &Workload, dirty: &mut Dirty) {
        for address in &workload.addresses {
            dirty.changes.insert(Part::Workload(*address));
            let users = self.snapshot.memberships.get(address);
            dirty.endpoints.extend(users.into_iter().flatten().cloned());
        }
        let by_name = self.pod_users.get(key).into_iter().flatten().cloned();
        dirty.endpoints.extend(by_name);
        // Selectors of the namespace may begin or cease to match.
        let selecting = self.snapshot.services.values().filter(|service| {
            service.namespace == workload.namespace && self.selects_directly(service, key.kind)
        });
        dirty
            .endpoints
            .extend(selecting.map(|service| service.hostname.clone()));
    }

    /// Whether a service finds such workloads by its own selector, rather than through slices.
    fn selects_directly(&self, service: &Service, kind: Kind) -> bool {
        if service.is_kubernetes() {
            return kind == Kind::WorkloadEntry && !service.selector.is_empty();
        }
        self.entry_selector(service).is_some()
    }

    fn entry_selector(&self, service: &Service) -> Option<&Labels> {
        let key = ObjectKey::new(Kind::ServiceEntry, &service.namespace, &service.origin.name);
        match &self.objects.get(&key)?.resource {
            Resource::ServiceEntry(entry) => Some(&entry.workload_selector.as_ref()?.labels),
            _ => None,
        }
    }

    fn place_workload(
        &mut self,
        key: &ObjectKey,
        before: Option<&Arc<Workload>>,
        after: Option<&Arc<Workload>>,
    ) {
        let by_address = Arc::make_mut(&mut self.snapshot.workloads);
        for address in before.iter().flat_map(|workload| &workload.addresses) {
            // Another workload may have taken the address meanwhile.
            if by_address
                .get(address)
                .is_some_and(|holder| holder.origin == key.reference())
            {
                by_address.remove(address);
            }
        }
        if let Some(workload) = after {
            for address in &workload.addresses {
                by_address.insert(*address, Arc::clone(workload));
            }
        }
    }

    fn build_services(&self, key: &ObjectKey) -> Vec<Service> {
        let Some(object) = self.objects.get(key) else {
            return Vec::new();
        };
        let config = &self.snapshot.config;
        match &object.resource {
            Resource::Service(service) => {
                kubernetes::service(object, service, config, &self.domain)
                    .into_iter()
                    .collect()
            }
            Resource::ServiceEntry(entry) => service_entry::services(object, entry, config),
            _ => Vec::new(),
        }
    }

    fn refresh_services(&mut self, dirty: &mut Dirty) {
        let mut hosts = BTreeSet::new();
        for key in std::mem::take(&mut dirty.services) {
            for service in self.hosts.remove(&key).into_iter().flatten() {
                if let Some(claims) = self.claims.get_mut(&service.hostname) {
                    claims.remove(&key);
                }
                hosts.insert(service.hostname);
            }
            let services = self.build_services(&key);
            for service in &services {
                let claims = self.claims.entry(service.hostname.clone()).or_default();
                claims.insert(key.clone());
                hosts.insert(service.hostname.clone());
            }
            if !services.is_empty() {
                self.hosts.insert(key, services);
            }
        }
        for host in hosts {
            self.refresh_host(&host, dirty);
            // An entry's endpoints may have changed although its service did not.
            dirty.endpoints.insert(host);
        }
    }

    /// The service that counts for a host: a Kubernetes Service, else the oldest ServiceEntry.
    fn winner(&self, host: &Hostname) -> Option<&Service> {
        let key = self.claims.get(host)?.iter().min_by(|a, b| {
            let age = |key: &ObjectKey| self.objects.get(key).map(|object| &object.meta);
            a.kind.cmp(&b.kind).then_with(|| match (age(a), age(b)) {
                (Some(a), Some(b)) => Meta::by_age(a, b),
                _ => std::cmp::Ordering::Equal,
            })
        })?;
        self.hosts
            .get(key)?
            .iter()
            .find(|service| service.hostname == *host)
    }

    fn refresh_host(&mut self, host: &Hostname, dirty: &mut Dirty) {
        let after = self.winner(host).cloned();
        let before = self.snapshot.services.get(host).cloned();
        if before.as_deref() == after.as_ref() {
            return;
        }
        dirty.changes.insert(Part::Service(host.clone()));
        if before.is_none() || after.is_none() {
            dirty.changes.insert(Part::ServiceNames);
        }
        let ports = Arc::make_mut(&mut self.snapshot.hosts_by_port);
        for port in before.iter().flat_map(|service| &service.ports) {
            dirty.changes.insert(Part::ServicePort(port.number));
            if let Some(hosts) = ports.get_mut(&port.number) {
                hosts.remove(host);
                if hosts.is_empty() {
                    ports.remove(&port.number);
                }
            }
        }
        for port in after.iter().flat_map(|service| &service.ports) {
            dirty.changes.insert(Part::ServicePort(port.number));
            ports.entry(port.number).or_default().insert(host.clone());
        }
        if before.is_some() && after.is_some() {
            // A new port number is a new name to generate for.
            dirty.changes.insert(Part::ServiceNames);
        }
        let services = Arc::make_mut(&mut self.snapshot.services);
        match after {
            Some(service) => services.insert(host.clone(), Arc::new(service)),
            None => services.remove(host),
        };
    }

    fn refresh_endpoints(&mut self, dirty: &mut Dirty) {
        for host in std::mem::take(&mut dirty.endpoints) {
            let after = self.build_endpoints(&host);
            let before = self.snapshot.endpoints.get(&host).cloned();
            if before.as_deref() == after.as_ref() {
                continue;
            }
            dirty.changes.insert(Part::Endpoints(host.clone()));
            let identities = |endpoints: Option<&ServiceEndpoints>| -> Vec<_> {
                let all = endpoints.map(ServiceEndpoints::identities);
                all.into_iter().flatten().cloned().collect()
            };
            if identities(before.as_deref()) != identities(after.as_ref()) {
                dirty.changes.insert(Part::Identities(host.clone()));
            }
            self.refresh_memberships(&host, before.as_deref(), after.as_ref(), dirty);
            let endpoints = Arc::make_mut(&mut self.snapshot.endpoints);
            match after {
                Some(after) => endpoints.insert(host, Arc::new(after)),
                None => endpoints.remove(&host),
            };
        }
    }

    fn refresh_memberships(
        &mut self,
        host: &Hostname,
        before: Option<&ServiceEndpoints>,
        after: Option<&ServiceEndpoints>,
        dirty: &mut Dirty,
    ) {
        let served = |endpoints: Option<&ServiceEndpoints>| -> BTreeSet<(IpAddr, u16, String)> {
            endpoints
                .into_iter()
                .flat_map(|all| &all.endpoints)
                .filter_map(|endpoint| match endpoint.address {
                    EndpointAddress::Ip(ip) => {
                        Some((ip, endpoint.port, endpoint.service_port.clone()))
                    }
                    EndpointAddress::Name(_) => None,
                })
                .collect()
        };
        let (before, after) = (served(before), served(after));
        let touched: BTreeSet<IpAddr> = before
            .symmetric_difference(&after)
            .map(|(ip, ..)| *ip)
            .collect();
        let memberships = Arc::make_mut(&mut self.snapshot.memberships);
        for ip in touched {
            dirty.changes.insert(Part::Workload(ip));
            if after.iter().any(|(served, ..)| *served == ip) {
                memberships.entry(ip).or_default().insert(host.clone());
            } else if let Some(hosts) = memberships.get_mut(&ip) {
                hosts.remove(host);
                if hosts.is_empty() {
                    memberships.remove(&ip);
                }
            }
        }
    }

    fn build_endpoints(&mut self, host: &Hostname) -> Option<ServiceEndpoints> {
        let service = Arc::clone(self.snapshot.services.get(host)?);
        let mut endpoints = Vec::new();
        if service.is_kubernetes() {
            self.slice_endpoints(&service, &mut endpoints);
            self.selected_endpoints(&service, &service.selector, &mut endpoints, |kind| {
                kind == Kind::WorkloadEntry && !service.selector.is_empty()
            });
        }
        self.entry_endpoints(&service, &mut endpoints);
        endpoints.sort_by(|a, b| {
            (&a.service_port, &a.address, a.port).cmp(&(&b.service_port, &b.address, b.port))
        });
        endpoints.dedup_by(|a, b| {
            (&a.service_port, &a.address, a.port) == (&b.service_port, &b.address, b.port)
        });
        Some(ServiceEndpoints { endpoints })
    }

    /// Joins the slices of a Service with the pods they point at, by name and else by address.
    fn slice_endpoints(&mut self, service: &Service, out: &mut Vec<Endpoint>) {
        let key = (service.namespace.clone(), service.name.clone());
        let slices = self.slices.get(&key).cloned().unwrap_or_default();
        for slice in &slices {
            let Some(object) = self.objects.get(slice).cloned() else {
                continue;
            };
            let Resource::EndpointSlice(slice) = &object.resource else {
                continue;
            };
            for found in kubernetes::slice_endpoints(slice) {
                out.push(self.slice_endpoint(service, found));
            }
        }
    }

    fn slice_endpoint(&mut self, service: &Service, found: kubernetes::SliceEndpoint) -> Endpoint {
        let pod = found
            .pod
            .map(|name| ObjectKey::new(Kind::Pod, &service.namespace, &name));
        if let Some(pod) = &pod {
            let users = self.pod_users.entry(pod.clone()).or_default();
            users.insert(service.hostname.clone());
        }
        let workload = pod
            .and_then(|pod| self.workloads.get(&pod))
            .or_else(|| self.snapshot.workloads.get(&found.address));
        let mut endpoint = match workload {
            Some(workload) => {
                service_entry::of_workload(workload, found.address, found.port, &found.port_name)
            }
            None => unknown_endpoint(service, &found.address, found.port, &found.port_name),
        };
        endpoint.health = found.health;
        if let (true, Some(zone)) = (endpoint.locality.zone.is_empty(), found.zone) {
            endpoint.locality.zone = zone;
        }
        endpoint
    }

    fn selected_endpoints(
        &self,
        service: &Service,
        selector: &Labels,
        out: &mut Vec<Endpoint>,
        wanted: impl Fn(Kind) -> bool,
    ) {
        for kind in [Kind::Pod, Kind::WorkloadEntry] {
            if !wanted(kind) {
                continue;
            }
            let namespace = &service.namespace;
            let of_namespace = self
                .workloads
                .range(ObjectKey::new(kind, namespace, "")..)
                .take_while(|(key, _)| key.kind == kind && key.namespace == *namespace);
            for (_, workload) in of_namespace {
                if selector.selects(&workload.labels) {
                    out.extend(service_entry::selected_endpoints(service, workload));
                }
            }
        }
    }

    /// The endpoints of the ServiceEntries that claim the host, in the namespace of the one that counts.
    fn entry_endpoints(&self, service: &Service, out: &mut Vec<Endpoint>) {
        let claims = self.claims.get(&service.hostname).into_iter().flatten();
        let trust_domain = self.snapshot.trust_domain();
        for key in claims {
            if key.namespace != service.namespace {
                continue;
            }
            let Some(object) = self.objects.get(key) else {
                continue;
            };
            let Resource::ServiceEntry(entry) = &object.resource else {
                continue;
            };
            match &entry.workload_selector {
                Some(selector) => {
                    self.selected_endpoints(service, &selector.labels, out, |_| true);
                }
                None => out.extend(service_entry::inline_endpoints(
                    service,
                    entry,
                    &trust_domain,
                )),
            }
        }
    }

    fn oldest_first(&self, kind: Kind, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let mut objects: Vec<_> = self
            .objects_of(kind)
            .filter(|object| namespace.is_none_or(|wanted| object.meta.namespace == wanted))
            .cloned()
            .collect();
        objects.sort_by(|a, b| Meta::by_age(&a.meta, &b.meta));
        objects
    }

    fn refresh_destination_rules(&mut self, dirty: &mut Dirty) {
        for namespace in std::mem::take(&mut dirty.destination_rules) {
            let objects = self.oldest_first(Kind::DestinationRule, Some(&namespace));
            let after = consolidate(objects.iter(), &self.snapshot.config, &self.domain);
            let rules = Arc::make_mut(&mut self.snapshot.destination_rules);
            let before = match after.is_empty() {
                true => rules.by_namespace.remove(&namespace),
                false => rules.by_namespace.insert(namespace, after.clone().into()),
            };
            let before = before.as_deref().unwrap_or_default();
            let differing = before
                .iter()
                .filter(|rule| !after.contains(rule))
                .chain(after.iter().filter(|rule| !before.contains(rule)));
            let hosts: Vec<_> = differing.map(|rule| rule.host.clone()).collect();
            for service in self.snapshot.services.keys() {
                if hosts.iter().any(|host| host.covers(service)) {
                    dirty.changes.insert(Part::DestinationRule(service.clone()));
                }
            }
        }
    }

    fn refresh_virtual_services(&mut self, dirty: &mut Dirty) {
        if !dirty.virtual_services {
            return;
        }
        let after: Vec<_> = self
            .oldest_first(Kind::VirtualService, None)
            .iter()
            .filter_map(|object| {
                MeshVirtualService::new(object, &self.snapshot.config, &self.domain)
            })
            .map(Arc::new)
            .collect();
        let before = std::mem::replace(
            &mut Arc::make_mut(&mut self.snapshot.virtual_services).by_age,
            after,
        );
        let after = &self.snapshot.virtual_services.by_age;
        let differing = before
            .iter()
            .filter(|service| !after.contains(service))
            .chain(after.iter().filter(|service| !before.contains(service)));
        let hosts: BTreeSet<_> = differing.flat_map(|service| &service.hosts).collect();
        for service in self.snapshot.services.keys() {
            if hosts.iter().any(|host| host.covers(service)) {
                dirty.changes.insert(Part::VirtualService(service.clone()));
            }
        }
        let foreign = |host: &&Hostname| !self.snapshot.services.contains_key(*host);
        if hosts.iter().any(foreign) {
            dirty.changes.insert(Part::ForeignVirtualServices);
        }
    }

    fn refresh_peer_authentications(&mut self, dirty: &mut Dirty) {
        for namespace in std::mem::take(&mut dirty.peer_authentications) {
            let after = self.oldest_first(Kind::PeerAuthentication, Some(&namespace));
            let policies = Arc::make_mut(&mut self.snapshot.peer_authentications);
            let before = policies
                .by_namespace
                .insert(namespace.clone(), after.clone())
                .unwrap_or_default();
            let differing = before
                .iter()
                .filter(|object| !after.contains(object))
                .chain(after.iter().filter(|object| !before.contains(object)));
            for object in differing {
                let Resource::PeerAuthentication(policy) = &object.resource else {
                    continue;
                };
                dirty.changes.insert(if policy.is_namespace_wide() {
                    Part::PeerAuthentication(namespace.clone())
                } else {
                    Part::WorkloadPeerAuthentication(namespace.clone())
                });
            }
        }
    }
}

/// An endpoint of no workload that the mesh knows: reached in plain text, without an identity.
fn unknown_endpoint(service: &Service, address: &IpAddr, port: u16, port_name: &str) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Ip(*address),
        port,
        service_port: port_name.to_owned(),
        namespace: service.namespace.clone(),
        labels: Labels::default(),
        identity: None,
        accepts_mtls: false,
        locality: meltemi_core::Locality::default(),
        weight: 0,
        health: crate::Health::Ready,
        workload: None,
    }
}
