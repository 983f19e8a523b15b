//! The objects that the control plane needs, one file each, replaced by rename.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use meltemi_api::{Kind, ObjectKey};
use meltemi_core::names::ISTIO_SYSTEM;
use serde_json::{Value, json};

use crate::store::Store;

#[derive(Debug)]
pub(super) struct Mirror {
    directory: PathBuf,
    written: BTreeMap<String, Vec<u8>>,
}

impl Mirror {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            written: BTreeMap::new(),
        }
    }

    pub(super) fn sync(&mut self, store: &Store) -> io::Result<()> {
        let wanted: BTreeMap<String, Vec<u8>> = store
            .all()
            .filter(|(key, _)| is_needed(key))
            .filter_map(|(key, object)| {
                Some((
                    file_name(key),
                    serde_json::to_vec_pretty(&trimmed(key, object)).ok()?,
                ))
            })
            .collect();
        // What leads to an object comes before what refers to it only if the reader sees it first; it takes them as one
        // batch, so the order within does not matter.
        for (name, content) in wanted
            .iter()
            .filter(|(name, content)| self.written.get(*name) != Some(*content))
        {
            let staged = self.directory.join(format!(".{name}.new"));
            fs::write(&staged, content)?;
            fs::rename(&staged, self.directory.join(name))?;
        }
        for name in self
            .written
            .keys()
            .filter(|name| !wanted.contains_key(*name))
        {
            fs::remove_file(self.directory.join(name))?;
        }
        self.written = wanted;
        Ok(())
    }
}

fn is_needed(key: &ObjectKey) -> bool {
    match key.kind {
        Kind::Namespace
        | Kind::ServiceAccount
        | Kind::Service
        | Kind::Pod
        | Kind::EndpointSlice => true,
        Kind::ConfigMap => key.namespace == ISTIO_SYSTEM && key.name == "istio",
        kind => kind.is_istio(),
    }
}

fn file_name(key: &ObjectKey) -> String {
    let kind = key.kind.as_str().to_ascii_lowercase();
    format!(
        "{kind}.{}.{}.json",
        if key.namespace.is_empty() {
            "_"
        } else {
            &key.namespace
        },
        key.name
    )
}

/// Leaves out what changes often and decides nothing, so that a restart count does not look like news.
fn trimmed(key: &ObjectKey, object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    if key.kind == Kind::Pod {
        let status = object.get("status").cloned().unwrap_or_default();
        let ready = status
            .get("conditions")
            .and_then(Value::as_array)
            .map(|conditions| {
                let kept = conditions
                    .iter()
                    .filter(|condition| condition.get("type") == Some(&json!("Ready")));
                kept.map(|condition| json!({"type": "Ready", "status": condition.get("status")}))
                    .collect::<Vec<_>>()
            })
            .unwrap_or_default();
        let mut kept = json!({"conditions": ready});
        for field in ["phase", "podIP", "podIPs", "hostIP"] {
            if let Some(value) = status.get(field).filter(|value| !value.is_null()) {
                kept[field] = value.clone();
            }
        }
        object["status"] = kept;
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_follow_the_objects() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::new(directory.path().to_owned());
        let mut store = Store::default();
        let pod = ObjectKey::new(Kind::Pod, "default", "p");
        store.put(&pod, &json!({"metadata": {}, "status": {"phase": "Running", "containerStatuses": [{"restartCount": 1}]}}));
        store.put(
            &ObjectKey::new(Kind::Secret, "default", "s"),
            &json!({"metadata": {}}),
        );
        mirror.sync(&store).unwrap();
        let names = || {
            let entries = fs::read_dir(directory.path()).unwrap();
            entries
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(), ["pod.default.p.json"]);
        let text = fs::read_to_string(directory.path().join("pod.default.p.json")).unwrap();
        assert!(
            text.contains("\"Running\"") && !text.contains("restartCount"),
            "{text}"
        );
        store.remove(&pod);
        mirror.sync(&store).unwrap();
        assert!(names().is_empty());
    }
}
