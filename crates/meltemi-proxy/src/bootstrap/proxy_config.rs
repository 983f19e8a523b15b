//! `PROXY_CONFIG`: the JSON form of Istio's mesh `ProxyConfig`, as injection writes it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use meltemi_core::names::port;
use serde::Deserialize;

const DEFAULT_DISCOVERY_ADDRESS: &str = "istiod.istio-system.svc:15012";

/// The fields of ProxyConfig this proxy acts on. Others are named in the log at start, once.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyConfig {
    discovery_address: Option<String>,
    pub(crate) concurrency: Option<u32>,
    termination_drain_duration: Option<String>,
    drain_duration: Option<String>,
    status_port: Option<u16>,
    proxy_admin_port: Option<u16>,
    #[serde(default)]
    pub(crate) proxy_metadata: BTreeMap<String, String>,
    /// Acted on by injection, not here.
    #[serde(default, rename = "holdApplicationUntilProxyStarts")]
    _hold_application: bool,
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

impl ProxyConfig {
    pub(crate) fn parse(json: &str) -> anyhow::Result<Self> {
        let config: Self =
            serde_json::from_str(json).context("environment variable PROXY_CONFIG")?;
        for (name, value) in [
            (
                "terminationDrainDuration",
                &config.termination_drain_duration,
            ),
            ("drainDuration", &config.drain_duration),
        ] {
            if let Some(value) = value {
                parse_duration(value).with_context(|| format!("PROXY_CONFIG {name}"))?;
            }
        }
        if !config.unknown.is_empty() {
            let fields: Vec<&str> = config.unknown.keys().map(String::as_str).collect();
            tracing::warn!(
                fields = fields.join(","),
                "PROXY_CONFIG has fields that this proxy does not act on"
            );
        }
        Ok(config)
    }

    pub(crate) fn discovery_address(&self) -> String {
        let address = self
            .discovery_address
            .as_deref()
            .filter(|address| !address.is_empty());
        address.unwrap_or(DEFAULT_DISCOVERY_ADDRESS).to_owned()
    }

    /// How long the process serves on after SIGTERM; 5 s unless set.
    pub fn termination_drain(&self) -> Duration {
        duration_or(
            self.termination_drain_duration.as_deref(),
            Duration::from_secs(5),
        )
    }

    /// How long connections of a replaced filter chain live on; 45 s unless set.
    pub fn drain(&self) -> Duration {
        duration_or(self.drain_duration.as_deref(), Duration::from_secs(45))
    }

    pub fn status_port(&self) -> u16 {
        self.status_port.unwrap_or(port::MERGED_STATS)
    }

    pub fn admin_port(&self) -> u16 {
        self.proxy_admin_port.unwrap_or(port::ADMIN)
    }
}

fn duration_or(text: Option<&str>, default: Duration) -> Duration {
    text.and_then(|text| parse_duration(text).ok())
        .unwrap_or(default)
}

pub(super) fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    meltemi_core::duration::parse(text)
        .with_context(|| format!("\"{text}\" is not a duration such as 24h, 90s or 500ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_do_not_stop_the_proxy_but_bad_values_do() {
        assert!(ProxyConfig::parse(r#"{"tracing":{"zipkin":{}}}"#).is_ok());
        assert!(ProxyConfig::parse(r#"{"terminationDrainDuration":"later"}"#).is_err());
        assert_eq!(
            ProxyConfig::parse("{}").unwrap().termination_drain(),
            Duration::from_secs(5)
        );
    }
}
