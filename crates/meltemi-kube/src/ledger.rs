//! What is known of the watched objects, so that a watch that began anew tells what went while it was away.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::runtime::watcher::Event;
use meltemi_api::{Change, Kind, ObjectKey, Parsed};
use meltemi_core::{Diagnostic, Severity};
use serde_json::Value;

use crate::resources::Watched;
use crate::trim::trim;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    known: BTreeSet<ObjectKey>,
    /// The objects that a list holds, by what is watched, while it is being read.
    listed: BTreeMap<Watched, BTreeSet<ObjectKey>>,
    diagnostics: BTreeMap<ObjectKey, Vec<Diagnostic>>,
    /// The diagnostics changed since somebody looked.
    has_news: bool,
}

impl Ledger {
    /// Takes an event of a watch; the changes that it means are added.
    pub(crate) fn take(
        &mut self,
        watched: &Watched,
        event: Event<Value>,
        changes: &mut Vec<Change>,
    ) {
        let kind = watched.kind;
        match event {
            Event::Init => {
                self.listed.insert(watched.clone(), BTreeSet::new());
            }
            Event::InitApply(object) => {
                let key = key(kind, &object);
                let listed = self.listed.entry(watched.clone()).or_default();
                listed.insert(key.clone());
                self.apply(kind, key, object, changes);
            }
            Event::InitDone => self.end_of_list(watched, changes),
            Event::Apply(object) => self.apply(kind, key(kind, &object), object, changes),
            Event::Delete(object) => self.delete(key(kind, &object), changes),
        }
    }

    /// It is not served: there are no objects of it.
    pub(crate) fn not_served(&mut self, watched: &Watched, changes: &mut Vec<Change>) {
        self.listed.insert(watched.clone(), BTreeSet::new());
        self.end_of_list(watched, changes);
    }

    /// Whether what is wrong changed since the last call.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// What is wrong with the objects as they are.
    pub(crate) fn diagnostics(&self) -> Vec<Diagnostic> {
        self.diagnostics.values().flatten().cloned().collect()
    }

    /// A broken object leaves its last good version in force; of a policy that has none, what stands for it.
    fn apply(&mut self, kind: Kind, key: ObjectKey, mut object: Value, changes: &mut Vec<Change>) {
        trim(kind, &mut object);
        let Parsed {
            objects,
            stand_ins,
            mut diagnostics,
            ..
        } = meltemi_api::parse_json(object);
        // Of Kubernetes' own objects the API server is the judge.
        diagnostics.retain(|found| kind.is_istio() || found.severity == Severity::Error);
        let before = if diagnostics.is_empty() {
            self.diagnostics.remove(&key)
        } else {
            self.diagnostics.insert(key.clone(), diagnostics)
        };
        self.has_news |= before.as_ref() != self.diagnostics.get(&key);
        for object in objects {
            self.known.insert(object.key());
            changes.push(Change::Upsert(Arc::clone(&object)));
        }
        for object in stand_ins {
            if self.known.insert(object.key()) {
                changes.push(Change::Upsert(object));
            }
        }
    }

    fn delete(&mut self, key: ObjectKey, changes: &mut Vec<Change>) {
        self.has_news |= self.diagnostics.remove(&key).is_some();
        if self.known.remove(&key) {
            changes.push(Change::Delete(key));
        }
    }

    fn end_of_list(&mut self, watched: &Watched, changes: &mut Vec<Change>) {
        let listed = self.listed.remove(watched).unwrap_or_default();
        let known = self.known.iter().chain(self.diagnostics.keys());
        let gone: BTreeSet<ObjectKey> = known
            .filter(|key| watched.covers(key) && !listed.contains(key))
            .cloned()
            .collect();
        for key in gone {
            self.delete(key, changes);
        }
    }
}

fn key(kind: Kind, object: &Value) -> ObjectKey {
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    ObjectKey::new(kind, text("/metadata/namespace"), text("/metadata/name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(name: &str, mode: &str) -> Value {
        json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
            "metadata": {"name": name, "namespace": "default"}, "spec": {"mtls": {"mode": mode}}})
    }

    /// `+name` for each object that came or changed, `-name` for each that went.
    fn take(ledger: &mut Ledger, events: Vec<Event<Value>>) -> Vec<String> {
        let mut changes = Vec::new();
        for event in events {
            let watched = Watched {
                kind: Kind::PeerAuthentication,
                namespace: None,
            };
            ledger.take(&watched, event, &mut changes);
        }
        let sign = |change: &Change| match change {
            Change::Upsert(object) => format!("+{}", object.meta.name),
            Change::Delete(key) => format!("-{}", key.name),
        };
        changes.iter().map(sign).collect()
    }

    #[test]
    fn what_went_while_the_watch_was_away_is_told() {
        let mut ledger = Ledger::default();
        let listed = |names: &[&str]| {
            let objects = names
                .iter()
                .map(|name| Event::InitApply(policy(name, "STRICT")));
            let events = std::iter::once(Event::Init).chain(objects);
            events.chain([Event::InitDone]).collect::<Vec<_>>()
        };
        assert_eq!(take(&mut ledger, listed(&["a", "b"])), ["+a", "+b"]);
        assert_eq!(take(&mut ledger, listed(&["b"])), ["+b", "-a"]);
        let deleted = vec![Event::Delete(policy("b", "STRICT"))];
        assert_eq!(take(&mut ledger, deleted.clone()), ["-b"]);
        assert!(take(&mut ledger, deleted).is_empty());
    }

    #[test]
    fn a_list_that_was_not_read_to_its_end_takes_nothing_away() {
        let mut ledger = Ledger::default();
        let apply = vec![Event::Apply(policy("a", "STRICT"))];
        assert_eq!(take(&mut ledger, apply), ["+a"]);
        assert!(take(&mut ledger, vec![Event::Init, Event::Init]).is_empty());
        assert_eq!(take(&mut ledger, vec![Event::InitDone]), ["-a"]);
    }

    #[test]
    fn the_list_of_one_namespace_says_nothing_of_another() {
        let mut ledger = Ledger::default();
        let watched = |namespace: &str| Watched {
            kind: Kind::Secret,
            namespace: Some(namespace.into()),
        };
        let secret = |namespace: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": namespace}, "data": {"tls.crt": "YQ==", "ca-key.pem": "YQ=="}});
        let mut changes = Vec::new();
        for namespace in ["a", "b"] {
            let events = [
                Event::Init,
                Event::InitApply(secret(namespace)),
                Event::InitDone,
            ];
            for event in events {
                ledger.take(&watched(namespace), event, &mut changes);
            }
        }
        assert_eq!(changes.len(), 2, "{changes:?}");
        assert!(!format!("{changes:?}").contains("ca-key.pem"));
        ledger.not_served(&watched("a"), &mut changes);
        let gone = changes.last().unwrap().key();
        assert_eq!((changes.len(), gone.namespace.as_str()), (3, "a"));
    }

    #[test]
    fn a_broken_policy_without_a_good_version_is_stood_for() {
        let mut ledger = Ledger::default();
        let policy = |action: &str| {
            json!({"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "a", "namespace": "default"}, "spec": {"action": action, "rules": [{}]}})
        };
        let mut take = |action: &str| {
            let watched = Watched {
                kind: Kind::AuthorizationPolicy,
                namespace: None,
            };
            let mut changes = Vec::new();
            ledger.take(&watched, Event::Apply(policy(action)), &mut changes);
            changes.len()
        };
        assert_eq!(take("DENNY"), 1, "nobody has an earlier version");
        assert_eq!(take("DENNI"), 0);
        assert_eq!(take("DENY"), 1);
        assert_eq!(take("DENNY"), 0);
    }

    #[test]
    fn a_broken_object_is_told_and_changes_nothing() {
        let mut ledger = Ledger::default();
        assert_eq!(
            take(&mut ledger, vec![Event::Apply(policy("a", "STRICT"))]),
            ["+a"]
        );
        assert!(take(&mut ledger, vec![Event::Apply(policy("a", "STRICTER"))]).is_empty());
        let [told] = &ledger.diagnostics()[..] else {
            panic!("one problem")
        };
        assert_eq!(
            (&told.location, told.field.to_string().as_str()),
            (&None, "spec.mtls.mode")
        );
        take(&mut ledger, vec![Event::Delete(policy("a", "STRICTER"))]);
        assert!(ledger.diagnostics().is_empty());
    }
}
