use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use meltemi_api::istio::MeshConfig;
use meltemi_core::{Hostname, Labels};
use meltemi_model::{
    Credential, HostRule, MeshGateway, MeshSnapshot, MeshVirtualService, Part, ServerTls, Service,
    ServiceEndpoints, Workload, WorkloadTls,
};

use crate::ProxyView;

/// A service and the workload's part in it: target ports by the name of the service port.
pub(crate) type OwnService<'a> = (&'a Arc<Service>, Vec<(u16, &'a str)>);

/// The only door through which generators see the mesh: every read is noted, so that what was generated from it is
/// generated again when, and only when, that part changes.
pub(crate) struct Inputs<'a> {
    pub(crate) view: &'a ProxyView,
    mesh: &'a MeshSnapshot,
    read: RefCell<BTreeSet<Part>>,
}

impl<'a> Inputs<'a> {
    pub(crate) fn new(view: &'a ProxyView, mesh: &'a MeshSnapshot) -> Self {
        Self {
            view,
            mesh,
            read: RefCell::default(),
        }
    }

    /// The parts read so far.
    pub(crate) fn into_parts(self) -> BTreeSet<Part> {
        self.read.into_inner()
    }

    fn note(&self, part: Part) {
        self.read.borrow_mut().insert(part);
    }

    pub(crate) fn config(&self) -> &'a MeshConfig {
        self.note(Part::MeshConfig);
        self.mesh.config()
    }

    /// Never changes, so it is no part.
    pub(crate) fn cluster_id(&self) -> &'a str {
        self.mesh.cluster_id()
    }

    /// A service, if the proxy may see it.
    pub(crate) fn service(&self, host: &Hostname) -> Option<&'a Arc<Service>> {
        self.note(Part::Service(host.clone()));
        self.mesh
            .service(host)
            .filter(|service| service.visible_to(&self.view.namespace))
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
            .filter(|service| service.visible_to(&self.view.namespace))
    }

    pub(crate) fn services_on_port(&self, port: u16) -> impl Iterator<Item = &'a Arc<Service>> {
        self.note(Part::ServicePort(port));
        self.mesh
            .services_on_port(port)
            .filter(|service| service.visible_to(&self.view.namespace))
    }

    pub(crate) fn endpoints(&self, host: &Hostname) -> Option<&'a Arc<ServiceEndpoints>> {
        self.note(Part::Endpoints(host.clone()));
        self.mesh.endpoints(host)
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
        self.mesh
            .destination_rule(&self.view.namespace, &self.view.labels, host)
    }

    /// The rule of a service for those who serve it.
    pub(crate) fn inbound_rule(&self, host: &Hostname) -> Option<&'a Arc<HostRule>> {
        self.note(Part::DestinationRule(host.clone()));
        self.note(Part::Service(host.clone()));
        self.mesh.inbound_rule(&self.view.namespace, host)
    }

    pub(crate) fn virtual_service(&self, host: &Hostname) -> Option<&'a Arc<MeshVirtualService>> {
        self.note(Part::VirtualService(host.clone()));
        self.mesh.virtual_service(host, &self.view.namespace)
    }

    /// VirtualServices with hosts that are no service, and those hosts, the oldest first.
    pub(crate) fn foreign_virtual_services(
        &self,
    ) -> Vec<(&'a Hostname, &'a Arc<MeshVirtualService>)> {
        self.note(Part::ForeignVirtualServices);
        self.note(Part::ServiceNames);
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for service in self.mesh.virtual_services(&self.view.namespace) {
            for host in &service.hosts {
                if self.mesh.service(host).is_none() && seen.insert(host) {
                    out.push((host, service));
                }
            }
        }
        out
    }

    /// The first VirtualService that names this host, if the host is no service.
    pub(crate) fn foreign_virtual_service(
        &self,
        domain: &str,
    ) -> Option<(&'a Hostname, &'a Arc<MeshVirtualService>)> {
        self.note(Part::ForeignVirtualServices);
        let mut all = self.mesh.virtual_services(&self.view.namespace);
        let (host, service) = all.find_map(|service| {
            let host = service.hosts.iter().find(|host| host.as_str() == domain)?;
            Some((host, service))
        })?;
        self.note(Part::Service(host.clone()));
        self.mesh.service(host).is_none().then_some((host, service))
    }

    pub(crate) fn namespace_tls(&self, namespace: &str) -> ServerTls {
        self.note(Part::PeerAuthentication(namespace.to_owned()));
        let root = &self.config().root_namespace;
        self.note(Part::PeerAuthentication(root.clone()));
        self.mesh.namespace_tls(namespace)
    }

    pub(crate) fn workload_tls(&self, namespace: &str, labels: &Labels) -> WorkloadTls {
        self.note(Part::WorkloadPeerAuthentication(namespace.to_owned()));
        self.note(Part::PeerAuthentication(namespace.to_owned()));
        let root = &self.config().root_namespace;
        self.note(Part::PeerAuthentication(root.clone()));
        self.mesh.workload_tls(namespace, labels)
    }

    /// The proxy's workload as the objects know it, if they confirm who it has proven to be.
    pub(crate) fn own_workload(&self) -> Option<&'a Arc<Workload>> {
        let mut own = self.view.addresses.iter().filter_map(|address| {
            self.note(Part::Workload(*address));
            self.mesh.workload(*address)
        });
        own.find(|workload| {
            workload.namespace == self.view.namespace
                && workload.service_account == self.view.service_account
        })
    }

    /// The Gateways that select the proxy, the oldest first. The labels that count are the objects', and the proxy's own word
    /// only until they know it.
    pub(crate) fn gateways(&self) -> Vec<&'a MeshGateway> {
        self.note(Part::Gateways);
        let labels = self
            .own_workload()
            .map_or(&self.view.labels, |own| &own.labels);
        let all = self.mesh.gateways().map(AsRef::as_ref);
        all.filter(|gateway: &&MeshGateway| gateway.selects(labels))
            .collect()
    }

    /// The VirtualServices that are bound to a Gateway, `namespace/name`, the oldest first.
    pub(crate) fn virtual_services_at(&self, gateway: &'a str) -> Vec<&'a Arc<MeshVirtualService>> {
        self.note(Part::GatewayVirtualServices);
        let namespace = &self.view.namespace;
        self.mesh.virtual_services_at(gateway, namespace).collect()
    }

    /// The certificates in a Secret of the proxy's own namespace.
    pub(crate) fn credential(&self, name: &str) -> Option<&'a Arc<Credential>> {
        let namespace = &self.view.namespace;
        self.note(Part::Credential(namespace.clone(), name.to_owned()));
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
        for address in &self.view.addresses {
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
