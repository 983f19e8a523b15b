//! Pods as the mesh reads them. A cluster has many, and Kubernetes' own type takes thousands of bytes for each.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::k8s;

/// A machine that runs pods: its labels say where it stands, and nothing else of it is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    pub service_account: Option<String>,
    /// Those that containers declare, initial ones first.
    pub ports: Box<[ContainerPort]>,
    pub controller: Option<Controller>,
    /// Where it runs, once that is decided.
    pub node: Option<String>,
    /// Unless nothing runs it yet.
    pub status: Option<Box<Status>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    pub name: String,
    pub number: u16,
    /// TCP, UDP or SCTP.
    pub protocol: String,
}

/// The owner that manages the pod (`ownerReferences[].controller`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controller {
    pub kind: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// It has run to its end.
    pub is_over: bool,
    pub is_ready: bool,
    pub addresses: Box<[IpAddr]>,
}

impl From<k8s::Pod> for Pod {
    fn from(pod: k8s::Pod) -> Self {
        let owners = pod.metadata.owner_references.into_iter().flatten();
        let mut controllers = owners.filter(|owner| owner.controller == Some(true));
        let spec = pod.spec.unwrap_or_default();
        let containers = spec.init_containers.into_iter().flatten();
        let containers = containers.chain(spec.containers);
        let ports = containers.flat_map(|container| container.ports.into_iter().flatten());
        Self {
            service_account: spec.service_account_name.or(spec.service_account),
            ports: ports.filter_map(ContainerPort::read).collect(),
            node: spec.node_name,
            controller: controllers.next().map(Controller::from),
            status: pod.status.map(|status| Box::new(Status::from(status))),
        }
    }
}

impl ContainerPort {
    fn read(port: k8s_openapi::api::core::v1::ContainerPort) -> Option<Self> {
        Some(Self {
            name: port.name.unwrap_or_default(),
            number: u16::try_from(port.container_port).ok()?,
            protocol: port.protocol.unwrap_or_else(|| "TCP".to_owned()),
        })
    }
}

impl From<OwnerReference> for Controller {
    fn from(owner: OwnerReference) -> Self {
        Self {
            kind: owner.kind,
            name: owner.name,
        }
    }
}

impl From<k8s_openapi::api::core::v1::PodStatus> for Status {
    fn from(status: k8s_openapi::api::core::v1::PodStatus) -> Self {
        let conditions = status.conditions.iter().flatten();
        let mut conditions = conditions.filter(|condition| condition.type_ == "Ready");
        let others = status.pod_ips.iter().flatten().map(|pod_ip| &pod_ip.ip);
        let addresses = status.pod_ip.iter().chain(others);
        let mut addresses: Vec<IpAddr> = addresses.filter_map(|ip| ip.parse().ok()).collect();
        addresses.dedup();
        Self {
            is_over: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            is_ready: conditions.any(|condition| condition.status == "True"),
            addresses: addresses.into(),
        }
    }
}
