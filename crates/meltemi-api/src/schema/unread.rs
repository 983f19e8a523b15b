//! The form of fields that are known and not acted on. A type moves to [`crate::istio`] when something reads it.
#![expect(dead_code, reason = "nothing is decoded into these types")]

use std::time::Duration;

use serde::Deserialize;

use super::{Schema, of};
use crate::istio::{Failover, duration};

/// The form of a field by its name, which says enough: none of them has two meanings.
pub(super) fn form(field: &str) -> Schema {
    match field {
        "allowOrigin" => of::<Vec<String>>(),
        "attributes" => of::<Vec<CookieAttribute>>(),
        "backendUtilization" => of::<BackendUtilization>(),
        "bind" | "caCrl" | "defaultEndpoint" | "http2Error" | "sourceSubnet" => Schema::String,
        "consecutiveErrors" => of::<i32>(),
        "credentialNames" | "ecdhCurves" => of::<Vec<String>>(),
        "exponentialDelay" | "warmupDurationSecs" => Schema::Duration,
        "insecureSkipVerify" | "retryRemoteLocalities" => Schema::Bool,
        "http2KeepAlive" => of::<Http2KeepAlive>(),
        "jwks_uri" => Schema::String,
        "mirrorPercent" | "mirror_percent" => of::<u32>(),
        "outlierDetectionHttpErrorCodes" => of::<Vec<u32>>(),
        "proxyProtocol" => of::<ProxyProtocol>(),
        "targetPort" => of::<u32>(),
        "tlsCertificates" => of::<Vec<ServerTlsCertificate>>(),
        "tunnel" => of::<Tunnel>(),
        "zoneAwareLbSetting" => of::<ZoneAwareLbSetting>(),
        _ => Schema::Any,
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServerTlsCertificate {
    server_certificate: String,
    private_key: String,
    ca_certificates: String,
}

#[derive(Deserialize)]
struct CookieAttribute {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BackendUtilization {
    error_utilization_penalty_percent: u32,
    metric_names_for_computing_utilization: Vec<String>,
    #[serde(with = "duration")]
    weight_expiration_period: Option<Duration>,
    #[serde(with = "duration")]
    weight_stabilization_period: Option<Duration>,
    #[serde(with = "duration")]
    weight_update_period: Option<Duration>,
}

#[derive(Deserialize)]
struct Http2KeepAlive {
    #[serde(with = "duration")]
    interval: Option<Duration>,
    #[serde(with = "duration")]
    timeout: Option<Duration>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ZoneAwareLbSetting {
    enabled: Option<bool>,
    failover: Vec<Failover>,
    failover_priority: Vec<String>,
    min_cluster_size: Option<u32>,
}

#[derive(Deserialize)]
struct ProxyProtocol {
    version: ProxyProtocolVersion,
}

#[derive(Deserialize)]
enum ProxyProtocolVersion {
    V1,
    V2,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Tunnel {
    protocol: String,
    target_host: String,
    target_port: u32,
}
