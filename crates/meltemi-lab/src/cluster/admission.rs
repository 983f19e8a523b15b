//! What happens to an object between a manifest or template and the store: defaults, and the sidecar.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use meltemi_api::{Kind, ObjectKey};
use meltemi_inject::{Decision, PodContext, decide, inject};
use serde_json::{Value, json};

use super::Cluster;
use crate::store::{api_version, uid};
use crate::tokens::NODE_NAME;

impl Cluster {
    /// Creates a pod as an API server with Istio's webhook would. The error is for the owner's status.
    pub(super) fn create_pod(&mut self, key: &ObjectKey, pod: Pod) -> Result<(), String> {
        let pod = self.admitted_pod(key, pod)?;
        self.store.put(key, &pod);
        Ok(())
    }

    /// The pod as it would be stored.
    pub(super) fn admitted_pod(&self, key: &ObjectKey, mut pod: Pod) -> Result<Pod, String> {
        pod.metadata.name = Some(key.name.clone());
        pod.metadata.namespace = Some(key.namespace.clone());
        let mut pod = self.injected(key, pod)?;
        let spec = pod.spec.get_or_insert_default();
        let account = spec
            .service_account_name
            .get_or_insert_with(|| "default".to_owned())
            .clone();
        if self
            .store
            .get(&ObjectKey::new(
                Kind::ServiceAccount,
                &key.namespace,
                &account,
            ))
            .is_none()
        {
            return Err(format!(
                "error looking up service account {}/{account}: serviceaccount {account:?} not found",
                key.namespace
            ));
        }
        spec.restart_policy
            .get_or_insert_with(|| "Always".to_owned());
        spec.dns_policy
            .get_or_insert_with(|| "ClusterFirst".to_owned());
        spec.termination_grace_period_seconds.get_or_insert(30);
        spec.node_name = Some(NODE_NAME.to_owned());
        pod.metadata.uid = Some(uid());
        pod.status = Some(k8s_openapi::api::core::v1::PodStatus {
            phase: Some("Pending".to_owned()),
            ..Default::default()
        });
        Ok(pod)
    }

    fn injected(&self, key: &ObjectKey, pod: Pod) -> Result<Pod, String> {
        let namespace = ObjectKey::new(Kind::Namespace, "", &key.namespace);
        let namespace = self.store.typed::<Namespace>(&namespace);
        let labels = namespace.and_then(|namespace| namespace.metadata.labels.clone());
        let labels = labels.unwrap_or_default();
        let spec = pod.spec.clone().unwrap_or_default();
        let context = PodContext {
            namespace: &key.namespace,
            namespace_labels: Some(&labels),
            metadata: &pod.metadata,
            spec: &spec,
        };
        match decide(&context, &self.injection) {
            Decision::Skip(_) => Ok(pod),
            Decision::Inject => {
                let injection = inject(&pod, &key.namespace, &self.injection)
                    .map_err(|rejection| rejection.to_string())?;
                for warning in injection.warnings {
                    tracing::warn!("{warning}");
                }
                Ok(injection.object)
            }
        }
    }
}

/// A pod of a template, owned by a controller.
pub(super) fn pod_of(
    template: &PodTemplateSpec,
    owner: OwnerReference,
    labels: &[(&str, &str)],
) -> Pod {
    let mut metadata = template.metadata.clone().unwrap_or_default();
    metadata.owner_references = Some(vec![owner]);
    let own: BTreeMap<String, String> = labels
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    metadata.labels.get_or_insert_default().extend(own);
    Pod {
        metadata,
        spec: template.spec.clone(),
        status: None,
    }
}

pub(super) fn owner(key: &ObjectKey, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: api_version(key.kind),
        kind: key.kind.as_str().to_owned(),
        name: key.name.clone(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// Fills in what an API server would, for kinds whose consumers rely on it.
pub(super) fn set_defaults(
    key: &ObjectKey,
    object: &mut Value,
    service_address: impl FnOnce() -> String,
) {
    match key.kind {
        Kind::Service => service_defaults(object, service_address),
        Kind::Namespace => {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(key.name);
        }
        _ => {}
    }
}

fn service_defaults(object: &mut Value, address: impl FnOnce() -> String) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    let spec = object.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else {
        return;
    };
    let kind = spec
        .entry("type")
        .or_insert_with(|| json!("ClusterIP"))
        .clone();
    if kind != "ExternalName"
        && spec
            .get("clusterIP")
            .is_none_or(|address| address.is_null() || address == "")
    {
        let address = address();
        spec.insert("clusterIPs".to_owned(), json!([address]));
        spec.insert("clusterIP".to_owned(), json!(address));
    }
    for port in spec
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let Some(port) = port.as_object_mut() else {
            continue;
        };
        port.entry("protocol").or_insert_with(|| json!("TCP"));
        let number = port.get("port").cloned().unwrap_or_default();
        port.entry("targetPort").or_insert(number);
    }
}
