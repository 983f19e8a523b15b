//! Istio's rules for AuthorizationPolicy (reference "Authorization Policy", `ValidateAuthorizationPolicy`), and the places
//! where a policy would be obeyed otherwise than its author means.

use std::net::IpAddr;

use meltemi_core::{Diagnostic, FieldPath};

use super::{Check, is_dns_label};
use crate::istio::{
    Attribute, AuthorizationAction, AuthorizationPolicy, AuthorizationRule, Condition, Operation,
    PolicyTargetReference, Source, ValuePattern,
};
use crate::suggest;

/// Kubernetes' Gateway API.
const GATEWAY_API: &str = "gateway.networking.k8s.io";
const DRY_RUN: &str = "istio.io/dry-run";
/// Bounds of Istio's definition.
const RULES_LIMIT: usize = 512;
const ACCOUNTS_LIMIT: usize = 16;

pub(super) fn check(policy: &AuthorizationPolicy, spec: &FieldPath, check: &mut Check<'_>) {
    targets(policy, spec, check);
    action(policy, spec, check);
    dry_run(policy, check);
    let rules = spec.field("rules");
    if policy.rules.len() > RULES_LIMIT {
        check.error(&rules, format!("a policy has at most {RULES_LIMIT} rules"));
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        check_rule(policy.action, rule, &rules.index(index), check);
    }
}

fn targets(policy: &AuthorizationPolicy, spec: &FieldPath, check: &mut Check<'_>) {
    if let Some(selector) = &policy.selector {
        let field = spec.field("selector").field("matchLabels");
        check.selector(&field, &selector.match_labels);
    }
    let given = [
        policy.selector.is_some(),
        policy.target_ref.is_some(),
        !policy.target_refs.is_empty(),
    ];
    if given.into_iter().filter(|given| *given).count() > 1 {
        check.error_hint(
            spec,
            "only one of selector, targetRef and targetRefs can be set",
            "write one policy for each",
        );
    }
    if let Some(target) = &policy.target_ref {
        check_target(target, &spec.field("targetRef"), check);
    }
    for (index, target) in policy.target_refs.iter().enumerate() {
        check_target(target, &spec.field("targetRefs").index(index), check);
    }
}

fn check_target(target: &PolicyTargetReference, path: &FieldPath, check: &mut Check<'_>) {
    for (name, value) in [("kind", &target.kind), ("name", &target.name)] {
        if value.is_empty() {
            check.error(&path.field(name), format!("a reference needs a {name}"));
        }
    }
    if !target.namespace.is_empty() {
        check.error_hint(
            &path.field("namespace"),
            "a policy is for objects of its own namespace",
            "leave out the namespace",
        );
    }
    let is_gateway = target.kind == "Gateway" && target.group == GATEWAY_API;
    if !is_gateway && !target.kind.is_empty() {
        // To take it without obeying it would leave open what its author believes closed.
        let message = format!(
            "no proxy enforces a policy for a {}: waypoints are not supported yet",
            target.kind
        );
        let hint = if target.kind == "Gateway" {
            format!("write group: {GATEWAY_API}")
        } else {
            "select the workloads with selector.matchLabels".to_owned()
        };
        let error = Diagnostic::error("MEL0005", message).hint(hint);
        check.add(&path.field("kind"), error);
    }
}

fn action(policy: &AuthorizationPolicy, spec: &FieldPath, check: &mut Check<'_>) {
    let has_rules = !policy.rules.is_empty();
    let provider = spec.field("provider");
    match policy.action {
        AuthorizationAction::Custom | AuthorizationAction::Deny if !has_rules => check.error_hint(
            &spec.field("rules"),
            format!(
                "{} without rules matches nothing, so that it does nothing",
                policy.action.as_str()
            ),
            "write rules: [{}] to match every request",
        ),
        AuthorizationAction::Custom => {
            let named = policy.provider.as_ref();
            if named.is_none_or(|named| named.name.is_empty()) {
                check.error_hint(
                    &provider.field("name"),
                    "CUSTOM needs the name of a provider",
                    "name one of meshConfig.extensionProviders",
                );
            }
        }
        _ => {}
    }
    if policy.provider.is_some() && policy.action != AuthorizationAction::Custom {
        check.error_hint(
            &provider,
            format!("{} asks no provider", policy.action.as_str()),
            "remove it, or write action: CUSTOM",
        );
    }
}

/// The annotation `istio.io/dry-run`.
fn dry_run(policy: &AuthorizationPolicy, check: &mut Check<'_>) {
    let annotations = FieldPath::new("metadata.annotations");
    let all = check.tree.texts(&annotations);
    let Some((_, value)) = all.into_iter().find(|(name, _)| name == DRY_RUN) else {
        return;
    };
    let field = annotations.key(DRY_RUN);
    match AuthorizationPolicy::parse_dry_run(&value) {
        None => {
            let message = format!("\"{value}\" is neither true nor false: the policy is enforced");
            let warning = Diagnostic::warning("IST0125", message).hint("write \"true\"");
            check.add(&field, warning);
        }
        Some(true) if policy.action == AuthorizationAction::Custom => {
            let message = "CUSTOM has no dry run: the policy is enforced";
            let warning = Diagnostic::warning("MEL0012", message).hint("remove the annotation");
            check.add(&field, warning);
        }
        Some(_) => {}
    }
}

fn check_rule(
    action: AuthorizationAction,
    rule: &AuthorizationRule,
    path: &FieldPath,
    check: &mut Check<'_>,
) {
    for (name, is_empty) in [("from", rule.from.is_empty()), ("to", rule.to.is_empty())] {
        let field = path.field(name);
        if is_empty && check.is_written(&field) {
            check.error_hint(
                &field,
                format!("a list that is written is not empty: {name} would match everything"),
                "leave the field out to match everything",
            );
        }
    }
    if rule.from.len() > RULES_LIMIT {
        let message = format!("a rule has at most {RULES_LIMIT} sources");
        check.error(&path.field("from"), message);
    }
    for (index, from) in rule.from.iter().enumerate() {
        let field = path.field("from").index(index).field("source");
        match &from.source {
            None => check.error(&field, "a source is required"),
            Some(source) => check_source(action, source, &field, check),
        }
    }
    for (index, to) in rule.to.iter().enumerate() {
        let field = path.field("to").index(index).field("operation");
        match &to.operation {
            None => check.error(&field, "an operation is required"),
            Some(operation) => check_operation(operation, &field, check),
        }
    }
    for (index, condition) in rule.when.iter().enumerate() {
        check_condition(action, condition, &path.field("when").index(index), check);
    }
    if action == AuthorizationAction::Deny && denies_all_of_tcp(rule) {
        let message = "on TCP ports the rule denies every connection: it looks at requests only";
        let warning = Diagnostic::warning("IST0133", message)
            .hint("add to.operation.ports with the HTTP ports that it is for");
        check.add(path, warning);
    }
}

/// As Istio warns: nothing of the rule is left where no request is looked into.
fn denies_all_of_tcp(rule: &AuthorizationRule) -> bool {
    let sources = rule.from.iter().filter_map(|from| from.source.as_ref());
    let operations = rule.to.iter().filter_map(|to| to.operation.as_ref());
    let mut connections = sources.filter(|source| {
        let request_only = Source {
            request_principals: source.request_principals.clone(),
            not_request_principals: source.not_request_principals.clone(),
            ..Source::default()
        };
        **source != request_only
    });
    let mut ports = operations.filter(|op| !op.ports.is_empty() || !op.not_ports.is_empty());
    let is_of_requests = |condition: &Condition| {
        let attribute = Attribute::parse(&condition.key);
        attribute.is_some_and(|attribute| attribute.is_of_request())
    };
    let looks = !rule.from.is_empty() || !rule.to.is_empty() || !rule.when.is_empty();
    looks
        && connections.next().is_none()
        && ports.next().is_none()
        && rule.when.iter().all(is_of_requests)
}

fn check_source(
    action: AuthorizationAction,
    source: &Source,
    path: &FieldPath,
    check: &mut Check<'_>,
) {
    if *source == Source::default() {
        check.error_hint(
            path,
            "a source says something of the caller",
            "leave out `from` to match every caller",
        );
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    let others = [
        &source.principals,
        &source.not_principals,
        &source.namespaces,
        &source.not_namespaces,
    ];
    if accounts && others.iter().any(|list| !list.is_empty()) {
        check.error_hint(
            path,
            "serviceAccounts stand without namespaces and principals",
            "write namespace/account in serviceAccounts",
        );
    }
    for (name, values) in [
        ("principals", &source.principals),
        ("notPrincipals", &source.not_principals),
    ] {
        principals(values, &path.field(name), check);
    }
    for (name, values) in [
        ("requestPrincipals", &source.request_principals),
        ("notRequestPrincipals", &source.not_request_principals),
        ("trustDomains", &source.trust_domains),
        ("notTrustDomains", &source.not_trust_domains),
    ] {
        texts(values, &path.field(name), check);
    }
    for (name, values) in [
        ("namespaces", &source.namespaces),
        ("notNamespaces", &source.not_namespaces),
    ] {
        namespaces(values, &path.field(name), check);
    }
    for (name, values) in [
        ("serviceAccounts", &source.service_accounts),
        ("notServiceAccounts", &source.not_service_accounts),
    ] {
        service_accounts(values, &path.field(name), check);
    }
    for (name, values) in [
        ("ipBlocks", &source.ip_blocks),
        ("notIpBlocks", &source.not_ip_blocks),
        ("remoteIpBlocks", &source.remote_ip_blocks),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
    ] {
        ip_blocks(values, &path.field(name), check);
    }
    if action == AuthorizationAction::Custom {
        let addresses = Source {
            ip_blocks: source.ip_blocks.clone(),
            not_ip_blocks: source.not_ip_blocks.clone(),
            remote_ip_blocks: source.remote_ip_blocks.clone(),
            not_remote_ip_blocks: source.not_remote_ip_blocks.clone(),
            ..Source::default()
        };
        if *source != addresses {
            check.error_hint(
                path,
                "CUSTOM knows callers by their address only",
                "let the provider look at who calls",
            );
        }
    }
}

fn check_operation(operation: &Operation, path: &FieldPath, check: &mut Check<'_>) {
    if *operation == Operation::default() {
        check.error_hint(
            path,
            "an operation says something of the request",
            "leave out `to` to match every request",
        );
    }
    for (name, values) in [
        ("hosts", &operation.hosts),
        ("notHosts", &operation.not_hosts),
    ] {
        texts(values, &path.field(name), check);
    }
    for (name, values) in [
        ("ports", &operation.ports),
        ("notPorts", &operation.not_ports),
    ] {
        ports(values, &path.field(name), check);
    }
    for (name, values) in [
        ("methods", &operation.methods),
        ("notMethods", &operation.not_methods),
    ] {
        methods(values, &path.field(name), check);
    }
    for (name, values) in [
        ("paths", &operation.paths),
        ("notPaths", &operation.not_paths),
    ] {
        paths(values, &path.field(name), check);
    }
}

fn check_condition(
    action: AuthorizationAction,
    condition: &Condition,
    path: &FieldPath,
    check: &mut Check<'_>,
) {
    let key = path.field("key");
    if condition.key.is_empty() {
        check.error(&key, "a condition needs a key");
        return;
    }
    if condition.values.is_empty() && condition.not_values.is_empty() {
        check.error(path, "a condition needs values or notValues");
    }
    let Some(attribute) = Attribute::parse(&condition.key) else {
        unknown_attribute(&condition.key, &key, check);
        return;
    };
    if let Attribute::RequestHeader(name) = attribute {
        check.header_name(&key, name);
    }
    for (name, values) in [
        ("values", &condition.values),
        ("notValues", &condition.not_values),
    ] {
        let field = path.field(name);
        match attribute {
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                ip_blocks(values, &field, check);
            }
            Attribute::DestinationPort => ports(values, &field, check),
            Attribute::SourceNamespace => namespaces(values, &field, check),
            Attribute::SourcePrincipal => principals(values, &field, check),
            Attribute::SourceServiceAccount => service_accounts(values, &field, check),
            _ => texts(values, &field, check),
        }
    }
    let knows_caller = matches!(
        attribute,
        Attribute::SourceNamespace
            | Attribute::SourcePrincipal
            | Attribute::SourceServiceAccount
            | Attribute::SourceTrustDomain
            | Attribute::RequestPrincipal
            | Attribute::RequestAudiences
            | Attribute::RequestPresenter
            | Attribute::RequestClaim(_)
    );
    if action == AuthorizationAction::Custom && knows_caller {
        check.error_hint(
            &key,
            "CUSTOM knows callers by their address only",
            "let the provider look at who calls",
        );
    }
}

fn unknown_attribute(key: &str, path: &FieldPath, check: &mut Check<'_>) {
    if key.starts_with("experimental.envoy.filters.") {
        let message = "no filter of ours leaves metadata that a policy could look at";
        let error =
            Diagnostic::error("MEL0005", message).hint("look at a header or a claim instead");
        check.add(path, error);
        return;
    }
    let hint = match key {
        "destination.namespace" => "a policy is for its own namespace: leave it out".to_owned(),
        _ if key.starts_with("destination.labels") => {
            "select the workloads with selector.matchLabels".to_owned()
        }
        _ if key.starts_with("request.headers") => {
            "write request.headers[name], such as request.headers[x-role]".to_owned()
        }
        _ if key.starts_with("request.auth.claims") => {
            "write request.auth.claims[name], such as request.auth.claims[groups]".to_owned()
        }
        _ => {
            let names: Vec<&str> = Attribute::NAMES.iter().map(|(name, _)| *name).collect();
            suggest::hint(key, &names)
        }
    };
    check.error_hint(path, format!("unknown attribute \"{key}\""), hint);
}

/// Reports of every value of a list what is wrong with it.
fn each(
    values: &[String],
    field: &FieldPath,
    check: &mut Check<'_>,
    problem: impl Fn(&str) -> Option<(String, &'static str)>,
) {
    for (index, value) in values.iter().enumerate() {
        let field = field.index(index);
        if value.is_empty() {
            check.error(&field, "a value must not be empty");
        } else if let Some((message, hint)) = problem(value) {
            check.error_hint(&field, message, hint);
        }
    }
}

/// Values with a `*` at one end at most. One elsewhere is compared as it stands, which hardly anybody means.
fn texts(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    each(values, field, check, |_| None);
    for (index, value) in values.iter().enumerate() {
        if ValuePattern::parse(value).text().contains('*') {
            let message = format!("a * inside of \"{value}\" is compared as it stands");
            let warning = Diagnostic::warning("MEL0013", message)
                .hint("a * stands for any text at the beginning or at the end, once");
            check.add(&field.index(index), warning);
        }
    }
}

fn principals(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    texts(values, field, check);
    each(values, field, check, |value| {
        value.starts_with("spiffe://").then(|| {
            (
                "a principal is written without spiffe://".to_owned(),
                "write trust-domain/ns/namespace/sa/account",
            )
        })
    });
}

fn namespaces(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    each(values, field, check, |value| {
        let text = ValuePattern::parse(value).text();
        // At the open end anything may follow.
        let text = text.trim_matches('-');
        (!text.is_empty() && !is_dns_label(text)).then(|| {
            (
                format!("\"{value}\" can be no namespace"),
                "a name has lower-case letters, digits and dashes, and * at one end",
            )
        })
    });
}

/// `namespace/account` or `account`, exact.
fn service_accounts(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    if values.len() > ACCOUNTS_LIMIT {
        let message = format!("at most {ACCOUNTS_LIMIT} service accounts");
        check.error(field, message);
    }
    each(values, field, check, |value| {
        let (namespace, account) = value.split_once('/').unwrap_or(("default", value));
        let is_account = account.split('.').all(is_dns_label);
        (!is_dns_label(namespace) || !is_account).then(|| {
            (
                format!("\"{value}\" is no service account"),
                "write account, or namespace/account; there are no wildcards here",
            )
        })
    });
}

fn ip_blocks(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    each(values, field, check, |value| {
        (!is_ip_block(value)).then(|| {
            (
                format!("\"{value}\" is no address and no range of addresses"),
                "write an address such as 10.0.0.1, or a range such as 10.0.0.0/8",
            )
        })
    });
}

fn is_ip_block(text: &str) -> bool {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let is_length = |length: &str| {
        let digits = !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit());
        digits && length.parse::<u8>().is_ok_and(|length| length <= longest)
    };
    length.is_none_or(is_length)
}

fn ports(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    each(values, field, check, |value| {
        let is_port = value.bytes().all(|c| c.is_ascii_digit()) && value.parse::<u16>().is_ok();
        (!is_port).then(|| {
            (
                format!("\"{value}\" is no port"),
                "write the workload's port as a number in quotes",
            )
        })
    });
}

/// Methods are upper-case, and compared as they are.
fn methods(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    texts(values, field, check);
    for (index, value) in values.iter().enumerate() {
        if value.bytes().any(|c| c.is_ascii_lowercase()) {
            let message = format!("\"{value}\" matches no usual request: methods are upper-case");
            let hint = format!("write \"{}\"", value.to_ascii_uppercase());
            let warning = Diagnostic::warning("MEL0013", message).hint(hint);
            check.add(&field.index(index), warning);
        }
    }
}

fn paths(values: &[String], field: &FieldPath, check: &mut Check<'_>) {
    each(values, field, check, |value| {
        let problem = Operation::path_template_problem(value)?;
        Some((
            problem.to_owned(),
            "{*} stands for one segment, {**} for the rest and comes last, as in /items/{*}/{**}",
        ))
    });
    for (index, value) in values.iter().enumerate() {
        let (message, hint) = if Operation::is_path_template(value) || value.is_empty() {
            continue;
        } else if value.contains(['?', '#']) {
            (
                "a path is compared without its query",
                "end it before the ?",
            )
        } else if !value.starts_with(['/', '*']) {
            ("a path begins with a slash", "begin it with a slash or a *")
        } else if ValuePattern::parse(value).text().contains('*') {
            (
                "a * inside of a path is compared as it stands",
                "write {*} for one segment of a path",
            )
        } else {
            continue;
        };
        let message = format!("\"{value}\" matches no usual request: {message}");
        let warning = Diagnostic::warning("MEL0013", message).hint(hint);
        check.add(&field.index(index), warning);
    }
}
