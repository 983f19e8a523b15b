//! Revision tags: names for a revision that stay when the revision changes (Istio, "Stable revision labels").
//!
//! A tag is a webhook configuration of its own, which selects by the tag and calls the revision's Service. The tag `default`
//! owns what names no revision: namespaces with `istio-injection=enabled`, and the validation of objects without a revision.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_core::names::{DEFAULT_REVISION, ISTIOD, label, of_revision};
use serde_json::{Value, json};

use crate::{InstallError, Layer, Name, Object, Values, generate, sort_for_install};

/// The label that names a tag; Istio's.
pub const TAG: &str = "istio.io/tag";
/// Webhooks of a namespace with this label only: of none. Istio's.
const DEACTIVATED: (&str, &str) = ("istio.io/deactivated", "never-match");

const ADMISSION: &str = "admissionregistration.k8s.io/v1";
const MUTATING: &str = "MutatingWebhookConfiguration";
const VALIDATING: &str = "ValidatingWebhookConfiguration";

/// API version and kind of the webhook configurations of injection.
pub const INJECTOR_KIND: (&str, &str) = (ADMISSION, MUTATING);

/// The webhook configuration of a tag.
pub fn tag_webhooks(tag: &str) -> Name {
    Name {
        api_version: ADMISSION,
        kind: MUTATING,
        namespace: String::new(),
        name: format!("istio-revision-tag-{tag}"),
    }
}

/// The labels that find the webhook configurations of a revision, and not those of tags.
pub fn revision_labels(revision: &str) -> String {
    format!("app={ISTIOD},{}={revision}", label::ISTIO_REV)
}

/// What a tag points at, read from the webhooks of the revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub revision: String,
    /// Of the control plane.
    pub namespace: String,
    /// Empty before the control plane has filled it in.
    pub bundle: String,
}

impl Target {
    /// Reads a revision's own webhook configuration; `None` if it calls no Service.
    pub fn of_webhooks(revision: &str, live: &Value) -> Option<Self> {
        let client = &live["webhooks"][0]["clientConfig"];
        Some(Self {
            revision: revision.to_owned(),
            namespace: client["service"]["namespace"].as_str()?.to_owned(),
            bundle: client["caBundle"].as_str().unwrap_or_default().to_owned(),
        })
    }
}

/// The objects of a tag, in the order to apply them. `injects_by_default`: of the tag `default`, also namespaces that say
/// nothing.
///
/// # Errors
/// The tag is no part of a name, or an object does not serialise.
pub fn tag_objects(
    tag: &str,
    target: &Target,
    injects_by_default: bool,
) -> Result<Vec<Object>, InstallError> {
    let selecting = selecting(tag, &target.namespace, injects_by_default)?;
    let mut objects: Vec<Object> = selecting
        .into_iter()
        .filter(|object| match object.kind {
            MUTATING => true,
            VALIDATING => tag == DEFAULT_REVISION,
            _ => false,
        })
        .map(|object| pointed(object, tag, target))
        .collect();
    objects.push(Object::of(&role(tag, target))?);
    objects.push(Object::of(&binding(tag, target))?);
    sort_for_install(&mut objects);
    Ok(objects)
}

/// What a control plane of that name would select by.
fn selecting(
    tag: &str,
    namespace: &str,
    injects_by_default: bool,
) -> Result<Vec<Object>, InstallError> {
    let set = [
        format!("revision={tag}"),
        format!("global.istioNamespace={namespace}"),
        format!("sidecarInjectorWebhook.enableNamespacesByDefault={injects_by_default}"),
    ];
    let layers: Vec<Layer> = set.into_iter().map(Layer::Set).collect();
    generate(&Values::read(&layers)?.0)
}

/// The same webhooks under the tag's name, calling the target.
fn pointed(mut object: Object, tag: &str, target: &Target) -> Object {
    object.name = match object.kind {
        MUTATING => tag_webhooks(tag).name,
        _ => "istiod-default-validator".to_owned(),
    };
    let content = &mut object.content;
    content["metadata"]["name"] = object.name.as_str().into();
    content["metadata"]["labels"] = json!(labels(tag, target));
    let webhooks = content["webhooks"].as_array_mut();
    for webhook in webhooks.into_iter().flatten() {
        let client = &mut webhook["clientConfig"];
        client["service"]["name"] = of_revision(ISTIOD, &target.revision).into();
        if !target.bundle.is_empty() {
            client["caBundle"] = target.bundle.as_str().into();
        }
    }
    object
}

/// Not those of an installation: a tag outlives what its revision is installed with. The control plane finds what it gives
/// its root by the revision.
fn labels(tag: &str, target: &Target) -> BTreeMap<String, String> {
    let mut labels = crate::crd::shared_labels();
    labels.extend([
        (
            "app.kubernetes.io/name".to_owned(),
            "istio-revision-tag".to_owned(),
        ),
        (TAG.to_owned(), tag.to_owned()),
        (label::ISTIO_REV.to_owned(), target.revision.clone()),
    ]);
    labels
}

fn metadata(tag: &str, target: &Target) -> ObjectMeta {
    ObjectMeta {
        name: Some(format!("{}-{}", tag_webhooks(tag).name, target.namespace)),
        labels: Some(labels(tag, target)),
        ..ObjectMeta::default()
    }
}

/// A control plane may fill in the CA bundle of its own webhooks only; a tag's are named by whoever makes the tag.
fn role(tag: &str, target: &Target) -> ClusterRole {
    let rule = |resource: &str, name: String| PolicyRule {
        api_groups: Some(vec!["admissionregistration.k8s.io".to_owned()]),
        resources: Some(vec![resource.to_owned()]),
        resource_names: Some(vec![name]),
        verbs: vec!["update".to_owned(), "patch".to_owned()],
        ..PolicyRule::default()
    };
    let mut rules = vec![rule(
        "mutatingwebhookconfigurations",
        tag_webhooks(tag).name,
    )];
    if tag == DEFAULT_REVISION {
        let validator = "istiod-default-validator".to_owned();
        rules.push(rule("validatingwebhookconfigurations", validator));
    }
    ClusterRole {
        metadata: metadata(tag, target),
        rules: Some(rules),
        ..ClusterRole::default()
    }
}

fn binding(tag: &str, target: &Target) -> ClusterRoleBinding {
    let metadata = metadata(tag, target);
    ClusterRoleBinding {
        role_ref: RoleRef {
            api_group: Some("rbac.authorization.k8s.io".to_owned()),
            kind: "ClusterRole".to_owned(),
            name: metadata.name.clone().unwrap_or_default(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".to_owned(),
            name: of_revision(ISTIOD, &target.revision),
            namespace: Some(target.namespace.clone()),
            ..Subject::default()
        }]),
        metadata,
    }
}

/// Kinds of the objects of tags, to find them by the label [`TAG`].
pub const TAG_KINDS: [(&str, &str); 4] = [
    (ADMISSION, MUTATING),
    (ADMISSION, VALIDATING),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
];

/// Takes from the objects of the default revision what the tag `default` gives to another one: two control planes must not
/// own the same pods. Whatever names the revision itself stays its own, but for `istio.io/rev=default`.
pub fn yield_to_default_tag(objects: &mut [Object]) {
    let (name, value) = DEACTIVATED;
    let never = json!({"matchLabels": {name: value}});
    for object in objects {
        let is_default = object.content["metadata"]["labels"][label::ISTIO_REV] == DEFAULT_REVISION;
        let is_injector = object.kind == MUTATING && is_default;
        let webhooks = object.content["webhooks"].as_array_mut();
        for webhook in webhooks.into_iter().flatten() {
            // The one for objects that name no revision.
            if is_injector || webhook["name"] == "validation.istio.io" {
                webhook["namespaceSelector"] = never.clone();
            }
        }
    }
}

/// One tag as the cluster has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tagged {
    pub tag: String,
    pub revision: String,
    /// Namespaces that choose their control plane by it.
    pub namespaces: Vec<String>,
}

/// The tags among webhook configurations, by name.
pub fn tags(webhooks: &[Value], namespaces: &[Value]) -> Vec<Tagged> {
    let label = |object: &Value, name: &str| {
        let value = object["metadata"]["labels"][name].as_str();
        value.map(str::to_owned)
    };
    let mut found: Vec<Tagged> = webhooks
        .iter()
        .filter_map(|webhook| {
            let tag = label(webhook, TAG)?;
            Some(Tagged {
                namespaces: choosing(&tag, namespaces),
                revision: label(webhook, label::ISTIO_REV).unwrap_or_default(),
                tag,
            })
        })
        .collect();
    found.sort_by(|one, other| one.tag.cmp(&other.tag));
    found
}

/// The namespaces whose labels choose a tag or revision. `istio-injection` is stronger than a revision beside it.
pub fn choosing(name: &str, namespaces: &[Value]) -> Vec<String> {
    let chooses = |namespace: &&Value| {
        let labels = &namespace["metadata"]["labels"];
        match labels[label::ISTIO_INJECTION].as_str() {
            Some("enabled") => name == DEFAULT_REVISION,
            Some(_) => false,
            None => labels[label::ISTIO_REV] == *name,
        }
    };
    let names = namespaces.iter().filter(chooses);
    let mut names: Vec<String> = names
        .filter_map(|namespace| namespace["metadata"]["name"].as_str())
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            revision: "canary".to_owned(),
            namespace: "mesh".to_owned(),
            bundle: "eA==".to_owned(),
        }
    }

    #[test]
    fn a_tag_selects_by_its_name_and_calls_its_revision() {
        let objects = tag_objects("prod", &target(), false).unwrap();
        let names: Vec<String> = objects.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "ClusterRole istio-revision-tag-prod-mesh",
                "ClusterRoleBinding istio-revision-tag-prod-mesh",
                "MutatingWebhookConfiguration istio-revision-tag-prod",
            ]
        );
        let webhooks = &objects[2].content["webhooks"];
        assert_eq!(webhooks.as_array().unwrap().len(), 2);
        let expressions = &webhooks[0]["namespaceSelector"]["matchExpressions"];
        assert_eq!(expressions[0]["values"], json!(["prod"]));
        let client = &webhooks[1]["clientConfig"];
        assert_eq!(client["caBundle"], "eA==");
        let service =
            json!({"name": "istiod-canary", "namespace": "mesh", "path": "/inject", "port": 443});
        assert_eq!(client["service"], service);
        let account = &objects[1].content["subjects"][0];
        assert_eq!(account["name"], "istiod-canary");
        // An installation of the revision must not take it for something of its own.
        let values = Values::read(&[Layer::Set("revision=canary".to_owned())])
            .unwrap()
            .0;
        for (_, _, labels) in crate::prunable(&values, crate::Purge::Revision) {
            let has_all = labels.split(',').all(|label| {
                let (name, value) = label.split_once('=').unwrap();
                objects[2].content["metadata"]["labels"][name] == value
            });
            assert!(!has_all, "{labels}");
        }
    }

    #[test]
    fn the_default_tag_owns_what_names_no_revision() {
        let objects = tag_objects("default", &target(), true).unwrap();
        let names = |kind: &str| -> Vec<&str> {
            let object = objects.iter().find(|object| object.kind == kind).unwrap();
            let webhooks = object.content["webhooks"].as_array().unwrap().iter();
            webhooks
                .filter_map(|webhook| webhook["name"].as_str())
                .collect()
        };
        assert_eq!(names(MUTATING).len(), 5);
        assert!(names(MUTATING).contains(&"namespace.sidecar-injector.istio.io"));
        assert!(names(VALIDATING).contains(&"validation.istio.io"));

        let mut own = generate(&Values::read(&[]).unwrap().0).unwrap();
        yield_to_default_tag(&mut own);
        let never = |object: &Object, at: usize| {
            let selector = &object.content["webhooks"][at]["namespaceSelector"];
            selector["matchLabels"]["istio.io/deactivated"] == "never-match"
        };
        let of = |kind: &str| own.iter().find(|object| object.kind == kind).unwrap();
        assert!((0..4).all(|at| never(of(MUTATING), at)));
        assert!(!never(of(VALIDATING), 0) && never(of(VALIDATING), 1));
    }

    #[test]
    fn tags_are_listed_with_the_namespaces_that_choose_them() {
        let namespace =
            |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
        let namespaces = [
            namespace("b", json!({"istio.io/rev": "prod"})),
            namespace("a", json!({"istio.io/rev": "prod"})),
            namespace(
                "c",
                json!({"istio-injection": "enabled", "istio.io/rev": "prod"}),
            ),
            namespace(
                "d",
                json!({"istio-injection": "disabled", "istio.io/rev": "prod"}),
            ),
        ];
        let webhook = |labels: Value| json!({"metadata": {"labels": labels}});
        let webhooks = [
            webhook(json!({"istio.io/rev": "canary", "istio.io/tag": "prod"})),
            webhook(json!({"istio.io/rev": "canary"})),
            webhook(json!({"istio.io/rev": "old", "istio.io/tag": "default"})),
        ];
        let found = tags(&webhooks, &namespaces);
        let tagged = |tag: &str, revision: &str, namespaces: &[&str]| Tagged {
            tag: tag.to_owned(),
            revision: revision.to_owned(),
            namespaces: namespaces.iter().map(ToString::to_string).collect(),
        };
        assert_eq!(
            found,
            [
                tagged("default", "old", &["c"]),
                tagged("prod", "canary", &["a", "b"])
            ]
        );
    }
}
