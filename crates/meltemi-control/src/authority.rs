//! The certificate authority of this process, and its own serving certificate.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use meltemi_ca::{
    Authenticator, Authenticators, CertificateService, ClientCertificateAuthenticator,
    IssuanceMetrics, JwtAuthenticator, KeySetError, SignError, Signer, SignerOptions, StateError,
    with_causes,
};
use meltemi_core::TrustDomain;
use meltemi_core::names::TOKEN_AUDIENCE;
use meltemi_pki::{
    BundleError, CertificateError, CertificateSlot, ClientAuth, KeyError, PrivateKey,
    ServingCertificate, ServingTls, TlsError, TrustBundle, renew_at,
};
use meltemi_process::clock::wait_until_due;
use parking_lot::Mutex;

use crate::Options;
use crate::replicas::Asking;

/// Lifetime of the control plane's own certificate, which it renews itself at half of it.
const SERVING_TTL: Duration = Duration::from_secs(24 * 3600);
/// After a renewal that failed.
const RENEWAL_RETRY: Duration = Duration::from_secs(60);
/// Between looks at the authority's files.
const LOOK_INTERVAL: Duration = Duration::from_secs(15);
/// The authority's own folder in the state directory.
const CA_FOLDER: &str = "ca";
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
    signer: Arc<ArcSwap<Signer>>,
    state_dir: PathBuf,
    /// Of the files that are in force.
    stamp: Mutex<u64>,
    /// Of the files of whose damage was told.
    told: Mutex<Option<u64>>,
    authenticators: Authenticators,
    slot: Arc<CertificateSlot>,
    bundle: Arc<ArcSwap<TrustBundle>>,
    dns_names: Vec<String>,
    metrics: IssuanceMetrics,
}

impl Authority {
    /// Opens or founds the authority and publishes its root. The `environment`'s authenticators are asked last.
    pub(crate) fn open(
        options: &Options,
        trust_domain: &TrustDomain,
        environment: Vec<Arc<dyn Authenticator>>,
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
        let directory = options.state_dir.join(CA_FOLDER);
        let signer = Signer::load_or_create(&directory, signer_options, now)?;
        let stamp = Signer::stamp(&directory)?;
        publish(&options.state_dir, signer.roots_pem())?;
        let bundle = TrustBundle::new(trust_domain.clone(), signer.roots_pem().as_bytes())?;
        let authority = Self {
            authenticators: authenticators(options, trust_domain, environment)?,
            slot: Arc::default(),
            bundle: Arc::new(ArcSwap::from_pointee(bundle)),
            dns_names: options.serving_names(),
            signer: Arc::new(ArcSwap::from_pointee(signer)),
            state_dir: options.state_dir.clone(),
            stamp: Mutex::new(stamp),
            told: Mutex::default(),
            metrics: IssuanceMetrics::default(),
        };
        authority.renew_serving(now)?;
        Ok(authority)
    }

    pub(crate) fn authenticators(&self) -> Authenticators {
        self.authenticators.clone()
    }

    /// How other replicas, which have the same authority, are asked.
    pub(crate) fn asking(&self, namespace: &str, port: u16) -> Asking {
        Asking {
            signer: Arc::clone(&self.signer),
            namespace: namespace.to_owned(),
            port,
        }
    }

    pub(crate) fn metrics(&self) -> &IssuanceMetrics {
        &self.metrics
    }

    pub(crate) fn certificate_service(&self) -> CertificateService {
        CertificateService::new(
            Arc::clone(&self.signer),
            self.authenticators.clone(),
            self.metrics.clone(),
        )
    }

    /// TLS for 15012: a client may show a certificate of the mesh, or none and a token later.
    pub(crate) fn tls(&self) -> Result<Arc<tokio_rustls::rustls::ServerConfig>, AuthorityError> {
        let tls = ServingTls::new(Arc::clone(&self.slot))
            .client_auth(ClientAuth::Optional, Arc::clone(&self.bundle))
            .alpn(["h2"]);
        Ok(tls.build()?)
    }

    /// TLS for 15017, where API servers call: they show no certificate of the mesh.
    pub(crate) fn webhook_tls(
        &self,
    ) -> Result<Arc<tokio_rustls::rustls::ServerConfig>, AuthorityError> {
        let tls = ServingTls::new(Arc::clone(&self.slot)).alpn(["h2", "http/1.1"]);
        Ok(tls.build()?)
    }

    /// Answers when the certificate ends.
    fn renew_serving(&self, now: SystemTime) -> Result<SystemTime, AuthorityError> {
        let (certificate, not_after) = self.serving_certificate(&self.signer.load(), now)?;
        self.slot.set(&certificate);
        Ok(not_after)
    }

    fn serving_certificate(
        &self,
        signer: &Signer,
        now: SystemTime,
    ) -> Result<(ServingCertificate, SystemTime), AuthorityError> {
        let key = PrivateKey::generate()?;
        let issued = signer.sign_serving(&key, &self.dns_names, SERVING_TTL, now)?;
        let certificate = ServingCertificate::with_key(issued.chain_pem().as_bytes(), &key, now)?;
        Ok((certificate, issued.validity.not_after))
    }

    /// Renews the serving certificate and follows the authority's files, for ever.
    pub(crate) async fn keep(&self) {
        tokio::join!(self.keep_serving_certificate(), self.keep_signer());
    }

    async fn keep_serving_certificate(&self) {
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
                    tracing::error!(
                        error = with_causes(&error),
                        "the serving certificate was not renewed"
                    );
                    RENEWAL_RETRY
                }
            };
        }
    }

    async fn keep_signer(&self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.look(SystemTime::now());
        }
    }

    /// Takes up the authority's files if they have changed, or if its root is to be renewed. Damaged ones leave everything
    /// as it is.
    fn look(&self, now: SystemTime) {
        match self.reload(now) {
            Ok(false) => {}
            Ok(true) => {
                self.metrics.set_expiry(&self.signer.load());
                tracing::info!("the authority's key, certificates and roots were taken up anew");
            }
            Err(error) => {
                self.tell(&error);
            }
        }
    }

    /// Tells of files that were not taken up, of the same files once.
    fn tell(&self, error: &AuthorityError) {
        let stamp = Signer::stamp(&self.state_dir.join(CA_FOLDER)).ok();
        if std::mem::replace(&mut *self.told.lock(), stamp) != stamp || stamp.is_none() {
            self.metrics.root_cert_reload_err_count.inc();
            let error = with_causes(error);
            tracing::error!(
                error,
                "the changed authority was not taken up, the old one stays"
            );
        }
    }

    /// Whether there was something new.
    fn reload(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        let directory = self.state_dir.join(CA_FOLDER);
        let stamp = Signer::stamp(&directory)?;
        let current = self.signer.load_full();
        let is_ageing = current.is_ageing(now);
        if stamp == *self.stamp.lock() && !is_ageing {
            return Ok(false);
        }
        let signer = Signer::load(&directory, current.options().clone(), now)?;
        let roots = signer.roots_pem();
        let bundle = TrustBundle::new(signer.trust_domain().clone(), roots.as_bytes())?;
        let (certificate, _) = self.serving_certificate(&signer, now)?;
        publish(&self.state_dir, roots)?;
        // Those who come with new certificates are believed before any are signed.
        self.bundle.store(Arc::new(bundle));
        self.signer.store(Arc::new(signer));
        self.slot.set(&certificate);
        // Loading an ageing root renews it, and with it the files.
        *self.stamp.lock() = if is_ageing {
            Signer::stamp(&directory)?
        } else {
            stamp
        };
        Ok(true)
    }
}

fn authenticators(
    options: &Options,
    trust_domain: &TrustDomain,
    environment: Vec<Arc<dyn Authenticator>>,
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
    all.extend(environment);
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    fn open(state: &Path, now: SystemTime) -> Authority {
        let folder = state.display().to_string();
        let arguments =
            Arguments::try_parse_from(["x", "--config-dir", &folder, "--state-dir", &folder]);
        Authority::open(
            &arguments.unwrap().options,
            &TrustDomain::default(),
            Vec::new(),
            now,
        )
        .unwrap()
    }

    fn published(state: &Path) -> String {
        std::fs::read_to_string(state.join(ROOT_FILE)).unwrap()
    }

    /// Founds another authority and puts its files in place of those.
    fn replace(state: &Path, names: &[&str]) -> String {
        let other = tempfile::tempdir().unwrap();
        let founded = other.path().join("ca");
        let options = SignerOptions::default();
        let signer = Signer::load_or_create(&founded, options, SystemTime::now()).unwrap();
        for name in names {
            std::fs::copy(founded.join(name), state.join(CA_FOLDER).join(name)).unwrap();
        }
        signer.roots_pem().to_owned()
    }

    const ALL: [&str; 4] = [
        "ca-key.pem",
        "ca-cert.pem",
        "cert-chain.pem",
        "root-cert.pem",
    ];

    #[test]
    fn another_authority_is_taken_up_whole_or_not_at_all() {
        let state = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = open(state.path(), now);
        let first = published(state.path());
        authority.look(now);
        assert_eq!(published(state.path()), first);
        let failures = || authority.metrics.root_cert_reload_err_count.get();

        // A key without its certificate.
        replace(state.path(), &ALL[..1]);
        authority.look(now);
        authority.look(now);
        assert_eq!(failures(), 1, "told once");
        assert_eq!(published(state.path()), first);
        assert_eq!(authority.bundle.load().to_pem(), first);
        assert_eq!(authority.signer.load().roots_pem(), first);

        let second = replace(state.path(), &ALL);
        authority.look(now);
        assert_eq!(failures(), 1);
        assert_eq!(published(state.path()), second);
        assert_eq!(authority.bundle.load().to_pem(), second);
        assert_eq!(authority.signer.load().roots_pem(), second);

        std::fs::remove_dir_all(state.path().join(CA_FOLDER)).unwrap();
        authority.look(now);
        assert_eq!(
            failures(),
            2,
            "no new authority is founded under a running mesh"
        );
        assert_eq!(published(state.path()), second);
    }

    #[test]
    fn an_ageing_root_is_renewed_while_it_runs() {
        let state = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let authority = open(state.path(), now);
        let first = published(state.path());
        let later = now + SignerOptions::default().root_ttl.mul_f64(0.9);
        authority.look(later);
        let second = published(state.path());
        assert!(
            second.len() > first.len() && second.ends_with(&first),
            "both roots"
        );
        assert_eq!(authority.bundle.load().roots().len(), 2);
        authority.look(later);
        assert_eq!(published(state.path()), second);
    }
}
