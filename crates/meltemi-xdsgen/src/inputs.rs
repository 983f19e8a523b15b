mod authorizers;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use meltemi_api::istio::{
    ConnectionPool, Destination, IngressListener, MeshConfig, OutboundTrafficPolicyMode,
    RequestAuthentication,
};
use meltemi_core::{Hostname, Labels, Locality};
use meltemi_model::{
    Credential, ExportTo, HostRule, JwksSource, KeyFetching, KeyServer, MeshAuthorizationPolicy,
    MeshGateway, MeshSidecar, MeshSnapshot, MeshVirtualService, Part, ServerTls, Service,
    ServiceEndpoints, Workload, WorkloadTls,
};

pub(crate) use authorizers::Authorizer;

use crate::origin::Origin;
use crate::view::{Field, Fields};
use crate::{Flavour, ProxyView, Role};

/// A service and the workload's part in it: target ports by the name of the service port.
pub(crate) type OwnService<'a> = (&'a Arc<Service>, Vec<(u16, &'a str)>);

/// The only door through which generators see the mesh and the proxy. Every read is noted: what was generated is generated
/// again when, and only when, a part of the mesh that it was made from changes, and serves every proxy that agrees in the
/// fields that it was made from.
pub(crate) struct Inputs<'a> {
    view: &'a ProxyView,
    mesh: &'a MeshSnapshot,
    read: RefCell<BTreeSet<Part>>,
    fields: Cell<Fields>,
    origins: RefCell<Vec<Origin>>,
    has_noted_sidecar: Cell<bool>,
    led_to: OnceCell<BTreeSet<Hostname>>,
}

/// What a generator has read.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// In their order.
    pub(crate) parts: Box<[Part]>,
    pub(crate) fields: Fields,
    /// What users wrote of it.
    pub(crate) origins: Box<[Origin]>,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(view: &'a ProxyView, mesh: &'a MeshSnapshot) -> Self {
        Self {
            view,
            mesh,
            read: RefCell::default(),
            fields: Cell::default(),
            origins: RefCell::default(),
            has_noted_sidecar: Cell::new(false),
            led_to: OnceCell::new(),
        }
    }

    pub(crate) fn into_read(self) -> Read {
        Read {
            parts: self.read.into_inner().into_iter().collect(),
            fields: self.fields.get(),
            origins: self.origins.into_inner().into(),
        }
    }

    fn note(&self, part: Part) {
        self.read.borrow_mut().insert(part);
    }

    fn note_origin(&self, origin: Origin) {
        let mut origins = self.origins.borrow_mut();
        if !origins.iter().any(|noted| noted.is_same(&origin)) {
            origins.push(origin);
        }
    }

    /// Of Kubernetes' own Services nobody asks who has them.
    fn note_service(&self, service: &Arc<Service>) {
        if !service.is_kubernetes() {
            self.note_origin(Origin::Service(Arc::clone(service)));
        }
    }

    fn note_rule(&self, rule: Option<&Arc<HostRule>>) {
        if let Some(rule) = rule {
            self.note_origin(Origin::DestinationRule(Arc::clone(rule)));
        }
    }

    fn note_virtual_service(&self, service: Option<&Arc<MeshVirtualService>>) {
        if let Some(service) = service {
            self.note_origin(Origin::VirtualService(Arc::clone(service)));
        }
    }

    fn note_policy(&self, tls: &ServerTls) {
        if let Some(object) = &tls.decided_by {
            self.note_origin(Origin::Policy(Arc::new(object.clone())));
        }
    }

    fn note_field(&self, field: Field) {
        self.fields.set(self.fields.get().with(field));
    }

    pub(crate) fn namespace(&self) -> &'a str {
        self.note_field(Field::Namespace);
        &self.view.namespace
    }

    pub(crate) fn labels(&self) -> &'a Labels {
        self.note_field(Field::Labels);
        &self.view.labels
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.note_field(Field::Flavour);
        self.view.flavour
    }

    pub(crate) fn http10(&self) -> bool {
        self.note_field(Field::Http10);
        self.view.http10
    }

    pub(crate) fn cluster_domain(&self) -> &'a str {
        self.note_field(Field::ClusterDomain);
        self.view.cluster_domain()
    }

    pub(crate) fn role(&self) -> Role {
        self.note_field(Field::Role);
        self.view.role
    }

    /// Where the proxy is. Its state sees to it that the view says so.
    pub(crate) fn locality(&self) -> &'a Locality {
        self.note_field(Field::Locality);
        &self.view.locality
    }

    fn service_account(&self) -> &'a str {
        self.note_field(Field::ServiceAccount);
        &self.view.service_account
    }

    pub(crate) fn addresses(&self) -> &'a [IpAddr] {
        self.note_field(Field::Addresses);
        &self.view.addresses
    }

    /// What is exported to all is seen from every namespace alike.
    fn sees(&self, export_to: &ExportTo) -> bool {
        *export_to == ExportTo::All || export_to.includes(self.namespace())
    }

    pub(crate) fn config(&self) -> &'a MeshConfig {
        self.note(Part::MeshConfig);
        self.mesh.config()
    }

    /// Never changes, so it is no part.
    pub(crate) fn cluster_id(&self) -> &'a str {
        self.mesh.cluster_id()
    }

    /// The Sidecar that the proxy obeys. Proxies that obey the same one, or none, agree in it.
    fn sidecar(&self) -> Option<&'a MeshSidecar> {
        self.note_field(Field::Sidecar);
        let origin = self.view.sidecar.as_ref()?;
        let sidecar = self.mesh.sidecar_named(&origin.namespace, &origin.name);
        if !self.has_noted_sidecar.replace(true) {
            self.note(Part::Sidecar(origin.namespace.clone()));
            if let Some(own) = sidecar {
                self.note_origin(Origin::Sidecar(Arc::clone(own)));
            }
        }
        sidecar.map(AsRef::as_ref)
    }

    /// The namespace that a Sidecar means by `.`; for one that never says so, the proxy's is of no account.
    fn namespace_of_scope(&self, sidecar: &MeshSidecar) -> &'a str {
        match sidecar.is_relative() {
            true => self.namespace(),
            false => &self.view.namespace,
        }
    }

    /// What the proxy's workload serves, if its Sidecar says so.
    pub(crate) fn ingress(&self) -> &'a [IngressListener] {
        self.sidecar().map_or(&[], |own| &own.spec.ingress)
    }

    pub(crate) fn inbound_pool(&self) -> Option<&'a ConnectionPool> {
        self.sidecar()?.spec.inbound_connection_pool.as_ref()
    }

    /// What happens to calls of names and addresses that no service has.
    pub(crate) fn unknown_destinations(&self) -> OutboundTrafficPolicyMode {
        let own = self.sidecar();
        match own.and_then(|own| own.spec.outbound_traffic_policy.as_ref()) {
            Some(policy) => policy.mode(),
            None => self.config().outbound_traffic_policy.mode,
        }
    }

    /// Who takes them, and the namespace that this is said in.
    pub(crate) fn egress_proxy(&self) -> Option<(&'a Destination, &'a str)> {
        let sidecar = self.sidecar()?;
        Some((sidecar.egress_proxy()?, sidecar.namespace()))
    }

    /// A service, if the proxy may see and call it.
    pub(crate) fn service(&self, host: &Hostname) -> Option<&'a Arc<Service>> {
        self.note(Part::Service(host.clone()));
        let service = self.mesh.service(host);
        let seen = service
            .filter(|service| self.sees(&service.export_to))
            .filter(|service| self.calls(service))?;
        self.note_service(seen);
        Some(seen)
    }

    /// Whether the proxy calls a service: by its name or address, by a route that leads there, or for keys.
    fn calls(&self, service: &Service) -> bool {
        let Some(sidecar) = self.sidecar() else {
            return true;
        };
        sidecar.imports_any(self.namespace_of_scope(sidecar), service)
            || self.led_to(sidecar).contains(&service.hostname)
    }

    /// The same of one of its ports. What is led to has all of them.
    pub(crate) fn calls_port(&self, service: &Service, port: u16) -> bool {
        let Some(sidecar) = self.sidecar() else {
            return true;
        };
        sidecar.imports(self.namespace_of_scope(sidecar), service, port)
            || self.led_to(sidecar).contains(&service.hostname)
    }

    /// The hosts that are called whether they are imported or not: where the routes of imported VirtualServices lead, the egress
    /// proxy's, those of keys that the proxy fetches, and the authorizers'.
    fn led_to(&self, sidecar: &MeshSidecar) -> &BTreeSet<Hostname> {
        self.led_to.get_or_init(|| {
            self.note(Part::VirtualServices);
            let namespace = self.namespace();
            let all = self.mesh.virtual_services(namespace);
            let imported = all.filter(|one| sidecar.imports_routes_somewhere(namespace, one));
            let named = imported.flat_map(|routed| &routed.destinations).cloned();
            let proxy = sidecar.egress_proxy().and_then(|proxy| {
                let own = sidecar.namespace();
                Hostname::resolve(&proxy.host, own, self.cluster_domain()).ok()
            });
            let hosts: BTreeSet<Hostname> = named.chain(proxy).collect();
            let hosts = hosts.into_iter().map(|host| self.unaliased(host));
            let hosts = hosts.chain(self.key_servers());
            hosts.chain(self.authorizers()).collect()
        })
    }

    fn key_servers(&self) -> Vec<Hostname> {
        if self.mesh.key_fetching() == KeyFetching::ControlPlane {
            return Vec::new();
        }
        let policies = self.request_authentications().into_iter();
        let rules = policies.flat_map(|policy| &policy.jwt_rules);
        let servers = rules
            .filter_map(JwksSource::of)
            .filter_map(|source| self.key_server(&source));
        servers.map(|server| server.host).collect()
    }

    /// The host itself, or the one that it is another name of.
    pub(crate) fn unaliased(&self, host: Hostname) -> Hostname {
        self.note(Part::Service(host.clone()));
        self.mesh.alias(&host).cloned().unwrap_or(host)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = &'a Arc<Service>> {
        self.note(Part::ServiceNames);
        self.mesh
            .services()
            .filter(|service| self.sees(&service.export_to))
            .filter(|service| self.calls(service))
    }

    /// The services that are called by this port of theirs.
    pub(crate) fn services_on_port(&self, port: u16) -> impl Iterator<Item = &'a Arc<Service>> {
        self.note(Part::ServicePort(port));
        let sidecar = self.sidecar();
        self.mesh
            .services_on_port(port)
            .filter(|service| self.sees(&service.export_to))
            .filter(move |service| {
                sidecar.is_none_or(|own| own.imports(self.namespace_of_scope(own), service, port))
            })
    }

    /// The same of one service.
    pub(crate) fn service_on_port(&self, host: &Hostname, port: u16) -> Option<&'a Arc<Service>> {
        let service = self.service(host)?;
        let sidecar = self.sidecar();
        let is_imported =
            sidecar.is_none_or(|own| own.imports(self.namespace_of_scope(own), service, port));
        is_imported.then_some(service)
    }

    pub(crate) fn endpoints(&self, host: &Hostname) -> Option<&'a Arc<ServiceEndpoints>> {
        self.note(Part::Endpoints(host.clone()));
        let endpoints = self.mesh.endpoints(host)?;
        let workloads = endpoints
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.workload.as_ref());
        for workload in workloads.filter(|workload| !workload.is_pod()) {
            self.note_origin(Origin::Workload(Arc::clone(workload)));
        }
        Some(endpoints)
    }

    /// The SPIFFE IDs behind a service.
    pub(crate) fn identities(&self, host: &Hostname) -> Vec<String> {
        self.note(Part::Identities(host.clone()));
        let identities = self.mesh.endpoints(host).map(|all| all.identities());
        let identities = identities.into_iter().flatten();
        identities.map(ToString::to_string).collect()
    }

    pub(crate) fn destination_rule(&self, host: &Hostname) -> Option<&'a Arc<HostRule>> {
        self.note(Part::DestinationRule(host.clone()));
        self.note(Part::Service(host.clone()));
        // Where no rule covers the host, none does for anybody.
        if !self.mesh.has_destination_rule(host) {
            return None;
        }
        let labels = match self.mesh.has_rule_by_labels(host) {
            true => self.labels(),
            false => &self.view.labels,
        };
        let rule = self.mesh.destination_rule(self.namespace(), labels, host);
        self.note_rule(rule);
        rule
    }

    /// The rule of a service for those who serve it.
    pub(crate) fn inbound_rule(&self, host: &Hostname) -> Option<&'a Arc<HostRule>> {
        self.note(Part::DestinationRule(host.clone()));
        self.note(Part::Service(host.clone()));
        let rule = self.mesh.inbound_rule(self.namespace(), host);
        self.note_rule(rule);
        rule
    }

    /// The VirtualService that routes calls of a host on a port.
    pub(crate) fn virtual_service(
        &self,
        host: &Hostname,
        port: u16,
    ) -> Option<&'a Arc<MeshVirtualService>> {
        self.note(Part::VirtualService(host.clone()));
        // A question that has one answer for everybody is not put for a namespace.
        let namespace = match self.mesh.has_private_virtual_service(host) {
            true => self.namespace(),
            false => &self.view.namespace,
        };
        let is_imported = self.imports_routes(port);
        let service = self.mesh.virtual_service(host, |routed| {
            routed.visible_to(namespace) && is_imported(routed)
        });
        self.note_virtual_service(service);
        service
    }

    /// Which VirtualServices the proxy's Sidecar has it obey on a port.
    fn imports_routes(&self, port: u16) -> impl Fn(&MeshVirtualService) -> bool + use<'a> {
        let sidecar = self.sidecar();
        let sidecar = sidecar.map(|own| (own, self.namespace_of_scope(own)));
        move |routed| sidecar.is_none_or(|(own, of)| own.imports_routes(of, routed, port))
    }

    /// VirtualServices with hosts that no service in the proxy's scope has on a port, and those hosts, the oldest first; of
    /// those obeyed on the port.
    pub(crate) fn foreign_virtual_services(
        &self,
        port: u16,
    ) -> Vec<(&'a Hostname, &'a Arc<MeshVirtualService>)> {
        self.note_foreign();
        self.note(Part::ServiceNames);
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        let is_imported = self.imports_routes(port);
        let all = self.mesh.virtual_services(self.namespace());
        for service in all.filter(|service| is_imported(service)) {
            for host in &service.hosts {
                if self.is_foreign(host, port) && seen.insert(host) {
                    self.note_virtual_service(Some(service));
                    out.push((host, service));
                }
            }
        }
        out
    }

    /// In a scope a host of any service may be foreign.
    fn note_foreign(&self) {
        self.note(match self.sidecar() {
            Some(_) => Part::VirtualServices,
            None => Part::ForeignVirtualServices,
        });
    }

    /// Whether no service that the proxy calls by this port has the host: one outside its scope is as good as none (Istio,
    /// `BuildSidecarOutboundVirtualHosts` looks at the listener's services). Without a Sidecar the services of the mesh decide.
    fn is_foreign(&self, host: &Hostname, port: u16) -> bool {
        if self.mesh.service(host).is_none() {
            return true;
        }
        if self.sidecar().is_none() {
            return false;
        }
        self.service_on_port(host, port).is_none()
    }

    /// The first VirtualService that names this host, if no service in the proxy's scope has it on the port.
    pub(crate) fn foreign_virtual_service(
        &self,
        domain: &str,
        port: u16,
    ) -> Option<(&'a Hostname, &'a Arc<MeshVirtualService>)> {
        self.note_foreign();
        let is_imported = self.imports_routes(port);
        let all = self.mesh.virtual_services(self.namespace());
        let mut all = all.filter(|service| is_imported(service));
        let (host, service) = all.find_map(|service| {
            let host = service.hosts.iter().find(|host| host.as_str() == domain)?;
            Some((host, service))
        })?;
        self.note(Part::Service(host.clone()));
        if !self.is_foreign(host, port) {
            return None;
        }
        self.note_virtual_service(Some(service));
        Some((host, service))
    }

    pub(crate) fn namespace_tls(&self, namespace: &str) -> ServerTls {
        self.note(Part::PeerAuthentication(namespace.to_owned()));
        let root = &self.config().root_namespace;
        self.note(Part::PeerAuthentication(root.clone()));
        let tls = self.mesh.namespace_tls(namespace);
        self.note_policy(&tls);
        tls
    }

    pub(crate) fn workload_tls(&self, namespace: &str, labels: &Labels) -> WorkloadTls {
        self.note(Part::WorkloadPeerAuthentication(namespace.to_owned()));
        self.note(Part::PeerAuthentication(namespace.to_owned()));
        let root = &self.config().root_namespace;
        self.note(Part::PeerAuthentication(root.clone()));
        let tls = self.mesh.workload_tls(namespace, labels);
        let modes = std::iter::once(&tls.default).chain(tls.ports.values());
        modes.for_each(|mode| self.note_policy(mode));
        tls
    }

    /// The AuthorizationPolicies that the proxy's workload obeys.
    pub(crate) fn authorization_policies(&self) -> Vec<&'a Arc<MeshAuthorizationPolicy>> {
        let namespace = self.namespace();
        self.note(Part::AuthorizationPolicy(namespace.to_owned()));
        let root = &self.config().root_namespace;
        self.note(Part::AuthorizationPolicy(root.clone()));
        let labels = match self.mesh.has_authorization_by_labels(namespace) {
            true => self.known_labels(),
            false => &self.view.labels,
        };
        let policies: Vec<_> = self
            .mesh
            .authorization_policies(namespace, labels)
            .collect();
        for policy in &policies {
            self.note_origin(Origin::Policy(Arc::new(policy.origin.clone())));
        }
        policies
    }

    /// What is said of the tokens that the proxy's workload is shown.
    pub(crate) fn request_authentications(&self) -> Vec<&'a RequestAuthentication> {
        let namespace = self.namespace();
        self.note(Part::RequestAuthentication(namespace.to_owned()));
        let root = &self.config().root_namespace;
        self.note(Part::RequestAuthentication(root.clone()));
        if !self.mesh.has_request_authentications(namespace) {
            return Vec::new();
        }
        let labels = self.known_labels();
        let all = self.mesh.request_authentications(namespace, labels);
        all.map(|(object, policy)| {
            self.note_origin(Origin::Policy(Arc::new(object.reference())));
            policy
        })
        .collect()
    }

    /// Where the proxy is to fetch the keys that are published there.
    pub(crate) fn key_server(&self, source: &JwksSource) -> Option<KeyServer> {
        // Of no part: who fetches never changes.
        if self.mesh.key_fetching() == KeyFetching::ControlPlane {
            return None;
        }
        let server = self.mesh.key_server(source);
        if let Some(host) = source.host() {
            self.note(Part::Service(host));
        }
        server
    }

    /// The key set that is published there, if it could be fetched.
    pub(crate) fn keys(&self, source: &JwksSource) -> Option<&'a str> {
        self.note(Part::Keys(source.clone()));
        self.mesh.keys(source).map(AsRef::as_ref)
    }

    /// The proxy's workload as the objects know it, if they confirm who it has proven to be.
    pub(crate) fn own_workload(&self) -> Option<&'a Arc<Workload>> {
        let mut own = self.addresses().iter().filter_map(|address| {
            self.note(Part::Workload(*address));
            self.mesh.workload(*address)
        });
        own.find(|workload| {
            workload.namespace == self.namespace()
                && workload.service_account == self.service_account()
        })
    }

    /// The labels of the workload: the objects' word counts, and the proxy's own only until they know it.
    fn known_labels(&self) -> &'a Labels {
        match self.own_workload() {
            Some(own) => &own.labels,
            None => self.labels(),
        }
    }

    /// The Gateways that select the proxy, the oldest first.
    pub(crate) fn gateways(&self) -> Vec<&'a MeshGateway> {
        self.note(Part::Gateways);
        let labels = self.known_labels();
        let all = self.mesh.gateways();
        let selecting: Vec<_> = all.filter(|gateway| gateway.selects(labels)).collect();
        for gateway in &selecting {
            self.note_origin(Origin::Gateway(Arc::clone(gateway)));
        }
        selecting.into_iter().map(AsRef::as_ref).collect()
    }

    /// The VirtualServices that are bound to a Gateway, `namespace/name`, the oldest first.
    pub(crate) fn virtual_services_at(&self, gateway: &'a str) -> Vec<&'a Arc<MeshVirtualService>> {
        self.note(Part::GatewayVirtualServices);
        let bound = self.mesh.virtual_services_at(gateway, self.namespace());
        let bound: Vec<_> = bound.collect();
        bound
            .iter()
            .for_each(|service| self.note_virtual_service(Some(service)));
        bound
    }

    /// The certificates in a Secret of the proxy's own namespace.
    pub(crate) fn credential(&self, name: &str) -> Option<&'a Arc<Credential>> {
        let namespace = self.namespace();
        self.note(Part::Credential(namespace.to_owned(), name.to_owned()));
        self.mesh.credential(namespace, name)
    }

    /// Where a gateway listens for a server's port: where its Service leads from there, else at that number itself.
    pub(crate) fn listening_port(&self, number: u16) -> u16 {
        let services = self.own_services();
        let mut leading = services.iter().flat_map(|(service, served)| {
            let own = service.ports.iter().filter(|port| port.number == number);
            own.filter_map(|port| {
                let of_port = |(_, name): &&(u16, &str)| *name == port.name;
                served.iter().find(of_port).map(|(target, _)| *target)
            })
        });
        leading.next().unwrap_or(number)
    }

    /// The services that the proxy's workload stands behind, each with the endpoints of it that are the workload.
    pub(crate) fn own_services(&self) -> Vec<OwnService<'a>> {
        let mut out: Vec<OwnService<'a>> = Vec::new();
        for address in self.addresses() {
            // The part covers which services, and with which ports, an address stands behind.
            self.note(Part::Workload(*address));
            for service in self.mesh.services_of(*address) {
                self.note(Part::Service(service.hostname.clone()));
                let mut ports: Vec<(u16, &str)> = self
                    .mesh
                    .endpoints(&service.hostname)
                    .into_iter()
                    .flat_map(|all| &all.endpoints)
                    .filter(|endpoint| {
                        endpoint.address == meltemi_model::EndpointAddress::Ip(*address)
                    })
                    .map(|endpoint| (endpoint.port, endpoint.service_port.as_str()))
                    .collect();
                ports.sort_unstable();
                ports.dedup();
                if out
                    .iter()
                    .all(|(seen, _)| seen.hostname != service.hostname)
                {
                    out.push((service, ports));
                }
            }
        }
        out
    }
}
