//! The chart `gateway`: templates by hand, since `meltemi install` makes no such objects, and a schema out of these types.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, DeploymentStrategy};
use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerBehavior};
use k8s_openapi::api::core::v1::{
    Affinity, Container, EnvVar, Lifecycle, LocalObjectReference, PodSecurityContext, Probe,
    SecurityContext, Service, ServiceAccount, ServicePort, Toleration, TopologySpreadConstraint,
    Volume, VolumeMount,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use meltemi_api::schema::{self, Schema};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::helm::{helm, rendered};
use super::{GATEWAY, path};
use crate::values::{Amounts, Text};

/// What a file of values may say. `values.yaml` has the meaning of each.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(dead_code, reason = "only the names and types count")]
pub(super) struct Values {
    name: String,
    revision: Text,
    /// Charts share it, and each has keys of its own there.
    global: BTreeMap<String, Value>,
    kind: String,
    replica_count: i32,
    rbac: Rbac,
    service_account: Account,
    pod_annotations: BTreeMap<String, Text>,
    security_context: PodSecurityContext,
    container_security_context: SecurityContext,
    service: Entry,
    resources: Amounts,
    autoscaling: Autoscaling,
    pod_disruption_budget: Budget,
    env: BTreeMap<String, Text>,
    env_var_from: Vec<EnvVar>,
    strategy: DeploymentStrategy,
    min_ready_seconds: Option<i32>,
    readiness_probe: Probe,
    lifecycle: Lifecycle,
    termination_grace_period_seconds: i64,
    labels: BTreeMap<String, Text>,
    annotations: BTreeMap<String, Text>,
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
    topology_spread_constraints: Vec<TopologySpreadConstraint>,
    affinity: Affinity,
    priority_class_name: String,
    image_pull_policy: String,
    image_pull_secrets: Vec<LocalObjectReference>,
    volumes: Vec<Volume>,
    volume_mounts: Vec<VolumeMount>,
    init_containers: Vec<Container>,
    additional_containers: Vec<Container>,
    /// For the condition of a parent chart.
    enabled: bool,
    // Istio's, and nothing acts on them.
    network_gateway: Value,
    profile: Value,
    compatibility_version: Value,
    unprivileged_port: Value,
    run_as_root: Value,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(dead_code, reason = "only the names and types count")]
struct Rbac {
    enabled: bool,
    control_plane: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
#[allow(dead_code, reason = "only the names and types count")]
struct Account {
    create: bool,
    annotations: BTreeMap<String, Text>,
    name: String,
}

/// The Service.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(dead_code, reason = "only the names and types count")]
struct Entry {
    #[serde(rename = "type")]
    type_: String,
    annotations: BTreeMap<String, Text>,
    selector_labels: BTreeMap<String, Text>,
    ports: Vec<ServicePort>,
    #[serde(rename = "clusterIP")]
    cluster_ip: String,
    #[serde(rename = "loadBalancerIP")]
    load_balancer_ip: String,
    load_balancer_class: String,
    load_balancer_source_ranges: Vec<String>,
    external_traffic_policy: String,
    #[serde(rename = "externalIPs")]
    external_ips: Vec<String>,
    ip_family_policy: String,
    ip_families: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(dead_code, reason = "only the names and types count")]
struct Autoscaling {
    enabled: bool,
    min_replicas: i32,
    max_replicas: i32,
    #[serde(rename = "targetCPUUtilizationPercentage")]
    cpu: i32,
    #[serde(rename = "targetMemoryUtilizationPercentage")]
    memory: i32,
    autoscale_behavior: HorizontalPodAutoscalerBehavior,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(dead_code, reason = "only the names and types count")]
struct Budget {
    min_available: Text,
    max_unavailable: Text,
    unhealthy_pod_eviction_policy: String,
}

/// What types do not say, by path.
pub(super) const FURTHER: &[(&str, &str)] = &[
    (
        "global",
        r#"{"properties": {"istioNamespace": {"type": "string"}}}"#,
    ),
    ("kind", r#"{"enum": ["Deployment", "DaemonSet"]}"#),
    (
        "service.type",
        r#"{"enum": ["LoadBalancer", "NodePort", "ClusterIP", "None"]}"#,
    ),
    (
        "imagePullPolicy",
        r#"{"enum": ["", "Always", "IfNotPresent", "Never"]}"#,
    ),
];

fn render(set: &[&str]) -> Output {
    let chart = path(GATEWAY, "").display().to_string();
    let mut words = vec!["template", "istio-ingress", &chart, "-n", "edge"];
    for set in set {
        words.extend(["--set-json", set]);
    }
    helm(&words)
}

/// An object holds nothing that its kind does not know: what the type reads is what there is.
fn is_whole<T: DeserializeOwned + serde::Serialize>(object: &Value) {
    let typed: T = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), *object);
}

fn judge(objects: &BTreeMap<String, Value>) {
    for (name, object) in objects {
        match name.split(' ').next().unwrap() {
            "DaemonSet" => is_whole::<DaemonSet>(object),
            "Deployment" => is_whole::<Deployment>(object),
            "HorizontalPodAutoscaler" => is_whole::<HorizontalPodAutoscaler>(object),
            "PodDisruptionBudget" => is_whole::<PodDisruptionBudget>(object),
            "Role" => is_whole::<Role>(object),
            "RoleBinding" => is_whole::<RoleBinding>(object),
            "Service" => is_whole::<Service>(object),
            "ServiceAccount" => is_whole::<ServiceAccount>(object),
            other => panic!("nobody judges {other}"),
        }
    }
}

/// Together they say every value, differently from its default.
const CASES: &[&str] = &[
    r#"name="edge""#,
    r#"revision="canary""#,
    r#"global={"istioNamespace":"mesh","hub":"example.test"}"#,
    r#"kind="DaemonSet""#,
    r#"replicaCount=3"#,
    r#"rbac.enabled=false"#,
    r#"rbac.controlPlane="istiod-canary""#,
    r#"serviceAccount.create=false"#,
    r#"serviceAccount.annotations={"a":"b"}"#,
    r#"serviceAccount.name="own""#,
    r#"podAnnotations={"a":true}"#,
    r#"securityContext={"fsGroup":7}"#,
    r#"containerSecurityContext={"runAsUser":7}"#,
    r#"service.type="ClusterIP""#,
    r#"service.annotations={"a":1}"#,
    r#"service.selectorLabels={"a":"b"}"#,
    r#"service.ports=[{"name":"tcp","port":31400,"targetPort":31400}]"#,
    r#"service.clusterIP="10.96.0.9""#,
    r#"service.loadBalancerIP="192.0.2.1""#,
    r#"service.loadBalancerClass="example.test/lb""#,
    r#"service.loadBalancerSourceRanges=["192.0.2.0/24"]"#,
    r#"service.externalTrafficPolicy="Local""#,
    r#"service.externalIPs=["192.0.2.2"]"#,
    r#"service.ipFamilyPolicy="PreferDualStack""#,
    r#"service.ipFamilies=["IPv4"]"#,
    r#"resources={"requests":{"cpu":"1"}}"#,
    r#"autoscaling.enabled=false"#,
    r#"autoscaling.minReplicas=2"#,
    r#"autoscaling.maxReplicas=7"#,
    r#"autoscaling.targetCPUUtilizationPercentage=60"#,
    r#"autoscaling.targetMemoryUtilizationPercentage=60"#,
    r#"autoscaling.autoscaleBehavior={"scaleDown":{"stabilizationWindowSeconds":9}}"#,
    r#"podDisruptionBudget={"minAvailable":1}"#,
    r#"podDisruptionBudget={"maxUnavailable":"50%"}"#,
    r#"podDisruptionBudget={"minAvailable":1,"unhealthyPodEvictionPolicy":"AlwaysAllow"}"#,
    r#"env={"A":true,"B":2}"#,
    r#"envVarFrom=[{"name":"C","valueFrom":{"fieldRef":{"fieldPath":"spec.nodeName"}}}]"#,
    r#"strategy={"rollingUpdate":{"maxSurge":1}}"#,
    r#"minReadySeconds=4"#,
    r#"readinessProbe={"tcpSocket":{"port":443}}"#,
    r#"lifecycle={"preStop":{"exec":{"command":["sleep","5"]}}}"#,
    r#"terminationGracePeriodSeconds=5"#,
    r#"labels={"istio":"ingressgateway","app":"edge","team":"a"}"#,
    r#"annotations={"a":"b"}"#,
    r#"nodeSelector={"a":"b"}"#,
    r#"tolerations=[{"operator":"Exists"}]"#,
    r#"topologySpreadConstraints=[{"maxSkew":1,"topologyKey":"zone","whenUnsatisfiable":"ScheduleAnyway"}]"#,
    r#"affinity={"podAntiAffinity":{"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":1,"podAffinityTerm":{"topologyKey":"zone"}}]}}"#,
    r#"priorityClassName="system-cluster-critical""#,
    r#"imagePullPolicy="IfNotPresent""#,
    r#"imagePullSecrets=[{"name":"a"}]"#,
    r#"volumes=[{"name":"a","emptyDir":{}}]"#,
    r#"volumeMounts=[{"name":"a","mountPath":"/a"}]"#,
    r#"initContainers=[{"name":"a","image":"b"}]"#,
    r#"additionalContainers=[{"name":"a","image":"b"}]"#,
];

/// These are accepted, and count for nothing.
const COUNT_FOR_NOTHING: &[&str] = &[
    r#"enabled=false"#,
    r#"networkGateway="network1""#,
    r#"profile="demo""#,
    r#"compatibilityVersion="1.20""#,
    r#"unprivilegedPort="auto""#,
    r#"runAsRoot=true"#,
    r#"global={"hub":"example.test","proxy":{"image":"proxyv2"}}"#,
];

/// The names of values, down to where they are Kubernetes' own or the user's.
fn places(schema: &Schema, above: &str, found: &mut BTreeSet<String>) {
    let Schema::Message(message) = schema else {
        found.insert(above.to_owned());
        return;
    };
    for (name, below) in &message.fields {
        match above {
            "" if OURS.contains(&name.as_str()) => places(below, name, found),
            "" => drop(found.insert(name.clone())),
            above => drop(found.insert(format!("{above}.{name}"))),
        }
    }
}

/// Groups whose names are ours.
const OURS: [&str; 5] = [
    "autoscaling",
    "podDisruptionBudget",
    "rbac",
    "service",
    "serviceAccount",
];

#[test]
fn every_value_of_the_gateway_counts() {
    let default = rendered(&render(&[]));
    judge(&default);
    // What counts without autoscaling only.
    let unscaled = "autoscaling.enabled=false";
    let other = rendered(&render(&[unscaled]));
    let mut missing = BTreeSet::new();
    places(&schema::of::<Values>(), "", &mut missing);
    for case in CASES {
        let objects = rendered(&render(&[case]));
        judge(&objects);
        let counts = objects != default || rendered(&render(&[unscaled, case])) != other;
        assert!(counts, "{case}");
        let (place, value) = case.split_once('=').unwrap();
        missing.remove(place);
        let value: Value = serde_json::from_str(value).unwrap();
        for name in value.as_object().into_iter().flat_map(|value| value.keys()) {
            missing.remove(&format!("{place}.{name}"));
        }
    }
    for case in COUNT_FOR_NOTHING {
        assert_eq!(rendered(&render(&[case])), default, "{case}");
        missing.remove(case.split_once('=').unwrap().0);
    }
    assert!(missing.is_empty(), "no case says {missing:?}");
}

/// The object of a kind.
fn only<'a>(objects: &'a BTreeMap<String, Value>, kind: &str) -> &'a Value {
    let mut objects = objects.values().filter(|object| object["kind"] == kind);
    let object = objects.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(objects.next().is_none(), "several of {kind}");
    object
}

#[test]
fn selectors_find_the_pods() {
    for set in [
        &[][..],
        &[r#"name="edge""#],
        &[r#"labels.app="edge""#],
        &[r#"labels.istio="ingressgateway""#, r#"revision="canary""#],
        &[
            r#"labels={"app":"edge","istio":"edge","team":1}"#,
            r#"service.selectorLabels={"team":1}"#,
        ],
    ] {
        let mut set = set.to_vec();
        set.push(r#"podDisruptionBudget={"minAvailable":1}"#);
        let objects = rendered(&render(&set));
        let deployment = &only(&objects, "Deployment")["spec"];
        let labels = &deployment["template"]["metadata"]["labels"];
        for selector in [
            &deployment["selector"]["matchLabels"],
            &only(&objects, "Service")["spec"]["selector"],
            &only(&objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        ] {
            let selector = selector.as_object().unwrap();
            assert!(!selector.is_empty(), "{set:?}");
            for (name, value) in selector {
                assert_eq!(labels[name], *value, "{set:?}: {name}");
            }
        }
    }
}

#[test]
fn the_control_plane_of_the_revision_may_read_secrets() {
    let named = r#"rbac.controlPlane="istiod-stable""#;
    for (set, account) in [
        (&[r#"revision="""#][..], "istiod"),
        (&["revision=null"], "istiod"),
        (&[r#"revision="default""#], "istiod"),
        (&[r#"revision="canary""#], "istiod-canary"),
        (&[named], "istiod-stable"),
        (&[r#"revision="prod""#, named], "istiod-stable"),
    ] {
        let objects = rendered(&render(set));
        let subjects = &only(&objects, "RoleBinding")["subjects"];
        let expected =
            json!([{"kind": "ServiceAccount", "name": account, "namespace": "istio-system"}]);
        assert_eq!(*subjects, expected, "{set:?}");
    }
}

#[test]
fn without_a_revision_there_is_no_label_of_one() {
    let default = rendered(&render(&[]));
    assert_eq!(rendered(&render(&["revision=null"])), default);
    let labels = &only(&default, "Deployment")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(labels.get("istio.io/rev"), None);
}

#[test]
fn an_autoscaler_without_targets_has_no_metrics() {
    let objects = rendered(&render(&["autoscaling.targetCPUUtilizationPercentage=0"]));
    judge(&objects);
    let spec = &only(&objects, "HorizontalPodAutoscaler")["spec"];
    assert_eq!(spec.get("metrics"), None);
}

#[test]
fn a_gateway_without_a_service_has_none() {
    let objects = rendered(&render(&[r#"service.type="None""#]));
    assert!(
        objects.keys().all(|name| !name.starts_with("Service ")),
        "{:?}",
        objects.keys()
    );
}

/// A misspelt value is named with the place that it stands in.
#[test]
fn the_gateway_refuses_what_it_does_not_know() {
    for (set, place) in [
        (r#"replicaCout=3"#, "replicaCout"),
        (r#"service.typ="ClusterIP""#, "typ"),
        (r#"service.type="Loadbalancer""#, "service.type"),
        (r#"kind="Job""#, "kind"),
        (
            r#"autoscaling.minReplicas="few""#,
            "autoscaling.minReplicas",
        ),
        (r#"service.ports=[{"prot":1}]"#, "service.ports.0"),
    ] {
        let output = render(&[set]);
        let said = String::from_utf8_lossy(&output.stderr).replace('/', ".");
        assert!(
            !output.status.success() && said.contains(place),
            "{set}: {said}"
        );
    }
}
