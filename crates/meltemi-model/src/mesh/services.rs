//! Which service counts for a host, and which hosts have which ports.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_api::{Meta, ObjectKey, Resource};
use meltemi_core::Hostname;

use super::{Dirty, Mesh};
use crate::{Part, Service, ServiceAlias, kubernetes, service_entry};

/// Aliases of aliases are followed that far; circles end there.
const ALIAS_STEPS: usize = 10;

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
        let mut aliases_changed = false;
        for key in std::mem::take(&mut dirty.services) {
            aliases_changed |= self.refresh_alias(&key);
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
        if aliases_changed {
            hosts.extend(self.resolve_aliases(dirty));
        }
        for host in hosts {
            self.refresh_host(&host, dirty);
            // An entry's endpoints may have changed although its service did not.
            dirty.endpoints.insert(host);
        }
    }

    /// Takes an `ExternalName` Service in; says whether anything differs.
    fn refresh_alias(&mut self, key: &ObjectKey) -> bool {
        let object = self.objects.get(key);
        let after = object.and_then(|object| match &object.resource {
            Resource::Service(service) => kubernetes::alias(object, service, &self.domain),
            _ => None,
        });
        if self.aliases.get(key) == after.as_ref() {
            return false;
        }
        match after {
            Some(alias) => self.aliases.insert(key.clone(), alias),
            None => self.aliases.remove(key),
        };
        true
    }

    /// Follows every alias to the host at its end, and answers the hosts whose aliases may differ.
    fn resolve_aliases(&mut self, dirty: &mut Dirty) -> BTreeSet<Hostname> {
        let named: BTreeMap<&Hostname, &Hostname> = self
            .aliases
            .values()
            .map(|(alias, target)| (&alias.hostname, target))
            .collect();
        let end = |alias: &Hostname| {
            let mut host = *named.get(alias)?;
            for _ in 0..ALIAS_STEPS {
                match named.get(host) {
                    Some(next) => host = next,
                    None => return Some(host.clone()),
                }
            }
            None
        };
        let ends = named
            .keys()
            .filter_map(|alias| Some(((*alias).clone(), end(alias)?)));
        let after = Arc::new(ends.collect::<BTreeMap<_, _>>());
        let before = std::mem::replace(&mut self.snapshot.aliases, Arc::clone(&after));
        let differs = |(alias, host): &(&Hostname, &Hostname)| {
            before.get(*alias) != Some(*host) || after.get(*alias) != Some(*host)
        };
        let mut hosts = BTreeSet::new();
        for (alias, host) in before.iter().chain(after.iter()).filter(differs) {
            dirty.changes.insert(Part::Service(alias.clone()));
            hosts.insert(host.clone());
        }
        hosts
    }

    fn aliases_of(&self, host: &Hostname) -> Vec<ServiceAlias> {
        let ends_here =
            |alias: &&ServiceAlias| self.snapshot.aliases.get(&alias.hostname) == Some(host);
        let aliases = self.aliases.values().map(|(alias, _)| alias);
        aliases.filter(ends_here).cloned().collect()
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
        let mut after = self.winner(host).cloned();
        if let Some(service) = &mut after {
            service.aliases = self.aliases_of(host);
        }
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
