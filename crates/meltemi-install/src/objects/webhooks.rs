//! Which pods and which objects the API server shows to the control plane.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, MutatingWebhookConfiguration, RuleWithOperations, ServiceReference,
    ValidatingWebhook, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use meltemi_core::names::{INJECTOR, ISTIOD, label};

use super::{labels, metadata};
use crate::Values;

/// Where nothing is ever injected, so that a control plane that does not answer cannot keep the cluster's own pods from
/// starting.
const SYSTEM_NAMESPACES: &[&str] = &[
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
const GROUPS: &[&str] = &[
    "extensions.istio.io",
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
];

/// Istio's webhooks (istio.io, "Sidecar injection"): by the revision or by `istio-injection` and `sidecar.istio.io/inject`,
/// on a namespace or on a pod. Each pod matches at most one of them. Those without a revision are the default revision's.
pub(super) fn injector(values: &Values) -> MutatingWebhookConfiguration {
    let revision = [values.revision()];
    let of_namespace = |requirements: Vec<LabelSelectorRequirement>| {
        let outside = not_in(NAMESPACE_NAME, SYSTEM_NAMESPACES);
        requirements.into_iter().chain([outside]).collect()
    };
    let unmarked = || vec![absent(label::ISTIO_REV), absent(label::ISTIO_INJECTION)];
    let mut webhooks = vec![
        webhook(
            values,
            "rev.namespace",
            of_namespace(vec![
                one_of(label::ISTIO_REV, &revision),
                absent(label::ISTIO_INJECTION),
            ]),
            vec![not_in(label::SIDECAR_INJECT, &["false"])],
        ),
        webhook(
            values,
            "rev.object",
            of_namespace(unmarked()),
            vec![
                not_in(label::SIDECAR_INJECT, &["false"]),
                one_of(label::ISTIO_REV, &revision),
            ],
        ),
    ];
    if values.is_default_revision() {
        webhooks.push(webhook(
            values,
            "namespace",
            of_namespace(vec![one_of(label::ISTIO_INJECTION, &["enabled"])]),
            vec![not_in(label::SIDECAR_INJECT, &["false"])],
        ));
        webhooks.push(webhook(
            values,
            "object",
            of_namespace(unmarked()),
            vec![
                one_of(label::SIDECAR_INJECT, &["true"]),
                absent(label::ISTIO_REV),
            ],
        ));
        if values.sidecar_injector_webhook.enable_namespaces_by_default {
            webhooks.push(webhook(
                values,
                "auto",
                of_namespace(unmarked()),
                vec![absent(label::SIDECAR_INJECT), absent(label::ISTIO_REV)],
            ));
        }
    }
    let mut metadata = metadata(values, INJECTOR);
    metadata.name = Some(super::injector_name(values));
    metadata.namespace = None;
    MutatingWebhookConfiguration {
        metadata,
        webhooks: Some(webhooks),
    }
}

fn webhook(
    values: &Values,
    name: &str,
    namespaces: Vec<LabelSelectorRequirement>,
    objects: Vec<LabelSelectorRequirement>,
) -> MutatingWebhook {
    let reinvocation = &values.sidecar_injector_webhook.reinvocation_policy;
    MutatingWebhook {
        name: format!("{name}.sidecar-injector.istio.io"),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: client(values, "/inject"),
        // A pod that shall be in the mesh must not start outside of it.
        failure_policy: Some("Fail".to_owned()),
        match_policy: Some("Equivalent".to_owned()),
        namespace_selector: Some(expressions(namespaces)),
        object_selector: Some(expressions(objects)),
        reinvocation_policy: (!reinvocation.is_empty()).then(|| reinvocation.clone()),
        rules: Some(vec![RuleWithOperations {
            api_groups: Some(vec![String::new()]),
            api_versions: Some(vec!["v1".to_owned()]),
            operations: Some(vec!["CREATE".to_owned()]),
            resources: Some(vec!["pods".to_owned()]),
            scope: Some("Namespaced".to_owned()),
        }]),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(10),
        ..MutatingWebhook::default()
    }
}

/// `istio-validator-istio-system`, with the revision inside for other revisions.
pub(super) fn validator_name(values: &Values) -> String {
    format!("{}-{}", values.named("istio-validator"), values.namespace())
}

/// Ignores a control plane that does not answer, until that has shown that it does and says Fail here.
pub(super) fn validator(values: &Values) -> ValidatingWebhookConfiguration {
    let mut webhooks = vec![validating(
        values,
        "rev.validation.istio.io",
        one_of(label::ISTIO_REV, &[values.revision()]),
    )];
    if values.is_default_revision() {
        let unmarked = absent(label::ISTIO_REV);
        webhooks.push(validating(values, "validation.istio.io", unmarked));
    }
    let mut metadata = metadata(values, "istio-validator");
    metadata.name = Some(validator_name(values));
    metadata.namespace = None;
    let mut labels = labels(values);
    labels.insert("istio".to_owned(), ISTIOD.to_owned());
    metadata.labels = Some(labels);
    ValidatingWebhookConfiguration {
        metadata,
        webhooks: Some(webhooks),
    }
}

fn validating(values: &Values, name: &str, objects: LabelSelectorRequirement) -> ValidatingWebhook {
    let all = |items: &[&str]| Some(items.iter().map(ToString::to_string).collect());
    ValidatingWebhook {
        name: name.to_owned(),
        admission_review_versions: vec!["v1".to_owned()],
        client_config: client(values, "/validate"),
        failure_policy: Some("Ignore".to_owned()),
        match_policy: Some("Equivalent".to_owned()),
        object_selector: Some(expressions(vec![objects])),
        rules: Some(vec![RuleWithOperations {
            api_groups: all(GROUPS),
            api_versions: all(&["*"]),
            operations: all(&["CREATE", "UPDATE"]),
            resources: all(&["*"]),
            scope: Some("*".to_owned()),
        }]),
        side_effects: "None".to_owned(),
        timeout_seconds: Some(10),
        ..ValidatingWebhook::default()
    }
}

/// Without a CA bundle, which the control plane fills in.
fn client(values: &Values, path: &str) -> WebhookClientConfig {
    WebhookClientConfig {
        service: Some(ServiceReference {
            name: values.named(ISTIOD),
            namespace: values.namespace().to_owned(),
            path: Some(path.to_owned()),
            port: Some(443),
        }),
        ..WebhookClientConfig::default()
    }
}

fn expressions(requirements: Vec<LabelSelectorRequirement>) -> LabelSelector {
    LabelSelector {
        match_expressions: Some(requirements),
        ..LabelSelector::default()
    }
}

fn one_of(key: &str, values: &[&str]) -> LabelSelectorRequirement {
    requirement(key, "In", values)
}

/// Also without the label.
fn not_in(key: &str, values: &[&str]) -> LabelSelectorRequirement {
    requirement(key, "NotIn", values)
}

fn absent(key: &str) -> LabelSelectorRequirement {
    requirement(key, "DoesNotExist", &[])
}

fn requirement(key: &str, operator: &str, values: &[&str]) -> LabelSelectorRequirement {
    LabelSelectorRequirement {
        key: key.to_owned(),
        operator: operator.to_owned(),
        values: (!values.is_empty()).then(|| values.iter().map(ToString::to_string).collect()),
    }
}
