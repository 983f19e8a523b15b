//! Whether the process may receive traffic: all of its gates are open.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

/// What still keeps the process from being ready. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<BTreeSet<&'static str>>>);

/// One condition, for example `config` or `certificate`; closed until opened. Dropping a gate leaves it as it is,
/// so that a task that died does not make the process ready.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a closed gate. Add every gate before serving the answer, or the process is ready too early.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.0.send_modify(|closed| {
            closed.insert(name);
        });
        Gate {
            name,
            readiness: self.clone(),
        }
    }

    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// The closed gates, for the answer to a failing probe.
    pub fn pending(&self) -> Vec<&'static str> {
        self.0.borrow().iter().copied().collect()
    }

    /// Waits until every gate is open. Cancel safe.
    pub async fn ready(&self) {
        let mut closed = self.0.subscribe();
        closed
            .wait_for(BTreeSet::is_empty)
            .await
            .expect("self holds the sender");
    }
}

impl Gate {
    pub fn open(&self) {
        self.readiness.0.send_modify(|closed| {
            closed.remove(self.name);
        });
    }

    /// Takes readiness back, for example when draining starts.
    pub fn close(&self) {
        self.readiness.0.send_modify(|closed| {
            closed.insert(self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_once_every_gate_is_open() {
        let readiness = Readiness::new();
        let (config, certificate) = (readiness.gate("config"), readiness.gate("certificate"));
        config.open();
        assert_eq!(readiness.pending(), ["certificate"]);
        let waiter = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.ready().await }
        });
        certificate.open();
        waiter.await.unwrap();
        assert!(readiness.is_ready());
        certificate.close();
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_dropped_gate_stays_closed() {
        let readiness = Readiness::new();
        drop(readiness.gate("config"));
        assert!(!readiness.is_ready());
    }
}
