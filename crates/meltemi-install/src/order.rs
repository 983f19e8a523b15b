//! In which order objects come and go, and what to wait for.

use serde_json::Value;

use crate::objects::INSTANCE;
use crate::{Object, Values};

/// Kinds in the order of their coming: what others need is there first, and the webhooks, which call the control plane, are
/// last.
const ORDER: &[&str] = &[
    "Namespace",
    "CustomResourceDefinition",
    "ServiceAccount",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "ConfigMap",
    "Service",
    "Deployment",
    "HorizontalPodAutoscaler",
    "PodDisruptionBudget",
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
];

fn rank(kind: &str) -> usize {
    let place = ORDER.iter().position(|known| *known == kind);
    place.unwrap_or(ORDER.len())
}

pub fn sort_for_install(objects: &mut [Object]) {
    objects.sort_by_key(|object| rank(object.kind));
}

/// Webhooks go first: with no control plane behind them they would keep pods from starting.
pub fn sort_for_removal(objects: &mut [Object]) {
    objects.sort_by_key(|object| std::cmp::Reverse(rank(object.kind)));
}

/// How much an uninstallation takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purge {
    /// One revision of one mesh. Definitions stay, and with them what users have configured.
    Revision,
    /// Everything of every revision, and every object of Istio's kinds with the definitions.
    All,
}

/// What to delete: API version, kind, and the labels to find the objects by; in order. The namespace stays: there may be
/// others' objects in it.
pub fn prunable(values: &Values, purge: Purge) -> Vec<(&'static str, &'static str, String)> {
    const KINDS: &[(&str, &str)] = &[
        (
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
        ),
        (
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
        ),
        ("policy/v1", "PodDisruptionBudget"),
        ("autoscaling/v2", "HorizontalPodAutoscaler"),
        ("apps/v1", "Deployment"),
        ("v1", "Service"),
        ("v1", "ConfigMap"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        ("rbac.authorization.k8s.io/v1", "Role"),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        ("v1", "ServiceAccount"),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    ];
    let shared = crate::crd::shared_labels();
    let shared = shared.iter().map(|(name, value)| format!("{name}={value}"));
    let mut labels: Vec<String> = shared.collect();
    if purge == Purge::Revision {
        labels.push(format!("istio.io/rev={}", values.revision()));
        labels.push(format!("{INSTANCE}={}", values.namespace()));
    }
    let labels = labels.join(",");
    let kinds = KINDS.iter();
    kinds
        .filter(|(_, kind)| purge == Purge::All || *kind != "CustomResourceDefinition")
        .map(|(version, kind)| (*version, *kind, labels.clone()))
        .collect()
}

/// What `--wait` waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// A definition is served.
    Established,
    /// The pods of the latest version of a Deployment are up, and no others.
    RolledOut,
    /// The control plane has filled in each webhook's CA bundle.
    Bundled,
}

/// Whether an object is as wished for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    Done,
    /// In words for the person who waits.
    For(String),
    /// It will not come by itself.
    Failed(String),
}

/// What has to become true of an object after it was applied; `None`: nothing.
pub fn awaited(kind: &str) -> Option<Awaited> {
    match kind {
        "CustomResourceDefinition" => Some(Awaited::Established),
        "Deployment" => Some(Awaited::RolledOut),
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => Some(Awaited::Bundled),
        _ => None,
    }
}

impl Awaited {
    /// Judges an object as the API server holds it.
    pub fn judge(self, live: &Value) -> Waiting {
        match self {
            Self::Established => match condition(live, "Established") {
                Some(("True", _)) => Waiting::Done,
                _ => match condition(live, "NamesAccepted") {
                    Some(("False", message)) => Waiting::Failed(message.to_owned()),
                    _ => Waiting::For("the API server to serve it".to_owned()),
                },
            },
            Self::RolledOut => rolled_out(live),
            Self::Bundled => {
                let webhooks = live["webhooks"].as_array();
                let mut webhooks = webhooks.into_iter().flatten();
                let missing = webhooks.find(|webhook| {
                    let bundle = webhook["clientConfig"]["caBundle"].as_str();
                    bundle.unwrap_or_default().is_empty()
                });
                missing.map_or(Waiting::Done, |webhook| {
                    let name = webhook["name"].as_str().unwrap_or_default();
                    Waiting::For(format!("the CA bundle of {name}"))
                })
            }
        }
    }
}

/// As `kubectl rollout status` judges.
fn rolled_out(live: &Value) -> Waiting {
    let status = &live["status"];
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    // Until then the conditions are those of the version before.
    if number(&status["observedGeneration"]) < number(&live["metadata"]["generation"]) {
        return Waiting::For("the Deployment to be looked at".to_owned());
    }
    if let Some(("False", message)) = condition(live, "Progressing") {
        return Waiting::Failed(message.to_owned());
    }
    let wanted = live["spec"]["replicas"].as_i64().unwrap_or(1);
    let updated = number(&status["updatedReplicas"]);
    let available = number(&status["availableReplicas"]);
    let all = number(&status["replicas"]);
    if updated < wanted {
        return Waiting::For(format!("{updated} of {wanted} pods to be new"));
    }
    if all > updated {
        // With no pod to spare, old ones end when new ones are ready.
        let old = all - updated;
        return Waiting::For(format!(
            "{updated} new pods to be ready and {old} old ones to end"
        ));
    }
    if available < wanted {
        return Waiting::For(format!("{available} of {wanted} pods to be ready"));
    }
    Waiting::Done
}

/// Status and message of a condition.
fn condition<'a>(live: &'a Value, name: &str) -> Option<(&'a str, &'a str)> {
    let mut conditions = live["status"]["conditions"].as_array()?.iter();
    let found = conditions.find(|condition| condition["type"] == name)?;
    Some((
        found["status"].as_str().unwrap_or_default(),
        found["message"].as_str().unwrap_or_default(),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{generate, namespace};

    #[test]
    fn definitions_come_first_and_webhooks_go_first() {
        let values = Values::read(&[]).unwrap().0;
        let mut objects = generate(&values).unwrap();
        objects.push(namespace(&values).unwrap());
        sort_for_install(&mut objects);
        assert_eq!(objects[0].kind, "Namespace");
        assert_eq!(objects[1].kind, "CustomResourceDefinition");
        assert!(objects.iter().all(|object| ORDER.contains(&object.kind)));
        sort_for_removal(&mut objects);
        assert_eq!(objects[0].kind, "MutatingWebhookConfiguration");
    }

    #[test]
    fn whatever_is_made_can_be_found_again() {
        let values = Values::read(&[]).unwrap().0;
        let made = generate(&values).unwrap();
        let check = |purge, with_definitions: bool| {
            let found = prunable(&values, purge);
            for object in &made {
                let is_found = found.iter().any(|(version, kind, labels)| {
                    let has = |label: &str| {
                        let (name, value) = label.split_once('=').unwrap();
                        object.content["metadata"]["labels"][name] == value
                    };
                    (*version, *kind) == (object.api_version, object.kind)
                        && labels.split(',').all(has)
                });
                let expected = with_definitions || object.kind != "CustomResourceDefinition";
                assert_eq!(is_found, expected, "{object}");
            }
        };
        check(Purge::Revision, false);
        check(Purge::All, true);
    }

    #[test]
    fn waiting_ends_when_the_cluster_says_so() {
        let waits = |awaited: Awaited, live: Value, expected: &str| match awaited.judge(&live) {
            Waiting::For(reason) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        };
        let established =
            json!({"status": {"conditions": [{"type": "Established", "status": "True"}]}});
        assert_eq!(Awaited::Established.judge(&established), Waiting::Done);
        waits(Awaited::Established, json!({}), "serve");

        let rollout = |status: Value| json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status});
        waits(
            Awaited::RolledOut,
            rollout(json!({"observedGeneration": 1})),
            "looked at",
        );
        let old = json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3});
        waits(Awaited::RolledOut, rollout(old), "1 old ones");
        let starting = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1});
        waits(
            Awaited::RolledOut,
            rollout(starting),
            "1 of 2 pods to be ready",
        );
        let up = json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2});
        assert_eq!(Awaited::RolledOut.judge(&rollout(up)), Waiting::Done);
        let stuck = json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "status": "False", "message": "deadline"}]});
        assert_eq!(
            Awaited::RolledOut.judge(&rollout(stuck)),
            Waiting::Failed("deadline".to_owned())
        );

        let webhooks = json!({"webhooks": [{"name": "a", "clientConfig": {"caBundle": "eA=="}}, {"name": "b", "clientConfig": {}}]});
        waits(Awaited::Bundled, webhooks, "of b");
    }
}
