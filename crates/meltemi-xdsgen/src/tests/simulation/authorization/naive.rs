//! The rules of the reference "Authorization Policy" once more, straight from the objects and without a thought for Envoy:
//! what a policy says of one call.

use std::net::IpAddr;

use meltemi_api::istio::{
    AuthorizationAction as Action, AuthorizationPolicy, AuthorizationRule, Condition, Operation,
    Source,
};
use serde_json::Value;

use super::Ask;

/// Whether the policies of a workload let a call through.
pub(super) fn allows(policies: &[AuthorizationPolicy], ask: &Ask<'_>, is_http: bool) -> bool {
    let matched = |action| {
        let own = policies
            .iter()
            .filter(move |policy| policy.action == action);
        own.flat_map(|policy| &policy.rules)
            .any(|rule| matches(rule, action, ask, is_http))
    };
    if matched(Action::Custom) || matched(Action::Deny) {
        return false;
    }
    let mut all = policies.iter();
    !all.any(|policy| policy.action == Action::Allow) || matched(Action::Allow)
}

fn matches(rule: &AuthorizationRule, action: Action, ask: &Ask<'_>, is_http: bool) -> bool {
    if !is_http && action == Action::Allow && looks_at_requests(rule) {
        return false;
    }
    let sources = rule.from.iter().filter_map(|from| from.source.as_ref());
    let operations = rule.to.iter().filter_map(|to| to.operation.as_ref());
    (rule.from.is_empty()
        || sources
            .into_iter()
            .any(|source| called_by(source, ask, is_http)))
        && (rule.to.is_empty()
            || operations
                .into_iter()
                .any(|to| called(to, ask, is_http, action == Action::Allow)))
        && rule
            .when
            .iter()
            .all(|condition| holds(condition, ask, is_http))
}

fn is_of_request(key: &str) -> bool {
    key.starts_with("request.")
}

fn looks_at_requests(rule: &AuthorizationRule) -> bool {
    let by_token = rule.from.iter().filter_map(|from| from.source.as_ref());
    let mut by_token =
        by_token.map(|s| s.request_principals.len() + s.not_request_principals.len());
    let operations = rule.to.iter().filter_map(|to| to.operation.as_ref());
    let mut of_request = operations.map(|to| {
        let lists = [
            &to.hosts,
            &to.not_hosts,
            &to.methods,
            &to.not_methods,
            &to.paths,
            &to.not_paths,
        ];
        lists.into_iter().map(Vec::len).sum::<usize>()
    });
    by_token.any(|count| count > 0)
        || of_request.any(|count| count > 0)
        || rule
            .when
            .iter()
            .any(|condition| is_of_request(&condition.key))
}

/// Any of `values` and none of `not`, as far as they are given.
fn meets(values: &[String], not: &[String], test: impl Fn(&str) -> bool) -> bool {
    (values.is_empty() || values.iter().any(|value| test(value)))
        && !not.iter().any(|value| test(value))
}

fn called_by(source: &Source, ask: &Ask<'_>, is_http: bool) -> bool {
    let remote = if is_http { ask.remote } else { ask.source };
    meets(&source.principals, &source.not_principals, |value| {
        is_principal(value, ask)
    }) && (!is_http
        || meets(
            &source.request_principals,
            &source.not_request_principals,
            |value| is_user(value, ask),
        ))
        && meets(&source.namespaces, &source.not_namespaces, |value| {
            part(ask, 2).is_some_and(|namespace| glob(value, namespace))
        })
        && meets(
            &source.service_accounts,
            &source.not_service_accounts,
            |value| is_account(value, ask),
        )
        && meets(&source.trust_domains, &source.not_trust_domains, |value| {
            part(ask, 0).is_some_and(|domain| glob(value, domain))
        })
        && meets(&source.ip_blocks, &source.not_ip_blocks, |value| {
            within(value, ask.source)
        })
        && meets(
            &source.remote_ip_blocks,
            &source.not_remote_ip_blocks,
            |value| within(value, remote),
        )
}

/// `opens`: what matches is let through.
fn called(to: &Operation, ask: &Ask<'_>, is_http: bool, opens: bool) -> bool {
    let of_request = meets(&to.hosts, &to.not_hosts, |value| is_host(value, ask.host))
        && meets(&to.methods, &to.not_methods, |value| {
            glob(value, ask.method)
        })
        && (to.paths.is_empty() || to.paths.iter().any(|value| is_path(value, ask.path, opens)))
        && !to
            .not_paths
            .iter()
            .any(|value| is_path(value, ask.path, !opens));
    (!is_http || of_request)
        && meets(&to.ports, &to.not_ports, |value| {
            value == ask.port.to_string()
        })
}

fn holds(condition: &Condition, ask: &Ask<'_>, is_http: bool) -> bool {
    let key = condition.key.as_str();
    if !is_http && is_of_request(key) {
        return true;
    }
    let remote = if is_http { ask.remote } else { ask.source };
    meets(&condition.values, &condition.not_values, |value| {
        if let Some(name) = key.strip_prefix("request.headers[") {
            let name = name.trim_end_matches(']');
            let lines = ask
                .headers
                .iter()
                .filter(|(own, _)| own.eq_ignore_ascii_case(name));
            return lines.into_iter().any(|(_, line)| glob(value, line));
        }
        if let Some(path) = key.strip_prefix("request.auth.claims[") {
            let names: Vec<&str> = path.trim_end_matches(']').split("][").collect();
            return has_claim(ask, &names, value);
        }
        match key {
            "source.ip" => within(value, ask.source),
            "remote.ip" => within(value, remote),
            "source.namespace" => part(ask, 2).is_some_and(|own| glob(value, own)),
            "source.principal" => is_principal(value, ask),
            "source.serviceAccount" => is_account(value, ask),
            "source.trustDomain" => part(ask, 0).is_some_and(|own| glob(value, own)),
            "request.auth.principal" => is_user(value, ask),
            "request.auth.audiences" => has_claim(ask, &["aud"], value),
            "request.auth.presenter" => has_claim(ask, &["azp"], value),
            "destination.ip" => within(value, "10.244.0.1"),
            "destination.port" => value == ask.port.to_string(),
            "connection.sni" => ask.server_name.is_some_and(|name| glob(value, name)),
            other => panic!("{other}"),
        }
    })
}

fn glob(pattern: &str, text: &str) -> bool {
    if pattern == "*" {
        !text.is_empty()
    } else if let Some(end) = pattern.strip_prefix('*') {
        text.ends_with(end)
    } else if let Some(start) = pattern.strip_suffix('*') {
        text.starts_with(start)
    } else {
        pattern == text
    }
}

fn is_principal(pattern: &str, ask: &Ask<'_>) -> bool {
    ask.principal.is_some_and(|name| glob(pattern, name))
}

/// Of `domain/ns/namespace/sa/account`.
fn part<'a>(ask: &Ask<'a>, index: usize) -> Option<&'a str> {
    ask.principal?.split('/').nth(index)
}

fn is_account(value: &str, ask: &Ask<'_>) -> bool {
    let (namespace, account) = match value.split_once('/') {
        Some((namespace, account)) => (namespace, account),
        None => ("shop", value),
    };
    part(ask, 2) == Some(namespace) && part(ask, 4) == Some(account)
}

/// `issuer/subject`, both of which a user has.
fn is_user(pattern: &str, ask: &Ask<'_>) -> bool {
    let claim = |name: &str| ask.token.as_ref()?.get(name)?.as_str();
    let (Some(issuer), Some(subject)) = (claim("iss"), claim("sub")) else {
        return false;
    };
    let whole = format!("{issuer}/{subject}");
    !issuer.is_empty() && !subject.is_empty() && glob(pattern, &whole)
}

fn has_claim(ask: &Ask<'_>, path: &[&str], pattern: &str) -> bool {
    let mut found = ask.token.as_ref();
    for name in path {
        found = found.and_then(|value| value.get(name));
    }
    match found {
        Some(Value::String(text)) => glob(pattern, text),
        Some(Value::Array(items)) => {
            let mut texts = items.iter().filter_map(Value::as_str);
            texts.any(|text| glob(pattern, text))
        }
        _ => false,
    }
}

fn within(block: &str, address: &str) -> bool {
    let (network, bits) = match block.split_once('/') {
        Some((network, bits)) => (network, bits.parse().unwrap()),
        None => (block, 128),
    };
    let number = |text: &str| match text.parse().unwrap() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)) << 96, 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let ((network, width), (address, other)) = (number(network), number(address));
    let bits = std::cmp::min(bits, width);
    width == other && (bits == 0 || (network ^ address) >> (128 - bits) == 0)
}

fn is_host(pattern: &str, host: &str) -> bool {
    let (pattern, host) = (pattern.to_lowercase(), host.to_lowercase());
    if pattern.ends_with('*') || pattern.contains(':') {
        return glob(&pattern, &host);
    }
    let name = host.split(':').next().unwrap();
    glob(&pattern, name.trim_end_matches('.'))
}

/// Applications differ in what they make of `;`: a path opens what all of them open, and closes what one of them closes.
fn is_path(pattern: &str, path: &str, opens: bool) -> bool {
    let path = path.split('?').next().unwrap();
    let bare: Vec<&str> = path
        .split('/')
        .map(|part| part.split(';').next().unwrap())
        .collect();
    let test = |path: &str| match pattern.contains("{*") {
        true => {
            let template: Vec<&str> = pattern.split('/').collect();
            let parts: Vec<&str> = path.split('/').collect();
            fits(&template, &parts)
        }
        false => glob(pattern, path),
    };
    let bare = bare.join("/");
    let mut single = bare.clone();
    while single.contains("//") {
        single = single.replace("//", "/");
    }
    if opens && (pattern.contains(';') || !path.contains(';')) {
        return test(path);
    }
    match opens {
        true => test(path) && test(&bare) && test(&single),
        false => test(path) || path.contains(';') && (test(&bare) || test(&single)),
    }
}

fn fits(template: &[&str], parts: &[&str]) -> bool {
    match (template.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((&"{**}", rest)), Some(_)) => {
            (1..=parts.len()).any(|taken| fits(rest, &parts[taken..]))
        }
        (Some((&"{*}", rest)), Some((part, more))) => !part.is_empty() && fits(rest, more),
        (Some((literal, rest)), Some((part, more))) => literal == part && fits(rest, more),
        _ => false,
    }
}
