//! What the policies say, from the control plane.

use serde_json::{Value, json};

use crate::control_plane;
use crate::{Access, CliError, Io, Pod};

/// An element of `/debug/authenticationz`, field by field as the old command had it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// `fqdn`, or `fqdn|subset`.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authentication_policy: String,
    pub(super) destination_rule: String,
    pub(super) server: String,
    pub(super) client: String,
    pub(super) status: String,
}

impl Row {
    fn of(json: &Value) -> Option<Self> {
        let text = |field: &str| {
            json.get(field)
                .and_then(Value::as_str)
                .unwrap_or("-")
                .to_owned()
        };
        Some(Self {
            host: json.get("host")?.as_str()?.to_owned(),
            port: u16::try_from(json.get("port")?.as_u64()?).ok()?,
            authentication_policy: text("authentication_policy_name"),
            destination_rule: text("destination_rule_name"),
            server: text("server_protocol"),
            client: text("client_protocol"),
            status: text("TLS_conflict_status"),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "host": self.host,
            "port": self.port,
            "authentication_policy_name": self.authentication_policy,
            "destination_rule_name": self.destination_rule,
            "server_protocol": self.server,
            "client_protocol": self.client,
            "TLS_conflict_status": self.status,
        })
    }

    pub(super) fn fqdn(&self) -> &str {
        self.host.split('|').next().unwrap_or_default()
    }

    pub(super) fn subset(&self) -> &str {
        self.host.split_once('|').map_or("", |(_, subset)| subset)
    }
}

pub(super) async fn load(
    source: &Pod,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<Vec<Row>, CliError> {
    let path = format!("/debug/authenticationz?proxyID={}", source.id());
    let json = control_plane::any(&path, access).await?;
    let mut rows: Vec<Row> = json
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Row::of)
        .collect();
    rows.sort();
    if rows.is_empty() {
        let command = format!("{} proxy-status", io.called);
        return Err(CliError::data(
            format!(
                "the control plane has no authentication information for {}",
                source.id()
            ),
            format!("Is its proxy connected? See: {command}"),
        ));
    }
    Ok(rows)
}

/// The rows of a service, given in any of its names and with or without `:port`; all without one.
pub(super) fn select(
    rows: Vec<Row>,
    service: Option<&str>,
    namespace: &str,
) -> Result<Vec<Row>, CliError> {
    let Some(service) = service else {
        return Ok(rows);
    };
    let (name, port) = match service.rsplit_once(':') {
        Some((name, port)) => match port.parse::<u16>() {
            Ok(port) => (name, Some(port)),
            Err(_) => {
                let message = format!("{port:?} in {service:?} is not a port");
                return Err(CliError::usage(message, "Such as reviews:9080."));
            }
        },
        None => (service, None),
    };
    let of_name: Vec<Row> = rows
        .iter()
        .filter(|row| is_called(row.fqdn(), name, namespace))
        .cloned()
        .collect();
    if of_name.is_empty() {
        return Err(unknown(&rows, name, namespace));
    }
    let ports: Vec<String> = of_name.iter().map(|row| row.port.to_string()).collect();
    let chosen: Vec<Row> = of_name
        .into_iter()
        .filter(|row| port.is_none_or(|port| row.port == port))
        .collect();
    if chosen.is_empty() {
        let hint = format!("Its ports: {}.", ports.join(", "));
        return Err(CliError::data(
            format!("service {name} has no such port: {service}"),
            hint,
        ));
    }
    Ok(chosen)
}

/// Whether a user in `namespace` means `fqdn` by `name`: all of it, or its beginning up to a dot as DNS search would find it.
fn is_called(fqdn: &str, name: &str, namespace: &str) -> bool {
    let name = name.trim_end_matches('.');
    let begins = |name: &str| {
        fqdn.strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    match name.split('.').count() {
        1 => fqdn == name || begins(&format!("{name}.{namespace}.svc")),
        2 => fqdn == name || begins(&format!("{name}.svc")),
        _ => begins(name),
    }
}

fn unknown(rows: &[Row], name: &str, namespace: &str) -> CliError {
    let mut hosts: Vec<&str> = rows.iter().map(Row::fqdn).collect();
    hosts.dedup();
    let short = |host: &str| {
        let suffix = format!(".{namespace}.svc.");
        host.split_once(&suffix)
            .map_or(host, |(name, _)| name)
            .to_owned()
    };
    let near = hosts
        .iter()
        .map(|host| {
            (
                strsim::damerau_levenshtein(name, host)
                    .min(strsim::damerau_levenshtein(name, &short(host))),
                *host,
            )
        })
        .filter(|(distance, _)| *distance <= 3)
        .min();
    let hint = match near {
        Some((_, host)) => format!("Did you mean {host}?"),
        None => format!("It knows: {}.", hosts.join(", ")),
    };
    CliError::data(format!("the pod's proxy knows no service {name:?}"), hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |host: &str, port| Row {
            host: host.to_owned(),
            port,
            ..Row::default()
        };
        vec![
            row("ratings.default.svc.cluster.local", 9080),
            row("ratings.default.svc.cluster.local", 9090),
            row("ratings.default.svc.cluster.local|v1", 9080),
            row("ratings.shop.svc.cluster.local", 9080),
            row("api.example.com", 443),
        ]
    }

    #[test]
    fn services_go_by_any_of_their_names() {
        for (service, namespace, expected) in [
            ("ratings", "default", 3),
            ("ratings:9090", "default", 1),
            ("ratings.shop", "default", 1),
            ("ratings", "shop", 1),
            ("ratings.default.svc", "shop", 3),
            ("ratings.default.svc.cluster.local.", "shop", 3),
            ("api.example.com", "default", 1),
        ] {
            let chosen = select(rows(), Some(service), namespace).unwrap();
            assert_eq!(chosen.len(), expected, "{service} from {namespace}");
        }
    }

    #[test]
    fn unknown_services_and_ports_are_errors_with_a_remedy() {
        for (service, hint) in [
            ("ratigs", "Did you mean ratings.default.svc.cluster.local?"),
            (
                "nothing-like-it",
                "It knows: ratings.default.svc.cluster.local, ",
            ),
            ("ratings:80", "Its ports: 9080, 9090, 9080."),
            ("ratings:http", "Such as reviews:9080."),
        ] {
            let error = select(rows(), Some(service), "default").unwrap_err();
            assert!(error.hint().starts_with(hint), "{error}: {}", error.hint());
        }
    }
}
