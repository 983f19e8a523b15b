//! The objects that the control plane needs, one file each, replaced by rename.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use meltemi_api::{Kind, ObjectKey};
use meltemi_core::names::ISTIO_SYSTEM;
use serde_json::{Value, json};

use crate::store::Store;

#[derive(Debug)]
pub(super) struct Mirror {
    directory: PathBuf,
    written: BTreeMap<String, Written>,
}

#[derive(Debug)]
struct Written {
    /// The object's resource version: what has kept it is not looked at again.
    version: Option<Value>,
    content: Vec<u8>,
}

impl Mirror {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            written: BTreeMap::new(),
        }
    }

    /// Brings every file up to date that can be, and answers the first failure; what failed is tried again by the next call.
    /// The control plane takes the files as one batch, so that their order does not matter.
    pub(super) fn sync(&mut self, store: &Store) -> io::Result<()> {
        let mut gone: BTreeSet<String> = self.written.keys().cloned().collect();
        let mut result = Ok(());
        let credentials = credentials(store);
        let is_wanted = |key: &ObjectKey| {
            is_needed(key) || (key.kind == Kind::Secret && credentials.contains(&key.name))
        };
        for (key, object) in store.all().filter(|(key, _)| is_wanted(key)) {
            let name = file_name(key);
            gone.remove(&name);
            let version = object.pointer("/metadata/resourceVersion").cloned();
            let known = self.written.get(&name);
            if known.is_none_or(|known| known.version != version) {
                let content = serde_json::to_vec_pretty(&trimmed(key, object))?;
                let written = self.write(name, Written { version, content });
                result = result.and(written);
            }
        }
        for name in gone {
            let removed = self.remove(&name);
            result = result.and(removed);
        }
        result
    }

    /// Whether a file of the folder is one of these.
    pub(super) fn wrote(&self, name: &str) -> bool {
        self.written.contains_key(name)
    }

    fn write(&mut self, name: String, now: Written) -> io::Result<()> {
        let known = self.written.get(&name);
        if known.is_none_or(|known| known.content != now.content) {
            let staged = self.directory.join(format!(".{name}.new"));
            // Some of them hold keys.
            let mut options = fs::OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&staged)?.write_all(&now.content)?;
            fs::rename(&staged, self.directory.join(&name))?;
        }
        self.written.insert(name, now);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                self.written.remove(name);
                Ok(())
            }
        }
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

/// The names of Secrets that Gateways ask for; what other Secrets hold is not the control plane's to see.
fn credentials(store: &Store) -> BTreeSet<String> {
    let servers = store.of_kind(Kind::Gateway).flat_map(|(_, gateway)| {
        let servers = gateway.pointer("/spec/servers").and_then(Value::as_array);
        servers.into_iter().flatten()
    });
    let named = servers.flat_map(|server| {
        let fields = ["credentialName", "caCertCredentialName"];
        fields.map(|field| server["tls"][field].as_str())
    });
    let named = named.flatten().filter(|name| !name.is_empty());
    named
        .flat_map(|name| [name.to_owned(), format!("{name}-cacert")])
        .collect()
}

/// The keys of a Secret that holds certificates (Istio, `credentialName`).
const CREDENTIAL_KEYS: [&str; 6] = ["tls.crt", "tls.key", "ca.crt", "cert", "key", "cacert"];

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
    if key.kind == Kind::Secret
        && let Some(data) = object.get_mut("data").and_then(Value::as_object_mut)
    {
        data.retain(|name, _| CREDENTIAL_KEYS.contains(&name.as_str()));
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

    #[test]
    fn of_secrets_only_those_of_gateways_are_there() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::new(directory.path().to_owned());
        let mut store = Store::default();
        let secret = |name: &str| ObjectKey::new(Kind::Secret, "istio-system", name);
        let data = json!({"metadata": {}, "data": {"tls.crt": "YQ==", "tls.key": "YQ==", "password": "cA=="}});
        for name in ["edge", "edge-cacert", "other"] {
            store.put(&secret(name), &data);
        }
        let gateway = ObjectKey::new(Kind::Gateway, "default", "g");
        let server = json!({"tls": {"mode": "MUTUAL", "credentialName": "edge"}});
        store.put(
            &gateway,
            &json!({"metadata": {}, "spec": {"servers": [{}, server]}}),
        );
        mirror.sync(&store).unwrap();
        let file = |name: &str| {
            directory
                .path()
                .join(format!("secret.istio-system.{name}.json"))
        };
        let text = fs::read_to_string(file("edge")).unwrap();
        assert!(
            text.contains("tls.key") && !text.contains("password"),
            "{text}"
        );
        let mode = fs::metadata(file("edge")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(file("edge-cacert").exists() && !file("other").exists());
        store.remove(&gateway);
        mirror.sync(&store).unwrap();
        assert!(!file("edge").exists());
    }

    #[test]
    fn one_failure_stops_no_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut mirror = Mirror::new(directory.path().to_owned());
        let mut store = Store::default();
        let pod = |name: &str| ObjectKey::new(Kind::Pod, "default", name);
        for name in ["a", "b"] {
            store.put(&pod(name), &json!({"metadata": {}}));
        }
        // A folder where the file is to be.
        fs::create_dir(directory.path().join("pod.default.a.json")).unwrap();
        assert!(mirror.sync(&store).is_err());
        assert!(directory.path().join("pod.default.b.json").is_file());
        fs::remove_dir(directory.path().join("pod.default.a.json")).unwrap();
        mirror.sync(&store).unwrap();
        assert!(directory.path().join("pod.default.a.json").is_file());
        // Somebody else has removed it already.
        fs::remove_file(directory.path().join("pod.default.a.json")).unwrap();
        store.remove(&pod("a"));
        store.remove(&pod("b"));
        mirror.sync(&store).unwrap();
        assert!(!directory.path().join("pod.default.b.json").exists());
    }
}
