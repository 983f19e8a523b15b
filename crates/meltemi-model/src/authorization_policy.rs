//! Which AuthorizationPolicies a workload obeys.
//!
//! All that reach it form one flat set: those of its namespace and of the root namespace, each without a selector, with one
//! that selects it, or with a reference to the Gateway that it serves (Istio reference, AuthorizationPolicy). There is no
//! precedence among them but that of their actions.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_api::istio::{AuthorizationAction, AuthorizationPolicy};
use meltemi_api::{Object, Resource};
use meltemi_core::{Labels, ObjectRef};

/// Istio's annotation for a policy that is tried out.
const DRY_RUN: &str = "istio.io/dry-run";

/// The label of the pods that serve a Gateway of Kubernetes' Gateway API.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// An AuthorizationPolicy object.
#[derive(Clone, Debug)]
pub struct MeshAuthorizationPolicy {
    pub object: Arc<Object>,
    pub origin: ObjectRef,
    pub spec: AuthorizationPolicy,
    /// It is evaluated and told of, and decides nothing.
    pub is_dry_run: bool,
}

impl PartialEq for MeshAuthorizationPolicy {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
    }
}

impl MeshAuthorizationPolicy {
    pub(crate) fn new(object: &Arc<Object>) -> Option<Self> {
        let Resource::AuthorizationPolicy(spec) = &object.resource else {
            return None;
        };
        let asked = object.meta.annotation(DRY_RUN);
        let asked = asked.and_then(AuthorizationPolicy::parse_dry_run);
        Some(Self {
            object: Arc::clone(object),
            origin: object.reference(),
            spec: spec.as_ref().clone(),
            // An authorizer that is not asked has no opinion to try out.
            is_dry_run: asked == Some(true) && spec.action != AuthorizationAction::Custom,
        })
    }

    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    /// What proxies call a rule of it.
    pub fn rule_name(&self, rule: usize) -> String {
        let meta = &self.object.meta;
        format!("ns[{}]-policy[{}]-rule[{rule}]", meta.namespace, meta.name)
    }

    /// Whether workloads with these labels obey it, if their namespace is in its reach.
    pub(crate) fn selects(&self, labels: &Labels) -> bool {
        if self.spec.targets().next().is_none() {
            let selector = self.spec.selector.as_ref();
            return selector.is_none_or(|selector| selector.match_labels.selects(labels));
        }
        let served = labels.get(GATEWAY_NAME);
        let mut targets = self.spec.targets();
        served.is_some_and(|served| targets.any(|target| target.name == served))
    }
}

/// All AuthorizationPolicies by namespace, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuthorizationPolicies {
    pub(crate) by_namespace: BTreeMap<String, Vec<Arc<MeshAuthorizationPolicy>>>,
}

impl AuthorizationPolicies {
    /// What is in force for a workload, the root namespace's first.
    pub(crate) fn of_workload<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
        root: &'a str,
    ) -> impl Iterator<Item = &'a Arc<MeshAuthorizationPolicy>> {
        self.reaching(namespace, root).filter(move |policy| {
            // A reference is to an object of the policy's own namespace.
            let is_at_home = policy.namespace() == namespace;
            (is_at_home || policy.spec.targets().next().is_none()) && policy.selects(labels)
        })
    }

    /// Whether labels decide which of them a namespace's workloads obey.
    pub(crate) fn are_by_labels(&self, namespace: &str, root: &str) -> bool {
        let mut reaching = self.reaching(namespace, root);
        reaching.any(|policy| !policy.spec.is_namespace_wide())
    }

    fn reaching<'a>(
        &'a self,
        namespace: &'a str,
        root: &'a str,
    ) -> impl Iterator<Item = &'a Arc<MeshAuthorizationPolicy>> {
        let own = (namespace != root).then_some(namespace);
        let namespaces = std::iter::once(root).chain(own);
        namespaces
            .filter_map(|namespace| self.by_namespace.get(namespace))
            .flatten()
    }
}
