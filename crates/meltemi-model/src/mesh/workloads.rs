//! Pods and WorkloadEntries, and who has to look at them again.

use std::sync::Arc;

use meltemi_api::{Kind, ObjectKey, Resource};
use meltemi_core::Labels;

use super::{Dirty, Mesh};
use crate::{Part, Service, Workload, kubernetes, service_entry};

impl Mesh {
    fn build_workload(&self, key: &ObjectKey) -> Option<Workload> {
        let object = self.objects.get(key)?;
        let trust_domain = self.snapshot.trust_domain();
        match &object.resource {
            Resource::Pod(pod) => {
                let node = pod.node.as_deref().unwrap_or_default();
                let node = self.objects.get(&ObjectKey::new(Kind::Node, "", node));
                let labels = node.map(|node| &node.meta.labels);
                kubernetes::workload(object, pod, labels, &trust_domain)
            }
            Resource::WorkloadEntry(entry) => service_entry::workload(object, entry, &trust_domain),
            _ => None,
        }
    }

    /// The pods that run on a node.
    pub(super) fn pods_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = ObjectKey> + 'a {
        let pods = self.objects_of(Kind::Pod).filter(move |object| {
            matches!(&object.resource, Resource::Pod(pod) if pod.node.as_deref() == Some(node))
        });
        pods.map(|object| object.key())
    }

    pub(super) fn refresh_workloads(&mut self, dirty: &mut Dirty) {
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

    pub(super) fn entry_selector(&self, service: &Service) -> Option<&Labels> {
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
}
