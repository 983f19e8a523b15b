//! The objects of an installation, besides the CRDs.

mod access;
mod autoscaling;
mod config;
mod deployment;
mod service;
mod webhooks;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_core::names::{INJECTOR, ISTIO_SYSTEM, ISTIOD, label};

use crate::{InstallError, Object, Values, crd, sort_for_install};

/// The label that names the control plane's namespace.
pub(crate) const INSTANCE: &str = "app.kubernetes.io/instance";

/// Everything that a control plane needs in a cluster, in the order to apply it. Its namespace is not among it: who
/// installs may not own that ([`namespace`]).
///
/// # Errors
/// An object does not serialise.
pub fn generate(values: &Values) -> Result<Vec<Object>, InstallError> {
    let mut objects = Vec::new();
    for definition in crd::definitions() {
        objects.push(Object::of(&definition)?);
    }
    objects.extend([
        Object::of(&access::service_account(values))?,
        Object::of(&access::cluster_role(values))?,
        Object::of(&access::cluster_role_binding(values))?,
        Object::of(&access::role(values))?,
        Object::of(&access::role_binding(values))?,
        Object::of(&config::mesh(values)?)?,
        Object::of(&config::injector(values)?)?,
        Object::of(&service::service(values))?,
        Object::of(&deployment::deployment(values))?,
    ]);
    if values.pilot.autoscale_enabled {
        objects.push(Object::of(&autoscaling::autoscaler(values))?);
    }
    if values.global.default_pod_disruption_budget.enabled {
        objects.push(Object::of(&autoscaling::disruption_budget(values))?);
    }
    objects.push(Object::of(&webhooks::injector(values))?);
    objects.push(Object::of(&webhooks::validator(values))?);
    sort_for_install(&mut objects);
    Ok(objects)
}

/// The control plane's namespace, for those who may make one.
///
/// # Errors
/// The object does not serialise.
pub fn namespace(values: &Values) -> Result<Object, InstallError> {
    Object::of(&Namespace {
        metadata: ObjectMeta {
            name: Some(values.namespace().to_owned()),
            labels: Some(crd::shared_labels()),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    })
}

/// Who manages an object, by the labels that Kubernetes recommends; [`crate::prunable`] finds it by them.
pub(crate) fn labels(values: &Values) -> BTreeMap<String, String> {
    let mut labels = crd::shared_labels();
    labels.insert("app".to_owned(), ISTIOD.to_owned());
    // Tells the meshes of a cluster apart, also where an object has no namespace.
    labels.insert(INSTANCE.to_owned(), values.namespace().to_owned());
    labels.insert(label::ISTIO_REV.to_owned(), values.revision().to_owned());
    labels
}

fn metadata(values: &Values, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(values.named(name)),
        namespace: Some(values.namespace().to_owned()),
        labels: Some(labels(values)),
        ..ObjectMeta::default()
    }
}

/// Names of cluster-scoped objects end in the namespace, so that two meshes do not share one.
fn cluster_metadata(values: &Values, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(format!("{}-{}", values.named(name), values.namespace())),
        labels: Some(labels(values)),
        ..ObjectMeta::default()
    }
}

/// The webhook configuration of injection; Istio's name, also in other namespaces than the usual one.
fn injector_name(values: &Values) -> String {
    let name = values.named(INJECTOR);
    match values.namespace() {
        ISTIO_SYSTEM => name,
        other => format!("{name}-{other}"),
    }
}

/// What finds the pods of this revision's control plane and no other's.
fn selector(values: &Values) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("app".to_owned(), ISTIOD.to_owned()),
        (label::ISTIO_REV.to_owned(), values.revision().to_owned()),
    ])
}

#[cfg(test)]
mod tests;
