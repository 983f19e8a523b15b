use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use meltemi_api::Object;
use meltemi_api::istio::{MeshConfig, RequestAuthentication};
use meltemi_core::{Hostname, Labels, TrustDomain};

use crate::authorization_policy::AuthorizationPolicies;
use crate::credential::Credentials;
use crate::destination_rule::DestinationRules;
use crate::peer_authentication::PeerAuthentications;
use crate::request_authentication::RequestAuthentications;
use crate::sidecar::Sidecars;
use crate::virtual_service::VirtualServices;
use crate::{
    Credential, HostRule, JwksSource, KeyFetching, KeyServer, MeshAuthorizationPolicy, MeshGateway,
    MeshSidecar, MeshVirtualService, ServerTls, Service, ServiceEndpoints, Workload, WorkloadTls,
};

/// The mesh at one moment. Immutable; snapshots share what did not change between them.
///
/// Each accessor names the [`crate::Part`] that its answer depends on.
#[derive(Clone, Debug, Default)]
pub struct MeshSnapshot {
    pub(crate) config: Arc<MeshConfig>,
    pub(crate) cluster_id: Arc<str>,
    pub(crate) services: Arc<BTreeMap<Hostname, Arc<Service>>>,
    pub(crate) aliases: Arc<BTreeMap<Hostname, Hostname>>,
    pub(crate) hosts_by_port: Arc<BTreeMap<u16, BTreeSet<Hostname>>>,
    pub(crate) endpoints: Arc<BTreeMap<Hostname, Arc<ServiceEndpoints>>>,
    pub(crate) workloads: Arc<BTreeMap<IpAddr, Arc<Workload>>>,
    pub(crate) memberships: Arc<BTreeMap<IpAddr, BTreeSet<Hostname>>>,
    pub(crate) destination_rules: Arc<DestinationRules>,
    pub(crate) virtual_services: Arc<VirtualServices>,
    /// The oldest first.
    pub(crate) gateways: Arc<Vec<Arc<MeshGateway>>>,
    pub(crate) sidecars: Arc<Sidecars>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) peer_authentications: Arc<PeerAuthentications>,
    pub(crate) authorization_policies: Arc<AuthorizationPolicies>,
    pub(crate) request_authentications: Arc<RequestAuthentications>,
    /// Key sets that were fetched.
    pub(crate) keys: Arc<BTreeMap<JwksSource, Arc<str>>>,
    pub(crate) key_fetching: KeyFetching,
}

impl MeshSnapshot {
    /// `Part::MeshConfig`.
    pub fn config(&self) -> &MeshConfig {
        &self.config
    }

    /// `Part::MeshConfig`. A name that is no trust domain counts as the default.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain::new(&self.config.trust_domain).unwrap_or_default()
    }

    /// The cluster that every workload is in: of no part, for it never changes.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// All services by host: `Part::ServiceNames`, and `Part::Service` of each.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// `Part::Service(host)`.
    pub fn service(&self, host: &Hostname) -> Option<&Arc<Service>> {
        self.services.get(host)
    }

    /// The host that a Service of type `ExternalName` stands for: `Part::Service(alias)`.
    pub fn alias(&self, alias: &Hostname) -> Option<&Hostname> {
        self.aliases.get(alias)
    }

    /// The services with a port of that number: `Part::ServicePort(port)`.
    pub fn services_on_port(&self, port: u16) -> impl Iterator<Item = &Arc<Service>> {
        self.hosts_by_port
            .get(&port)
            .into_iter()
            .flatten()
            .filter_map(|host| self.services.get(host))
    }

    /// Every port number that some service has: `Part::ServiceNames`.
    pub fn service_ports(&self) -> impl Iterator<Item = u16> {
        self.hosts_by_port.keys().copied()
    }

    /// `Part::Endpoints(host)`.
    pub fn endpoints(&self, host: &Hostname) -> Option<&Arc<ServiceEndpoints>> {
        self.endpoints.get(host)
    }

    /// `Part::Workload(address)`.
    pub fn workload(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.workloads.get(&address)
    }

    /// All workloads, each once per address.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The services that a workload stands behind: `Part::Workload(address)`, and `Part::Service` of each.
    pub fn services_of(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Service>> {
        self.memberships
            .get(&address)
            .into_iter()
            .flatten()
            .filter_map(|host| self.services.get(host))
    }

    /// The rule that a client obeys for a host: `Part::DestinationRule(host)`, `Part::Service(host)`.
    pub fn destination_rule(
        &self,
        client_namespace: &str,
        client_labels: &Labels,
        host: &Hostname,
    ) -> Option<&Arc<HostRule>> {
        self.rule_for(client_namespace, Some(client_labels), host)
    }

    /// Whether any rule covers the host, for whomever: `Part::DestinationRule(host)`.
    pub fn has_destination_rule(&self, host: &Hostname) -> bool {
        self.destination_rules.covering(host).next().is_some()
    }

    /// Whether it depends on a client's labels which rule it obeys: `Part::DestinationRule(host)`.
    pub fn has_rule_by_labels(&self, host: &Hostname) -> bool {
        let mut rules = self.destination_rules.covering(host);
        rules.any(|rule| rule.is_by_labels())
    }

    /// The rule of a host for the workloads behind it, in their namespace: a rule with a `workloadSelector` is for
    /// clients. The same parts.
    pub fn inbound_rule(&self, namespace: &str, host: &Hostname) -> Option<&Arc<HostRule>> {
        self.rule_for(namespace, None, host)
    }

    fn rule_for(
        &self,
        client_namespace: &str,
        client_labels: Option<&Labels>,
        host: &Hostname,
    ) -> Option<&Arc<HostRule>> {
        let service_namespace = self
            .services
            .get(host)
            .map_or(client_namespace, |service| &service.namespace);
        self.destination_rules.lookup(
            client_namespace,
            client_labels,
            host,
            service_namespace,
            &self.config.root_namespace,
        )
    }

    /// The one that a client obeys, of those that it sees: `Part::VirtualService(host)`.
    pub fn virtual_service(
        &self,
        host: &Hostname,
        sees: impl Fn(&MeshVirtualService) -> bool,
    ) -> Option<&Arc<MeshVirtualService>> {
        self.virtual_services.lookup(host, sees)
    }

    /// Whether it depends on a client's namespace which one it obeys: `Part::VirtualService(host)`.
    pub fn has_private_virtual_service(&self, host: &Hostname) -> bool {
        let mut all = self.virtual_services.by_age.iter();
        all.any(|service| service.is_private() && service.hosts.iter().any(|own| own.covers(host)))
    }

    /// Those that a client sees, the oldest first: `Part::ForeignVirtualServices` for hosts that are no service.
    pub fn virtual_services(
        &self,
        client_namespace: &str,
    ) -> impl Iterator<Item = &Arc<MeshVirtualService>> {
        self.virtual_services
            .by_age
            .iter()
            .filter(move |service| service.visible_to(client_namespace))
    }

    /// Whether there is a Sidecar anywhere: `Part::Sidecar` of all namespaces.
    pub fn has_sidecars(&self) -> bool {
        !self.sidecars.by_namespace.is_empty()
    }

    /// The Sidecar that a workload obeys: `Part::Sidecar` of the namespace and of the root namespace.
    pub fn sidecar(&self, namespace: &str, labels: &Labels) -> Option<&Arc<MeshSidecar>> {
        let root = &self.config.root_namespace;
        self.sidecars.lookup(namespace, labels, root)
    }

    /// One Sidecar: `Part::Sidecar` of its namespace.
    pub fn sidecar_named(&self, namespace: &str, name: &str) -> Option<&Arc<MeshSidecar>> {
        let mut of_namespace = self.sidecars.by_namespace.get(namespace)?.iter();
        of_namespace.find(|sidecar| sidecar.origin.name == name)
    }

    /// All Gateways, the oldest first: `Part::Gateways`.
    pub fn gateways(&self) -> impl Iterator<Item = &Arc<MeshGateway>> {
        self.gateways.iter()
    }

    /// Those bound to a Gateway (`namespace/name`) that its proxies, in `namespace`, see, the oldest first:
    /// `Part::GatewayVirtualServices`.
    pub fn virtual_services_at<'a>(
        &'a self,
        gateway: &'a str,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<MeshVirtualService>> {
        self.virtual_services
            .at_gateways
            .iter()
            .filter(move |service| service.gateways.iter().any(|bound| bound == gateway))
            .filter(move |service| service.visible_to(namespace))
    }

    /// The certificates in a Secret: `Part::Credential`.
    pub fn credential(&self, namespace: &str, name: &str) -> Option<&Arc<Credential>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.credentials.get(&key)
    }

    /// `Part::PeerAuthentication` of the namespace and of the root namespace.
    pub fn namespace_tls(&self, namespace: &str) -> ServerTls {
        self.peer_authentications
            .of_namespace(namespace, &self.config.root_namespace)
    }

    /// The AuthorizationPolicies that a workload obeys, the root namespace's first, by name:
    /// `Part::AuthorizationPolicy` of the namespace and of the root namespace.
    pub fn authorization_policies<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a Arc<MeshAuthorizationPolicy>> {
        let root = &self.config.root_namespace;
        self.authorization_policies
            .of_workload(namespace, labels, root)
    }

    /// Whether it depends on a workload's labels which ones it obeys. The same parts.
    pub fn has_authorization_by_labels(&self, namespace: &str) -> bool {
        let root = &self.config.root_namespace;
        self.authorization_policies.are_by_labels(namespace, root)
    }

    /// Those that are for a workload, which all count: `Part::RequestAuthentication` of the namespace and of the root
    /// namespace.
    pub fn request_authentications<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = (&'a Arc<Object>, &'a RequestAuthentication)> {
        self.request_authentications
            .of_workload(namespace, labels, &self.config.root_namespace)
    }

    /// Whether there is any that could be for a workload of the namespace: the same parts.
    pub fn has_request_authentications(&self, namespace: &str) -> bool {
        let all = &self.request_authentications.by_namespace;
        let has = |namespace: &str| all.get(namespace).is_some_and(|list| !list.is_empty());
        has(namespace) || has(&self.config.root_namespace)
    }

    /// The key set that is published there, if it could be fetched: `Part::Keys`.
    pub fn keys(&self, source: &JwksSource) -> Option<&Arc<str>> {
        self.keys.get(source)
    }

    /// Of no part: it never changes.
    pub fn key_fetching(&self) -> KeyFetching {
        self.key_fetching
    }

    /// Where a proxy fetches the keys that are published there; `None`: it is given them. `Part::Service` of the URL's host.
    pub fn key_server(&self, source: &JwksSource) -> Option<KeyServer> {
        let server = match self.key_fetching {
            KeyFetching::ControlPlane => return None,
            KeyFetching::Hybrid | KeyFetching::Proxies => KeyServer::of(source)?,
        };
        let has_port = |service: &Arc<Service>| {
            let mut ports = service.ports.iter();
            ports.any(|port| port.number == server.port)
        };
        let is_known = self.services.get(&server.host).is_some_and(has_port);
        (is_known || self.key_fetching == KeyFetching::Proxies).then_some(server)
    }

    /// Where the control plane has to fetch keys from, and how long each may take.
    pub fn key_sources(&self) -> BTreeMap<JwksSource, Duration> {
        let mut sources = self.request_authentications.sources();
        sources.retain(|source, _| self.key_server(source).is_none());
        sources
    }

    /// As [`Self::namespace_tls`], and `Part::WorkloadPeerAuthentication` of the namespace.
    pub fn workload_tls(&self, namespace: &str, labels: &Labels) -> WorkloadTls {
        self.peer_authentications
            .of_workload(namespace, labels, &self.config.root_namespace)
    }
}
