//! Injection with the settings of the mesh as it is now.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Kind, ObjectKey, Resource, parse_message};
use meltemi_core::names::{INJECTOR, MESH_CONFIG_MAP, of_revision};
use meltemi_inject::{
    Decision, InjectionSettings, PodContext, decide, inject, take_inject_config, take_values,
};
use parking_lot::Mutex;
use serde_json::Value;

/// Changes pods; its settings follow ConfigMaps `istio` and `istio-sidecar-injector` of its revision.
#[derive(Clone, Debug)]
pub struct Injector {
    maps: Arc<Maps>,
    said: Arc<Mutex<Said>>,
    settings: Arc<ArcSwap<InjectionSettings>>,
}

/// The ConfigMaps that say how pods are injected.
#[derive(Debug)]
struct Maps {
    mesh: ObjectKey,
    injector: ObjectKey,
}

/// All that has a say in the settings.
#[derive(Debug)]
struct Said {
    base: InjectionSettings,
    mesh: MeshConfig,
    /// `config` and `values` of the injector's ConfigMap.
    config: Value,
    values: Value,
    trust_domain: Option<String>,
}

impl Said {
    fn settings(&self) -> InjectionSettings {
        let mut settings = self.base.clone();
        take_inject_config(&mut settings, self.config.clone());
        take_values(&mut settings, self.values.clone());
        let of_mesh = InjectionSettings::of_mesh(&self.mesh);
        settings.default_config = of_mesh.default_config;
        settings.enable_prometheus_merge = of_mesh.enable_prometheus_merge;
        settings.trust_domain = self.trust_domain.clone().unwrap_or(of_mesh.trust_domain);
        settings
    }

    /// A text that cannot be read changes nothing.
    fn note_mesh(&mut self, map: &ObjectKey, data: &BTreeMap<String, String>) {
        let text = data.get("mesh").map_or("", String::as_str);
        let name = map.reference().to_string();
        if let (Some(mesh), _) = parse_message::<MeshConfig>(&name, text) {
            self.mesh = mesh;
        }
    }

    /// The same.
    fn note_injector(&mut self, map: &ObjectKey, data: &BTreeMap<String, String>) {
        let text = |key: &str| data.get(key).map_or("", String::as_str);
        for (target, key) in [(&mut self.config, "config"), (&mut self.values, "values")] {
            match serde_saphyr::from_str::<Value>(text(key)) {
                Ok(value) => *target = value,
                Err(_) if text(key).is_empty() => *target = Value::Null,
                Err(error) => {
                    let map = map.reference();
                    tracing::warn!(%map, key, %error, "it cannot be read, what it said before counts");
                }
            }
        }
    }
}

/// What becomes of a pod.
#[derive(Debug)]
pub(crate) enum Injected {
    Unchanged(String),
    Patched { patch: Patch, warnings: Vec<String> },
    Refused(String),
}

impl Injector {
    /// `base` holds what counts where the ConfigMaps in the control plane's namespace say nothing, and the revision that
    /// these are named after.
    pub fn new(base: InjectionSettings, namespace: &str) -> Self {
        let map = |name: &str| {
            let name = of_revision(name, &base.revision);
            ObjectKey::new(Kind::ConfigMap, namespace, &name)
        };
        Self {
            maps: Arc::new(Maps {
                mesh: map(MESH_CONFIG_MAP),
                injector: map(INJECTOR),
            }),
            settings: Arc::new(ArcSwap::from_pointee(base.clone())),
            said: Arc::new(Mutex::new(Said {
                base,
                mesh: MeshConfig::default(),
                config: Value::Null,
                values: Value::Null,
                trust_domain: None,
            })),
        }
    }

    /// The trust domain that certificates are issued in, whatever the mesh configuration says later.
    pub fn set_trust_domain(&self, trust_domain: &str) {
        self.change(|said| said.trust_domain = Some(trust_domain.to_owned()));
    }

    /// Looks for its ConfigMaps among changes.
    pub fn note(&self, changes: &[Change]) {
        for change in changes {
            let key = change.key();
            let is_mesh = key == self.maps.mesh;
            if !is_mesh && key != self.maps.injector {
                continue;
            }
            let data = match change {
                Change::Upsert(object) => match &object.resource {
                    Resource::ConfigMap(map) => map.data.clone(),
                    _ => None,
                },
                Change::Delete(_) => None,
            };
            let data = data.unwrap_or_default();
            self.change(|said| {
                if is_mesh {
                    said.note_mesh(&key, &data);
                } else {
                    said.note_injector(&key, &data);
                }
            });
        }
    }

    /// What pods are injected with now.
    pub fn settings(&self) -> InjectionSettings {
        InjectionSettings::clone(&self.settings.load())
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        let mut said = self.said.lock();
        change(&mut said);
        self.settings.store(Arc::new(said.settings()));
    }

    /// `pod` is `written` as our types have it. The labels of the namespace have been looked at by the API server already: it
    /// would not ask otherwise.
    pub(crate) fn inject(&self, written: &Value, pod: &Pod, namespace: &str) -> Injected {
        let settings = self.settings.load();
        let spec = pod.spec.clone().unwrap_or_default();
        let context = PodContext {
            namespace,
            namespace_labels: None,
            metadata: &pod.metadata,
            spec: &spec,
        };
        if let Decision::Skip(reason) = decide(&context, &settings) {
            return Injected::Unchanged(reason.to_string());
        }
        match inject(pod, namespace, &settings) {
            Err(rejection) => Injected::Refused(rejection.to_string()),
            Ok(injection) => match difference(written, pod, &injection.object) {
                Ok(patch) => Injected::Patched {
                    patch,
                    warnings: injection.warnings.iter().map(ToString::to_string).collect(),
                },
                Err(error) => Injected::Refused(error.to_string()),
            },
        }
    }
}

/// From what was written to what injection made of it.
fn difference(written: &Value, from: &Pod, to: &Pod) -> serde_json::Result<Patch> {
    let (from, mut to) = (serde_json::to_value(from)?, serde_json::to_value(to)?);
    carry(written, &from, &mut to);
    Ok(json_patch::diff(written, &to))
}

/// Takes over what was written and our types do not know, such as the fields of a newer Kubernetes. Members of a list are
/// known by their names: injection puts its own between them.
fn carry(written: &Value, known: &Value, to: &mut Value) {
    match (written, known, to) {
        (Value::Object(written), Value::Object(known), Value::Object(to)) => {
            for (field, value) in written {
                match (known.get(field), to.get_mut(field)) {
                    (Some(known), Some(to)) => carry(value, known, to),
                    (None, None) => drop(to.insert(field.clone(), value.clone())),
                    _ => {}
                }
            }
        }
        (Value::Array(written), Value::Array(known), Value::Array(to)) => {
            for (written, known) in written.iter().zip(known) {
                let is_same = |to: &&mut Value| match known.get("name") {
                    Some(name) => to.get("name") == Some(name),
                    None => *to == known,
                };
                if let Some(to) = to.iter_mut().find(is_same) {
                    carry(written, known, to);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(annotations: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "annotations": annotations},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        }))
        .unwrap()
    }

    #[test]
    fn the_patch_makes_the_injected_pod_and_keeps_what_we_do_not_know() {
        let injector = Injector::new(InjectionSettings::default(), "istio-system");
        let mut written = serde_json::to_value(pod(&json!({}))).unwrap();
        written["spec"]["initContainers"] =
            json!([{"name": "first", "image": "i", "novel": {"a": 1}}]);
        written["spec"]["newer"] = json!(true);
        let pod: Pod = serde_json::from_value(written.clone()).unwrap();
        let Injected::Patched { patch, .. } = injector.inject(&written, &pod, "default") else {
            panic!("it is to be injected")
        };
        json_patch::patch(&mut written, &patch).unwrap();
        let expected = inject(&pod, "default", &InjectionSettings::default()).unwrap();
        let mut expected = serde_json::to_value(expected.object).unwrap();
        expected["spec"]["newer"] = json!(true);
        let init = expected["spec"]["initContainers"].as_array_mut().unwrap();
        assert!(init.len() > 1, "ours stand beside the pod's own");
        let own = init
            .iter_mut()
            .find(|container| container["name"] == "first");
        own.unwrap()["novel"] = json!({"a": 1});
        assert_eq!(written, expected);
    }

    #[test]
    fn who_does_not_want_a_sidecar_gets_none_and_nonsense_is_refused() {
        let injector = Injector::new(InjectionSettings::default(), "istio-system");
        let inject = |annotations: Value, namespace: &str| {
            let pod = pod(&annotations);
            injector.inject(&serde_json::to_value(&pod).unwrap(), &pod, namespace)
        };
        let unwanted = inject(json!({"sidecar.istio.io/inject": "false"}), "default");
        assert!(matches!(unwanted, Injected::Unchanged(_)));
        assert!(matches!(
            inject(json!({}), "kube-system"),
            Injected::Unchanged(_)
        ));
        let nonsense = json!({"traffic.sidecar.istio.io/includeInboundPorts": "http"});
        assert!(matches!(inject(nonsense, "default"), Injected::Refused(_)));
    }

    #[test]
    fn the_config_maps_are_followed() {
        let injector = Injector::new(InjectionSettings::default(), "istio-system");
        let named = |name: &str, data: Value| {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": "istio-system"}, "data": data});
            let objects = meltemi_api::parse_json(map).objects;
            objects.into_iter().map(Change::Upsert).collect::<Vec<_>>()
        };
        let map = |mesh: &str| named("istio", json!({"mesh": mesh}));
        let merges = || injector.settings.load().enable_prometheus_merge;
        assert!(merges());
        injector.note(&map(
            "{enablePrometheusMerge: false, trustDomain: elsewhere}",
        ));
        assert!(!merges());
        injector.note(&map("enablePrometheusMerge: ["));
        assert!(!merges());
        let values = |image: &str| {
            let values = json!({"global": {"proxy": {"image": image}}}).to_string();
            named("istio-sidecar-injector", json!({"values": values}))
        };
        let image = || injector.settings.load().proxy_image.clone();
        injector.note(&values("a/b:c"));
        assert_eq!((image().as_str(), merges()), ("a/b:c", false));
        injector.note(&named("istio-sidecar-injector", json!({"values": "{["})));
        assert_eq!(image(), "a/b:c");
        injector.set_trust_domain("example.org");
        injector.note(&map("{}"));
        assert_eq!(injector.settings.load().trust_domain, "example.org");
    }

    #[test]
    fn a_revision_follows_its_own_config_maps() {
        let canary = InjectionSettings {
            revision: "canary".to_owned(),
            ..InjectionSettings::default()
        };
        let injector = Injector::new(canary, "mesh");
        let note = |namespace: &str, name: &str| {
            let map = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": name, "namespace": namespace},
                "data": {"mesh": "{enablePrometheusMerge: false}"}});
            let objects = meltemi_api::parse_json(map).objects;
            injector.note(&objects.into_iter().map(Change::Upsert).collect::<Vec<_>>());
            injector.settings.load().enable_prometheus_merge
        };
        assert!(note("mesh", "istio"), "the default revision's");
        assert!(note("istio-system", "istio-canary"), "another mesh's");
        assert!(!note("mesh", "istio-canary"));
    }
}
