//! What an injection added, in the pod's own words, so that the next one can take it away first.

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use meltemi_core::names::PROXY_CONTAINER;
use serde::{Deserialize, Serialize};

use crate::annotation;
use crate::overlay::Overrides;
use crate::probes::{self, Probers};
use crate::prometheus::{self, Scrape};

/// The value of `sidecar.istio.io/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) init_containers: Option<Vec<String>>,
    pub(crate) containers: Option<Vec<String>>,
    pub(crate) volumes: Option<Vec<String>>,
    pub(crate) image_pull_secrets: Option<Vec<String>>,
    pub(crate) revision: String,
}

/// Undoes an earlier injection. Labels stay: whether they were the user's is not recorded. Says whether there was one.
pub(crate) fn strip(pod: &mut Pod) -> bool {
    let Some(annotations) = pod.metadata.annotations.as_mut() else {
        return false;
    };
    let Some(status) = annotations.remove(annotation::STATUS) else {
        return false;
    };
    let status: Status = serde_json::from_str(&status).unwrap_or_default();
    let overrides = annotations.remove(annotation::OVERRIDES);
    annotations.remove(annotation::REVISION);
    let Some(spec) = pod.spec.as_mut() else {
        return true;
    };
    let probers: Option<Probers> = variable(spec, probes::ENV);
    let scrape: Option<Scrape> = variable(spec, prometheus::ENV);
    prometheus::restore(annotations, scrape.as_ref());
    if annotations.is_empty() {
        pod.metadata.annotations = None;
    }
    remove(spec, &status);
    probes::restore(spec, &probers.unwrap_or_default());
    if let Some(overrides) =
        overrides.and_then(|json| serde_json::from_str::<Overrides>(&json).ok())
    {
        overrides.put_back(spec);
    }
    true
}

fn remove(spec: &mut PodSpec, status: &Status) {
    let keep =
        |names: &Option<Vec<String>>, name: &String| !names.iter().flatten().any(|n| n == name);
    spec.containers
        .retain(|container| keep(&status.containers, &container.name));
    prune(&mut spec.init_containers, |container| {
        keep(&status.init_containers, &container.name)
    });
    prune(&mut spec.volumes, |volume| {
        keep(&status.volumes, &volume.name)
    });
    prune(&mut spec.image_pull_secrets, |secret| {
        keep(&status.image_pull_secrets, &secret.name)
    });
}

fn prune<T>(list: &mut Option<Vec<T>>, keep: impl Fn(&T) -> bool) {
    if let Some(items) = list {
        items.retain(keep);
        if items.is_empty() {
            *list = None;
        }
    }
}

/// A JSON variable of the proxy's environment.
fn variable<T: serde::de::DeserializeOwned>(spec: &PodSpec, name: &str) -> Option<T> {
    let is_proxy = |container: &&Container| container.name == PROXY_CONTAINER;
    let mut containers = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .filter(is_proxy);
    let env = containers.next()?.env.as_ref()?;
    let variable = env.iter().find(|variable| variable.name == name)?;
    serde_json::from_str(variable.value.as_ref()?).ok()
}
