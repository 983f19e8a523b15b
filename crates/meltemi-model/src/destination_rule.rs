//! Which DestinationRule a client obeys for a host, and what it says for a port and subset.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_api::istio::ClientTlsSettings;
use meltemi_api::istio::{
    ConnectionPool, DestinationRule, LoadBalancer, MeshConfig, OutlierDetection, RetryBudget,
    Subset, TrafficPolicy,
};
use meltemi_api::{Object, Resource};
use meltemi_core::{Hostname, Labels, ObjectRef};

use crate::ExportTo;

/// The rules of one namespace for one host, merged: subsets of all, the traffic policy of the oldest that has one.
#[derive(Clone, Debug, PartialEq)]
pub struct HostRule {
    pub host: Hostname,
    pub namespace: String,
    pub rule: DestinationRule,
    /// The merged objects, the oldest first.
    pub from: Vec<ObjectRef>,
    export_to: ExportTo,
}

impl HostRule {
    /// The object that users know the rule by.
    pub fn origin(&self) -> Option<&ObjectRef> {
        self.from.first()
    }

    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.rule.subsets.iter().find(|subset| subset.name == name)
    }

    /// The policy of a service port, for the whole host or a subset of it.
    pub fn policy(&self, port: u16, subset: Option<&Subset>) -> EffectivePolicy<'_> {
        let whole = EffectivePolicy::default().overlaid(self.rule.traffic_policy.as_ref(), port);
        let subset = subset
            .and_then(|wanted| self.subset(&wanted.name))
            .and_then(|subset| subset.traffic_policy.as_ref());
        whole.overlaid(subset, port)
    }

    pub(crate) fn is_by_labels(&self) -> bool {
        self.selector().is_some()
    }

    fn selector(&self) -> Option<&Labels> {
        let selector = self.rule.workload_selector.as_ref()?;
        Some(&selector.match_labels)
    }

    fn merge(&mut self, object: &Object, rule: &DestinationRule) {
        for subset in &rule.subsets {
            if self.subset(&subset.name).is_none() {
                self.rule.subsets.push(subset.clone());
            }
        }
        if self.rule.traffic_policy.is_none() {
            self.rule.traffic_policy.clone_from(&rule.traffic_policy);
        }
        self.from.push(object.reference());
    }
}

/// What applies to one port of a host or subset, block by block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct EffectivePolicy<'a> {
    pub load_balancer: Option<&'a LoadBalancer>,
    pub connection_pool: Option<&'a ConnectionPool>,
    pub outlier_detection: Option<&'a OutlierDetection>,
    pub tls: Option<&'a ClientTlsSettings>,
    pub retry_budget: Option<&'a RetryBudget>,
}

impl<'a> EffectivePolicy<'a> {
    /// A narrower policy replaces whole blocks; its port settings replace all blocks and inherit none (Istio
    /// reference, TrafficPolicy.PortTrafficPolicy).
    fn overlaid(self, policy: Option<&'a TrafficPolicy>, port: u16) -> Self {
        let Some(policy) = policy else { return self };
        let merged = Self {
            load_balancer: policy.load_balancer.as_ref().or(self.load_balancer),
            connection_pool: policy.connection_pool.as_ref().or(self.connection_pool),
            outlier_detection: policy.outlier_detection.as_ref().or(self.outlier_detection),
            tls: policy.tls.as_ref().or(self.tls),
            retry_budget: policy.retry_budget.as_ref().or(self.retry_budget),
        };
        let of_port = policy.port_level_settings.iter().find(|settings| {
            settings
                .port
                .is_some_and(|selector| selector.number == u32::from(port))
        });
        match of_port {
            Some(settings) => Self {
                load_balancer: settings.load_balancer.as_ref(),
                connection_pool: settings.connection_pool.as_ref(),
                outlier_detection: settings.outlier_detection.as_ref(),
                tls: settings.tls.as_ref(),
                ..merged
            },
            None => merged,
        }
    }
}

/// The merged rules of all namespaces; within one, the most specific host first.
#[derive(Clone, Debug, Default)]
pub(crate) struct DestinationRules {
    pub(crate) by_namespace: BTreeMap<String, Arc<[Arc<HostRule>]>>,
}

impl DestinationRules {
    /// The rules of all namespaces that cover a host.
    pub(crate) fn covering(&self, host: &Hostname) -> impl Iterator<Item = &Arc<HostRule>> {
        let all = self.by_namespace.values().flat_map(|rules| rules.iter());
        all.filter(|rule| rule.host.covers(host))
    }

    /// Finds the rule for a client: its own namespace, the service's, the root namespace; the first with any match
    /// ends the search. Clients in the root namespace skip the first step unless the rule is private there. A rule that
    /// is exported to other namespaces only is not for its own. Without labels: for those who serve the host.
    pub(crate) fn lookup(
        &self,
        client_namespace: &str,
        client_labels: Option<&Labels>,
        host: &Hostname,
        service_namespace: &str,
        root: &str,
    ) -> Option<&Arc<HostRule>> {
        let own = |rule: &HostRule| {
            let is_for = match rule.selector() {
                // A rule with a selector is private to its namespace, whatever it exports to.
                Some(selector) => client_labels.is_some_and(|labels| selector.selects(labels)),
                None => rule.export_to.includes(client_namespace),
            };
            is_for && (client_namespace != root || rule.export_to != ExportTo::All)
        };
        let exported = |rule: &HostRule| {
            rule.selector().is_none() && rule.export_to.includes(client_namespace)
        };
        self.first_covering(client_namespace, host, own)
            .or_else(|| self.first_covering(service_namespace, host, exported))
            .or_else(|| self.first_covering(root, host, exported))
    }

    /// The most specific host wins; for one host, a rule with a selector beats the one without.
    fn first_covering(
        &self,
        namespace: &str,
        host: &Hostname,
        applies: impl Fn(&HostRule) -> bool,
    ) -> Option<&Arc<HostRule>> {
        let rules = self.by_namespace.get(namespace)?;
        let mut covering = rules
            .iter()
            .filter(|rule| rule.host.covers(host) && applies(rule));
        let first = covering.next()?;
        covering
            .take_while(|rule| rule.host == first.host)
            .find(|rule| first.selector().is_none() && rule.selector().is_some())
            .or(Some(first))
    }
}

/// Merges the rules of one namespace, given oldest first.
pub(crate) fn consolidate<'a>(
    objects: impl Iterator<Item = &'a Arc<Object>>,
    config: &MeshConfig,
    domain: &str,
) -> Vec<Arc<HostRule>> {
    let mut merged: Vec<HostRule> = Vec::new();
    for object in objects {
        let Resource::DestinationRule(rule) = &object.resource else {
            continue;
        };
        let Ok(host) = Hostname::resolve(&rule.host, &object.meta.namespace, domain) else {
            continue;
        };
        let export_to = ExportTo::new(
            &rule.export_to,
            &config.default_destination_rule_export_to,
            &object.meta.namespace,
        );
        let same = merged.iter_mut().find(|existing| {
            existing.host == host
                && existing.export_to == export_to
                && existing.rule.workload_selector == rule.workload_selector
        });
        match same {
            Some(existing) => existing.merge(object, rule),
            None => merged.push(HostRule {
                host,
                namespace: object.meta.namespace.clone(),
                rule: rule.as_ref().clone(),
                from: vec![object.reference()],
                export_to,
            }),
        }
    }
    merged.sort_by(|a, b| Hostname::by_specificity(&a.host, &b.host));
    merged.into_iter().map(Arc::new).collect()
}
