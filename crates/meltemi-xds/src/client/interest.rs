//! What the application wants to know, changed from anywhere at any time.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::types::TypeKey;

/// The wanted resources of a type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) wildcard: bool,
    /// Each name with how often it was asked for: asking again asks the server to send it again.
    pub(crate) names: Arc<BTreeMap<Arc<str>, u64>>,
}

impl Wanted {
    pub(crate) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains_key(name)
    }
}

pub(crate) type Interest = BTreeMap<TypeKey, Wanted>;

/// Adds and drops subscriptions. Cheap to clone; never blocks; changes made while the worker is busy or
/// disconnected are merged.
#[derive(Clone, Debug)]
pub struct Subscriptions {
    interest: Arc<watch::Sender<Interest>>,
    restart: Arc<Notify>,
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            interest: Arc::new(watch::Sender::new(Interest::new())),
            restart: Arc::default(),
        }
    }
}

impl Subscriptions {
    /// Subscribes to every resource of a type (wildcard): clusters, listeners.
    pub fn subscribe_all(&self, type_url: &str) {
        self.change(type_url, |wanted| {
            !std::mem::replace(&mut wanted.wildcard, true)
        });
    }

    /// Subscribes to names. A name that is already subscribed is sent again, which is what a consumer that forgot
    /// it (a cluster that warms anew) needs.
    pub fn subscribe<S: Into<Arc<str>>>(&self, type_url: &str, names: impl IntoIterator<Item = S>) {
        self.change(type_url, |wanted| {
            let mut changed = false;
            for name in names {
                let names = Arc::make_mut(&mut wanted.names);
                *names.entry(name.into()).or_default() += 1;
                changed = true;
            }
            changed
        });
    }

    /// Makes the subscribed names exactly these; those that stay are not asked for again.
    pub fn set_names<S: Into<Arc<str>>>(&self, type_url: &str, names: impl IntoIterator<Item = S>) {
        self.change(type_url, |wanted| {
            let kept = |name: Arc<str>| {
                let asked = wanted.names.get(&name).copied().unwrap_or(1);
                (name, asked)
            };
            let names: BTreeMap<_, _> = names.into_iter().map(|name| kept(name.into())).collect();
            let changed = *wanted.names != names;
            if changed {
                wanted.names = Arc::new(names);
            }
            changed
        });
    }

    pub fn unsubscribe<'a>(&self, type_url: &str, names: impl IntoIterator<Item = &'a str>) {
        self.change(type_url, |wanted| {
            let before = wanted.names.len();
            let held = Arc::make_mut(&mut wanted.names);
            for name in names {
                held.remove(name);
            }
            wanted.names.len() != before
        });
    }

    /// Ends the connection, if there is one, for another: what was rejected is offered again.
    pub fn restart(&self) {
        self.restart.notify_one();
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Interest> {
        self.interest.subscribe()
    }

    pub(crate) async fn restarted(&self) {
        self.restart.notified().await;
    }

    fn change(&self, type_url: &str, change: impl FnOnce(&mut Wanted) -> bool) {
        self.interest.send_if_modified(|interest| {
            change(interest.entry(TypeKey::new(type_url)).or_default())
        });
    }
}
