use std::collections::BTreeMap;
use std::time::Duration;

use meltemi_core::Labels;
use serde::Deserialize;

use super::common::duration;
use super::{LabelSelector, PortSelector};

/// How clients reach a host (`networking.v1.DestinationRule`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRule {
    /// As written; short names are resolved in the namespace of the object.
    pub host: String,
    pub traffic_policy: Option<TrafficPolicy>,
    pub subsets: Vec<Subset>,
    /// `.`, `*` or namespace names; empty means the mesh's default.
    pub export_to: Vec<String>,
    /// The clients it applies to, in its own namespace.
    pub workload_selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    pub name: String,
    pub labels: Labels,
    pub traffic_policy: Option<TrafficPolicy>,
}

/// A subset's policy overrides the rule's block by block; port settings replace all blocks and inherit none.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTlsSettings>,
    pub port_level_settings: Vec<PortTrafficPolicy>,
    pub retry_budget: Option<RetryBudget>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortTrafficPolicy {
    pub port: Option<PortSelector>,
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<ClientTlsSettings>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancer {
    pub simple: Option<SimpleLb>,
    pub consistent_hash: Option<ConsistentHash>,
    pub warmup: Option<Warmup>,
    pub locality_lb_setting: Option<LocalityLbSetting>,
}

/// Which places a client prefers (`LocalityLoadBalancerSetting`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityLbSetting {
    /// Shares of places; where there are any, the rest does not count.
    pub distribute: Vec<Distribute>,
    /// Absent: yes.
    pub enabled: Option<bool>,
    pub failover: Vec<Failover>,
    /// `key` or `key=value`, the most important first: endpoints that agree in more of them come first.
    pub failover_priority: Vec<String>,
}

/// Where the load of a place goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Distribute {
    /// `region/zone/subzone`; `*` and what is left out at the end stand for any.
    pub from: String,
    /// Percentages, by places of the same form.
    pub to: BTreeMap<String, u32>,
}

/// The one region that the load of another goes to when nothing is left there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Failover {
    pub from: String,
    pub to: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SimpleLb {
    /// Istio's default, least request.
    #[default]
    Unspecified,
    RoundRobin,
    #[serde(alias = "LEAST_CONN")]
    LeastRequest,
    Random,
    Passthrough,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "ConsistentHashFields")]
pub struct ConsistentHash {
    pub key: HashKey,
    /// Ring hash with this least size; absent and no maglev: 1024.
    pub minimum_ring_size: Option<u64>,
    /// Maglev with this table size.
    pub maglev_table_size: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum HashKey {
    Header(String),
    Cookie(HttpCookie),
    SourceIp,
    QueryParameter(String),
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpCookie {
    pub name: String,
    pub path: String,
    #[serde(with = "duration")]
    pub ttl: Option<Duration>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ConsistentHashFields {
    http_header_name: Option<String>,
    http_cookie: Option<HttpCookie>,
    use_source_ip: Option<bool>,
    http_query_parameter_name: Option<String>,
    minimum_ring_size: Option<u64>,
    ring_hash: Option<RingHash>,
    maglev: Option<Maglev>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RingHash {
    minimum_ring_size: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Maglev {
    table_size: Option<u64>,
}

impl TryFrom<ConsistentHashFields> for ConsistentHash {
    type Error = &'static str;

    fn try_from(fields: ConsistentHashFields) -> Result<Self, Self::Error> {
        let mut keys = [
            fields.http_header_name.map(HashKey::Header),
            fields.http_cookie.map(HashKey::Cookie),
            (fields.use_source_ip == Some(true)).then_some(HashKey::SourceIp),
            fields
                .http_query_parameter_name
                .map(HashKey::QueryParameter),
        ]
        .into_iter()
        .flatten();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return Err(
                "set exactly one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName",
            );
        };
        if fields.ring_hash.is_some() && fields.maglev.is_some() {
            return Err("only one of ringHash and maglev can be set");
        }
        Ok(Self {
            key,
            minimum_ring_size: fields
                .ring_hash
                .and_then(|ring| ring.minimum_ring_size)
                .or(fields.minimum_ring_size),
            maglev_table_size: fields
                .maglev
                .map(|maglev| maglev.table_size.unwrap_or(65537)),
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Warmup {
    #[serde(with = "duration")]
    pub duration: Option<Duration>,
    pub minimum_percent: Option<f64>,
    pub aggression: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConnectionPool {
    pub tcp: Option<TcpSettings>,
    pub http: Option<HttpSettings>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpSettings {
    pub max_connections: Option<i32>,
    #[serde(with = "duration")]
    pub connect_timeout: Option<Duration>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    #[serde(with = "duration")]
    pub max_connection_duration: Option<Duration>,
    #[serde(with = "duration")]
    pub idle_timeout: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    #[serde(with = "duration")]
    pub time: Option<Duration>,
    #[serde(with = "duration")]
    pub interval: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpSettings {
    pub http1_max_pending_requests: Option<i32>,
    pub http2_max_requests: Option<i32>,
    pub max_requests_per_connection: Option<i32>,
    pub max_retries: Option<i32>,
    #[serde(with = "duration")]
    pub idle_timeout: Option<Duration>,
    pub h2_upgrade_policy: H2UpgradePolicy,
    pub use_client_protocol: bool,
    pub max_concurrent_streams: Option<i32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum H2UpgradePolicy {
    #[default]
    Default,
    DoNotUpgrade,
    Upgrade,
}

/// Its presence switches ejection on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutlierDetection {
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failures: Option<u32>,
    pub consecutive_gateway_errors: Option<u32>,
    #[serde(rename = "consecutive5xxErrors", alias = "consecutive_5xx_errors")]
    pub consecutive_5xx_errors: Option<u32>,
    #[serde(with = "duration")]
    pub interval: Option<Duration>,
    #[serde(with = "duration")]
    pub base_ejection_time: Option<Duration>,
    pub max_ejection_percent: Option<i32>,
    pub min_health_percent: Option<i32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClientTlsSettings {
    pub mode: ClientTlsMode,
    pub client_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
    pub credential_name: String,
    pub subject_alt_names: Vec<String>,
    pub sni: String,
    pub insecure_skip_verify: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClientTlsMode {
    #[default]
    Disable,
    Simple,
    Mutual,
    IstioMutual,
}

impl ClientTlsMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::IstioMutual => "ISTIO_MUTUAL",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryBudget {
    pub percent: Option<f64>,
    #[serde(with = "duration")]
    pub budget_interval: Option<Duration>,
    pub min_retry_concurrency: Option<u32>,
}
