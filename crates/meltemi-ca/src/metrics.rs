use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::Signer;

/// What the authority counts, under the names of Istio's (`citadel_server_*`). Clones count together.
///
/// They are gauges on the wire because the text format would add `_total` to counters, and dashboards know the names
/// without it.
#[derive(Clone, Debug, Default)]
pub struct IssuanceMetrics {
    pub csr_count: Gauge,
    pub success_cert_issuance_count: Gauge,
    pub authentication_failure_count: Gauge,
    pub csr_parsing_err_count: Gauge,
    pub id_extraction_err_count: Gauge,
    pub csr_sign_err_count: Gauge,
    /// Looks at changed files of the authority that found them damaged, so that the old ones stay in force.
    pub root_cert_reload_err_count: Gauge,
    root_cert_expiry_timestamp: Gauge<f64, AtomicU64>,
    cert_chain_expiry_timestamp: Gauge<f64, AtomicU64>,
}

impl IssuanceMetrics {
    pub fn register(&self, registry: &mut Registry) {
        let counts = [
            (
                "csr_count",
                "Certificate signing requests received.",
                &self.csr_count,
            ),
            (
                "success_cert_issuance_count",
                "Certificates issued.",
                &self.success_cert_issuance_count,
            ),
            (
                "authentication_failure_count",
                "Requests whose sender was not authenticated.",
                &self.authentication_failure_count,
            ),
            (
                "csr_parsing_err_count",
                "Requests that were malformed or had a weak key.",
                &self.csr_parsing_err_count,
            ),
            (
                "id_extraction_err_count",
                "Authenticated senders without an identity that a certificate can carry.",
                &self.id_extraction_err_count,
            ),
            (
                "csr_sign_err_count",
                "Requests that could not be signed.",
                &self.csr_sign_err_count,
            ),
            (
                "root_cert_reload_err_count",
                "Changed files of the authority that could not be taken.",
                &self.root_cert_reload_err_count,
            ),
        ];
        for (name, help, gauge) in counts {
            registry.register(format!("citadel_server_{name}"), help, gauge.clone());
        }
        for (name, help, gauge) in [
            (
                "root_cert_expiry_timestamp",
                "When the first root expires, in seconds since 1970.",
                &self.root_cert_expiry_timestamp,
            ),
            (
                "cert_chain_expiry_timestamp",
                "When the signing certificate expires, in seconds since 1970.",
                &self.cert_chain_expiry_timestamp,
            ),
        ] {
            registry.register(format!("citadel_server_{name}"), help, gauge.clone());
        }
    }

    pub fn set_expiry(&self, signer: &Signer) {
        let (root, chain) = (signer.root_not_after(), signer.not_after());
        self.root_cert_expiry_timestamp.set(unix_seconds(root));
        self.cert_chain_expiry_timestamp.set(unix_seconds(chain));
    }
}

fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}
