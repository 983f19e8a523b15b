//! What happens to an object between a manifest or template and the store: defaults, and the sidecar.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1::{Namespace, Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use meltemi_api::{Kind, ObjectKey};
use meltemi_inject::{Decision, PodContext, decide, inject};
use serde_json::{Value, json};

use super::{Cluster, is_deleted};
use crate::store::{api_version, uid};
use crate::tokens::NODE_NAME;

impl Cluster {
    /// Creates a pod as an API server with Istio's webhook would. The error is for the owner's status.
    ///
    /// A name is free only when nothing of the pod that had it is left: one that is still ending is never written over.
    pub(super) fn create_pod(&mut self, key: &ObjectKey, pod: Pod) -> Result<(), String> {
        if let Some(live) = self.store.get(key) {
            return Err(already_exists(key, live));
        }
        let pod = self.admitted_pod(key, pod)?;
        self.store.put(key, &pod);
        Ok(())
    }

    /// The pod as it would be stored.
    pub(super) fn admitted_pod(&self, key: &ObjectKey, mut pod: Pod) -> Result<Pod, String> {
        pod.metadata.name = Some(key.name.clone());
        pod.metadata.namespace = Some(key.namespace.clone());
        let account = name_account(pod.spec.get_or_insert_default());
        let mut pod = self.injected(key, pod)?;
        let spec = pod.spec.get_or_insert_default();
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

/// Names the pod's account in both fields: `serviceAccount` is the older name of `serviceAccountName`, which wins where
/// they differ (Kubernetes API, `PodSpec`: "DeprecatedServiceAccount is a deprecated alias for ServiceAccountName").
fn name_account(spec: &mut PodSpec) -> String {
    let given = |name: &Option<String>| name.clone().filter(|name| !name.is_empty());
    let account = given(&spec.service_account_name)
        .or_else(|| given(&spec.service_account))
        .unwrap_or_else(|| "default".to_owned());
    spec.service_account_name = Some(account.clone());
    spec.service_account = Some(account.clone());
    account
}

/// Why a pod of this name cannot be made now, in an API server's words.
fn already_exists(key: &ObjectKey, live: &Value) -> String {
    let ending = if is_deleted(live) {
        "object is being deleted: "
    } else {
        ""
    };
    format!("{ending}pods {:?} already exists", key.name)
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
        Kind::Secret => secret_defaults(object),
        Kind::Namespace => {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(key.name);
        }
        _ => {}
    }
}

/// `stringData` is written and never read: it ends up in `data` (Kubernetes API, `Secret`).
fn secret_defaults(object: &mut Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    object.entry("type").or_insert_with(|| json!("Opaque"));
    let Some(Value::Object(clear)) = object.remove("stringData") else {
        return;
    };
    let data = object.entry("data").or_insert_with(|| json!({}));
    for (name, value) in clear {
        let text = value.as_str().unwrap_or_default();
        data[name] = json!(BASE64.encode(text));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn account(spec: Value) -> [Option<String>; 3] {
        let mut spec: PodSpec = serde_json::from_value(spec).unwrap();
        let named = name_account(&mut spec);
        [Some(named), spec.service_account_name, spec.service_account]
    }

    #[test]
    fn either_field_names_the_account() {
        for (spec, expected) in [
            (json!({"containers": []}), "default"),
            (json!({"containers": [], "serviceAccount": "old"}), "old"),
            (
                json!({"containers": [], "serviceAccountName": "new"}),
                "new",
            ),
            (
                json!({"containers": [], "serviceAccountName": "", "serviceAccount": "old"}),
                "old",
            ),
            (
                json!({"containers": [], "serviceAccountName": "new", "serviceAccount": "old"}),
                "new",
            ),
        ] {
            let expected = Some(expected.to_owned());
            assert_eq!(account(spec), [(); 3].map(|()| expected.clone()));
        }
    }

    #[test]
    fn a_name_in_use_is_told_in_an_api_servers_words() {
        let key = ObjectKey::new(Kind::Pod, "default", "web-0");
        let said = |live: Value| already_exists(&key, &live);
        assert_eq!(said(json!({})), "pods \"web-0\" already exists");
        assert_eq!(
            said(json!({"metadata": {"deletionTimestamp": "now"}})),
            "object is being deleted: pods \"web-0\" already exists"
        );
    }

    #[test]
    fn what_a_secret_says_in_the_clear_is_kept_as_data() {
        let key = ObjectKey::new(Kind::Secret, "default", "s");
        let mut secret = json!({"data": {"a": "b2xk", "b": "Yg=="}, "stringData": {"a": "new"}});
        set_defaults(&key, &mut secret, String::new);
        assert_eq!(
            secret,
            json!({"data": {"a": "bmV3", "b": "Yg=="}, "type": "Opaque"})
        );
    }
}
