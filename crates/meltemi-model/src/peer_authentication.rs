//! Which mutual TLS mode a workload's ports enforce.
//!
//! Precedence, from the narrowest: workload and port, workload, namespace, mesh (the root namespace), PERMISSIVE. UNSET
//! takes the next wider one. Of two of equal rank the oldest counts (Istio reference, PeerAuthentication).

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_api::istio::{MutualTls, PeerAuthentication, TlsMode};
use meltemi_api::{Object, Resource};
use meltemi_core::{Labels, ObjectRef};

/// The mode of one port and the object that decided it; none where Istio's default did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    /// Never `Unset`.
    pub mode: TlsMode,
    pub decided_by: Option<ObjectRef>,
}

impl ServerTls {
    fn permissive() -> Self {
        Self {
            mode: TlsMode::Permissive,
            decided_by: None,
        }
    }

    fn narrowed(self, mtls: Option<MutualTls>, object: &Object) -> Self {
        match mtls.map_or(TlsMode::Unset, |mtls| mtls.mode) {
            TlsMode::Unset => self,
            mode => Self {
                mode,
                decided_by: Some(object.reference()),
            },
        }
    }
}

/// The modes of one workload: its own, and those of ports that differ or are decided elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadTls {
    pub default: ServerTls,
    /// By workload port.
    pub ports: BTreeMap<u16, ServerTls>,
}

impl WorkloadTls {
    pub fn of_port(&self, target_port: u16) -> &ServerTls {
        self.ports.get(&target_port).unwrap_or(&self.default)
    }
}

/// All PeerAuthentications by namespace, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerAuthentications {
    pub(crate) by_namespace: BTreeMap<String, Vec<Arc<Object>>>,
}

impl PeerAuthentications {
    /// What holds for a namespace's workloads that no selector names.
    pub(crate) fn of_namespace(&self, namespace: &str, root: &str) -> ServerTls {
        [root, namespace]
            .into_iter()
            .filter_map(|namespace| self.namespace_wide(namespace).next())
            .fold(ServerTls::permissive(), |wider, (object, policy)| {
                wider.narrowed(policy.mtls, object)
            })
    }

    /// A selector in the root namespace reaches that namespace's own workloads only.
    pub(crate) fn of_workload(&self, namespace: &str, labels: &Labels, root: &str) -> WorkloadTls {
        let wider = self.of_namespace(namespace, root);
        let selected = self.policies(namespace).find(|(_, policy)| {
            !policy.is_namespace_wide()
                && policy
                    .selector
                    .as_ref()
                    .is_some_and(|selector| selector.match_labels.selects(labels))
        });
        let Some((object, policy)) = selected else {
            return WorkloadTls {
                default: wider,
                ports: BTreeMap::new(),
            };
        };
        let default = wider.narrowed(policy.mtls, object);
        let ports = policy
            .port_level_mtls
            .iter()
            .map(|(port, mtls)| (*port, default.clone().narrowed(Some(*mtls), object)))
            .collect();
        WorkloadTls { default, ports }
    }

    /// The selector-less ones of a namespace, of which the first counts.
    pub(crate) fn namespace_wide(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&Arc<Object>, &PeerAuthentication)> {
        self.policies(namespace)
            .filter(|(_, policy)| policy.is_namespace_wide())
    }

    fn policies(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&Arc<Object>, &PeerAuthentication)> {
        self.by_namespace
            .get(namespace)
            .into_iter()
            .flatten()
            .filter_map(|object| match &object.resource {
                Resource::PeerAuthentication(policy) => Some((object, policy.as_ref())),
                _ => None,
            })
    }
}
