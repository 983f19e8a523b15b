//! The bytes of accepted resources, kept for `/config_dump` and for what is compiled later, and what was rejected.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;

/// An accepted resource as it came. There is one copy of its bytes, also for what is compiled when it is first used.
#[derive(Debug)]
pub(crate) struct Retained {
    pub(crate) version: Box<str>,
    pub(crate) body: Bytes,
    pub(crate) at: SystemTime,
}

/// The last version that was not taken.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    pub(crate) version: String,
    pub(crate) reason: String,
    pub(crate) at: SystemTime,
}

impl Retained {
    pub(super) fn now(version: String, body: Bytes) -> Arc<Self> {
        Arc::new(Self {
            version: version.into(),
            body,
            at: SystemTime::now(),
        })
    }
}

/// All resources by type and name.
#[derive(Debug, Default)]
pub(crate) struct Retention(Mutex<BTreeMap<String, Type>>);

#[derive(Clone, Debug, Default)]
pub(crate) struct Type {
    pub(crate) accepted: BTreeMap<Arc<str>, Arc<Retained>>,
    pub(crate) rejected: BTreeMap<String, Rejected>,
    /// Names that are subscribed to and are neither (`envoy.admin.v3.ClientResourceStatus`).
    pub(crate) others: BTreeMap<String, &'static str>,
}

impl Retention {
    pub(super) fn keep(&self, type_url: &str, name: Arc<str>, resource: Arc<Retained>) {
        let mut types = self.0.lock();
        let of_type = types.entry(type_url.to_owned()).or_default();
        of_type.rejected.remove(&*name);
        of_type.accepted.insert(name, resource);
    }

    pub(super) fn reject(&self, type_url: &str, name: &str, version: &str, reason: &str) {
        let rejected = Rejected {
            version: version.to_owned(),
            reason: reason.to_owned(),
            at: SystemTime::now(),
        };
        self.0
            .lock()
            .entry(type_url.to_owned())
            .or_default()
            .rejected
            .insert(name.to_owned(), rejected);
    }

    pub(super) fn remove(&self, type_url: &str, name: &str) {
        if let Some(of_type) = self.0.lock().get_mut(type_url) {
            of_type.accepted.remove(name);
            of_type.rejected.remove(name);
        }
    }

    /// Replaces the names that are asked for and not held, with their state.
    pub(super) fn set_others(
        &self,
        others: BTreeMap<&'static str, BTreeMap<String, &'static str>>,
    ) {
        let mut types = self.0.lock();
        for (type_url, names) in others {
            types.entry(type_url.to_owned()).or_default().others = names;
        }
    }

    pub(crate) fn of(&self, type_url: &str) -> Type {
        self.0.lock().get(type_url).cloned().unwrap_or_default()
    }
}
