//! The few rules of Kubernetes' kinds that decide whether the mesh can use them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::{Diagnostic, FieldPath, Severity};

use super::pod::{self, one_of};
use super::service_entry::PROTOCOLS;
use super::{Check, repeated};
use crate::k8s::{Deployment, Job, ReplicaSet, Service, StatefulSet, with_volumes_of_claims};

pub(super) fn check_service(service: &Service, check: &mut Check<'_>) {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    let ports: Vec<_> = ports.collect();
    let spec = FieldPath::new("spec");
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref());
    one_of(&spec.field("type"), kind, &types, check);
    let path = spec.field("ports");
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        check.port(&path.field("port"), u32::try_from(port.port).unwrap_or(0));
        let name = port.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            check.error_hint(
                &path.field("name"),
                "the ports of a Service with several need names",
                "write for instance name: http",
            );
        }
        one_of(
            &path.field("protocol"),
            port.protocol.as_deref(),
            &["TCP", "UDP", "SCTP"],
            check,
        );
        if let Some(IntOrString::Int(target)) = port.target_port {
            // 0 stands for the port itself.
            if !(0..=65535).contains(&target) {
                check.error(
                    &path.field("targetPort"),
                    format!("a port is between 1 and 65535, not {target}"),
                );
            }
        }
        let has_convention = port.app_protocol.is_some()
            || PROTOCOLS.iter().any(|protocol| {
                name.strip_prefix(protocol)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            });
        let is_tcp = port
            .protocol
            .as_deref()
            .is_none_or(|protocol| protocol == "TCP");
        if !has_convention && is_tcp {
            check.add(
                &path.field("name"),
                Diagnostic::new(
                    "IST0118",
                    Severity::Info,
                    "the port's name does not begin with its protocol: it is detected from the traffic",
                )
                .hint("write for instance name: http-web, or set appProtocol"),
            );
        }
    }
    let numbers = ports
        .iter()
        .map(|port| (port.port, port.protocol.as_deref().unwrap_or("TCP")));
    for index in repeated(numbers) {
        check.error_hint(
            &path.index(index).field("port"),
            "the port is listed twice",
            "remove one of the two, or give it another number",
        );
    }
    let names: Vec<&str> = ports
        .iter()
        .map(|port| port.name.as_deref().unwrap_or_default())
        .collect();
    for index in repeated(names.iter()) {
        if names.get(index).is_some_and(|name| !name.is_empty()) {
            check.error_hint(
                &path.index(index).field("name"),
                "another port of the Service has that name",
                "give each its own",
            );
        }
    }
}

pub(super) fn check_deployment(deployment: &Deployment, check: &mut Check<'_>) {
    if let Some(spec) = &deployment.spec {
        workload(&spec.selector, &spec.template, check);
    }
}

pub(super) fn check_stateful_set(set: &StatefulSet, check: &mut Check<'_>) {
    if let Some(spec) = &set.spec {
        let template = with_volumes_of_claims(spec);
        workload(&spec.selector, &template, check);
    }
}

pub(super) fn check_replica_set(set: &ReplicaSet, check: &mut Check<'_>) {
    if let Some(spec) = &set.spec {
        workload(
            &spec.selector,
            &spec.template.clone().unwrap_or_default(),
            check,
        );
    }
}

pub(super) fn check_job(job: &Job, check: &mut Check<'_>) {
    if let Some(spec) = &job.spec {
        template(&spec.template, true, check);
    }
}

fn workload(selector: &LabelSelector, of: &PodTemplateSpec, check: &mut Check<'_>) {
    selector_matches(selector, of, check);
    template(of, false, check);
}

fn template(template: &PodTemplateSpec, is_job: bool, check: &mut Check<'_>) {
    let path = FieldPath::new("spec.template");
    check.labels(&path.field("metadata").field("labels"));
    pod::check(template.spec.as_ref(), &path.field("spec"), is_job, check);
}

fn selector_matches(selector: &LabelSelector, template: &PodTemplateSpec, check: &mut Check<'_>) {
    let field = FieldPath::new("spec.selector");
    let wanted = selector.match_labels.clone().unwrap_or_default();
    if wanted.is_empty() && selector.match_expressions.is_none() {
        check.error(&field, "a selector is required");
        return;
    }
    let empty = BTreeMap::new();
    let labels = template
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.labels.as_ref())
        .unwrap_or(&empty);
    for (key, value) in &wanted {
        if labels.get(key) != Some(value) {
            check.error_hint(
                &field.field("matchLabels").key(key),
                format!("does not match the pods of the template: {key}={value}"),
                "give spec.template.metadata.labels the same label",
            );
        }
    }
}
