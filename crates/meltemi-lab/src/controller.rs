//! What Kubernetes' controllers decide, without doing it: names, rollouts, endpoints.

use std::collections::BTreeMap;
use std::hash::Hasher as _;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::names::CLUSTER_DOMAIN;
use rand::Rng as _;
use serde::Serialize;

use crate::dns::{Target, Zone};
use crate::vip::{Protocol, Vip};

/// Letters of generated names: no vowels, so no words (Kubernetes, `util/rand`).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The hash by which a ReplicaSet belongs to one version of a template.
pub(crate) fn template_hash<T: Serialize>(template: &T) -> String {
    let text = serde_json::to_vec(template).unwrap_or_default();
    let mut hasher = twox_hash::XxHash64::with_seed(0);
    hasher.write(&text);
    letters(hasher.finish(), 10)
}

/// Five letters for a pod's name.
pub(crate) fn suffix() -> String {
    letters(rand::rng().random(), 5)
}

fn letters(mut number: u64, count: usize) -> String {
    let base = LETTERS.len() as u64;
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        let index = usize::try_from(number % base).unwrap_or_default();
        text.push(LETTERS.get(index).copied().unwrap_or(b'x').into());
        number /= base;
    }
    text
}

/// One pod as a rollout sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    /// Of the template as it is now.
    pub(crate) current: bool,
    pub(crate) ready: bool,
}

/// How a Deployment replaces pods (`spec.strategy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    Rolling { surge: usize, unavailable: usize },
    Recreate,
}

/// What to do next; deletions are indexes into the replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rollout {
    pub(crate) create: usize,
    pub(crate) delete: Vec<usize>,
}

/// The next step of a Deployment: never more than `surge` too many pods, never more than `unavailable` too few ready ones.
/// Replicas that are already ending are not among the given.
pub(crate) fn rollout(desired: usize, strategy: Strategy, replicas: &[Replica]) -> Rollout {
    let indexes = |current: bool| {
        (0..replicas.len()).filter(move |i| replicas.get(*i).is_some_and(|r| r.current == current))
    };
    let (new, old): (Vec<usize>, Vec<usize>) = (indexes(true).collect(), indexes(false).collect());
    let is_ready = |i: &usize| replicas.get(*i).is_some_and(|replica| replica.ready);
    let (surge, unavailable) = match strategy {
        Strategy::Recreate if !old.is_empty() => {
            return Rollout {
                create: 0,
                delete: old,
            };
        }
        Strategy::Recreate => (0, 0),
        Strategy::Rolling { surge, unavailable } => (surge, unavailable),
    };
    let mut delete: Vec<usize> = Vec::new();
    // Scaled down: the ones that are not ready go first.
    let mut surplus = new.clone();
    surplus.sort_by_key(|i| (is_ready(i), std::cmp::Reverse(*i)));
    delete.extend(surplus.iter().take(new.len().saturating_sub(desired)));
    // Old ones that serve nobody cost nothing; of the others, as many as are replaced.
    delete.extend(old.iter().filter(|i| !is_ready(i)));
    let ready = (0..replicas.len())
        .filter(|i| is_ready(i) && !delete.contains(i))
        .count();
    let spare = (ready + unavailable).saturating_sub(desired);
    delete.extend(old.iter().filter(|i| is_ready(i)).take(spare));
    let room = (desired + surge).saturating_sub(replicas.len());
    Rollout {
        create: desired.saturating_sub(new.len()).min(room),
        delete,
    }
}

/// A number or a percentage of the replicas (`maxSurge` rounds up, `maxUnavailable` down).
pub(crate) fn share(
    value: Option<&IntOrString>,
    default_percent: usize,
    desired: usize,
    round_up: bool,
) -> usize {
    let percent = |percent: usize| {
        if round_up {
            (desired * percent).div_ceil(100)
        } else {
            desired * percent / 100
        }
    };
    match value {
        None => percent(default_percent),
        Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or_default(),
        Some(IntOrString::String(text)) => text
            .strip_suffix('%')
            .and_then(|number| number.parse().ok())
            .map_or(0, percent),
    }
}

/// A pod behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) pod: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) ready: bool,
    pub(crate) terminating: bool,
    /// `hostname` of a pod whose `subdomain` is the Service: it has a name of its own.
    pub(crate) hostname: Option<String>,
    /// The target of each Service port, in order; `None` where the pod has no such named port.
    pub(crate) ports: Vec<Option<u16>>,
}

/// The pods that a Service selects. One without a selector has its endpoints from elsewhere.
pub(crate) fn backends(service: &Service, pods: &[Arc<Pod>]) -> Option<Vec<Backend>> {
    let spec = service.spec.as_ref()?;
    let selector = spec
        .selector
        .as_ref()
        .filter(|selector| !selector.is_empty())?;
    let publish = spec.publish_not_ready_addresses == Some(true);
    let name = service.metadata.name.as_deref().unwrap_or_default();
    let chosen = pods.iter().filter(|pod| {
        pod.metadata.namespace == service.metadata.namespace
            && selector.iter().all(|(key, value)| {
                pod.metadata.labels.as_ref().and_then(|l| l.get(key)) == Some(value)
            })
    });
    Some(
        chosen
            .filter_map(|pod| {
                backend(
                    pod,
                    name,
                    spec.ports.as_deref().unwrap_or_default(),
                    publish,
                )
            })
            .collect(),
    )
}

fn backend(pod: &Pod, service: &str, ports: &[ServicePort], publish: bool) -> Option<Backend> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let address = status.pod_ip.as_ref()?.parse().ok()?;
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let subdomain = spec.and_then(|spec| spec.subdomain.as_deref());
    Some(Backend {
        address,
        ready: publish || is_ready(pod) && !terminating,
        terminating,
        hostname: (subdomain == Some(service)).then(|| {
            spec.and_then(|s| s.hostname.clone())
                .unwrap_or_else(|| name.clone())
        }),
        pod: name,
        ports: ports.iter().map(|port| target_port(port, pod)).collect(),
    })
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .filter_map(|status| status.conditions.as_ref())
        .flatten();
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn target_port(port: &ServicePort, pod: &Pod) -> Option<u16> {
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let containers = spec
                .containers
                .iter()
                .chain(spec.init_containers.iter().flatten());
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            ports
                .find(|port| port.name.as_deref() == Some(name))?
                .container_port
        }
    };
    u16::try_from(number).ok()
}

/// A Service and where it leads.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    pub(crate) service: Arc<Service>,
    pub(crate) backends: Vec<Backend>,
}

impl Routed {
    /// The name that a Service of type ExternalName stands for.
    fn external_name(&self) -> Option<String> {
        let spec = self.service.spec.as_ref()?;
        let is_alias = spec.type_.as_deref() == Some("ExternalName");
        let name = spec.external_name.as_ref().filter(|_| is_alias)?;
        Some(name.trim_end_matches('.').to_ascii_lowercase())
    }

    fn address(&self) -> Option<Ipv4Addr> {
        self.service
            .spec
            .as_ref()?
            .cluster_ip
            .as_ref()?
            .parse()
            .ok()
    }
}

/// Which endpoints each Service address leads to.
pub(crate) fn vips(services: &[Routed]) -> BTreeMap<Vip, Vec<SocketAddrV4>> {
    let mut vips = BTreeMap::new();
    for routed in services {
        let Some(address) = routed.address() else {
            continue;
        };
        for (index, port) in routed
            .service
            .spec
            .iter()
            .flat_map(|spec| spec.ports.iter().flatten())
            .enumerate()
        {
            let protocol = match port.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => continue,
            };
            let Ok(number) = u16::try_from(port.port) else {
                continue;
            };
            let endpoints = routed
                .backends
                .iter()
                .filter(|backend| backend.ready)
                .filter_map(|backend| {
                    let target = backend.ports.get(index).copied().flatten()?;
                    Some(SocketAddrV4::new(backend.address, target))
                });
            vips.insert(
                Vip {
                    address,
                    protocol,
                    port: number,
                },
                endpoints.collect(),
            );
        }
    }
    vips
}

/// The names of the cluster (Kubernetes DNS specification 1.1.0).
pub(crate) fn zone(services: &[Routed]) -> Zone {
    let mut zone = Zone::default();
    for routed in services {
        let meta = &routed.service.metadata;
        let (Some(name), Some(namespace)) = (&meta.name, &meta.namespace) else {
            continue;
        };
        let domain = format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}");
        let ports = routed
            .service
            .spec
            .as_ref()
            .and_then(|spec| spec.ports.as_deref())
            .unwrap_or_default();
        if let Some(target) = routed.external_name() {
            zone.aliases.insert(domain, target);
            continue;
        }
        match routed.address() {
            Some(address) => {
                zone.addresses
                    .entry(domain.clone())
                    .or_default()
                    .insert(address);
                zone.names.insert(address, domain.clone());
                for port in ports {
                    srv(
                        &mut zone,
                        &domain,
                        port,
                        &domain,
                        u16::try_from(port.port).ok(),
                    );
                }
            }
            None => headless(&mut zone, &domain, ports, &routed.backends),
        }
    }
    zone
}

fn headless(zone: &mut Zone, domain: &str, ports: &[ServicePort], backends: &[Backend]) {
    for backend in backends.iter().filter(|backend| backend.ready) {
        zone.addresses
            .entry(domain.to_owned())
            .or_default()
            .insert(backend.address);
        let label = backend
            .hostname
            .clone()
            .unwrap_or_else(|| backend.address.to_string().replace('.', "-"));
        let host = format!("{label}.{domain}");
        zone.addresses
            .entry(host.clone())
            .or_default()
            .insert(backend.address);
        zone.names.insert(backend.address, host.clone());
        for (port, target) in ports.iter().zip(&backend.ports) {
            srv(zone, domain, port, &host, *target);
        }
    }
}

fn srv(zone: &mut Zone, domain: &str, port: &ServicePort, host: &str, number: Option<u16>) {
    let (Some(name), Some(number)) = (&port.name, number) else {
        return;
    };
    let protocol = port
        .protocol
        .as_deref()
        .unwrap_or("TCP")
        .to_ascii_lowercase();
    let target = Target {
        host: host.to_owned(),
        port: number,
    };
    zone.services
        .entry(format!("_{name}._{protocol}.{domain}"))
        .or_default()
        .insert(target);
}

#[cfg(test)]
mod tests;
