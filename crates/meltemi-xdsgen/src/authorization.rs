//! AuthorizationPolicies as RBAC filters, in the form that Istio gives them.
//!
//! ```text
//! policies of the workload --by action--> CUSTOM (see `custom`) | AUDIT, DENY, ALLOW --> a filter each: for requests, for connections
//!          rule: from -> principals, to -> permissions, when -> either of them
//! ```
//! A filter of one action stands for all its policies. Enforced rules and those of a dry run are two sets of one filter.

mod claims;
mod custom;
mod operation;
mod rule;
mod source;

use std::collections::HashMap;

use meltemi_api::istio::AuthorizationAction;
use meltemi_model::MeshAuthorizationPolicy;
use meltemi_proto::envoy::config::listener::v3::Filter;
use meltemi_proto::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, permission, principal, rbac,
};
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use meltemi_proto::envoy::extensions::filters::{
    http::rbac::v3::Rbac as HttpRbac, network::rbac::v3::Rbac as NetworkRbac,
};

use crate::filters::{http_filter, network_filter};
use crate::inputs::Inputs;
use crate::wire;
use custom::Custom;
use rule::Layer;
use source::Domains;

const HTTP_FILTER: &str = "envoy.filters.http.rbac";
const NETWORK_FILTER: &str = "envoy.filters.network.rbac";
const NETWORK_STAT_PREFIX: &str = "tcp.";

/// The filters that guard a workload, the same on all its ports; none without policies.
#[derive(Default)]
pub(crate) struct Authorization {
    /// Of CUSTOM, before users are authenticated.
    pub(crate) custom: Vec<HttpFilter>,
    /// After that.
    pub(crate) http: Vec<HttpFilter>,
    /// Where bytes are relayed.
    pub(crate) network: Vec<Filter>,
}

impl Authorization {
    /// Of what is called rather than served.
    pub(crate) const NONE: &Self = &Self {
        custom: Vec::new(),
        http: Vec::new(),
        network: Vec::new(),
    };

    pub(crate) fn of(inputs: &Inputs<'_>) -> Self {
        let policies = inputs.authorization_policies();
        if policies.is_empty() {
            return Self::default();
        }
        let domains = Domains::of(inputs.config());
        let of_action = |action| -> Vec<&MeshAuthorizationPolicy> {
            let own = policies
                .iter()
                .filter(|policy| policy.spec.action == action);
            own.map(|policy| &***policy).collect()
        };
        let of = |action, layer| {
            let own = of_action(action);
            (!own.is_empty()).then(|| RuleSets::of(&own, action, layer, &domains))
        };
        let http = |action| of(action, Layer::Requests).map(|sets| sets.http_filter(action));
        let network =
            |action| of(action, Layer::Connections).map(|sets| sets.network_filter(action));
        let custom = Custom::of(inputs, of_action(AuthorizationAction::Custom), &domains);
        let others = [
            AuthorizationAction::Audit,
            AuthorizationAction::Deny,
            AuthorizationAction::Allow,
        ];
        let mut connections = custom
            .as_ref()
            .map_or_else(Vec::new, Custom::network_filters);
        connections.extend(others.into_iter().filter_map(network));
        Self {
            custom: custom.map_or_else(Vec::new, |custom| custom.http_filters()),
            http: others.into_iter().filter_map(http).collect(),
            network: connections,
        }
    }
}

/// The rules of one action.
struct RuleSets {
    enforced: Option<Rules>,
    dry_run: Option<Rules>,
}

impl RuleSets {
    fn of(
        policies: &[&MeshAuthorizationPolicy],
        action: AuthorizationAction,
        layer: Layer,
        domains: &Domains,
    ) -> Self {
        let set = |is_dry_run| {
            let own = policies
                .iter()
                .filter(|policy| policy.is_dry_run == is_dry_run);
            let mut own = own.peekable();
            own.peek().is_some().then_some(())?;
            let rules = own.flat_map(|policy| named_rules(policy, layer, domains));
            Some(Rules {
                action: wire_action(action).into(),
                policies: rules.collect::<HashMap<_, _>>(),
                ..Rules::default()
            })
        };
        Self {
            enforced: set(false),
            dry_run: set(true),
        }
    }

    fn http_filter(self, action: AuthorizationAction) -> HttpFilter {
        let filter = HttpRbac {
            shadow_rules_stat_prefix: dry_run_prefix(&self, action),
            rules: self.enforced,
            shadow_rules: self.dry_run,
            ..HttpRbac::default()
        };
        http_filter(HTTP_FILTER, wire::any(&filter))
    }

    fn network_filter(self, action: AuthorizationAction) -> Filter {
        let filter = NetworkRbac {
            stat_prefix: NETWORK_STAT_PREFIX.to_owned(),
            shadow_rules_stat_prefix: dry_run_prefix(&self, action),
            rules: self.enforced,
            shadow_rules: self.dry_run,
            ..NetworkRbac::default()
        };
        network_filter(NETWORK_FILTER, wire::any(&filter))
    }
}

fn wire_action(action: AuthorizationAction) -> rbac::Action {
    match action {
        AuthorizationAction::Allow => rbac::Action::Allow,
        // What it matches is for the authorizer, or denied if there is none.
        AuthorizationAction::Deny | AuthorizationAction::Custom => rbac::Action::Deny,
        AuthorizationAction::Audit => rbac::Action::Log,
    }
}

fn dry_run_prefix(sets: &RuleSets, action: AuthorizationAction) -> String {
    let prefix = match action {
        AuthorizationAction::Allow => "istio_dry_run_allow_",
        AuthorizationAction::Deny => "istio_dry_run_deny_",
        AuthorizationAction::Audit | AuthorizationAction::Custom => "",
    };
    match sets.dry_run {
        Some(_) => prefix.to_owned(),
        None => String::new(),
    }
}

fn named_rules(
    policy: &MeshAuthorizationPolicy,
    layer: Layer,
    domains: &Domains,
) -> Vec<(String, Policy)> {
    let rules = &policy.spec.rules;
    if rules.is_empty() {
        return vec![(policy.rule_name(0), never())];
    }
    let written = rules.iter().enumerate().filter_map(|(index, rule)| {
        let written = rule::write(rule, policy, layer, domains)?;
        Some((policy.rule_name(index), written))
    });
    written.collect()
}

/// A rule that nothing matches: an ALLOW policy without rules denies all.
fn never() -> Policy {
    let any = Permission {
        rule: Some(permission::Rule::Any(true)),
    };
    let anybody = Principal {
        identifier: Some(principal::Identifier::Any(true)),
    };
    Policy {
        permissions: vec![rule::Term::not(any)],
        principals: vec![rule::Term::not(anybody)],
        ..Policy::default()
    }
}
