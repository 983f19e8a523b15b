//! CUSTOM policies whose authorizer cannot be asked, or not about everything that they select: all that is denied.

use std::collections::BTreeSet;

use meltemi_api::Object;
use meltemi_api::istio::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, AuthorizerProvider, Operation,
};
use meltemi_core::{Diagnostic, FieldPath, Labels, Severity};

use super::report;
use crate::{EndpointAddress, MeshSnapshot};

const DENIES: &str = "whatever the rules match is denied";

pub(super) fn policy(
    snapshot: &MeshSnapshot,
    object: &Object,
    policy: &AuthorizationPolicy,
    reached: &[(&str, &Labels)],
    found: &mut Vec<Diagnostic>,
) {
    let named = policy.provider.as_ref().map(|named| named.name.as_str());
    let (AuthorizationAction::Custom, Some(name)) = (policy.action, named) else {
        return;
    };
    let field = FieldPath::new("spec").field("provider").field("name");
    let mut tell = |severity, code, message: String, hint: String| {
        found.push(report(object, severity, code, field.clone(), message, hint));
    };
    let authorizer = snapshot.config().authorizer(name);
    let service = authorizer.clone().and_then(|authorizer| {
        let service = snapshot.authorizer_service(&authorizer);
        service.map_err(|(message, hint)| {
            (
                format!("the provider \"{name}\" of meshConfig: {message}"),
                hint,
            )
        })
    });
    let service = match service {
        Ok(service) => service,
        Err((message, hint)) => {
            let message = format!("{message}: {DENIES}");
            tell(Severity::Error, "MEL0212", message, hint);
            return;
        }
    };
    let mut namespaces = reached.iter().map(|(namespace, _)| *namespace);
    if let Some(namespace) = namespaces.find(|own| !service.export_to.includes(own)) {
        let host = &service.hostname;
        let message = format!(
            "the provider \"{name}\" of meshConfig: {host} is not exported to the namespace {namespace}: {DENIES}"
        );
        let hint = "export it there: exportTo, or the annotation networking.istio.io/exportTo";
        tell(Severity::Error, "MEL0212", message, hint.to_owned());
    }
    for (namespace, labels) in reached {
        let others: BTreeSet<&str> = snapshot
            .authorization_policies(namespace, labels)
            .filter(|other| other.spec.action == AuthorizationAction::Custom)
            .filter_map(|other| other.spec.provider.as_ref())
            .map(|provider| provider.name.as_str())
            .filter(|other| *other != name)
            .collect();
        if !others.is_empty() {
            let others: Vec<&str> = others.into_iter().collect();
            let message = format!(
                "a workload asks one provider, and policies for one of {namespace} name another, too ({}): {DENIES}",
                others.join(", ")
            );
            let hint = "let all CUSTOM policies of a workload name one provider".to_owned();
            tell(Severity::Error, "MEL0213", message, hint);
            break;
        }
    }
    if let Ok(AuthorizerProvider::Http(_)) = authorizer
        && !policy.rules.iter().all(names_ports)
        && let Some((service, port)) = relayed(snapshot, reached)
    {
        let message = format!(
            "an authorizer over HTTP cannot be asked about connections of port {port} of {service}: those that the rules match are denied"
        );
        let hint = "name a provider with envoyExtAuthzGrpc, or restrict the rules to the ports of requests (operation.ports)";
        tell(Severity::Warning, "MEL0214", message, hint.to_owned());
    }
}

/// Whether a rule is for some ports only: whoever wrote it has thought of that.
fn names_ports(rule: &AuthorizationRule) -> bool {
    let mut operations = rule.to.iter().map(|to| to.operation.as_ref());
    let names = |operation: Option<&Operation>| operation.is_some_and(|one| !one.ports.is_empty());
    !rule.to.is_empty() && operations.all(names)
}

/// A port of the workloads at which bytes are relayed.
fn relayed(snapshot: &MeshSnapshot, reached: &[(&str, &Labels)]) -> Option<(String, u16)> {
    snapshot.services().find_map(|service| {
        let port = service.ports.iter().find(|port| port.protocol.is_tcp())?;
        let endpoints = snapshot.endpoints(&service.hostname)?;
        let mut own = endpoints.endpoints.iter().filter(|endpoint| {
            endpoint.service_port == port.name && matches!(endpoint.address, EndpointAddress::Ip(_))
        });
        let is_reached = own.any(|endpoint| {
            let mut reached = reached.iter();
            reached.any(|(namespace, labels)| {
                *namespace == endpoint.namespace && **labels == endpoint.labels
            })
        });
        is_reached.then(|| (service.hostname.to_string(), port.number))
    })
}
