use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::*;
use crate::Layer;

fn values(set: &[&str]) -> Values {
    let layers: Vec<Layer> = set
        .iter()
        .map(|text| Layer::Set((*text).to_owned()))
        .collect();
    Values::read(&layers).unwrap().0
}

fn find<'a>(objects: &'a [Object], kind: &str) -> &'a Value {
    let found = objects.iter().find(|object| object.kind == kind);
    &found.unwrap().content
}

#[test]
fn an_installation_is_small_and_every_object_is_named_once() {
    let objects = generate(&values(&[])).unwrap();
    assert!(objects.len() <= 35, "{}", objects.len());
    let mut names: Vec<String> = objects.iter().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), objects.len());
}

#[test]
fn the_control_plane_has_no_more_rights_than_it_needs() {
    let objects = generate(&values(&[])).unwrap();
    let deployment = find(&objects, "Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["type"],
        "RuntimeDefault"
    );
    let container = &pod["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(
        container["securityContext"]["capabilities"]["drop"][0],
        "ALL"
    );
    assert_eq!(container["resources"]["requests"]["cpu"], "50m");
    for kind in ["ClusterRole", "Role"] {
        let role = find(&objects, kind);
        let rules = role["rules"].as_array().unwrap();
        let reasons = role["metadata"]["annotations"]["meltemi.io/reasons"].as_str();
        assert_eq!(reasons.unwrap().lines().count(), rules.len());
        for rule in rules {
            let all = |field: &str| rule[field].to_string().contains('*');
            assert!(!all("resources") && !all("verbs") && !all("apiGroups"));
            // Secrets are read in the control plane's own namespace only, and changed by name.
            let is_of_secrets = rule["resources"].to_string().contains("secrets");
            let changes = ["update", "patch", "delete"].into_iter();
            let mut changes = changes.filter(|verb| rule["verbs"].to_string().contains(verb));
            let is_named = rule["resourceNames"].is_array();
            assert!(!is_of_secrets || kind == "Role", "{rule}");
            assert!(
                !is_of_secrets || is_named || changes.next().is_none(),
                "{rule}"
            );
        }
    }
}

#[test]
fn selectors_find_the_pods_of_their_revision() {
    for set in [&[][..], &["revision=canary"]] {
        let objects = generate(&values(set)).unwrap();
        let labels = &find(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
        let selectors = [
            &find(&objects, "Deployment")["spec"]["selector"]["matchLabels"],
            &find(&objects, "Service")["spec"]["selector"],
            &find(&objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        ];
        for selector in selectors {
            let pairs = selector.as_object().unwrap();
            assert!(!pairs.is_empty());
            for (name, value) in pairs {
                assert_eq!(&labels[name], value, "{name}");
            }
        }
    }
}

#[test]
fn a_revision_shares_no_object_with_the_default_one() {
    let names = |set: &[&str]| -> Vec<String> {
        let objects = generate(&values(set)).unwrap().into_iter();
        objects
            .filter(|object| object.kind != "CustomResourceDefinition")
            .map(|object| object.to_string())
            .collect()
    };
    let canary = names(&["revision=canary"]);
    assert!(canary.contains(&"Deployment istio-system/istiod-canary".to_owned()));
    let default = names(&[]);
    assert!(!canary.iter().any(|name| default.contains(name)));
}

#[test]
fn values_reach_the_objects() {
    let objects = generate(&values(&[
        "pilot.autoscaleEnabled=false,pilot.replicaCount=3",
        "global.hub=example.test/mesh,global.tag=7",
        "global.imagePullPolicy=Never",
        "meshConfig.accessLogFile=/dev/stdout",
        r"pilot.nodeSelector.kubernetes\.io/os=linux",
        "global.defaultPodDisruptionBudget.enabled=false",
    ]))
    .unwrap();
    let deployment = find(&objects, "Deployment");
    assert_eq!(deployment["spec"]["replicas"], 3);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"]["kubernetes.io/os"], "linux");
    assert_eq!(pod["containers"][0]["image"], "example.test/mesh/pilot:7");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "Never");
    let is_absent = |kind: &str| !objects.iter().any(|object| object.kind == kind);
    assert!(is_absent("HorizontalPodAutoscaler") && is_absent("PodDisruptionBudget"));
    let map = |name: &str| {
        let mut objects = objects.iter();
        let found = objects.find(|object| object.kind == "ConfigMap" && object.name == name);
        found.unwrap().content["data"].clone()
    };
    let mesh = map("istio")["mesh"].as_str().unwrap().to_owned();
    assert!(mesh.contains("accessLogFile: /dev/stdout"), "{mesh}");
    assert!(mesh.contains("istiod.istio-system.svc:15012"), "{mesh}");
    let chart = map("istio-sidecar-injector")["values"].clone();
    let chart: Value = serde_json::from_str(chart.as_str().unwrap()).unwrap();
    assert_eq!(
        chart["global"]["proxy"]["image"],
        "example.test/mesh/proxyv2:7"
    );
}

/// Which webhooks of the configuration a pod matches.
fn matched(
    configuration: &MutatingWebhookConfiguration,
    namespace: &[(&str, &str)],
    pod: &[(&str, &str)],
) -> Vec<String> {
    let webhooks = configuration.webhooks.iter().flatten();
    webhooks
        .filter(|webhook| {
            selects(webhook.namespace_selector.as_ref(), namespace)
                && selects(webhook.object_selector.as_ref(), pod)
        })
        .map(|webhook| {
            webhook
                .name
                .split('.')
                .take(2)
                .collect::<Vec<_>>()
                .join(".")
        })
        .collect()
}

fn selects(selector: Option<&LabelSelector>, labels: &[(&str, &str)]) -> bool {
    let labels: BTreeMap<&str, &str> = labels.iter().copied().collect();
    let expressions = selector.and_then(|selector| selector.match_expressions.as_ref());
    expressions.into_iter().flatten().all(|expression| {
        let value = labels.get(expression.key.as_str());
        let listed = value.is_some_and(|value| {
            let mut values = expression.values.iter().flatten();
            values.any(|listed| listed == value)
        });
        match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "DoesNotExist" => value.is_none(),
            other => panic!("{other}"),
        }
    })
}

#[test]
fn a_pod_is_injected_by_one_webhook_of_one_revision() {
    let default = webhooks::injector(&values(&[]));
    let canary = webhooks::injector(&values(&["revision=canary"]));
    let check = |namespace: &[(&str, &str)], pod: &[(&str, &str)], expected: [&[&str]; 2]| {
        let found = [
            matched(&default, namespace, pod),
            matched(&canary, namespace, pod),
        ];
        assert_eq!(found, expected, "{namespace:?} {pod:?}");
    };
    let enabled = [("istio-injection", "enabled")];
    let revision = [("istio.io/rev", "canary")];
    let asked = [("sidecar.istio.io/inject", "true")];
    let refused = [("sidecar.istio.io/inject", "false")];
    check(&[], &[], [&[], &[]]);
    check(&enabled, &[], [&["namespace.sidecar-injector"], &[]]);
    check(&enabled, &asked, [&["namespace.sidecar-injector"], &[]]);
    check(&enabled, &refused, [&[], &[]]);
    check(&revision, &[], [&[], &["rev.namespace"]]);
    check(&revision, &refused, [&[], &[]]);
    check(&[], &asked, [&["object.sidecar-injector"], &[]]);
    check(&[], &revision, [&[], &["rev.object"]]);
    check(
        &[("istio.io/rev", "default")],
        &[],
        [&["rev.namespace"], &[]],
    );
    // `istio-injection` is stronger than a revision beside it.
    check(
        &[enabled[0], revision[0]],
        &[],
        [&["namespace.sidecar-injector"], &[]],
    );
    check(&[("istio-injection", "disabled")], &asked, [&[], &[]]);
    let system = [("kubernetes.io/metadata.name", "kube-system")];
    check(&system, &asked, [&[], &[]]);
}

#[test]
fn namespaces_without_a_label_are_injected_when_asked_for() {
    let set = "sidecarInjectorWebhook.enableNamespacesByDefault=true";
    let webhooks = webhooks::injector(&values(&[set]));
    assert_eq!(matched(&webhooks, &[], &[]), ["auto.sidecar-injector"]);
    let asked = [("sidecar.istio.io/inject", "true")];
    assert_eq!(matched(&webhooks, &[], &asked), ["object.sidecar-injector"]);
    assert!(matched(&webhooks, &[("istio-injection", "disabled")], &[]).is_empty());
}
