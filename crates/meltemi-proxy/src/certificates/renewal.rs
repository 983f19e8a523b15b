use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_core::TrustDomain;
use meltemi_pki::{PrivateKey, TrustBundle, WorkloadCertificate, renew_at};
use rand::Rng as _;

use super::{Authority, AuthorityError};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Obtains the first certificate and renews it for ever. A certificate that could not be renewed is kept; handshakes fail
/// only when it has expired, and work again as soon as the authority answers.
///
/// `received` is told of every certificate, with its key.
pub(crate) async fn keep_fresh(
    authority: &Authority,
    domain: &TrustDomain,
    root_file: &Path,
    mut received: impl FnMut(WorkloadCertificate, Arc<TrustBundle>, &PrivateKey),
) {
    let mut retry = RETRY_MIN;
    loop {
        match obtain(authority, domain, root_file).await {
            Ok((certificate, bundle, key)) => {
                retry = RETRY_MIN;
                let received_at = SystemTime::now();
                let not_after = certificate.validity().not_after;
                let due = renew_at(
                    received_at,
                    not_after,
                    rand::rng().random_range(-0.01..=0.01),
                );
                let wait = due
                    .duration_since(received_at)
                    .unwrap_or_default()
                    .max(RETRY_MIN);
                tracing::info!(
                    identity = %certificate.identity(),
                    serial = certificate.serial(),
                    renew_in_seconds = wait.as_secs(),
                    "received a certificate"
                );
                received(certificate, Arc::new(bundle), &key);
                wait_until_due(wait, due).await;
            }
            Err(error) => {
                let wait = retry.mul_f64(rand::rng().random_range(0.5..1.0));
                let cause = anyhow::Error::new(error);
                tracing::warn!(
                    error = format!("{cause:#}"),
                    retry_in_ms = wait.as_millis(),
                    "no certificate"
                );
                tokio::time::sleep(wait).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
    }
}

/// Sleeps in steps, so that a clock that jumped forward (a suspended machine) is noticed.
async fn wait_until_due(wait: Duration, due: SystemTime) {
    const STEP: Duration = Duration::from_secs(60);
    let mut rest = wait;
    while !rest.is_zero() {
        let step = rest.min(STEP);
        tokio::time::sleep(step).await;
        rest -= step;
        if SystemTime::now() >= due {
            return;
        }
    }
}

async fn obtain(
    authority: &Authority,
    domain: &TrustDomain,
    root_file: &Path,
) -> Result<(WorkloadCertificate, TrustBundle, PrivateKey), AuthorityError> {
    let (certificate, key) = authority.issue().await?;
    let bundle = bundle(&certificate, domain, tokio::fs::read(root_file).await.ok())?;
    Ok((certificate, bundle, key))
}

/// The roots of the answer and of the mounted file together: either may be ahead during a change of roots.
fn bundle(
    certificate: &WorkloadCertificate,
    domain: &TrustDomain,
    file: Option<Vec<u8>>,
) -> Result<TrustBundle, AuthorityError> {
    let mut pem = certificate.roots_pem().unwrap_or_default().into_bytes();
    pem.push(b'\n');
    pem.extend(file.unwrap_or_default());
    TrustBundle::new(domain.clone(), &pem).map_err(AuthorityError::Bundle)
}
