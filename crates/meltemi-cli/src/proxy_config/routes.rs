use std::net::IpAddr;

use serde_json::Value;

use super::dump::{Dump, istio_config, list, text};
use crate::table::Table;

pub(super) fn select<'a>(dump: &'a Dump, name: Option<&str>) -> Vec<&'a Value> {
    let mut routes = dump.routes();
    routes.retain(|config| name.is_none_or(|name| text(config, "/name") == name));
    routes
}

pub(super) fn table(configs: &[&Value]) -> String {
    let mut table = Table::new(["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"]);
    let mut sorted = configs.to_vec();
    sorted.sort_by_key(|config| order(text(config, "/name")));
    for config in sorted {
        let name = text(config, "/name");
        for host in list(config, "/virtualHosts") {
            let (host_name, domains) = (text(host, "/name"), domains(host));
            if list(host, "/routes").len() == 0 {
                table.row([name, host_name, &domains, "404", ""]);
            }
            for route in list(host, "/routes") {
                let (what, service) = (path_match(&route["match"]), virtual_service(route));
                table.row([name, host_name, &domains, &what, &service]);
            }
        }
    }
    table.render()
}

/// Ports in their own order, before other names.
fn order(name: &str) -> (u32, &str) {
    (name.parse().unwrap_or(u32::MAX), name)
}

fn virtual_service(route: &Value) -> String {
    match route
        .pointer("/directResponse/status")
        .and_then(Value::as_u64)
    {
        Some(status) => status.to_string(),
        None => istio_config(route),
    }
}

/// The first two domains without their `:port` twins, names before addresses and shortest first, and how many more.
fn domains(host: &Value) -> String {
    let all = list(host, "/domains").filter_map(Value::as_str);
    let mut domains: Vec<&str> = all
        .filter(|domain| !domain.contains(':') || domain.contains("::"))
        .collect();
    domains.sort_by_key(|domain| (domain.parse::<IpAddr>().is_ok(), domain.len()));
    domains.dedup();
    match domains.len() {
        0..=2 => domains.join(", "),
        n => format!("{}, {} + {} more...", domains[0], domains[1], n - 2),
    }
}

/// What a route matches, in short: `/*`, `/status`, `regex ^/v[0-9]+`, with `+headers` where they count too.
pub(super) fn path_match(criteria: &Value) -> String {
    let get = |field: &str| criteria.get(field).and_then(Value::as_str);
    let path = if let Some(prefix) = get("prefix").or_else(|| get("pathSeparatedPrefix")) {
        format!("{prefix}*")
    } else if let Some(path) = get("path") {
        path.to_owned()
    } else if let Some(regex) = criteria.pointer("/safeRegex/regex").and_then(Value::as_str) {
        format!("regex {regex}")
    } else {
        "/*".to_owned()
    };
    let headers: Vec<&str> = list(criteria, "/headers")
        .map(|header| text(header, "/name"))
        .collect();
    if headers.is_empty() {
        path
    } else {
        format!("{path} +{}", headers.join(","))
    }
}
