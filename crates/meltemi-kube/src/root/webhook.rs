//! Lets the API server believe our webhooks: the root goes into their configurations, and validation becomes binding once
//! there is somebody to ask.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bounded;

/// Which webhooks a control plane answers.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Its namespace.
    pub namespace: String,
    /// Its revision: the label `istio.io/rev` of its configurations.
    pub revision: String,
}

impl Ours {
    /// Whether a webhook is answered by the Service of this control plane: `istiod`, or `istiod-<revision>`.
    fn is_answered(&self, webhook: &Value) -> bool {
        let service = &webhook["clientConfig"]["service"];
        let of_revision = format!("istiod-{}", self.revision);
        service["namespace"] == *self.namespace
            && (service["name"] == "istiod" || service["name"] == *of_revision)
    }
}

pub(super) async fn believe(client: &Client, ours: &Ours, root: &str) -> kube::Result<()> {
    let injectors: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    patch_all(&injectors, ours, root, None).await?;
    let validators: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    patch_all(&validators, ours, root, Some("Fail")).await
}

async fn patch_all<K>(
    configurations: &Api<K>,
    ours: &Ours,
    root: &str,
    policy: Option<&str>,
) -> kube::Result<()>
where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Serialize,
{
    let labelled = ListParams::default().labels(&format!("istio.io/rev={}", ours.revision));
    for configuration in bounded(configurations.list(&labelled)).await? {
        let value = serde_json::to_value(&configuration).map_err(kube::Error::SerdeError)?;
        if let Some(patch) = patch(&value, ours, root, policy) {
            let (name, parameters) = (configuration.name_any(), PatchParams::default());
            bounded(configurations.patch(&name, &parameters, &patch)).await?;
        }
    }
    Ok(())
}

/// What must change in a configuration, if anything.
fn patch(
    configuration: &Value,
    ours: &Ours,
    root: &str,
    policy: Option<&str>,
) -> Option<Patch<Value>> {
    let bundle = serde_json::to_value(k8s_openapi::ByteString(root.as_bytes().to_vec())).ok()?;
    let written = configuration["webhooks"].as_array()?;
    let mut webhooks = written.clone();
    for webhook in webhooks
        .iter_mut()
        .filter(|webhook| ours.is_answered(webhook))
    {
        webhook["clientConfig"]["caBundle"] = bundle.clone();
        if let Some(policy) = policy {
            webhook["failurePolicy"] = policy.into();
        }
    }
    // A merge patch replaces the list; with the version it was read at, nobody else's change is lost.
    let version = &configuration["metadata"]["resourceVersion"];
    (webhooks != *written).then(|| {
        Patch::Merge(json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks}))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(namespace: &str, bundle: Value, policy: &str) -> Value {
        let service = json!({"name": "istiod", "namespace": namespace});
        json!({"metadata": {"resourceVersion": "7"}, "webhooks": [
            {"name": "a", "failurePolicy": policy, "clientConfig": {"caBundle": bundle, "service": service}}]})
    }

    #[test]
    fn our_webhooks_are_patched_until_they_trust_the_root_and_bind() {
        let ours = Ours {
            namespace: "istio-system".to_owned(),
            revision: "default".to_owned(),
        };
        let patch = |configuration: &Value| {
            let patch = patch(configuration, &ours, "root", Some("Fail"))?;
            let Patch::Merge(patch) = patch else {
                panic!("a merge patch")
            };
            Some(patch)
        };
        let right = configuration("istio-system", "cm9vdA==".into(), "Fail");
        let made = patch(&configuration("istio-system", Value::Null, "Ignore")).unwrap();
        assert_eq!(made["metadata"]["resourceVersion"], "7");
        assert_eq!(made["webhooks"], right["webhooks"]);
        assert_eq!(patch(&right), None);
        assert_eq!(patch(&configuration("other", Value::Null, "Ignore")), None);
    }
}
