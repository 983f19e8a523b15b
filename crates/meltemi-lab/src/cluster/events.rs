//! What happened, as the Event objects of Kubernetes' API (core/v1, `Event`).

use jiff::Timestamp;
use meltemi_api::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::{Cluster, pod_key};
use crate::controller::template_hash;
use crate::pod::events::{self, Event, KUBELET, Told};
use crate::tokens::NODE_NAME;

/// The kind's name; its objects are made of what the lab knows whenever they are asked for.
pub(crate) const EVENT: &str = "Event";

impl Cluster {
    /// What happened to the pods and workloads that are there; of each object the oldest first.
    pub(crate) fn event_objects(&self, namespace: Option<&str>) -> Vec<Value> {
        let pods = self.store.of_kind(Kind::Pod).flat_map(|(key, pod)| {
            let handle = self.pods.get(&pod_key(key));
            let events = handle.map(|handle| handle.runtime.borrow().events.clone());
            let events = events.into_iter().flatten();
            events.map(move |event| object(key, pod, &event))
        });
        let failures = self.failures.iter().filter_map(|(key, event)| {
            let owner = self.store.get(key)?;
            Some(object(key, owner, event))
        });
        let is_asked = |event: &Value| {
            namespace.is_none_or(|namespace| event["metadata"]["namespace"] == namespace)
        };
        pods.chain(failures).filter(is_asked).collect()
    }

    /// Why controllers could not make what they should, by the object that they act for.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&ObjectKey, &String)> {
        self.failures
            .iter()
            .map(|(key, event)| (key, &event.message))
    }

    pub(super) fn note_failure(&mut self, owner: &ObjectKey, error: String) {
        let mut events = Vec::from_iter(self.failures.remove(owner));
        if events.iter().all(|event| event.message != error) {
            tracing::warn!("{owner}: {error}");
            events.clear();
        }
        let from = match owner.kind {
            Kind::StatefulSet => "statefulset-controller",
            Kind::Job => "job-controller",
            _ => "replicaset-controller",
        };
        let told = Told::warning(from, "FailedCreate", error);
        events::note(&mut events, told, Timestamp::now());
        self.failures
            .extend(events.pop().map(|event| (owner.clone(), event)));
    }
}

fn object(of: &ObjectKey, about: &Value, event: &Event) -> Value {
    let id = template_hash(&(&event.reason, &event.field, &event.message));
    let mut source = json!({"component": event.from});
    if event.from == KUBELET {
        source["host"] = json!(NODE_NAME);
    }
    let mut involved = json!({
        "apiVersion": about["apiVersion"], "kind": of.kind.as_str(), "name": of.name,
        "namespace": of.namespace, "uid": about["metadata"]["uid"],
    });
    if !event.field.is_empty() {
        involved["fieldPath"] = json!(event.field);
    }
    // Kubernetes writes whole seconds.
    let second = |time: Timestamp| {
        Timestamp::from_second(time.as_second())
            .unwrap_or_default()
            .to_string()
    };
    json!({
        "apiVersion": "v1", "kind": EVENT,
        "metadata": {
            "name": format!("{}.{id}", of.name), "namespace": of.namespace,
            "creationTimestamp": second(event.first),
        },
        "involvedObject": involved,
        "type": if event.is_warning { "Warning" } else { "Normal" },
        "reason": event.reason, "message": event.message, "count": event.count,
        "firstTimestamp": second(event.first), "lastTimestamp": second(event.last),
        "source": source, "reportingComponent": event.from,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_what_it_is_about_and_who_tells_it() {
        let key = ObjectKey::new(Kind::Pod, "default", "web-1");
        let pod = json!({"apiVersion": "v1", "metadata": {"uid": "u"}});
        let told = Told::warning(KUBELET, "FailedMount", "no such map".to_owned());
        let mut events = Vec::new();
        events::note(&mut events, told.clone(), Timestamp::UNIX_EPOCH);
        events::note(&mut events, told, Timestamp::from_second(5).unwrap());
        let found = object(&key, &pod, &events[0]);
        for (path, expected) in [
            ("/involvedObject/kind", json!("Pod")),
            ("/involvedObject/name", json!("web-1")),
            ("/involvedObject/uid", json!("u")),
            ("/type", json!("Warning")),
            ("/reason", json!("FailedMount")),
            ("/count", json!(2)),
            ("/firstTimestamp", json!("1970-01-01T00:00:00Z")),
            ("/lastTimestamp", json!("1970-01-01T00:00:05Z")),
            ("/source", json!({"component": "kubelet", "host": "lab"})),
        ] {
            assert_eq!(found.pointer(path), Some(&expected), "{path}");
        }
        let name = found["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with("web-1."), "{name}");
    }
}
