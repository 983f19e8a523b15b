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
    /// The last push that concerned the proxy, and when the oldest change was noticed that it may not have yet.
    published: u64,
    converging_since: Option<Instant>,
    /// The last push of which it has accepted, or refused, everything.
    answered_push: Option<u64>,
}

pub(crate) type SharedStatus = Arc<Mutex<SyncStatus>>;

impl SyncStatus {
    /// A push with a change noticed at that time is on its way.
    pub(crate) fn published(&mut self, push: u64, noticed_at: Instant) {
        self.published = push;
        self.converging_since.get_or_insert(noticed_at);
    }

    /// Whether the proxy has answered what a push brought, or no push concerned it that it has not answered.
    pub(crate) fn has(&self, push: u64) -> bool {
        self.answered_push
            .is_some_and(|answered| answered >= push.min(self.published))
    }

    /// What the proxy refuses, for people.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.types
            .values()
            .find_map(|status| status.error.as_deref())
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
    /// Told when the proxy has caught up.
    pub(crate) standing: Arc<Notify>,
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
            }
            Event::AtRest { version } => self.catch_up(&version),
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
            }
            Event::Disconnected => self.leave(),
        }
    }
}

impl Recorder {
    /// Versions of snapshots are numbers of pushes.
    fn catch_up(&self, version: &str) {
        let Ok(push) = version.parse() else { return };
        let mut status = self.status.lock();
        status.answered_push = Some(push);
        if push >= status.published
            && let Some(since) = status.converging_since.take()
        {
            self.metrics.converged(since.elapsed());
        }
        drop(status);
        self.standing.notify_one();
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
