use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::common::{StringMap, duration};
use super::{ExtensionProvider, LocalityLbSetting, Retries};

/// Mesh-wide settings (`mesh.v1alpha1.MeshConfig`); `Default` is Istio's.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshConfig {
    /// Empty: no access log.
    pub access_log_file: String,
    /// Empty: Istio's default line.
    pub access_log_format: String,
    pub access_log_encoding: AccessLogEncoding,
    pub enable_auto_mtls: bool,
    pub trust_domain: String,
    /// Other names of it, as policies write them.
    pub trust_domain_aliases: Vec<String>,
    pub outbound_traffic_policy: OutboundTrafficPolicy,
    pub inbound_traffic_policy: InboundTrafficPolicy,
    pub root_namespace: String,
    pub default_config: ProxyConfig,
    #[serde(with = "duration")]
    pub connect_timeout: Option<Duration>,
    /// Zero waits for the first bytes for ever.
    #[serde(with = "duration")]
    pub protocol_detection_timeout: Option<Duration>,
    pub default_service_export_to: Vec<String>,
    pub default_virtual_service_export_to: Vec<String>,
    pub default_destination_rule_export_to: Vec<String>,
    pub default_http_retry_policy: Option<Retries>,
    pub enable_prometheus_merge: bool,
    pub path_normalization: PathNormalization,
    /// Where no DestinationRule has one.
    pub locality_lb_setting: LocalityLbSetting,
    /// The authorizers that CUSTOM policies can name.
    pub extension_providers: Vec<ExtensionProvider>,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            access_log_file: String::new(),
            access_log_format: String::new(),
            access_log_encoding: AccessLogEncoding::Text,
            enable_auto_mtls: true,
            trust_domain: meltemi_core::names::CLUSTER_DOMAIN.to_owned(),
            trust_domain_aliases: Vec::new(),
            outbound_traffic_policy: OutboundTrafficPolicy::default(),
            inbound_traffic_policy: InboundTrafficPolicy::default(),
            root_namespace: meltemi_core::names::ISTIO_SYSTEM.to_owned(),
            default_config: ProxyConfig::default(),
            connect_timeout: Some(Duration::from_secs(10)),
            protocol_detection_timeout: Some(Duration::ZERO),
            default_service_export_to: vec!["*".to_owned()],
            default_virtual_service_export_to: vec!["*".to_owned()],
            default_destination_rule_export_to: vec!["*".to_owned()],
            default_http_retry_policy: None,
            enable_prometheus_merge: true,
            path_normalization: PathNormalization::default(),
            locality_lb_setting: LocalityLbSetting::default(),
            extension_providers: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLogEncoding {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutboundTrafficPolicy {
    pub mode: OutboundTrafficPolicyMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OutboundTrafficPolicyMode {
    RegistryOnly,
    #[default]
    AllowAny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InboundTrafficPolicy {
    pub mode: InboundTrafficPolicyMode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum InboundTrafficPolicyMode {
    #[default]
    Passthrough,
    Localhost,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathNormalization {
    pub normalization: PathNormalizationType,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PathNormalizationType {
    /// As `Base`.
    #[default]
    Default,
    None,
    Base,
    MergeSlashes,
    DecodeAndMergeSlashes,
}

/// Settings of one proxy (`mesh.v1alpha1.ProxyConfig`). Absent fields keep the value of the next wider configuration;
/// it serialises as the `PROXY_CONFIG` that proxies are started with.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discovery_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    #[serde(with = "duration", skip_serializing_if = "Option::is_none")]
    pub drain_duration: Option<Duration>,
    #[serde(with = "duration", skip_serializing_if = "Option::is_none")]
    pub termination_drain_duration: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_admin_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_application_until_proxy_starts: Option<bool>,
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub proxy_metadata: StringMap,
    #[serde(skip_serializing_if = "StringMap::is_empty")]
    pub runtime_values: StringMap,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ca_certificates_pem: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ProxyImage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_stats_matcher: Option<ProxyStatsMatcher>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway_topology: Option<GatewayTopology>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyImage {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image_type: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ProxyStatsMatcher {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inclusion_prefixes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inclusion_suffixes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub inclusion_regexps: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tracing {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampling: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayTopology {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_trusted_proxies: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_client_cert_details: Option<ForwardClientCertDetails>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ForwardClientCertDetails {
    Undefined,
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}
