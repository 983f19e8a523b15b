//! The objects of an installation: applied, waited for, listed, deleted. What they are is `meltemi-install`'s to say.

use std::time::Duration;

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use meltemi_install::{Awaited, Name, Waiting};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::told;
use crate::{Cluster, ClusterError, bounded};

/// Owner of the fields that an installation applies.
const MANAGER: &str = "meltemi-install";
/// Between two looks at what is waited for.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

impl Cluster {
    fn api(&self, name: &Name) -> Api<DynamicObject> {
        let resource = resource(name.api_version, name.kind);
        if name.namespace.is_empty() {
            Api::all_with(self.0.clone(), &resource)
        } else {
            Api::namespaced_with(self.0.clone(), &name.namespace, &resource)
        }
    }

    /// An object; `None` if it is not there, or its kind is not.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn get(&self, name: &Name) -> Result<Option<Value>, ClusterError> {
        let found = bounded(self.api(name).get_opt(&name.name)).await;
        Ok(found.map_err(told)?.map(json))
    }

    /// The API server's version: `v1.36.3`.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn version(&self) -> Result<String, ClusterError> {
        let version = bounded(self.0.apiserver_version()).await.map_err(told)?;
        Ok(version.git_version)
    }

    /// Makes an object; in a dry run, says how it would be.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn create(&self, object: &Value, is_dry_run: bool) -> Result<Value, ClusterError> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = resource(&text(&object["apiVersion"]), &text(&object["kind"]));
        let namespace = text(&object["metadata"]["namespace"]);
        let content = serde_json::from_value(object.clone())
            .map_err(|error| ClusterError::Refused(format!("it is no object: {error}")))?;
        let api: Api<DynamicObject> = if namespace.is_empty() {
            Api::all_with(self.0.clone(), &resource)
        } else {
            Api::namespaced_with(self.0.clone(), &namespace, &resource)
        };
        let parameters = PostParams {
            dry_run: is_dry_run,
            ..PostParams::default()
        };
        let created = bounded(api.create(&parameters, &content)).await;
        created.map(json).map_err(told)
    }

    /// The objects of a kind that carry all of `labels`, in every namespace; none of a kind that is not served.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn labelled(
        &self,
        api_version: &str,
        kind: &str,
        labels: &str,
    ) -> Result<Vec<Value>, ClusterError> {
        let api: Api<DynamicObject> = Api::all_with(self.0.clone(), &resource(api_version, kind));
        match bounded(api.list(&ListParams::default().labels(labels))).await {
            Ok(list) => Ok(list.items.into_iter().map(json).collect()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Vec::new()),
            Err(error) => Err(told(error)),
        }
    }

    /// Server-side apply; what others have set in the same fields is overridden. The object as it is then.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn apply(
        &self,
        name: &Name,
        content: &Value,
        is_dry_run: bool,
    ) -> Result<Value, ClusterError> {
        let mut parameters = PatchParams::apply(MANAGER).force();
        parameters.dry_run = is_dry_run;
        let (api, patch) = (self.api(name), Patch::Apply(content));
        let applied = bounded(api.patch(&name.name, &parameters, &patch)).await;
        applied.map(json).map_err(told)
    }

    /// Deletes an object with all that it owns, and returns when it is gone. It is no error that there is none.
    ///
    /// # Errors
    /// The API server does not answer, or refuses; the object outlasts `timeout`.
    pub async fn delete(&self, name: &Name, timeout: Duration) -> Result<(), ClusterError> {
        let api = self.api(name);
        let gone =
            |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.code == 404);
        match bounded(api.delete(&name.name, &DeleteParams::foreground())).await {
            Ok(_) => {}
            Err(error) if gone(&error) => return Ok(()),
            Err(error) => return Err(told(error)),
        }
        let deadline = Instant::now() + timeout;
        loop {
            let Some(live) = self.get(name).await? else {
                return Ok(());
            };
            // One of the same name that was made since counts as gone.
            if live["metadata"]["deletionTimestamp"].is_null() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ClusterError::Lasting {
                    name: name.to_string(),
                    seconds: timeout.as_secs(),
                    reason: held_by(&live),
                });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until all objects are as wished for, one has failed, or `timeout` is over: those that are not, and why.
    pub async fn wait(
        &self,
        objects: &[(Name, Awaited)],
        timeout: Duration,
    ) -> Vec<(Name, String)> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut left = Vec::new();
            let mut has_failed = false;
            for (name, awaited) in objects {
                let reason = match self.get(name).await {
                    Ok(Some(live)) => match awaited.judge(&live) {
                        Waiting::Done => continue,
                        Waiting::For(reason) => format!("waits for {reason}"),
                        Waiting::Failed(reason) => {
                            has_failed = true;
                            reason
                        }
                    },
                    Ok(None) => "is not there".to_owned(),
                    Err(error) => error.to_string(),
                };
                left.push((name.clone(), reason));
            }
            if left.is_empty() || has_failed || Instant::now() >= deadline {
                return left;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Plurals follow from kinds for all that an installation is made of.
fn resource(api_version: &str, kind: &str) -> ApiResource {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn json(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

/// What keeps an object that is told to go.
fn held_by(live: &Value) -> String {
    let finalizers = live["metadata"]["finalizers"].as_array();
    let names: Vec<&str> = finalizers
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!(", held by its finalizers {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plurals_are_those_of_the_api() {
        let values = meltemi_install::Values::read(&[]).unwrap().0;
        let mut plurals: Vec<String> = meltemi_install::generate(&values)
            .unwrap()
            .iter()
            .map(|object| resource(object.api_version, object.kind).plural)
            .collect();
        plurals.dedup();
        assert_eq!(
            plurals,
            [
                "customresourcedefinitions",
                "serviceaccounts",
                "clusterroles",
                "clusterrolebindings",
                "roles",
                "rolebindings",
                "configmaps",
                "services",
                "deployments",
                "horizontalpodautoscalers",
                "poddisruptionbudgets",
                "validatingwebhookconfigurations",
                "mutatingwebhookconfigurations",
            ]
        );
    }

    #[test]
    fn what_holds_an_object_is_named() {
        let live = json!({"metadata": {"finalizers": ["a", "b"]}});
        assert_eq!(held_by(&live), ", held by its finalizers a, b");
        assert_eq!(held_by(&json!({})), "");
    }
}
