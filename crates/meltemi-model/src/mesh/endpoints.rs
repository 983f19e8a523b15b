//! Endpoints: slices joined with pods, selectors, and addresses written into ServiceEntries.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use meltemi_api::{Kind, ObjectKey, Resource};
use meltemi_core::{Hostname, Labels};

use super::{Dirty, Mesh};
use crate::{
    Endpoint, EndpointAddress, Part, Service, ServiceEndpoints, kubernetes, service_entry,
};

impl Mesh {
    pub(super) fn refresh_endpoints(&mut self, dirty: &mut Dirty) {
        for host in std::mem::take(&mut dirty.endpoints) {
            let mut pods = BTreeSet::new();
            let after = self.build_endpoints(&host, &mut pods);
            self.use_pods(&host, pods);
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

    /// Remembers that the endpoints of a host point at these pods, and at no others.
    fn use_pods(&mut self, host: &Hostname, pods: BTreeSet<ObjectKey>) {
        let before = self.pods_used.remove(host).unwrap_or_default();
        for pod in before.difference(&pods) {
            if let Some(users) = self.pod_users.get_mut(pod) {
                users.remove(host);
                if users.is_empty() {
                    self.pod_users.remove(pod);
                }
            }
        }
        for pod in pods.difference(&before) {
            let users = self.pod_users.entry(pod.clone()).or_default();
            users.insert(host.clone());
        }
        if !pods.is_empty() {
            self.pods_used.insert(host.clone(), pods);
        }
    }

    /// The endpoints of a host, and in `pods` all that they name, known or not.
    fn build_endpoints(
        &self,
        host: &Hostname,
        pods: &mut BTreeSet<ObjectKey>,
    ) -> Option<ServiceEndpoints> {
        let service = self.snapshot.services.get(host)?;
        let mut endpoints = Vec::new();
        if service.is_kubernetes() {
            self.slice_endpoints(service, pods, &mut endpoints);
            self.selected_endpoints(service, &service.selector, &mut endpoints, |kind| {
                kind == Kind::WorkloadEntry && !service.selector.is_empty()
            });
        }
        self.entry_endpoints(service, &mut endpoints);
        endpoints.sort_by(|a, b| {
            (&a.service_port, &a.address, a.port).cmp(&(&b.service_port, &b.address, b.port))
        });
        endpoints.dedup_by(|a, b| {
            (&a.service_port, &a.address, a.port) == (&b.service_port, &b.address, b.port)
        });
        Some(ServiceEndpoints { endpoints })
    }

    /// Joins the slices of a Service with the pods they point at, by name and else by address.
    fn slice_endpoints(
        &self,
        service: &Service,
        pods: &mut BTreeSet<ObjectKey>,
        out: &mut Vec<Endpoint>,
    ) {
        let key = (service.namespace.clone(), service.name.clone());
        for slice in self.slices.get(&key).into_iter().flatten() {
            let Some(object) = self.objects.get(slice) else {
                continue;
            };
            let Resource::EndpointSlice(slice) = &object.resource else {
                continue;
            };
            for found in kubernetes::slice_endpoints(slice) {
                let pod = found
                    .pod
                    .as_ref()
                    .map(|name| ObjectKey::new(Kind::Pod, &service.namespace, name));
                out.extend(self.slice_endpoint(service, pod.as_ref(), found));
                pods.extend(pod);
            }
        }
    }

    /// `None` while the pod is not known: nobody could say whether it speaks mutual TLS, nor as whom. Slices may come before
    /// their pods; the endpoint follows with the pod (as in Istio, `endpointSliceController.updateEndpointCacheForSlice`).
    fn slice_endpoint(
        &self,
        service: &Service,
        pod: Option<&ObjectKey>,
        found: kubernetes::SliceEndpoint,
    ) -> Option<Endpoint> {
        let workload = pod
            .and_then(|pod| self.workloads.get(pod))
            .or_else(|| self.snapshot.workloads.get(&found.address));
        let mut endpoint = match workload {
            Some(workload) => {
                service_entry::of_workload(workload, found.address, found.port, &found.port_name)
            }
            None if pod.is_some() => return None,
            None => unknown_endpoint(service, &found.address, found.port, &found.port_name),
        };
        endpoint.health = found.health;
        if let (true, Some(zone)) = (endpoint.locality.zone.is_empty(), found.zone) {
            endpoint.locality.zone = zone;
        }
        Some(endpoint)
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
