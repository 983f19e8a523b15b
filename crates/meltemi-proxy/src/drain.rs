//! Graceful end: of the process on SIGTERM, and of the connections whose filter chain was replaced.
//!
//! A draining connection is not cut between requests, because a request may be on its way. HTTP/1 responses carry
//! `Connection: close`, HTTP/2 peers get GOAWAY; once the drain time is over idle connections are closed, and a while later
//! those that are still there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, watch};

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Peers are told to go elsewhere; everything is still served.
    Draining,
    /// The time is over: idle connections are closed.
    Closing,
}

/// The process-wide drain state, shared by every connection.
#[derive(Clone, Debug)]
pub(crate) struct Drain {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    phase: watch::Sender<Phase>,
    connections: AtomicUsize,
    became_idle: Notify,
}

impl Drain {
    pub(crate) fn new() -> Self {
        let shared = Shared {
            phase: watch::Sender::new(Phase::Serving),
            connections: AtomicUsize::new(0),
            became_idle: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Goes on to a phase; never back.
    pub(crate) fn enter(&self, phase: Phase) {
        self.shared.phase.send_if_modified(|current| {
            let later = phase > *current;
            if later {
                *current = phase;
            }
            later
        });
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.shared.phase.borrow() > Phase::Serving
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Counts a downstream connection for as long as the guard lives.
    pub(crate) fn connection(&self) -> ConnectionGuard {
        self.shared.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionGuard(self.shared.clone())
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Returns when no downstream connection is left.
    pub(crate) async fn idle(&self) {
        loop {
            let notified = self.shared.became_idle.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.connections() == 0 {
                return;
            }
            notified.await;
        }
    }
}

#[derive(Debug)]
pub(crate) struct ConnectionGuard(Arc<Shared>);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if self.0.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.became_idle.notify_waiters();
        }
    }
}

/// Whether one connection is to end after its current exchange.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectionEnd(Arc<End>);

#[derive(Debug, Default)]
struct End {
    is_announced: AtomicBool,
    told: Notify,
}

impl ConnectionEnd {
    pub(crate) fn announce(&self) {
        if !self.0.is_announced.swap(true, Ordering::Relaxed) {
            self.0.told.notify_one();
        }
    }

    pub(crate) fn is_announced(&self) -> bool {
        self.0.is_announced.load(Ordering::Relaxed)
    }

    /// Returns when the end is announced, for the one task that serves the connection.
    pub(crate) async fn announced(&self) {
        self.0.told.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_last_connection() {
        let drain = Drain::new();
        drain.idle().await;
        let (a, b) = (drain.connection(), drain.connection());
        let waiting = tokio::spawn({
            let drain = drain.clone();
            async move { drain.idle().await }
        });
        drop(a);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(b);
        waiting.await.unwrap();
    }
}
