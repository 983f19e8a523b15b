//! `ISTIO_KUBE_APP_PROBERS`: the application's own probes, which injection redirected to the proxy's status port.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// A probe or lifecycle hook that the proxy carries out for the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) kind: ProbeKind,
    pub(crate) timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    Http {
        port: u16,
        path: String,
        host: Option<String>,
        https: bool,
        headers: Vec<(String, String)>,
    },
    Tcp {
        port: u16,
    },
    Grpc {
        port: u16,
        service: String,
    },
}

/// Parses the map from URL path (`/app-health/<container>/readyz`) to probe.
pub(super) fn parse(json: &str) -> anyhow::Result<BTreeMap<String, Probe>> {
    let raw: BTreeMap<String, RawProbe> = serde_json::from_str(json)?;
    raw.into_iter()
        .map(|(path, probe)| {
            let probe = probe.compile().ok_or_else(|| {
                anyhow::anyhow!("{path}: neither httpGet, tcpSocket nor grpc with a numeric port")
            })?;
            Ok((path, probe))
        })
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawProbe {
    http_get: Option<RawHttp>,
    tcp_socket: Option<RawTcp>,
    grpc: Option<RawGrpc>,
    #[serde(default)]
    timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHttp {
    #[serde(default)]
    path: String,
    port: Value,
    #[serde(default)]
    host: String,
    #[serde(default)]
    scheme: String,
    #[serde(default)]
    http_headers: Vec<RawHeader>,
}

#[derive(Deserialize)]
struct RawHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct RawTcp {
    port: Value,
}

#[derive(Deserialize)]
struct RawGrpc {
    port: Value,
    service: Option<String>,
}

impl RawProbe {
    fn compile(self) -> Option<Probe> {
        // Kubernetes: timeoutSeconds defaults to 1.
        let timeout = Duration::from_secs(
            self.timeout_seconds
                .filter(|seconds| *seconds > 0)
                .unwrap_or(1),
        );
        let kind = match self {
            Self {
                http_get: Some(http),
                ..
            } => ProbeKind::Http {
                port: number(&http.port)?,
                path: if http.path.starts_with('/') {
                    http.path
                } else {
                    format!("/{}", http.path)
                },
                host: Some(http.host).filter(|host| !host.is_empty()),
                https: http.scheme.eq_ignore_ascii_case("https"),
                headers: http
                    .http_headers
                    .into_iter()
                    .map(|h| (h.name, h.value))
                    .collect(),
            },
            Self {
                tcp_socket: Some(tcp),
                ..
            } => ProbeKind::Tcp {
                port: number(&tcp.port)?,
            },
            Self {
                grpc: Some(grpc), ..
            } => ProbeKind::Grpc {
                port: number(&grpc.port)?,
                service: grpc.service.unwrap_or_default(),
            },
            _ => return None,
        };
        Some(Probe { kind, timeout })
    }
}

/// A port as a number or as text of a number; injection resolved names already.
fn number(port: &Value) -> Option<u16> {
    match port {
        Value::Number(n) => n.as_u64().and_then(|n| u16::try_from(n).ok()),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind() {
        let probes = parse(
            r#"{"/app-health/a/readyz":{"httpGet":{"path":"/health","port":9080,"scheme":"HTTP"},"timeoutSeconds":3},
                "/app-health/a/livez":{"tcpSocket":{"port":9080}},
                "/app-health/a/startupz":{"grpc":{"port":9090,"service":null}}}"#,
        )
        .unwrap();
        assert_eq!(
            probes["/app-health/a/readyz"].timeout,
            Duration::from_secs(3)
        );
        assert_eq!(
            probes["/app-health/a/livez"].kind,
            ProbeKind::Tcp { port: 9080 }
        );
        assert_eq!(
            probes["/app-health/a/startupz"].kind,
            ProbeKind::Grpc {
                port: 9090,
                service: String::new()
            }
        );
    }

    #[test]
    fn names_the_probe_it_cannot_read() {
        let error = parse(r#"{"/app-health/a/readyz":{"httpGet":{"port":"web"}}}"#).unwrap_err();
        assert!(error.to_string().contains("/app-health/a/readyz"));
    }
}
