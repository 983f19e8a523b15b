use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_core::TrustDomain;
use meltemi_pki::{
    BundleError, PrivateKey, TrustBundle, WorkloadCertificate, certificates_from_pem, renew_at,
};
use rand::Rng as _;

use super::{Authority, AuthorityError};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// How often the file of roots is looked at.
const STEP: Duration = Duration::from_secs(15);

/// Obtains the first certificate and renews it for ever. A certificate that could not be renewed is kept; handshakes fail
/// only when it has expired, and work again as soon as the authority answers.
///
/// `received` is told of every certificate, with its key, and again when the file of roots changes: a new root must be
/// trusted before certificates that it vouches for appear.
pub(crate) async fn keep_fresh(
    authority: &Authority,
    domain: &TrustDomain,
    root_file: &Path,
    mut received: impl FnMut(WorkloadCertificate, Arc<TrustBundle>, &PrivateKey),
) {
    let mut retry = RETRY_MIN;
    let mut roots = RootFile::new(root_file);
    loop {
        match obtain(authority, domain, &mut roots).await {
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
                received(certificate.clone(), Arc::new(bundle), &key);
                let mut trust = |bundle| received(certificate.clone(), bundle, &key);
                hold(&certificate, domain, &mut roots, (wait, due), &mut trust).await;
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

/// Waits until the next certificate is due, and tells of new roots meanwhile. In steps, so that a clock that jumped
/// forward (a suspended machine) is noticed.
async fn hold(
    certificate: &WorkloadCertificate,
    domain: &TrustDomain,
    roots: &mut RootFile<'_>,
    (mut rest, due): (Duration, SystemTime),
    trust: &mut impl FnMut(Arc<TrustBundle>),
) {
    while !rest.is_zero() {
        let step = rest.min(STEP);
        tokio::time::sleep(step).await;
        rest -= step;
        if SystemTime::now() >= due {
            return;
        }
        if !roots.has_changed().await {
            continue;
        }
        match bundle(certificate, domain, roots) {
            Ok(bundle) => {
                tracing::info!(roots = bundle.roots().len(), "the roots have changed");
                trust(Arc::new(bundle));
            }
            Err(error) => tracing::warn!(%error, "new roots cannot be read, the old ones stay"),
        }
    }
}

/// The mounted file of roots (Istio's `istio-ca-root-cert`), as it was read last.
struct RootFile<'a> {
    path: &'a Path,
    pem: Vec<u8>,
}

impl<'a> RootFile<'a> {
    fn new(path: &'a Path) -> Self {
        Self {
            path,
            pem: Vec::new(),
        }
    }

    /// Reads the file. One that is not there, or holds no certificate, is half written: what was there before counts.
    async fn has_changed(&mut self) -> bool {
        match tokio::fs::read(self.path).await {
            Ok(pem) if pem != self.pem && certificates_from_pem(&pem).is_ok() => {
                self.pem = pem;
                true
            }
            _ => false,
        }
    }
}

async fn obtain(
    authority: &Authority,
    domain: &TrustDomain,
    roots: &mut RootFile<'_>,
) -> Result<(WorkloadCertificate, TrustBundle, PrivateKey), AuthorityError> {
    let (certificate, key) = authority.issue().await?;
    roots.has_changed().await;
    let bundle = bundle(&certificate, domain, roots).map_err(AuthorityError::Bundle)?;
    Ok((certificate, bundle, key))
}

/// The roots of the answer and of the mounted file together: either may be ahead during a change of roots.
fn bundle(
    certificate: &WorkloadCertificate,
    domain: &TrustDomain,
    roots: &RootFile<'_>,
) -> Result<TrustBundle, BundleError> {
    let mut pem = certificate.roots_pem().unwrap_or_default().into_bytes();
    pem.push(b'\n');
    pem.extend(&roots.pem);
    TrustBundle::new(domain.clone(), &pem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::mesh;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn new_roots_are_trusted_before_the_certificate_is_renewed() {
        let (old, new) = (mesh::Authority::new(), mesh::Authority::new());
        let certificate = old.issue("a");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root-cert.pem");
        let mut roots = RootFile::new(&path);
        let both = old.bundle().to_pem() + &new.bundle().to_pem();
        let mut trusted = Vec::new();
        for content in [&both, "half a f", &both, &new.bundle().to_pem()] {
            std::fs::write(&path, content).unwrap();
            let mut trust = |bundle: Arc<TrustBundle>| trusted.push(bundle.to_pem());
            let until = (2 * STEP, SystemTime::now() + HOUR);
            let domain = TrustDomain::default();
            hold(&certificate, &domain, &mut roots, until, &mut trust).await;
        }
        // The root of our own chain stays with the certificate.
        assert_eq!(trusted, [both.clone(), both]);
    }
}
