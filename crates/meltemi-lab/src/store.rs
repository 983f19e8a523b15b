//! The objects of the lab's cluster, as JSON, as an API server would hold them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use meltemi_api::{Kind, ObjectKey, Scope};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// All objects. Every change moves the revision.
#[derive(Debug, Default)]
pub(crate) struct Store {
    objects: BTreeMap<ObjectKey, Stored>,
    revision: u64,
}

#[derive(Debug)]
struct Stored {
    object: Value,
    /// The object as its Rust type, decoded when it is first asked for; a change begins anew.
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// What the user applied last: what is in it and not in the next apply was taken out by the user.
    applied: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Created,
    Configured,
    Unchanged,
}

impl Applied {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

impl Store {
    /// Moves with every change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn get(&self, key: &ObjectKey) -> Option<&Value> {
        self.objects.get(key).map(|stored| &stored.object)
    }

    /// Reads an object as its type; `None` if it is absent. What is stored has been validated before.
    pub(crate) fn typed<T: Typed>(&self, key: &ObjectKey) -> Option<Arc<T>> {
        self.objects.get(key)?.typed()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        self.objects
            .iter()
            .map(|(key, stored)| (key, &stored.object))
    }

    pub(crate) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Value)> {
        self.stored(kind).map(|(key, stored)| (key, &stored.object))
    }

    pub(crate) fn list<T: Typed>(&self, kind: Kind) -> Vec<(ObjectKey, Arc<T>)> {
        self.stored(kind)
            .filter_map(|(key, stored)| Some((key.clone(), stored.typed()?)))
            .collect()
    }

    /// Keys sort by kind first.
    fn stored(&self, kind: Kind) -> impl Iterator<Item = (&ObjectKey, &Stored)> {
        self.objects
            .range(ObjectKey::new(kind, "", "")..)
            .take_while(move |(key, _)| key.kind == kind)
    }

    /// Merges what a user wrote, as `kubectl apply` does.
    pub(crate) fn apply(&mut self, key: &ObjectKey, written: &Value) -> Applied {
        let written = cleaned(key, written);
        let Some(stored) = self.objects.get(key) else {
            self.insert(key, written.clone(), Some(written));
            return Applied::Created;
        };
        let merged = merge(&stored.object, stored.applied.as_ref(), &written);
        if merged == stored.object {
            if let Some(stored) = self.objects.get_mut(key) {
                stored.applied = Some(written);
            }
            return Applied::Unchanged;
        }
        self.insert(key, merged, Some(written));
        Applied::Configured
    }

    /// What [`Self::apply`] would answer.
    pub(crate) fn would_apply(&self, key: &ObjectKey, written: &Value) -> Applied {
        let Some(stored) = self.objects.get(key) else {
            return Applied::Created;
        };
        let written = cleaned(key, written);
        if merge(&stored.object, stored.applied.as_ref(), &written) == stored.object {
            Applied::Unchanged
        } else {
            Applied::Configured
        }
    }

    /// Stores an object of a controller's; says whether anything changed.
    pub(crate) fn put<T: Serialize>(&mut self, key: &ObjectKey, object: &T) -> bool {
        let Ok(mut object) = serde_json::to_value(object) else {
            return false;
        };
        if let Some(map) = object.as_object_mut() {
            map.insert("apiVersion".to_owned(), api_version(key.kind).into());
            map.insert("kind".to_owned(), key.kind.as_str().into());
        }
        let applied = match self.objects.get(key) {
            Some(stored) => {
                keep_identity(&mut object, &stored.object);
                if stored.object == object {
                    return false;
                }
                stored.applied.clone()
            }
            None => None,
        };
        self.insert(key, object, applied);
        true
    }

    /// Changes an object in place; says whether anything changed.
    pub(crate) fn edit(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Value)) -> bool {
        let Some(stored) = self.objects.get(key) else {
            return false;
        };
        let mut object = stored.object.clone();
        change(&mut object);
        if object == stored.object {
            return false;
        }
        let applied = stored.applied.clone();
        self.insert(key, object, applied);
        true
    }

    pub(crate) fn remove(&mut self, key: &ObjectKey) -> Option<Value> {
        self.revision += 1;
        self.objects.remove(key).map(|stored| stored.object)
    }

    fn insert(&mut self, key: &ObjectKey, mut object: Value, applied: Option<Value>) {
        self.revision += 1;
        let before = self.objects.get(key).map(|stored| &stored.object);
        let respecified = before.is_none_or(|before| before.get("spec") != object.get("spec"));
        let metadata = object
            .as_object_mut()
            .map(|object| object.entry("metadata").or_insert_with(|| json!({})));
        if let Some(metadata) = metadata.and_then(Value::as_object_mut) {
            metadata.insert("name".to_owned(), key.name.clone().into());
            if key.kind.scope() == Scope::Namespaced {
                metadata.insert("namespace".to_owned(), key.namespace.clone().into());
            }
            metadata.entry("uid").or_insert_with(|| uid().into());
            metadata
                .entry("creationTimestamp")
                .or_insert_with(|| now().into());
            metadata.insert(
                "resourceVersion".to_owned(),
                self.revision.to_string().into(),
            );
            if respecified {
                let generation = metadata
                    .get("generation")
                    .and_then(Value::as_i64)
                    .unwrap_or(0)
                    + 1;
                metadata.insert("generation".to_owned(), generation.into());
            }
        }
        let stored = Stored {
            object,
            typed: OnceLock::new(),
            applied,
        };
        self.objects.insert(key.clone(), stored);
    }
}

/// What an object can be read as.
pub(crate) trait Typed: DeserializeOwned + Any + Send + Sync {}

impl<T: DeserializeOwned + Any + Send + Sync> Typed for T {}

impl Stored {
    fn typed<T: Typed>(&self) -> Option<Arc<T>> {
        if let Some(known) = self.typed.get() {
            // Every kind is read as one type; another would be a second, uncached decoding.
            let known = Arc::clone(known).downcast();
            return known.ok().or_else(|| self.decode());
        }
        let decoded = self.decode()?;
        self.typed
            .get_or_init(|| Arc::<T>::clone(&decoded) as Arc<dyn Any + Send + Sync>);
        Some(decoded)
    }

    fn decode<T: Typed>(&self) -> Option<Arc<T>> {
        T::deserialize(&self.object).ok().map(Arc::new)
    }
}

pub(crate) fn now() -> String {
    // Kubernetes writes whole seconds.
    Timestamp::from_second(Timestamp::now().as_second())
        .unwrap_or_default()
        .to_string()
}

pub(crate) fn api_version(kind: Kind) -> String {
    let version = kind.versions().first().copied().unwrap_or("v1");
    if kind.group().is_empty() {
        version.to_owned()
    } else {
        format!("{}/{version}", kind.group())
    }
}

/// As kubectl names an object: `deployment.apps/reviews-v1`.
pub(crate) fn display(key: &ObjectKey) -> String {
    let kind = key.kind.as_str().to_ascii_lowercase();
    let group = key.kind.group();
    let dot = if group.is_empty() { "" } else { "." };
    format!("{kind}{dot}{group}/{}", key.name)
}

/// What the server alone decides is not taken from a file, so that `get -o yaml | apply -f -` works.
/// What a user wrote, without what only the server writes.
fn cleaned(key: &ObjectKey, written: &Value) -> Value {
    let mut written = written.clone();
    if let Some(object) = written.as_object_mut() {
        object.remove("status");
    }
    clean_metadata(&mut written, key);
    written
}

fn clean_metadata(object: &mut Value, key: &ObjectKey) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for field in [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "selfLink",
    ] {
        metadata.remove(field);
    }
    if key.kind.scope() == Scope::Namespaced {
        metadata.insert("namespace".to_owned(), key.namespace.clone().into());
    }
}

fn keep_identity(object: &mut Value, before: &Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for field in [
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
    ] {
        if let Some(value) = before
            .get("metadata")
            .and_then(|metadata| metadata.get(field))
        {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
}

/// Three-way merge: maps field by field, everything else whole. A field goes when the user had it and no longer has.
fn merge(live: &Value, applied: Option<&Value>, written: &Value) -> Value {
    let (Value::Object(live), Value::Object(written)) = (live, written) else {
        return written.clone();
    };
    let mut merged: Map<String, Value> = live.clone();
    if let Some(Value::Object(applied)) = applied {
        for field in applied.keys().filter(|field| !written.contains_key(*field)) {
            merged.remove(field);
        }
    }
    for (field, value) in written {
        let value = match live.get(field) {
            Some(before) => merge(
                before,
                applied.and_then(|applied| applied.get(field)),
                value,
            ),
            None => value.clone(),
        };
        merged.insert(field.clone(), value);
    }
    Value::Object(merged)
}

/// A random UUID (RFC 9562, version 4).
pub(crate) fn uid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-4{}-{:x}{}-{}",
        part(0, 8),
        part(8, 12),
        part(13, 16),
        8 + (rand::random::<u8>() & 3),
        part(17, 20),
        part(20, 32)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ObjectKey {
        ObjectKey::new(Kind::ConfigMap, "default", "c")
    }

    fn apply(store: &mut Store, object: Value) -> Applied {
        store.apply(&key(), &object)
    }

    #[test]
    fn apply_merges_three_ways() {
        let mut store = Store::default();
        assert_eq!(
            apply(
                &mut store,
                json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "2"}})
            ),
            Applied::Created
        );
        store.edit(&key(), |object| {
            object["metadata"]["labels"] = json!({"by": "controller"})
        });
        assert_eq!(
            apply(
                &mut store,
                json!({"metadata": {"name": "c"}, "data": {"a": "1"}})
            ),
            Applied::Configured
        );
        let object = store.get(&key()).unwrap();
        assert_eq!(object["data"], json!({"a": "1"}));
        assert_eq!(object["metadata"]["labels"], json!({"by": "controller"}));
        assert_eq!(
            apply(
                &mut store,
                json!({"metadata": {"name": "c"}, "data": {"a": "1"}})
            ),
            Applied::Unchanged
        );
        let own_output = store.get(&key()).unwrap().clone();
        assert_eq!(apply(&mut store, own_output), Applied::Unchanged);
    }

    #[test]
    fn a_controller_that_has_nothing_new_to_say_changes_nothing() {
        let mut store = Store::default();
        let object = json!({"metadata": {"labels": {"a": "b"}}, "data": {}});
        assert!(store.put(&key(), &object));
        let revision = store.revision();
        assert!(!store.put(&key(), &object));
        assert_eq!(store.revision(), revision);
    }

    #[test]
    fn identity_survives_changes() {
        let mut store = Store::default();
        apply(&mut store, json!({"metadata": {}, "data": {}}));
        let uid = store.get(&key()).unwrap()["metadata"]["uid"].clone();
        apply(&mut store, json!({"metadata": {}, "data": {"a": "1"}}));
        assert_eq!(store.get(&key()).unwrap()["metadata"]["uid"], uid);
        assert_eq!(uid.as_str().unwrap().len(), 36);
        assert_eq!(
            display(&ObjectKey::new(Kind::Deployment, "d", "x")),
            "deployment.apps/x"
        );
    }
}
