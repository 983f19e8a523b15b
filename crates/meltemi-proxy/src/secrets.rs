//! Certificates that the control plane delivers by name, for the servers of a gateway. They are in memory only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use meltemi_core::names::{SDS_ROOT_CA, SDS_WORKLOAD};
use meltemi_pki::{CertificateError, PemError, ServingCertificate, certificates_from_pem};
use meltemi_proxy_core::runtime::{Secret, SecretContent};

/// Whether a name is one of the workload's own secrets, which no control plane delivers.
pub(crate) fn is_own(name: &str) -> bool {
    name == SDS_WORKLOAD || name == SDS_ROOT_CA
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("roots")]
    Roots(#[from] PemError),
}

/// A secret in use.
#[derive(Debug)]
pub(crate) struct Held {
    /// Tells one content of a name from the next.
    pub(crate) generation: u64,
    pub(crate) version: String,
    pub(crate) at: SystemTime,
    pub(crate) content: Content,
}

#[derive(Debug)]
pub(crate) enum Content {
    Certificate(ServingCertificate),
    /// PEM.
    Roots(Vec<u8>),
}

impl Content {
    /// Reads a secret's texts.
    ///
    /// # Errors
    /// They are no certificate with its key that is valid now, or no roots.
    pub(crate) fn new(secret: Secret) -> Result<Self, SecretError> {
        match secret.content {
            SecretContent::Certificate { chain, key } => {
                let certificate = ServingCertificate::from_pem(&chain, &key, SystemTime::now())?;
                Ok(Self::Certificate(certificate))
            }
            SecretContent::Roots(pem) => {
                certificates_from_pem(&pem)?;
                Ok(Self::Roots(pem))
            }
        }
    }
}

type ByName = BTreeMap<Arc<str>, Arc<Held>>;

/// The secrets of a process. The control thread replaces them, handshakes read them.
#[derive(Debug, Default)]
pub(crate) struct SecretStore {
    current: ArcSwap<ByName>,
    generations: AtomicU64,
}

impl SecretStore {
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Held>> {
        self.current.load().get(name).cloned()
    }

    pub(crate) fn all(&self) -> Arc<ByName> {
        self.current.load_full()
    }

    /// Connections made before stay as they are.
    pub(crate) fn put(&self, name: &Arc<str>, version: String, content: Content) {
        let held = Arc::new(Held {
            generation: self.generations.fetch_add(1, Ordering::Relaxed) + 1,
            version,
            at: SystemTime::now(),
            content,
        });
        let mut all = ByName::clone(&self.current.load());
        all.insert(name.clone(), held);
        self.current.store(Arc::new(all));
    }

    pub(crate) fn remove(&self, name: &str) {
        let mut all = ByName::clone(&self.current.load());
        if all.remove(name).is_some() {
            self.current.store(Arc::new(all));
        }
    }

    /// Forgets what nothing names any longer.
    pub(crate) fn keep(&self, wanted: &BTreeSet<Arc<str>>) {
        let current = self.current.load();
        if current.keys().all(|name| wanted.contains(name)) {
            return;
        }
        let mut all = ByName::clone(&current);
        all.retain(|name, _| wanted.contains(name));
        self.current.store(Arc::new(all));
    }
}
