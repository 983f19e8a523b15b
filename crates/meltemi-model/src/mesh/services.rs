//! Which service counts for a host, and which hosts have which ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use meltemi_api::{Meta, ObjectKey, Resource};
use meltemi_core::Hostname;

use super::{Dirty, Mesh};
use crate::{Part, Service, kubernetes, service_entry};

impl Mesh {
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

    pub(super) fn refresh_services(&mut self, dirty: &mut Dirty) {
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
}
