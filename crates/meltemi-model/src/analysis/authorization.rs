//! AuthorizationPolicies that reach nobody, or ask for what no caller there can have.

use std::collections::BTreeSet;

use meltemi_api::istio::{
    Attribute, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Source, TlsMode,
    ValuePattern,
};
use meltemi_api::{Object, Resource, did_you_mean};
use meltemi_core::{Diagnostic, FieldPath, Labels, Severity};

use super::selection::Pods;
use super::{authorizers, pairs, report};
use crate::authorization_policy::GATEWAY_NAME;
use crate::{Endpoint, Mesh, MeshSnapshot, Service};

pub(super) fn policy(
    mesh: &Mesh,
    snapshot: &MeshSnapshot,
    pods: &Pods,
    object: &Object,
    found: &mut Vec<Diagnostic>,
) {
    let Resource::AuthorizationPolicy(policy) = &object.resource else {
        return;
    };
    let reached = reached(snapshot, pods, object, policy);
    nobody(object, policy, &reached, found);
    unserved_gateways(pods, object, policy, found);
    authorizers::policy(snapshot, object, policy, &reached, found);
    let rules = FieldPath::new("spec").field("rules");
    for (index, rule) in policy.rules.iter().enumerate() {
        let path = rules.index(index);
        unknown_namespaces(mesh, object, rule, &path, found);
        identities(snapshot, object, policy, rule, &path, &reached, found);
        tokens(snapshot, object, rule, &path, &reached, found);
        service_ports(snapshot, object, rule, &path, &reached, found);
    }
}

/// The workloads that a policy is for, by namespace and labels.
fn reached<'a>(
    snapshot: &'a MeshSnapshot,
    pods: &'a Pods,
    object: &'a Object,
    policy: &AuthorizationPolicy,
) -> Vec<(&'a str, &'a Labels)> {
    let own = object.meta.namespace.as_str();
    let is_root = own == snapshot.config.root_namespace;
    let selector = policy.selector.clone().unwrap_or_default().match_labels;
    pods.iter()
        .filter(|(namespace, _)| is_root || *namespace == own)
        .filter(|(_, labels)| selector.selects(labels))
        .filter(|(_, labels)| {
            let served = labels.get(GATEWAY_NAME);
            let mut targets = policy.targets().peekable();
            targets.peek().is_none() || targets.any(|target| served == Some(target.name.as_str()))
        })
        .collect()
}

/// Istio's IST0127.
fn nobody(
    object: &Object,
    policy: &AuthorizationPolicy,
    reached: &[(&str, &Labels)],
    found: &mut Vec<Diagnostic>,
) {
    let selector = policy.selector.clone().unwrap_or_default().match_labels;
    if selector.is_empty() || !reached.is_empty() {
        return;
    }
    found.push(report(
        object,
        Severity::Warning,
        "IST0127",
        FieldPath::new("spec")
            .field("selector")
            .field("matchLabels"),
        format!(
            "no matching workloads for this resource with the following labels: {}",
            pairs(&selector)
        ),
        "give the pods these labels, or change the selector: until then the policy does nothing"
            .to_owned(),
    ));
}

/// Gateways of Kubernetes' Gateway API that no pod serves.
fn unserved_gateways(
    pods: &Pods,
    object: &Object,
    policy: &AuthorizationPolicy,
    found: &mut Vec<Diagnostic>,
) {
    let spec = FieldPath::new("spec");
    let single = policy.target_ref.iter();
    let single = single.map(|target| (spec.field("targetRef"), target));
    let many = policy.target_refs.iter().enumerate();
    let many = many.map(|(index, target)| (spec.field("targetRefs").index(index), target));
    for (field, target) in single.chain(many) {
        let serves = |(namespace, labels): (&str, &Labels)| {
            namespace == object.meta.namespace
                && labels.get(GATEWAY_NAME) == Some(target.name.as_str())
        };
        if pods.iter().any(serves) {
            continue;
        }
        found.push(report(
            object,
            Severity::Warning,
            "IST0127",
            field.field("name"),
            format!(
                "no matching workloads for this resource with the following labels: {GATEWAY_NAME}={}",
                target.name
            ),
            "name the Gateway by the label that its pods have, or select them with selector.matchLabels"
                .to_owned(),
        ));
    }
}

/// Namespaces that nothing is in.
fn unknown_namespaces(
    mesh: &Mesh,
    object: &Object,
    rule: &AuthorizationRule,
    path: &FieldPath,
    found: &mut Vec<Diagnostic>,
) {
    let known: BTreeSet<&str> = mesh
        .objects()
        .map(|other| match &other.resource {
            Resource::Namespace(_) => other.meta.name.as_str(),
            // What only names a namespace does not make one.
            Resource::AuthorizationPolicy(_) => "",
            _ => other.meta.namespace.as_str(),
        })
        .collect();
    let exists = |value: &str| match ValuePattern::parse(value) {
        ValuePattern::Present => true,
        ValuePattern::Exact(name) => known.contains(name),
        ValuePattern::Prefix(start) => known.iter().any(|name| name.starts_with(start)),
        ValuePattern::Suffix(end) => known.iter().any(|name| name.ends_with(end)),
    };
    for (index, from) in rule.from.iter().enumerate() {
        let Some(source) = &from.source else { continue };
        let field = path.field("from").index(index).field("source");
        for (position, value) in source.namespaces.iter().enumerate() {
            if exists(value) {
                continue;
            }
            let near = did_you_mean(value, known.iter().copied());
            let hint = near.map_or_else(
                || "create the namespace, or name the one that callers are in".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            found.push(report(
                object,
                Severity::Error,
                "IST0101",
                field.field("namespaces").index(position),
                format!("referenced namespace not found: \"{value}\""),
                hint,
            ));
        }
    }
}

/// Who calls is known of mutual TLS only.
fn identities(
    snapshot: &MeshSnapshot,
    object: &Object,
    policy: &AuthorizationPolicy,
    rule: &AuthorizationRule,
    path: &FieldPath,
    reached: &[(&str, &Labels)],
    found: &mut Vec<Diagnostic>,
) {
    let Some(field) = identity_field(rule, path) else {
        return;
    };
    let mut modes = reached.iter().map(|(namespace, labels)| {
        let modes = snapshot.workload_tls(namespace, labels);
        modes.default.mode
    });
    let Some(first) = modes.next() else { return };
    let is_off = first == TlsMode::Disable && modes.all(|mode| mode == TlsMode::Disable);
    if is_off {
        found.push(report(
            object,
            Severity::Warning,
            "MEL0208",
            field,
            "the workloads accept no mutual TLS, so that no caller has an identity: this matches nobody".to_owned(),
            "set the mode of their PeerAuthentication to STRICT or PERMISSIVE".to_owned(),
        ));
        return;
    }
    let takes_plain_text = reached.iter().any(|(namespace, labels)| {
        let modes = snapshot.workload_tls(namespace, labels);
        modes.default.mode != TlsMode::Strict
    });
    if policy.action == AuthorizationAction::Deny && takes_plain_text {
        found.push(report(
            object,
            Severity::Info,
            "MEL0208",
            field,
            "the workloads accept plain text too, and whoever calls so has no identity that could be denied".to_owned(),
            "make their PeerAuthentication STRICT".to_owned(),
        ));
    }
}

/// The first field that needs the caller's identity, without those that only exclude.
fn identity_field(rule: &AuthorizationRule, path: &FieldPath) -> Option<FieldPath> {
    let of_source = |source: &Source| {
        let lists = [
            ("principals", &source.principals),
            ("namespaces", &source.namespaces),
            ("serviceAccounts", &source.service_accounts),
            ("trustDomains", &source.trust_domains),
        ];
        let mut lists = lists.into_iter();
        lists.find_map(|(name, values)| (!values.is_empty()).then_some(name))
    };
    let mut sources = rule.from.iter().enumerate();
    let by_source = sources.find_map(|(index, from)| {
        let name = of_source(from.source.as_ref()?)?;
        let field = path.field("from").index(index).field("source");
        Some(field.field(name))
    });
    let mut conditions = rule.when.iter().enumerate();
    by_source.or_else(|| {
        conditions.find_map(|(index, condition)| {
            let is_identity = matches!(
                Attribute::parse(&condition.key)?,
                Attribute::SourcePrincipal
                    | Attribute::SourceNamespace
                    | Attribute::SourceServiceAccount
                    | Attribute::SourceTrustDomain
            );
            let is_asked = is_identity && !condition.values.is_empty();
            is_asked.then(|| path.field("when").index(index).field("key"))
        })
    })
}

/// Ports are the workload's: one that only its Service has matches no call.
fn service_ports(
    snapshot: &MeshSnapshot,
    object: &Object,
    rule: &AuthorizationRule,
    path: &FieldPath,
    reached: &[(&str, &Labels)],
    found: &mut Vec<Diagnostic>,
) {
    let is_reached = |endpoint: &&Endpoint| {
        let mut reached = reached.iter();
        reached.any(|(namespace, labels)| {
            *namespace == endpoint.namespace && **labels == endpoint.labels
        })
    };
    let targets = |service: &'_ Service, name: Option<&str>| -> BTreeSet<u16> {
        let endpoints = snapshot.endpoints(&service.hostname);
        let endpoints = endpoints.into_iter().flat_map(|all| &all.endpoints);
        endpoints
            .filter(is_reached)
            .filter(|endpoint| name.is_none_or(|name| endpoint.service_port == name))
            .map(|endpoint| endpoint.port)
            .collect()
    };
    for (index, to) in rule.to.iter().enumerate() {
        let ports = to.operation.iter().flat_map(|operation| &operation.ports);
        for (position, text) in ports.enumerate() {
            let Ok(number) = text.parse::<u16>() else {
                continue;
            };
            if snapshot
                .services()
                .any(|service| targets(service, None).contains(&number))
            {
                continue;
            }
            let meant = snapshot.services_on_port(number).find_map(|service| {
                let port = service.ports.iter().find(|port| port.number == number)?;
                let target = targets(service, Some(&port.name)).first().copied()?;
                Some((service, target))
            });
            let Some((service, target)) = meant else {
                continue;
            };
            let field = path.field("to").index(index).field("operation");
            found.push(report(
                object,
                Severity::Warning,
                "MEL0210",
                field.field("ports").index(position),
                format!(
                    "{number} is a port of the Service {}, which calls reach at the workload's port {target}: this matches none of them",
                    service.name
                ),
                format!("write \"{target}\""),
            ));
        }
    }
}

/// Where no RequestAuthentication is for a workload, no request has a user.
fn tokens(
    snapshot: &MeshSnapshot,
    object: &Object,
    rule: &AuthorizationRule,
    path: &FieldPath,
    reached: &[(&str, &Labels)],
    found: &mut Vec<Diagnostic>,
) {
    let verifies = |(namespace, labels): &(&str, &Labels)| {
        let mut verifying = snapshot.request_authentications(namespace, labels);
        verifying.next().is_some()
    };
    let verified = match reached.is_empty() {
        true => snapshot.has_request_authentications(&object.meta.namespace),
        false => reached.iter().all(verifies),
    };
    if verified {
        return;
    }
    let mut sources = rule.from.iter().enumerate();
    let by_source = sources.find_map(|(index, from)| {
        let source = from.source.as_ref()?;
        let field = path.field("from").index(index).field("source");
        let lists = [
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
        ];
        let mut lists = lists.into_iter();
        lists.find_map(|(name, values)| (!values.is_empty()).then(|| field.field(name)))
    });
    let mut conditions = rule.when.iter().enumerate();
    let field = by_source.or_else(|| {
        conditions.find_map(|(index, condition)| {
            let is_of_token = matches!(
                Attribute::parse(&condition.key)?,
                Attribute::RequestPrincipal
                    | Attribute::RequestAudiences
                    | Attribute::RequestPresenter
                    | Attribute::RequestClaim(_)
            );
            is_of_token.then(|| path.field("when").index(index).field("key"))
        })
    });
    if let Some(field) = field {
        found.push(report(
            object,
            Severity::Warning,
            "MEL0209",
            field,
            "no RequestAuthentication verifies tokens for these workloads: every request counts as one without a token".to_owned(),
            "add a RequestAuthentication that selects them, with the issuer of the tokens".to_owned(),
        ));
    }
}
