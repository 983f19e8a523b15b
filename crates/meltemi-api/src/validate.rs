//! What types cannot say: rules of one object, as Istio's and Kubernetes' own validation has them (IST0106).

mod authorization_policy;
mod destination_rule;
mod extension_provider;
pub mod format;
mod gateway;
pub mod jwks;
mod kubernetes;
pub mod labels;
mod locality;
mod mesh_config;
mod peer_authentication;
mod pod;
mod request_authentication;
mod retry;
mod service_entry;
mod sidecar;
mod virtual_service;

pub(crate) use sidecar::is_egress_host;

use std::time::Duration;

use meltemi_core::{Diagnostic, FieldPath, Hostname, Labels};

use crate::k8s;
use crate::object::Resource;
use crate::parse::Report;
use crate::tree::Node;

/// The longest regular expression that Istio lets through, in bytes.
const REGEX_LIMIT_BYTES: usize = 1024;
/// The largest compiled program, in the order of RE2's default bound at Istio's proxies.
const REGEX_PROGRAM_LIMIT_BYTES: usize = 1 << 20;

pub(crate) fn object(tree: &Node, resource: &Resource, report: &mut Report) {
    let mut check = Check { tree, report };
    let spec = FieldPath::new("spec");
    check.labels(&FieldPath::new("metadata.labels"));
    match resource {
        Resource::PeerAuthentication(policy) => {
            peer_authentication::check(policy, &spec, &mut check)
        }
        Resource::AuthorizationPolicy(policy) => {
            authorization_policy::check(policy, &spec, &mut check);
        }
        Resource::RequestAuthentication(policy) => {
            request_authentication::check(policy, &spec, &mut check);
        }
        Resource::DestinationRule(rule) => destination_rule::check(rule, &spec, &mut check),
        Resource::VirtualService(service) => virtual_service::check(service, &spec, &mut check),
        Resource::Gateway(gateway) => gateway::check(gateway, &spec, &mut check),
        Resource::Sidecar(sidecar) => sidecar::check(sidecar, &spec, &mut check),
        Resource::ServiceEntry(entry) => service_entry::check(entry, &spec, &mut check),
        Resource::WorkloadEntry(entry) => service_entry::check_workload(entry, &spec, &mut check),
        Resource::Service(service) => kubernetes::check_service(service, &mut check),
        Resource::Deployment(deployment) => kubernetes::check_deployment(deployment, &mut check),
        Resource::StatefulSet(set) => kubernetes::check_stateful_set(set, &mut check),
        Resource::ReplicaSet(set) => kubernetes::check_replica_set(set, &mut check),
        Resource::Job(job) => kubernetes::check_job(job, &mut check),
        _ => {}
    }
}

/// A pod as it is written, before what the mesh does not read is left out of it.
pub(crate) fn pod(tree: &Node, pod: &k8s::Pod, report: &mut Report) {
    let mut check = Check { tree, report };
    // One with a status comes from a cluster, which has judged it.
    if pod.status.is_none() {
        let spec = FieldPath::new("spec");
        pod::check(pod.spec.as_ref(), &spec, false, &mut check);
    }
}

/// The rules' way to report, and the rules that many fields share.
struct Check<'a> {
    tree: &'a Node,
    report: &'a mut Report,
}

impl Check<'_> {
    fn error(&mut self, field: &FieldPath, message: impl Into<String>) {
        self.add(field, Diagnostic::error("IST0106", message));
    }

    fn error_hint(
        &mut self,
        field: &FieldPath,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.add(field, Diagnostic::error("IST0106", message).hint(hint));
    }

    fn add(&mut self, field: &FieldPath, diagnostic: Diagnostic) {
        self.report.add(self.tree, field.clone(), diagnostic);
    }

    fn is_written(&self, field: &FieldPath) -> bool {
        self.tree.has(field)
    }

    /// The labels that are written there.
    fn labels(&mut self, field: &FieldPath) {
        for (key, value) in self.tree.texts(field) {
            let path = field.key(&key);
            let remedy =
                "see Kubernetes' syntax of labels; text of other form goes into annotations";
            if let Some(problem) = labels::key_problem(&key) {
                self.error_hint(&path, problem, remedy);
            }
            if let Some(problem) = labels::value_problem(&value) {
                self.error_hint(&path, problem, remedy);
            }
        }
    }

    fn port(&mut self, field: &FieldPath, port: u32) {
        if !(1..=65535).contains(&port) {
            self.error(field, format!("a port is between 1 and 65535, not {port}"));
        }
    }

    /// Istio's durations are at least a millisecond.
    fn duration(&mut self, field: &FieldPath, duration: Option<Duration>) {
        if duration.is_some_and(|duration| duration < Duration::from_millis(1)) {
            self.error(field, "a duration is at least 1ms");
        }
    }

    fn percent(&mut self, field: &FieldPath, percent: Option<f64>) {
        if percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
            self.error(field, "a percentage is between 0 and 100");
        }
    }

    fn not_negative(&mut self, field: &FieldPath, number: Option<i32>) {
        if number.is_some_and(|number| number < 0) {
            self.error(field, "must not be negative");
        }
    }

    /// A host that may be short, full or a wildcard.
    fn host(&mut self, field: &FieldPath, host: &str) {
        if host.is_empty() {
            self.error(field, "a host is required");
        } else if let Err(error) = Hostname::new(host) {
            self.error(field, error.to_string());
        }
    }

    fn regex(&mut self, field: &FieldPath, pattern: &str) {
        if pattern.is_empty() {
            self.error(field, "a regular expression must not be empty");
        } else if pattern.len() > REGEX_LIMIT_BYTES {
            self.error(
                field,
                format!("a regular expression has at most {REGEX_LIMIT_BYTES} bytes"),
            );
        } else if let Err(error) = regex::RegexBuilder::new(pattern)
            .size_limit(REGEX_PROGRAM_LIMIT_BYTES)
            .build()
        {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default();
            let reason = reason.strip_prefix("error: ").unwrap_or(reason);
            self.error_hint(
                field,
                format!("not an RE2 regular expression: {reason}"),
                "RE2 has no look-around and no back-references, and brackets come in pairs",
            );
        }
    }

    /// `.`, `*`, `~` or namespaces, and neither of the first beside others.
    fn export_to(&mut self, field: &FieldPath, export_to: &[String]) {
        for (index, target) in export_to.iter().enumerate() {
            let field = field.index(index);
            let is_special = matches!(target.as_str(), "." | "*" | "~");
            if !is_special && !is_dns_label(target) {
                self.error(&field, "write \".\", \"*\" or the name of a namespace");
            } else if matches!(target.as_str(), "*" | "~") && export_to.len() > 1 {
                self.error(&field, format!("\"{target}\" must stand alone"));
            }
        }
    }

    /// Selectors compare for equality: no wildcards, no empty keys.
    fn selector(&mut self, field: &FieldPath, labels: &Labels) {
        for (key, value) in labels.iter() {
            let field = field.key(key);
            if key.is_empty() {
                self.error(&field, "the key of a label must not be empty");
            } else if key.contains('*') || value.contains('*') {
                self.error(
                    &field,
                    "a selector compares for equality, it has no wildcards",
                );
            }
        }
    }

    /// The name of a header that is read or set: a token (RFC 9110 section 5.6.2), or a pseudo-header.
    fn header_name(&mut self, field: &FieldPath, name: &str) {
        if is_header_name(name) || PSEUDO_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            return;
        }
        let message = format!("\"{name}\" is not the name of a header");
        if name.starts_with('@') {
            let hint =
                "claims of a token are @request.auth.claims.name, where requests are matched";
            self.error_hint(field, message, hint);
        } else if name.starts_with(':') {
            let hint = format!("the pseudo-headers are {}", PSEUDO_HEADERS.join(", "));
            self.error_hint(field, message, hint);
        } else {
            let hint = "a name has letters, digits and !#$%&'*+-.^_`|~";
            self.error_hint(field, message, hint);
        }
    }

    /// The name of a header that is removed: pseudo-headers cannot be.
    fn removable_header_name(&mut self, field: &FieldPath, name: &str) {
        if !is_header_name(name) {
            let message = format!("\"{name}\" is not the name of a header that can be removed");
            let hint = "a name has letters, digits and !#$%&'*+-.^_`|~";
            self.error_hint(field, message, hint);
        }
    }

    /// A header value that is sent as it is written.
    fn literal_header_value(&mut self, field: &FieldPath, value: &str) {
        if value.bytes().any(|c| c.is_ascii_control() && c != b'\t') {
            self.error_hint(
                field,
                "the value of a header has no control characters",
                "remove line breaks and other control characters",
            );
        }
    }

    /// A header value in which `%OPERATOR%`s are replaced for each request (Envoy, "Custom request/response headers").
    fn header_value(&mut self, field: &FieldPath, value: &str) {
        self.literal_header_value(field, value);
        if let Some(problem) = format::problem(value) {
            self.error_hint(field, problem.message, problem.hint);
        }
    }

    /// A list of `x-envoy-retry-on` and `x-envoy-retry-grpc-on` conditions and status codes.
    fn retry_on(&mut self, field: &FieldPath, list: &str) {
        for (message, hint) in retry::problems(list) {
            self.error_hint(field, message, hint);
        }
    }
}

/// What a header may be called besides by its name.
const PSEUDO_HEADERS: [&str; 4] = [":authority", ":method", ":path", ":scheme"];

fn is_header_name(name: &str) -> bool {
    let is_token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    !name.is_empty() && name.bytes().all(is_token)
}

/// A DNS label (RFC 1123): names of namespaces, subsets, ports.
fn is_dns_label(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 63
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

/// The positions of values that occurred before.
fn repeated<T: Ord>(values: impl Iterator<Item = T>) -> Vec<usize> {
    let mut seen = std::collections::BTreeSet::new();
    values
        .enumerate()
        .filter_map(|(index, value)| (!seen.insert(value)).then_some(index))
        .collect()
}

#[cfg(test)]
mod tests;
