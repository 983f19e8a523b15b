use std::collections::BTreeMap;

use meltemi_core::{Diagnostic, FieldPath, Hostname};

use super::{Check, repeated};
use crate::istio::{
    AbortKind, CorsPolicy, Destination, DirectResponse, DirectResponseBody, Fault,
    HeaderOperations, Headers, HttpMatch, HttpRoute, Redirect, RegexRewrite, Retries, Rewrite,
    RouteDestination, StringMatch, TlsMatch, VirtualService, claim_path,
};

/// The longest body of a `directResponse` (Istio reference, HTTPBody).
const BODY_LIMIT_BYTES: usize = 1 << 20;

pub(super) fn check(service: &VirtualService, spec: &FieldPath, check: &mut Check<'_>) {
    check_hosts(service, spec, check);
    check.export_to(&spec.field("exportTo"), &service.export_to);
    if service.http.is_empty() && service.tls.is_empty() && service.tcp.is_empty() {
        check.error_hint(
            spec,
            "http, tcp or tls must be provided",
            "add http with a route, such as [{route: [{destination: {host: reviews}}]}]",
        );
    }
    let http = spec.field("http");
    for (index, route) in service.http.iter().enumerate() {
        http_route(route, &http.index(index), check);
    }
    unreachable_rules(&service.http, &http, check);
    for (index, route) in service.tls.iter().enumerate() {
        let path = spec.field("tls").index(index);
        if route.matches.is_empty() {
            check.error_hint(
                &path.field("match"),
                "a TLS route needs a match",
                "add match with sniHosts",
            );
        }
        for (index, matcher) in route.matches.iter().enumerate() {
            tls_match(
                matcher,
                &service.hosts,
                &path.field("match").index(index),
                check,
            );
        }
        destinations(&route.route, &path.field("route"), check);
    }
    for (index, route) in service.tcp.iter().enumerate() {
        let path = spec.field("tcp").index(index);
        for (index, matcher) in route.matches.iter().enumerate() {
            optional_port(matcher.port, &path.field("match").index(index), check);
        }
        destinations(&route.route, &path.field("route"), check);
    }
}

fn check_hosts(service: &VirtualService, spec: &FieldPath, check: &mut Check<'_>) {
    let hosts = spec.field("hosts");
    if service.hosts.is_empty() {
        check_delegate(service, spec, check);
    }
    for (index, host) in service.hosts.iter().enumerate() {
        let field = hosts.index(index);
        check.host(&field, host);
        if host == "*" && service.applies_to_mesh() {
            check.error_hint(
                &field,
                "the host \"*\" is not allowed for sidecars",
                "name the hosts, or bind the VirtualService to gateways only",
            );
        }
    }
    for index in repeated(service.hosts.iter().map(|host| host.to_ascii_lowercase())) {
        check.error(&hosts.index(index), "the host is listed twice");
    }
}

/// One without hosts is a delegate: others lead to it.
fn check_delegate(service: &VirtualService, spec: &FieldPath, check: &mut Check<'_>) {
    let remedy = "name the Service, or the host that clients call; only delegates have no hosts";
    for (name, is_written) in [
        ("gateways", !service.gateways.is_empty()),
        ("tls", !service.tls.is_empty()),
        ("tcp", !service.tcp.is_empty()),
    ] {
        if is_written {
            let message = format!("a VirtualService without hosts, a delegate, has no {name}");
            check.error_hint(&spec.field(name), message, remedy);
        }
    }
    for (index, route) in service.http.iter().enumerate() {
        if route.delegate.is_some() {
            let field = spec.field("http").index(index).field("delegate");
            check.error_hint(&field, "a delegate has no delegates of its own", remedy);
        }
    }
}

fn http_route(route: &HttpRoute, path: &FieldPath, check: &mut Check<'_>) {
    let actions = ["route", "redirect", "directResponse", "delegate"];
    let written: Vec<&str> = actions
        .into_iter()
        .filter(|action| check.is_written(&path.field(action)))
        .collect();
    match written.as_slice() {
        [] => check.error(path, "set route, redirect, directResponse or delegate"),
        [_] => {}
        ["route", "delegate"] => check.error(path, "only one of route and delegate can be set"),
        [first, second, ..] => {
            check.error(path, format!("only one of {first} and {second} can be set"));
        }
    }
    for (index, matcher) in route.matches.iter().enumerate() {
        http_match(matcher, &path.field("match").index(index), check);
    }
    if written == ["route"] {
        destinations(&route.route, &path.field("route"), check);
    }
    check.duration(&path.field("timeout"), route.timeout);
    if let Some(retries) = &route.retries {
        check_retries(retries, &path.field("retries"), check);
    }
    if let Some(rewrite) = &route.rewrite {
        check_rewrite(rewrite, &path.field("rewrite"), check);
        if route.redirect.is_some() {
            check.error(
                &path.field("rewrite"),
                "rewrite and redirect exclude each other",
            );
        }
    }
    if let Some(redirect) = &route.redirect {
        check_redirect(redirect, &path.field("redirect"), check);
    }
    if let Some(response) = &route.direct_response {
        check_direct_response(response, &path.field("directResponse"), check);
    }
    if let Some(cors) = &route.cors_policy {
        check_cors(cors, &path.field("corsPolicy"), check);
    }
    if let Some(headers) = &route.headers {
        check_headers(headers, &path.field("headers"), check);
    }
    if let Some(fault) = &route.fault {
        check_fault(fault, &path.field("fault"), check);
    }
}

fn check_direct_response(response: &DirectResponse, path: &FieldPath, check: &mut Check<'_>) {
    if !(200..=599).contains(&response.status) {
        check.error(&path.field("status"), "a status is between 200 and 599");
    }
    let size = match &response.body {
        None => 0,
        Some(DirectResponseBody::String(text)) => text.len(),
        Some(DirectResponseBody::Bytes(bytes)) => bytes.0.len(),
    };
    if size > BODY_LIMIT_BYTES {
        let message = format!("a body has at most {BODY_LIMIT_BYTES} bytes");
        let hint = "serve larger ones from a workload";
        check.error_hint(&path.field("body"), message, hint);
    }
}

/// Its lists become values of headers.
fn check_cors(cors: &CorsPolicy, path: &FieldPath, check: &mut Check<'_>) {
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        string_match(origin, &path.field("allowOrigins").index(index), check);
    }
    for (field, values) in [
        ("allowMethods", &cors.allow_methods),
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        for (index, value) in values.iter().enumerate() {
            check.literal_header_value(&path.field(field).index(index), value);
        }
    }
}

fn check_fault(fault: &Fault, path: &FieldPath, check: &mut Check<'_>) {
    if let Some(delay) = &fault.delay {
        let path = path.field("delay");
        if delay.fixed_delay.is_none() {
            check.error_hint(&path.field("fixedDelay"), "is required", "such as 5s");
        }
        check.duration(&path.field("fixedDelay"), delay.fixed_delay);
        let percent = delay.percentage.map(|percentage| percentage.value);
        check.percent(&path.field("percentage").field("value"), percent);
        check.percent(&path.field("percent"), delay.percent.map(f64::from));
    }
    if let Some(abort) = &fault.abort {
        let path = path.field("abort");
        let percent = abort.percentage.map(|percentage| percentage.value);
        check.percent(&path.field("percentage").field("value"), percent);
        match &abort.kind {
            AbortKind::HttpStatus(status) if !(200..=599).contains(status) => {
                check.error(&path.field("httpStatus"), "a status is between 200 and 599");
            }
            AbortKind::GrpcStatus(status) if status.code().is_none() => {
                check.error(
                    &path.field("grpcStatus"),
                    "not the name or number of a gRPC status",
                );
            }
            AbortKind::HttpStatus(_) | AbortKind::GrpcStatus(_) => {}
        }
    }
}

fn http_match(matcher: &HttpMatch, path: &FieldPath, check: &mut Check<'_>) {
    for (field, value) in [
        ("uri", &matcher.uri),
        ("scheme", &matcher.scheme),
        ("method", &matcher.method),
        ("authority", &matcher.authority),
    ] {
        let field = path.field(field);
        match value {
            Some(StringMatch::Present) => check.error(&field, "set exact, prefix or regex"),
            Some(value) => string_match(value, &field, check),
            None => {}
        }
    }
    for (field, values) in [
        ("headers", &matcher.headers),
        ("withoutHeaders", &matcher.without_headers),
    ] {
        for name in values.keys() {
            if claim_path(name).is_none() {
                check.header_name(&path.field(field).key(name), name);
            }
        }
        string_matches(values, &path.field(field), check);
    }
    string_matches(&matcher.query_params, &path.field("queryParams"), check);
    if matcher.ignore_uri_case && matches!(matcher.uri, Some(StringMatch::Regex(_))) {
        check.error_hint(
            &path.field("ignoreUriCase"),
            "has no effect on a regular expression",
            "write (?i) at the start of the expression",
        );
    }
    optional_port(matcher.port, path, check);
}

fn string_matches(values: &BTreeMap<String, StringMatch>, path: &FieldPath, check: &mut Check<'_>) {
    for (name, value) in values {
        string_match(value, &path.key(name), check);
    }
}

fn string_match(value: &StringMatch, path: &FieldPath, check: &mut Check<'_>) {
    match value {
        StringMatch::Prefix(prefix) if prefix.is_empty() => {
            check.error(&path.field("prefix"), "a prefix must not be empty");
        }
        StringMatch::Regex(pattern) => check.regex(&path.field("regex"), pattern),
        StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Present => {}
    }
}

fn optional_port(port: Option<u32>, path: &FieldPath, check: &mut Check<'_>) {
    if let Some(port) = port {
        check.port(&path.field("port"), port);
    }
}

/// Weights are relative: of several destinations at least one must get requests.
fn destinations(routes: &[RouteDestination], path: &FieldPath, check: &mut Check<'_>) {
    if routes.is_empty() {
        check.error(path, "at least one destination is required");
    }
    for (index, route) in routes.iter().enumerate() {
        let path = path.index(index);
        destination(&route.destination, &path.field("destination"), check);
        if route.weight < 0 {
            check.error(&path.field("weight"), "a weight must not be negative");
        }
        if let Some(headers) = &route.headers {
            check_headers(headers, &path.field("headers"), check);
        }
    }
    if routes.len() > 1 && routes.iter().all(|route| route.weight == 0) {
        check.error_hint(
            path,
            "the weights of the destinations sum to 0",
            "give every destination a weight",
        );
    }
}

fn destination(destination: &Destination, path: &FieldPath, check: &mut Check<'_>) {
    let host = path.field("host");
    check.host(&host, &destination.host);
    if destination.host.starts_with('*') {
        check.error(&host, "a destination must not be a wildcard");
    }
    if let Some(port) = destination.port {
        check.port(&path.field("port").field("number"), port.number);
    }
}

fn check_retries(retries: &Retries, path: &FieldPath, check: &mut Check<'_>) {
    if retries.attempts < 0 {
        check.error(&path.field("attempts"), "must not be negative");
    }
    if retries.attempts == 0 && (retries.per_try_timeout.is_some() || !retries.retry_on.is_empty())
    {
        check.error_hint(
            path,
            "attempts is 0, which switches retries off",
            "set attempts, or remove the other fields",
        );
    }
    check.duration(&path.field("perTryTimeout"), retries.per_try_timeout);
    check.duration(&path.field("backoff"), retries.backoff);
    check.retry_on(&path.field("retryOn"), &retries.retry_on);
}

fn check_rewrite(rewrite: &Rewrite, path: &FieldPath, check: &mut Check<'_>) {
    match &rewrite.uri_regex_rewrite {
        Some(regex) => {
            let field = path.field("uriRegexRewrite");
            if !rewrite.uri.is_empty() {
                check.error(&field, "only one of uri and uriRegexRewrite can be set");
            }
            check.regex(&field.field("match"), &regex.pattern);
            check_substitution(regex, &field.field("rewrite"), check);
        }
        None if rewrite.uri.is_empty() && rewrite.authority.is_empty() => {
            check.error(path, "set uri, authority or uriRegexRewrite");
        }
        None => {}
    }
}

/// RE2's form: `\1` stands for the first group of the match, `\\` for a backslash.
fn check_substitution(rewrite: &RegexRewrite, path: &FieldPath, check: &mut Check<'_>) {
    let Ok(pattern) = regex::Regex::new(&rewrite.pattern) else {
        return; // Told of already.
    };
    let groups = pattern.captures_len();
    let mut chars = rewrite.rewrite.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            continue;
        }
        let next = chars.next();
        let is_group = |c: char| c.to_digit(10).is_some_and(|d| (d as usize) < groups);
        if next.is_some_and(|next| next == '\\' || is_group(next)) {
            continue;
        }
        let written = next.map_or_else(String::new, String::from);
        let last = groups - 1;
        check.error_hint(
            path,
            format!("\"\\{written}\" is no group of the match, which has {last}"),
            "write \\0 for the whole match, \\1 to \\9 for its groups, \\\\ for a backslash",
        );
    }
}

fn check_redirect(redirect: &Redirect, path: &FieldPath, check: &mut Check<'_>) {
    if redirect.port.is_some() && redirect.derive_port.is_some() {
        check.error(path, "only one of port and derivePort can be set");
    }
    if !redirect.uri.is_empty() && !redirect.prefix_rewrite.is_empty() {
        check.error(path, "only one of uri and prefixRewrite can be set");
    }
    optional_port(redirect.port, path, check);
    if !matches!(
        redirect.redirect_code,
        None | Some(0 | 301 | 302 | 303 | 307 | 308)
    ) {
        check.error(&path.field("redirectCode"), "use 301, 302, 303, 307 or 308");
    }
}

fn check_headers(headers: &Headers, path: &FieldPath, check: &mut Check<'_>) {
    let directions = [
        ("request", headers.request.as_ref()),
        ("response", headers.response.as_ref()),
    ];
    for (direction, operations) in directions {
        if let Some(operations) = operations {
            check_operations(operations, &path.field(direction), check);
        }
    }
}

fn check_operations(operations: &HeaderOperations, path: &FieldPath, check: &mut Check<'_>) {
    for (field, values) in [("set", &operations.set), ("add", &operations.add)] {
        for (name, value) in values {
            let field = path.field(field).key(name);
            check.header_name(&field, name);
            check.header_value(&field, value);
        }
    }
    for (index, name) in operations.remove.iter().enumerate() {
        check.removable_header_name(&path.field("remove").index(index), name);
    }
}

fn tls_match(matcher: &TlsMatch, hosts: &[String], path: &FieldPath, check: &mut Check<'_>) {
    let field = path.field("sniHosts");
    if matcher.sni_hosts.is_empty() {
        check.error(&field, "at least one SNI host is required");
    }
    let hosts: Vec<Hostname> = hosts
        .iter()
        .filter_map(|host| Hostname::new(host).ok())
        .collect();
    for (index, sni) in matcher.sni_hosts.iter().enumerate() {
        let field = field.index(index);
        match Hostname::new(sni) {
            Err(error) => check.error(&field, error.to_string()),
            Ok(sni) if hosts.iter().any(|host| host.covers(&sni)) => {}
            Ok(sni) => check.error(&field, format!("\"{sni}\" is not among the hosts")),
        }
    }
    optional_port(matcher.port, path, check);
}

/// A route without a match takes everything; what follows never acts (IST0130).
fn unreachable_rules(routes: &[HttpRoute], path: &FieldPath, check: &mut Check<'_>) {
    let catches_all = |route: &HttpRoute| {
        // What a delegate leaves is for the routes behind it.
        let is_whole = route.delegate.is_none();
        let mut matches = route.matches.iter();
        is_whole && (route.matches.is_empty() || matches.any(|m| *m == HttpMatch::default()))
    };
    let Some(last) = routes.iter().position(catches_all) else {
        return;
    };
    for index in last + 1..routes.len() {
        check.add(
            &path.index(index),
            Diagnostic::warning(
                "IST0130",
                format!("never reached: http[{last}] takes every request"),
            )
            .hint("put the route without a match last"),
        );
    }
}
