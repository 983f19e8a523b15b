//! What one proxy was sent and what it said to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_xds::{Event, StatusSink};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::PushMetrics;

/// The last exchange of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TypeStatus {
    pub(crate) sent_nonce: String,
    pub(crate) acked_nonce: String,
    /// The snapshot that was sent last.
    pub(crate) version: String,
    /// What the proxy refused since it last accepted anything.
    pub(crate) error: Option<String>,
}

impl TypeStatus {
    /// Everything sent was answered, well or not.
    fn is_settled(&self) -> bool {
        self.error.is_some() || self.sent_nonce == self.acked_nonce
    }
}

#[derive(Debug, Default)]
pub(crate) struct SyncStatus {
    pub(crate) types: BTreeMap<String, TypeStatus>,
    pub(crate) is_gone: bool,
    /// When the oldest change was noticed that the proxy may not have yet.
    converging_since: Option<Instant>,
}

pub(crate) type SharedStatus = Arc<Mutex<SyncStatus>>;

impl SyncStatus {
    /// A snapshot with a change noticed at that time is on its way.
    pub(crate) fn published(&mut self, noticed_at: Instant) {
        self.converging_since.get_or_insert(noticed_at);
    }
}

/// Keeps the status of one stream. Its end, however it comes, is told to the hub.
pub(crate) struct Recorder {
    pub(crate) proxy: String,
    pub(crate) status: SharedStatus,
    pub(crate) metrics: PushMetrics,
    pub(crate) departures: Arc<Notify>,
}

impl StatusSink for Recorder {
    fn record(&self, event: Event) {
        match event {
            Event::Sent {
                type_url,
                version,
                nonce,
            } => {
                self.metrics.sent(&type_url);
                let mut status = self.status.lock();
                let of_type = status.types.entry(type_url).or_default();
                (of_type.version, of_type.sent_nonce) = (version, nonce);
            }
            Event::Acked { type_url, nonce } => {
                let mut status = self.status.lock();
                let of_type = status.types.entry(type_url).or_default();
                (of_type.acked_nonce, of_type.error) = (nonce, None);
                self.settle(&mut status);
            }
            Event::Nacked {
                type_url, detail, ..
            } => {
                self.metrics.rejected(&type_url);
                tracing::warn!(
                    proxy = self.proxy,
                    type_url,
                    detail,
                    "configuration rejected"
                );
                let mut status = self.status.lock();
                status.types.entry(type_url).or_default().error = Some(detail);
                self.settle(&mut status);
            }
            Event::Disconnected => self.leave(),
        }
    }
}

impl Recorder {
    fn settle(&self, status: &mut SyncStatus) {
        if status.types.values().all(TypeStatus::is_settled)
            && let Some(since) = status.converging_since.take()
        {
            self.metrics.converged(since.elapsed());
        }
    }

    fn leave(&self) {
        self.status.lock().is_gone = true;
        self.departures.notify_one();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.leave();
    }
}
