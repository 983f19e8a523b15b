use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use meltemi_pki::{TrustBundle, WorkloadCertificate};
use tokio::sync::watch;

/// A certificate with the roots that came with it.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) certificate: WorkloadCertificate,
    pub(crate) bundle: Arc<TrustBundle>,
    /// Grows with every replacement; TLS configurations made from older credentials are not used for new handshakes.
    pub(crate) generation: u64,
}

/// The current credentials, read by every handshake and replaced as a whole. Connections made before stay.
#[derive(Debug)]
pub(crate) struct CredentialStore {
    current: ArcSwapOption<Credentials>,
    changed: watch::Sender<u64>,
    generations: AtomicU64,
}

impl CredentialStore {
    pub(crate) fn new() -> Self {
        Self {
            current: ArcSwapOption::empty(),
            changed: watch::Sender::new(0),
            generations: AtomicU64::new(0),
        }
    }

    pub(crate) fn get(&self) -> Option<Arc<Credentials>> {
        self.current.load_full()
    }

    pub(crate) fn replace(&self, certificate: WorkloadCertificate, bundle: Arc<TrustBundle>) {
        let generation = self.generations.fetch_add(1, Ordering::Relaxed) + 1;
        self.current.store(Some(Arc::new(Credentials {
            certificate,
            bundle,
            generation,
        })));
        self.changed.send_replace(generation);
    }

    /// Tells the generation whenever it changes; 0 while there are no credentials.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
