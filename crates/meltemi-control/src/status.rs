//! What one proxy was sent and what it said to it.

use std::collections::{BTreeMap, BTreeSet};
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
    /// Two types as one: what was sent is accepted when it is of both.
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let both = |own: &str, other: &str| {
            let parts = [own, other].into_iter().filter(|part| !part.is_empty());
            parts.collect::<Vec<_>>().join("/")
        };
        let errors = [&self.error, &other.error].into_iter().flatten();
        let errors: Vec<&str> = errors.map(String::as_str).collect();
        Self {
            sent_nonce: both(&self.sent_nonce, &other.sent_nonce),
            acked_nonce: both(&self.acked_nonce, &other.acked_nonce),
            version: both(&self.version, &other.version),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    }

    /// Everything sent was answered, well or not.
    fn is_settled(&self) -> bool {
        self.error.is_some() || self.sent_nonce == self.acked_nonce
    }
}

/// Nonces count from one: nothing was sent on this stream, for nothing was missing.
const HELD_BEFORE: &str = "0";

/// The names that a proxy asks for, per type URL.
pub(crate) type Asked = BTreeMap<String, BTreeSet<String>>;

#[derive(Debug, Default)]
pub(crate) struct SyncStatus {
    pub(crate) types: BTreeMap<String, TypeStatus>,
    pub(crate) is_gone: bool,
    asked: Asked,
    /// The last change of `asked`.
    order: u64,
    answered: u64,
    /// When the oldest change was noticed that the proxy may not have yet.
    converging_since: Option<Instant>,
}

pub(crate) type SharedStatus = Arc<Mutex<SyncStatus>>;

impl SyncStatus {
    /// A snapshot with a change noticed at that time is on its way.
    pub(crate) fn published(&mut self, noticed_at: Instant) {
        self.converging_since.get_or_insert(noticed_at);
    }

    /// What is asked for, if that changed since it was last taken, and the order that a snapshot for it answers.
    pub(crate) fn take_asked(&mut self) -> Option<(Asked, u64)> {
        if self.answered == self.order {
            return None;
        }
        self.answered = self.order;
        Some((self.asked.clone(), self.order))
    }

    fn subscribe(&mut self, type_url: String, added: Vec<String>, dropped: &[String]) {
        let names = self.asked.entry(type_url).or_default();
        names.extend(added);
        for name in dropped {
            names.remove(name);
        }
    }
}

/// Keeps the status of one stream. Its end, however it comes, is told to the hub.
pub(crate) struct Recorder {
    pub(crate) proxy: String,
    pub(crate) status: SharedStatus,
    pub(crate) metrics: PushMetrics,
    pub(crate) departures: Arc<Notify>,
    /// Told of new subscriptions of a proxy that is sent only what it asks for.
    pub(crate) demands: Option<Arc<Notify>>,
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
            Event::InSync { type_url, version } => {
                let mut status = self.status.lock();
                let of_type = status.types.entry(type_url).or_default();
                of_type.version = version;
                of_type.sent_nonce = HELD_BEFORE.to_owned();
                of_type.acked_nonce = HELD_BEFORE.to_owned();
                self.settle(&mut status);
            }
            Event::Subscribed {
                type_url,
                added,
                dropped,
                order,
            } => {
                if let Some(demands) = &self.demands {
                    let mut status = self.status.lock();
                    status.subscribe(type_url, added, &dropped);
                    status.order = order;
                    demands.notify_one();
                }
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

#[cfg(test)]
mod tests {
    use super::TypeStatus;

    fn status(sent: &str, acked: &str, error: Option<&str>) -> TypeStatus {
        TypeStatus {
            sent_nonce: sent.to_owned(),
            acked_nonce: acked.to_owned(),
            version: String::new(),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn two_types_are_in_sync_when_both_are() {
        let (synced, waiting) = (status("3", "3", None), status("5", "4", None));
        for (a, b, expected) in [
            (&synced, &synced, true),
            (&synced, &waiting, false),
            (&waiting, &synced, false),
            (&TypeStatus::default(), &synced, true),
            // Never accepted, and the other never sent.
            (&status("1", "", None), &TypeStatus::default(), false),
        ] {
            let joined = a.joined(b);
            assert_eq!(
                joined.sent_nonce == joined.acked_nonce,
                expected,
                "{joined:?}"
            );
        }
        let refused = synced.joined(&status("5", "4", Some("no")));
        assert_eq!(refused.error.as_deref(), Some("no"));
    }
}
