//! Projected service account tokens, as Kubernetes' API server issues them.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use meltemi_ca::{TokenIssuer, TokenRequest};

use crate::pod::volumes::TokenError;

/// The issuer that Kubernetes' defaults name.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// The node's name, in tokens and in every pod's `spec.nodeName`.
pub(crate) const NODE_NAME: &str = "lab";

#[derive(Debug)]
pub(crate) struct Tokens(TokenIssuer);

impl Tokens {
    /// Loads or makes the signing key, and writes the public key beside it for the control plane.
    pub(crate) fn load(key: &Path, public_key: &Path) -> Result<Self> {
        let issuer =
            TokenIssuer::load_or_create(key, ISSUER).context("cannot make the token key")?;
        fs::write(public_key, issuer.jwks()?)?;
        Ok(Self(issuer))
    }

    pub(crate) fn issue(
        &self,
        pod: &Pod,
        audience: &str,
        seconds: i64,
    ) -> Result<String, TokenError> {
        let meta = &pod.metadata;
        let spec = pod.spec.as_ref();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let (name, uid) = (text(&meta.name), text(&meta.uid));
        let namespace = text(&meta.namespace);
        let service_account = spec
            .and_then(|spec| spec.service_account_name.as_deref())
            .unwrap_or("default");
        let audience = if audience.is_empty() {
            ISSUER
        } else {
            audience
        };
        let request = TokenRequest {
            namespace: &namespace,
            service_account,
            service_account_uid: None,
            pod: Some((&name, &uid)),
            node: Some(NODE_NAME),
            audiences: &[audience],
            ttl: Duration::from_secs(seconds.unsigned_abs().max(600)),
        };
        self.0
            .issue(&request, SystemTime::now())
            .map_err(|error| TokenError(error.to_string()))
    }
}
