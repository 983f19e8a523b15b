//! The certificate authority of this process, and its own serving certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use meltemi_ca::{
    Authenticator, Authenticators, CertificateService, ClientCertificateAuthenticator,
    IssuanceMetrics, JwtAuthenticator, KeySetError, SignError, Signer, SignerOptions, StateError,
};
use meltemi_core::TrustDomain;
use meltemi_core::names::TOKEN_AUDIENCE;
use meltemi_pki::{
    BundleError, CertificateError, CertificateSlot, ClientAuth, KeyError, PrivateKey,
    ServingCertificate, ServingTls, TlsError, TrustBundle, renew_at,
};
use meltemi_process::clock::wait_until_due;

use crate::Options;

/// Lifetime of the control plane's own certificate, which it renews itself at half of it.
const SERVING_TTL: Duration = Duration::from_secs(24 * 3600);
/// After a renewal that failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// Name of the file that proxies are given as their root.
const ROOT_FILE: &str = "root-cert.pem";

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("the certificate authority's state")]
    State(#[from] StateError),
    #[error("reading {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("writing {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the keys of {path}")]
    Keys {
        path: PathBuf,
        #[source]
        source: KeySetError,
    },
    #[error("making a key")]
    Key(#[from] KeyError),
    #[error("signing the control plane's own certificate")]
    Sign(#[from] SignError),
    #[error("the control plane's own certificate")]
    Serving(#[from] CertificateError),
    #[error("the trust bundle")]
    Bundle(#[from] BundleError),
    #[error("TLS")]
    Tls(#[from] TlsError),
}

#[derive(Debug)]
pub(crate) struct Authority {
    signer: Arc<Signer>,
    authenticators: Authenticators,
    slot: Arc<CertificateSlot>,
    bundle: Arc<ArcSwap<TrustBundle>>,
    dns_names: Vec<String>,
}

impl Authority {
    /// Opens or founds the authority and publishes its root.
    pub(crate) fn open(
        options: &Options,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let mut signer_options = SignerOptions {
            trust_domain: trust_domain.clone(),
            ..SignerOptions::default()
        };
        if let Some(ttl) = options.workload_cert_ttl {
            // Proxies ask for 24 h by default: what the operator said here must win.
            (signer_options.default_ttl, signer_options.max_ttl) = (ttl, ttl);
        }
        std::fs::create_dir_all(&options.state_dir).map_err(|source| AuthorityError::Write {
            path: options.state_dir.clone(),
            source,
        })?;
        let directory = options.state_dir.join("ca");
        let signer = Arc::new(Signer::load_or_create(&directory, signer_options, now)?);
        publish(&options.state_dir, signer.roots_pem())?;
        let bundle = TrustBundle::new(trust_domain.clone(), signer.roots_pem().as_bytes())?;
        let authority = Self {
            authenticators: authenticators(options, trust_domain)?,
            slot: Arc::default(),
            bundle: Arc::new(ArcSwap::from_pointee(bundle)),
            dns_names: options.dns_names.clone(),
            signer,
        };
        authority.renew_serving(now)?;
        Ok(authority)
    }

    pub(crate) fn authenticators(&self) -> Authenticators {
        self.authenticators.clone()
    }

    pub(crate) fn certificate_service(&self, metrics: IssuanceMetrics) -> CertificateService {
        CertificateService::new(
            Arc::clone(&self.signer),
            self.authenticators.clone(),
            metrics,
        )
    }

    /// TLS for 15012: a client may show a certificate of the mesh, or none and a token later.
    pub(crate) fn tls(&self) -> Result<Arc<tokio_rustls::rustls::ServerConfig>, AuthorityError> {
        let tls = ServingTls::new(Arc::clone(&self.slot))
            .client_auth(ClientAuth::Optional, Arc::clone(&self.bundle))
            .alpn(["h2"]);
        Ok(tls.build()?)
    }

    /// Answers when the certificate ends.
    fn renew_serving(&self, now: SystemTime) -> Result<SystemTime, AuthorityError> {
        let key = PrivateKey::generate()?;
        let issued = self
            .signer
            .sign_serving(&key, &self.dns_names, SERVING_TTL, now)?;
        let certificate = ServingCertificate::with_key(issued.chain_pem().as_bytes(), &key, now)?;
        self.slot.set(&certificate);
        Ok(issued.validity.not_after)
    }

    /// Renews the serving certificate for ever.
    pub(crate) async fn keep_serving_certificate(&self) {
        // The first renewal comes soon, and tells when the next is due.
        let mut wait = RENEWAL_RETRY;
        loop {
            let due = SystemTime::now() + wait;
            wait_until_due(wait, due).await;
            let now = SystemTime::now();
            wait = match self.renew_serving(now) {
                Ok(not_after) => {
                    let jitter = rand::random_range(-0.01..0.01);
                    let due = renew_at(now, not_after, jitter);
                    due.duration_since(now)
                        .unwrap_or(RENEWAL_RETRY)
                        .max(RENEWAL_RETRY)
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%error, cause, "the serving certificate was not renewed");
                    RENEWAL_RETRY
                }
            };
        }
    }
}

fn authenticators(
    options: &Options,
    trust_domain: &TrustDomain,
) -> Result<Authenticators, AuthorityError> {
    let mut all: Vec<Arc<dyn Authenticator>> = vec![Arc::new(ClientCertificateAuthenticator::new(
        trust_domain.clone(),
    ))];
    if let Some(path) = &options.token_issuer_key {
        let keys = std::fs::read(path).map_err(|source| AuthorityError::Read {
            path: path.clone(),
            source,
        })?;
        let tokens = JwtAuthenticator::from_keys(
            &keys,
            &options.token_issuer,
            &[TOKEN_AUDIENCE],
            trust_domain.clone(),
        )
        .map_err(|source| AuthorityError::Keys {
            path: path.clone(),
            source,
        })?;
        all.push(Arc::new(tokens));
    }
    Ok(Authenticators::new(all))
}

/// Writes the root for those who give it to proxies; they see all of it or the one before.
fn publish(directory: &Path, roots_pem: &str) -> Result<(), AuthorityError> {
    let path = directory.join(ROOT_FILE);
    let temporary = directory.join(format!(".{ROOT_FILE}.new"));
    std::fs::write(&temporary, roots_pem)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .map_err(|source| AuthorityError::Write { path, source })
}
