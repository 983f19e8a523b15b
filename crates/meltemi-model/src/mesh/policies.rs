//! DestinationRules, VirtualServices, Gateways and policies: their order, and the services they reach.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_api::{Kind, Meta, Object, ObjectKey, Resource};
use meltemi_core::Hostname;

use super::{Dirty, Mesh};
use crate::destination_rule::consolidate;
use crate::virtual_service::Delegates;
use crate::{
    Credential, MeshAuthorizationPolicy, MeshGateway, MeshSidecar, MeshVirtualService, Part,
};

impl Mesh {
    fn oldest_first(&self, kind: Kind, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let mut objects: Vec<_> = self
            .objects_of(kind)
            .filter(|object| namespace.is_none_or(|wanted| object.meta.namespace == wanted))
            .cloned()
            .collect();
        objects.sort_by(|a, b| Meta::by_age(&a.meta, &b.meta));
        objects
    }

    pub(super) fn refresh_destination_rules(&mut self, dirty: &mut Dirty) {
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

    pub(super) fn refresh_virtual_services(&mut self, dirty: &mut Dirty) {
        if !dirty.virtual_services {
            return;
        }
        let objects = self.oldest_first(Kind::VirtualService, None);
        let delegates = Delegates::of(objects.iter());
        let config = &self.snapshot.config;
        let all: Vec<_> = objects
            .iter()
            .filter_map(|object| MeshVirtualService::new(object, &delegates, config, &self.domain))
            .map(Arc::new)
            .collect();
        let bound = all.iter().filter(|service| !service.gateways.is_empty());
        let bound: Vec<_> = bound.cloned().collect();
        if self.snapshot.virtual_services.at_gateways != bound {
            Arc::make_mut(&mut self.snapshot.virtual_services).at_gateways = bound;
            dirty.changes.insert(Part::GatewayVirtualServices);
        }
        let after = all.into_iter();
        let after = after
            .filter(|service| service.spec.applies_to_mesh())
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
        let differing: Vec<_> = differing.collect();
        if !differing.is_empty() {
            dirty.changes.insert(Part::VirtualServices);
        }
        let hosts: BTreeSet<_> = differing.iter().flat_map(|one| &one.hosts).collect();
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

    pub(super) fn refresh_gateways(&mut self, dirty: &mut Dirty) {
        if !dirty.gateways {
            return;
        }
        let objects = self.oldest_first(Kind::Gateway, None);
        let after: Vec<_> = objects
            .iter()
            .filter_map(MeshGateway::new)
            .map(Arc::new)
            .collect();
        if *self.snapshot.gateways != after {
            self.snapshot.gateways = Arc::new(after);
            dirty.changes.insert(Part::Gateways);
        }
    }

    pub(super) fn refresh_sidecars(&mut self, dirty: &mut Dirty) {
        for namespace in std::mem::take(&mut dirty.sidecars) {
            let objects = self.oldest_first(Kind::Sidecar, Some(&namespace));
            let after = objects.iter().filter_map(MeshSidecar::new);
            let after = after.map(Arc::new).collect();
            let sidecars = Arc::make_mut(&mut self.snapshot.sidecars);
            if replace(&mut sidecars.by_namespace, &namespace, after) {
                dirty.changes.insert(Part::Sidecar(namespace));
            }
        }
    }

    pub(super) fn refresh_credentials(&mut self, dirty: &mut Dirty) {
        for (namespace, name) in std::mem::take(&mut dirty.credentials) {
            let key = ObjectKey::new(Kind::Secret, &namespace, &name);
            let after = self.objects.get(&key).map(AsRef::as_ref);
            let after = after.and_then(Credential::new);
            let id = (namespace, name);
            if self.snapshot.credentials.get(&id).map(AsRef::as_ref) == after.as_ref() {
                continue;
            }
            let all = Arc::make_mut(&mut self.snapshot.credentials);
            match after {
                Some(after) => all.insert(id.clone(), Arc::new(after)),
                None => all.remove(&id),
            };
            dirty.changes.insert(Part::Credential(id.0, id.1));
        }
    }

    pub(super) fn refresh_authorization_policies(&mut self, dirty: &mut Dirty) {
        for namespace in std::mem::take(&mut dirty.authorization_policies) {
            let of_namespace = |object: &&Arc<Object>| object.meta.namespace == namespace;
            // By name, which is the order of the objects.
            let after: Vec<_> = self
                .objects_of(Kind::AuthorizationPolicy)
                .filter(of_namespace)
                .filter_map(MeshAuthorizationPolicy::new)
                .map(Arc::new)
                .collect();
            let policies = Arc::make_mut(&mut self.snapshot.authorization_policies);
            if replace(&mut policies.by_namespace, &namespace, after) {
                let part = Part::AuthorizationPolicy(namespace);
                dirty.changes.insert(part);
            }
        }
    }

    pub(super) fn refresh_request_authentications(&mut self, dirty: &mut Dirty) {
        for namespace in std::mem::take(&mut dirty.request_authentications) {
            let after = self.oldest_first(Kind::RequestAuthentication, Some(&namespace));
            let policies = Arc::make_mut(&mut self.snapshot.request_authentications);
            if replace(&mut policies.by_namespace, &namespace, after) {
                let part = Part::RequestAuthentication(namespace);
                dirty.changes.insert(part);
            }
        }
    }

    pub(super) fn refresh_peer_authentications(&mut self, dirty: &mut Dirty) {
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

/// Puts the list of a namespace in the place of the one before; says whether they differ.
fn replace<T: PartialEq>(
    all: &mut BTreeMap<String, Vec<T>>,
    namespace: &str,
    after: Vec<T>,
) -> bool {
    let before = all.remove(namespace).unwrap_or_default();
    let differs = before != after;
    if !after.is_empty() {
        all.insert(namespace.to_owned(), after);
    }
    differs
}
