//! A mesh from plain manifests: Deployments become meshed pods, Services get addresses and EndpointSlices, as
//! Kubernetes' controllers and the injector would have it.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Kind as ObjectKind, Object, ObjectKey, parse, parse_message};
use meltemi_core::{Labels, Severity};
use meltemi_model::{ChangeSet, Mesh};
use serde_json::{Value, json};

use meltemi_proto::Resource;

use crate::{Flavour, Generated, ProxyView, Role, generate};

pub(super) struct World {
    pub(super) mesh: Mesh,
    pods: Vec<Pod>,
    services: Vec<Value>,
}

#[derive(Clone)]
struct Pod {
    name: String,
    namespace: String,
    ip: String,
    labels: Labels,
    service_account: String,
    ports: Vec<(String, u64)>,
}

pub(super) fn objects(yaml: &str) -> Vec<Arc<Object>> {
    let parsed = parse("in.yaml", yaml, "default");
    let errors: Vec<_> = parsed
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    parsed.objects
}

impl World {
    pub(super) fn new(yaml: &str) -> Self {
        let mut world = Self {
            mesh: Mesh::default(),
            pods: Vec::new(),
            services: Vec::new(),
        };
        world.apply(yaml);
        world
    }

    pub(super) fn config(mut self, yaml: &str) -> Self {
        let (config, diagnostics) = parse_message::<MeshConfig>("mesh", yaml);
        assert!(diagnostics.is_empty(), "{diagnostics:?}");
        self.mesh.set_config(config.unwrap());
        self
    }

    pub(super) fn in_cluster(mut self, id: &str) -> Self {
        self.mesh = self.mesh.in_cluster(id);
        self
    }

    /// Applies manifests, and what the controllers make of them, as one change.
    pub(super) fn apply(&mut self, yaml: &str) -> ChangeSet {
        let mut changes = Vec::new();
        for object in objects(yaml) {
            let document = object.source.as_ref().unwrap().to_json();
            match object.kind() {
                ObjectKind::Deployment => self.deploy(&object, &document),
                ObjectKind::Service => self.add_service(&object, document),
                _ => changes.push(Change::Upsert(object)),
            }
        }
        let derived: Vec<Value> = self
            .pods
            .iter()
            .map(Pod::document)
            .chain(self.services.iter().cloned())
            .chain(
                self.services
                    .iter()
                    .filter_map(|service| self.slice(service)),
            )
            .collect();
        for document in derived {
            changes.extend(
                objects(&document.to_string())
                    .into_iter()
                    .map(Change::Upsert),
            );
        }
        self.mesh.apply(&changes)
    }

    pub(super) fn delete(&mut self, kind: ObjectKind, name: &str) -> ChangeSet {
        let key = ObjectKey::new(kind, "default", name);
        self.mesh.apply(&[Change::Delete(key)])
    }

    /// Removes a pod and with it its endpoints.
    pub(super) fn kill(&mut self, pod: &str) -> ChangeSet {
        self.pods.retain(|other| other.name != pod);
        let mut changes = self.delete(ObjectKind::Pod, pod);
        changes.merge(&self.apply(""));
        changes
    }

    fn deploy(&mut self, object: &Object, document: &Value) {
        let template = &document["spec"]["template"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = template["metadata"]["labels"].as_object();
        let labels = labels.into_iter().flatten();
        let mut labels: BTreeMap<String, String> = labels
            .map(|(key, value)| (key.clone(), text(value)))
            .collect();
        if labels.get("sidecar.istio.io/inject").map(String::as_str) != Some("false") {
            labels.insert("security.istio.io/tlsMode".into(), "istio".into());
        }
        let labels = Labels::from(labels);
        let containers = template["spec"]["containers"].as_array();
        let ports = containers
            .into_iter()
            .flatten()
            .flat_map(|container| container["ports"].as_array().into_iter().flatten())
            .map(|port| (text(&port["name"]), port["containerPort"].as_u64().unwrap()))
            .collect();
        let service_account = template["spec"]["serviceAccountName"].as_str();
        self.pods.push(Pod {
            name: object.meta.name.clone(),
            namespace: object.meta.namespace.clone(),
            ip: format!("10.244.0.{}", self.pods.len() + 1),
            labels,
            service_account: service_account.unwrap_or("default").to_owned(),
            ports,
        });
    }

    fn add_service(&mut self, object: &Object, mut document: Value) {
        if document["spec"]["clusterIP"].is_null() {
            let ip = format!("10.96.0.{}", self.services.len() + 1);
            document["spec"]["clusterIP"] = json!(ip);
        }
        document["metadata"]["namespace"] = json!(object.meta.namespace);
        self.services.push(document);
    }

    fn slice(&self, service: &Value) -> Option<Value> {
        let selector: Labels = service["spec"]["selector"]
            .as_object()?
            .iter()
            .map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()))
            .collect();
        let namespace = service["metadata"]["namespace"].as_str()?;
        let selected: Vec<&Pod> = self
            .pods
            .iter()
            .filter(|pod| pod.namespace == namespace && selector.selects(&pod.labels))
            .collect();
        let ports: Vec<Value> = service["spec"]["ports"]
            .as_array()?
            .iter()
            .map(|port| {
                let target = match &port["targetPort"] {
                    Value::Null => port["port"].clone(),
                    Value::String(name) => json!(selected.iter().find_map(|pod| pod.port(name))),
                    number => number.clone(),
                };
                json!({"name": port["name"].as_str().unwrap_or(""), "port": target, "protocol": "TCP"})
            })
            .collect();
        let endpoints: Vec<Value> = selected
            .iter()
            .map(|pod| {
                json!({
                    "addresses": [pod.ip], "conditions": {"ready": true},
                    "targetRef": {"kind": "Pod", "name": pod.name, "namespace": namespace},
                })
            })
            .collect();
        let name = service["metadata"]["name"].as_str()?;
        Some(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": format!("{name}-x"), "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
            "ports": ports, "endpoints": endpoints,
        }))
    }

    pub(super) fn view(&self, pod: &str, flavour: Flavour) -> ProxyView {
        let pod = self.pods.iter().find(|other| other.name == pod).unwrap();
        ProxyView {
            flavour,
            ..ProxyView::new(
                pod.ip.parse().unwrap(),
                &pod.namespace,
                &pod.service_account,
                pod.labels.clone(),
            )
        }
    }

    /// The same pod as a gateway.
    pub(super) fn router(&self, pod: &str, flavour: Flavour) -> ProxyView {
        ProxyView {
            role: Role::Router,
            ..self.view(pod, flavour)
        }
    }

    pub(super) fn generate(&self, pod: &str, flavour: Flavour) -> Generated {
        generate(&self.view(pod, flavour), &self.mesh.snapshot())
    }
}

impl Pod {
    fn port(&self, name: &str) -> Option<u64> {
        self.ports
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, number)| *number)
    }

    fn document(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.namespace, "labels": self.labels,
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": self.name, "uid": "u", "controller": true}],
            },
            "spec": {"serviceAccountName": self.service_account, "containers": [{"name": "app", "image": "app"}]},
            "status": {"phase": "Running", "podIP": self.ip, "conditions": [{"type": "Ready", "status": "True"}]},
        })
    }
}

/// A resource as proto JSON with sorted keys.
pub(super) fn to_json(resource: &Resource) -> Value {
    sorted(meltemi_proto::json::any_to_json(&resource.body).unwrap())
}

fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            fields
                .into_iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect()
        }
        Value::Array(values) => values.into_iter().map(sorted).collect(),
        other => other,
    }
}
