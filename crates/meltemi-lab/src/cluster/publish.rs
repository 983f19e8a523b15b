//! What others see of the cluster: endpoints, addresses, names, the control plane's files.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meltemi_api::{Kind, ObjectKey};
use meltemi_core::names::label;
use serde_json::{Value, json};

use super::Cluster;
use crate::children::Children;
use crate::controller::{self, Backend, Routed, template_hash};
use crate::vip;

/// Kubernetes' label for slices that a controller made from a selector.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

impl Cluster {
    pub(super) async fn publish(&mut self) {
        let routed = self.endpoints();
        self.zone.store(Arc::new(controller::zone(&routed)));
        self.unpublished = false;
        let rules = vip::ruleset(&controller::vips(&routed));
        if rules != self.vips {
            match nft(&self.machine.children, &self.machine.nft, &rules).await {
                Ok(()) => self.vips = rules,
                Err(error) => {
                    self.unpublished = true;
                    tracing::error!("cannot set Service addresses: {error:#}");
                }
            }
        }
        if let Err(error) = self.mirror.sync(&self.store) {
            self.unpublished = true;
            tracing::error!(%error, "cannot write the control plane's files");
        }
    }

    /// Brings the EndpointSlices up to date, and answers where each Service leads.
    fn endpoints(&mut self) -> Vec<Routed> {
        let pods: Vec<Arc<Pod>> = self
            .store
            .list(Kind::Pod)
            .into_iter()
            .map(|(_, pod)| pod)
            .collect();
        let services = self.store.list::<Service>(Kind::Service);
        let mut routed = Vec::new();
        let mut slices = Vec::new();
        for (key, service) in services {
            let backends = match controller::backends(&service, &pods) {
                Some(backends) => {
                    for (slice, object) in endpoint_slices(&key, &service, &backends) {
                        self.store.put(&slice, &object);
                        slices.push(slice);
                    }
                    backends
                }
                None => self.given_backends(&key, &service),
            };
            routed.push(Routed { service, backends });
        }
        let stale: Vec<ObjectKey> = self
            .store
            .of_kind(Kind::EndpointSlice)
            .filter(|(key, slice)| {
                let managed = slice
                    .pointer("/metadata/labels")
                    .and_then(|labels| labels.get(MANAGED_BY));
                managed == Some(&json!(CONTROLLER)) && !slices.contains(key)
            })
            .map(|(key, _)| key.clone())
            .collect();
        for key in stale {
            self.store.remove(&key);
        }
        routed
    }

    /// The endpoints that a user wrote for a Service without a selector.
    fn given_backends(&self, key: &ObjectKey, service: &Service) -> Vec<Backend> {
        let slices = self.store.list::<EndpointSlice>(Kind::EndpointSlice);
        let of_service = |slice: &Arc<EndpointSlice>| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get(label::SERVICE_NAME)) == Some(&key.name)
        };
        let slices = slices
            .into_iter()
            .filter(|(slice, _)| slice.namespace == key.namespace);
        let slices = slices.map(|(_, slice)| slice).filter(of_service);
        slices
            .flat_map(|slice| slice_backends(&slice, service))
            .collect()
    }
}

fn slice_backends(slice: &EndpointSlice, service: &Service) -> Vec<Backend> {
    let wanted: Vec<_> = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .collect();
    let ports: Vec<Option<u16>> = wanted
        .iter()
        .map(|port| {
            let given = slice.ports.iter().flatten();
            let found = given.into_iter().find(|given| {
                given.name.as_deref().unwrap_or_default()
                    == port.name.as_deref().unwrap_or_default()
            });
            found
                .and_then(|found| found.port)
                .and_then(|port| u16::try_from(port).ok())
        })
        .collect();
    let endpoints = slice.endpoints.iter().flatten().flat_map(|endpoint| {
        let ready = endpoint
            .conditions
            .as_ref()
            .and_then(|conditions| conditions.ready)
            .unwrap_or(true);
        let (ports, hostname) = (ports.clone(), endpoint.hostname.clone());
        endpoint.addresses.iter().filter_map(move |address| {
            let (ports, hostname) = (ports.clone(), hostname.clone());
            let pod = String::new();
            Some(Backend {
                pod,
                address: address.parse().ok()?,
                ready,
                terminating: false,
                hostname,
                ports,
            })
        })
    });
    endpoints.collect()
}

/// The slices of a Service: the ports of a slice hold for all its endpoints, so that pods whose named ports differ in number
/// are in different ones (Kubernetes, "EndpointSlices", distribution). A slice is named after its ports: no endpoint is ever
/// seen with another's.
fn endpoint_slices(
    key: &ObjectKey,
    service: &Service,
    backends: &[Backend],
) -> Vec<(ObjectKey, Value)> {
    let mut groups: BTreeMap<&[Option<u16>], Vec<&Backend>> = BTreeMap::new();
    for backend in backends {
        groups.entry(&backend.ports).or_default().push(backend);
    }
    if groups.is_empty() {
        groups.insert(&[], Vec::new());
    }
    let named = |ports: &[Option<u16>]| {
        let hash = template_hash(&(&key.name, ports));
        let name = format!("{}-{}", key.name, hash.get(..5).unwrap_or("slice"));
        ObjectKey::new(Kind::EndpointSlice, &key.namespace, &name)
    };
    groups
        .into_iter()
        .map(|(ports, backends)| {
            let slice = endpoint_slice(key, service, ports, &backends);
            (named(ports), slice)
        })
        .collect()
}

fn endpoint_slice(
    key: &ObjectKey,
    service: &Service,
    numbers: &[Option<u16>],
    backends: &[&Backend],
) -> Value {
    let ports: Vec<Value> = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .zip(numbers)
        .filter_map(|(port, number)| {
            let number = (*number)?;
            let mut entry = json!({
                "name": port.name.clone().unwrap_or_default(),
                "port": number,
                "protocol": port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            });
            if let Some(protocol) = &port.app_protocol {
                entry["appProtocol"] = json!(protocol);
            }
            Some(entry)
        })
        .collect();
    let endpoints: Vec<Value> = backends
        .iter()
        .map(|backend| {
            let mut endpoint = json!({
                "addresses": [backend.address],
                "conditions": {
                    "ready": backend.ready,
                    "serving": backend.ready,
                    "terminating": backend.terminating,
                },
                "nodeName": crate::tokens::NODE_NAME,
                "targetRef": {"kind": "Pod", "name": backend.pod, "namespace": key.namespace},
            });
            if let Some(hostname) = &backend.hostname {
                endpoint["hostname"] = json!(hostname);
            }
            endpoint
        })
        .collect();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(label::SERVICE_NAME.to_owned(), key.name.clone());
    labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
    json!({
        "metadata": {"labels": labels, "ownerReferences": [{
            "apiVersion": "v1", "kind": "Service", "name": key.name,
            "uid": service.metadata.uid.clone().unwrap_or_default(), "controller": true,
        }]},
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    })
}

/// Applies rules in the supervisor's own network namespace, in one transaction.
async fn nft(children: &Children, program: &Path, rules: &str) -> anyhow::Result<()> {
    use anyhow::Context as _;
    let (reader, mut writer) = std::io::pipe()?;
    let (errors, error_writer) = std::io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(["-f", "-"])
        .stdin(reader)
        .stdout(Stdio::null())
        .stderr(error_writer);
    let child = children.spawn(&mut command).context("cannot run nft")?;
    drop(command);
    let rules = rules.to_owned();
    let said = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let written = writer.write_all(rules.as_bytes());
        drop(writer);
        let mut said = String::new();
        { errors }
            .read_to_string(&mut said)
            .and(written)
            .map(|()| said)
    });
    let said = said.await??;
    let exit = child.exit.await?;
    anyhow::ensure!(exit.code == 0, "nft: {}", said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(pod: &str, ports: &[Option<u16>]) -> Backend {
        Backend {
            pod: pod.to_owned(),
            address: std::net::Ipv4Addr::LOCALHOST,
            ready: true,
            terminating: false,
            hostname: None,
            ports: ports.to_vec(),
        }
    }

    #[test]
    fn pods_with_other_port_numbers_are_in_other_slices() {
        let key = ObjectKey::new(Kind::Service, "default", "web");
        let ports = json!([{"name": "http", "port": 80, "targetPort": "http"}, {"name": "tcp", "port": 9, "targetPort": "tcp"}]);
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": ports}});
        let service: Service = serde_json::from_value(service).unwrap();
        let slices = |backends: &[Backend]| -> Vec<(String, Vec<Value>, Vec<Value>)> {
            let told = |(key, slice): (ObjectKey, Value)| {
                let each = |list: &str, at: &str| -> Vec<Value> {
                    let items = slice[list].as_array().unwrap().iter();
                    items
                        .map(|item| item.pointer(at).unwrap().clone())
                        .collect()
                };
                let pods = each("endpoints", "/targetRef/name");
                (key.name, each("ports", "/port"), pods)
            };
            let slices = endpoint_slices(&key, &service, backends);
            slices.into_iter().map(told).collect()
        };
        let old = backend("a", &[Some(8080), None]);
        let both = slices(&[
            old.clone(),
            backend("b", &[Some(9090), Some(9)]),
            backend("c", &[Some(8080), None]),
        ]);
        let [(first, ports, pods), (second, other_ports, other_pods)] = &both[..] else {
            panic!("two kinds of ports, two slices: {both:?}")
        };
        assert_eq!(
            (&ports[..], &pods[..]),
            (&[json!(8080)][..], &[json!("a"), json!("c")][..])
        );
        assert_eq!(
            (&other_ports[..], &other_pods[..]),
            (&[json!(9090), json!(9)][..], &[json!("b")][..])
        );
        assert_ne!(first, second);
        // The slice of the ports that stay keeps its name.
        assert_eq!(&slices(&[old])[0].0, first);
        assert_eq!(slices(&[]).len(), 1);
    }
}
