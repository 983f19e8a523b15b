//! `proxy-status`: which proxies are connected, and whether they hold what the control plane means them to.

mod diff;

use std::fmt;

use serde_json::Value;

use crate::command::ProxyStatusArgs;
use crate::output::structured;
use crate::proxy_config::{admin_json, dump::Dump};
use crate::table::Table;
use crate::target::resolve;
use crate::{Access, CliError, Io, Method, control_plane};

/// The types of `/debug/syncz`, in the order of a push.
const TYPES: [(&str, &str); 6] = [
    ("cluster", "CDS"),
    ("listener", "LDS"),
    ("endpoint", "EDS"),
    ("route", "RDS"),
    ("secret", "SDS"),
    ("extensionconfig", "ECDS"),
];

pub(crate) async fn run(
    args: &ProxyStatusArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    match &args.pod {
        None => all(args, access, io).await,
        Some(target) => one(target, args, access, io).await,
    }
}

async fn all(args: &ProxyStatusArgs, access: &dyn Access, io: &mut Io<'_>) -> Result<(), CliError> {
    let mut proxies = syncz(access, io).await?;
    if let Some(namespace) = &args.namespace.namespace {
        let suffix = format!(".{namespace}");
        proxies.retain(|proxy| text(proxy, "proxy").ends_with(&suffix));
    }
    proxies.sort_by_key(|proxy| text(proxy, "proxy").to_owned());
    if let Some(text) = structured(&Value::Array(proxies.clone()), args.output)? {
        return io.print(&text);
    }
    if proxies.is_empty() {
        return io.note("No proxy is connected. Pods of namespaces with istio-injection=enabled get one when they start.");
    }
    io.print(&table(&proxies, args.verbosity))
}

/// What the instances of the control plane know of their proxies.
pub(crate) async fn syncz(access: &dyn Access, io: &mut Io<'_>) -> Result<Vec<Value>, CliError> {
    let mut all = Vec::new();
    for (name, answer) in control_plane::every("/debug/syncz", access, io).await? {
        let Value::Array(proxies) = answer else {
            return Err(CliError::answer(
                "the control plane answered /debug/syncz with no list",
            ));
        };
        all.extend(proxies.into_iter().map(|mut proxy| {
            proxy["istiod"] = name.as_str().into();
            proxy
        }));
    }
    Ok(all)
}

fn table(proxies: &[Value], verbosity: u8) -> String {
    // As in istioctl 1.27, columns per type are the subscribed types, sorted.
    let mut types: Vec<(&str, &str)> = TYPES
        .into_iter()
        .filter(|(field, _)| {
            proxies
                .iter()
                .any(|proxy| Sync::of(proxy, field).is_subscribed())
        })
        .collect();
    types.sort_by_key(|(_, name)| *name);
    let per_type = if verbosity > 0 { types.as_slice() } else { &[] };
    let names = per_type.iter().map(|(_, name)| *name);
    let header = ["NAME", "CLUSTER"].into_iter().chain(names).chain([
        "ISTIOD",
        "VERSION",
        "SUBSCRIBED TYPES",
    ]);
    let mut table = Table::new(header);
    for proxy in proxies {
        let mut row = vec![
            text(proxy, "proxy").to_owned(),
            text(proxy, "cluster_id").to_owned(),
        ];
        row.extend(
            per_type
                .iter()
                .map(|(field, _)| Sync::of(proxy, field).to_string()),
        );
        row.extend([
            text(proxy, "istiod").to_owned(),
            text(proxy, "istio_version").to_owned(),
            subscribed(proxy),
        ]);
        table.row(row);
    }
    table.render()
}

fn subscribed(proxy: &Value) -> String {
    let types = TYPES
        .into_iter()
        .filter(|(field, _)| Sync::of(proxy, field).is_subscribed());
    let types: Vec<&str> = types.map(|(_, name)| name).collect();
    format!("{} ({})", types.len(), types.join(","))
}

/// How far a proxy is with one type.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sync {
    NotSent,
    Synced,
    Stale,
    /// The proxy rejected what was sent.
    Error,
}

impl Sync {
    fn of(proxy: &Value, kind: &str) -> Self {
        let field = |suffix: &str| text(proxy, &format!("{kind}_{suffix}")).to_owned();
        let (sent, acked) = (field("sent"), field("acked"));
        if !field("error").is_empty() {
            Self::Error
        } else if sent.is_empty() {
            Self::NotSent
        } else if sent == acked {
            Self::Synced
        } else {
            Self::Stale
        }
    }

    fn is_subscribed(&self) -> bool {
        *self != Self::NotSent
    }
}

impl fmt::Display for Sync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
            Self::Stale => "STALE",
            Self::Error => "ERROR",
        })
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

async fn one(
    target: &str,
    args: &ProxyStatusArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let pod = resolve(target, args.namespace.namespace.as_deref(), access).await?;
    let held = Dump::new(admin_json(&pod, Method::Get, "/config_dump", access).await?)?;
    let meant =
        control_plane::any(&format!("/debug/config_dump?proxyID={}", pod.id()), access).await?;
    let report = diff::compare(&Dump::new(meant)?, &held);
    if let Some(text) = structured(&report.to_json(), args.output)? {
        return io.print(&text);
    }
    io.print(&report.to_string())
}

#[cfg(test)]
mod tests;
