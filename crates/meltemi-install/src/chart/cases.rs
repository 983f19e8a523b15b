//! Values to render both ways. Together they say every value that is read, differently from its default.

use std::collections::BTreeSet;

use meltemi_api::schema::{self, Schema};
use serde_json::Value;

use crate::{Layer, Values};

/// One way to say values: a file, and what `--set` says over it.
pub(super) struct Case {
    pub(super) file: &'static str,
    pub(super) set: &'static [&'static str],
}

const fn set(set: &'static [&'static str]) -> Case {
    Case { file: "", set }
}

const fn file(file: &'static str) -> Case {
    Case { file, set: &[] }
}

pub(super) const CASES: &[Case] = &[
    set(&[]),
    set(&["revision=canary"]),
    set(&["revision=1-30-0"]),
    set(&["revision=20"]),
    set(&["revision=default"]),
    set(&["global.istioNamespace=mesh"]),
    set(&["global.istioNamespace=mesh,revision=canary"]),
    set(&["global.hub=example.test/mesh,global.tag=7"]),
    set(&["global.tag=1.20", "pilot.hub=other.test", "pilot.tag=2"]),
    file("global: {tag: 1.5}\npilot: {tag: 1.25}\n"),
    set(&["pilot.image=example.test/whole:1"]),
    set(&["global.proxy.image=example.test/proxy:1,global.proxy_init.image=other"]),
    set(&["global.imagePullPolicy=Always"]),
    set(&["global.imagePullSecrets={one,two}"]),
    set(&["global.imagePullSecrets[0]=one"]),
    set(&["global.priorityClassName=system-cluster-critical"]),
    set(&["global.logAsJson=true,global.logging.level=ads:debug\\,ca:warn"]),
    set(&["global.meshID=mesh1,global.network=net1,global.multiCluster.clusterName=c1"]),
    set(&["global.meshID=1,global.network=2,global.multiCluster.clusterName=3"]),
    set(&["global.defaultPodDisruptionBudget.enabled=false"]),
    set(&["global.proxy.clusterDomain=example.test"]),
    set(&["global.proxy.logLevel=debug,global.proxy.componentLogLevel=http:trace"]),
    set(&["global.proxy.resources.requests.cpu=1,global.proxy.resources.limits=null"]),
    file("global: {proxy: {resources: {requests: {cpu: 0.5, memory: 1000000000}}}}\n"),
    set(&["pilot.autoscaleEnabled=false,pilot.replicaCount=3"]),
    set(&["pilot.autoscaleMin=2,pilot.autoscaleMax=7,pilot.cpu.targetAverageUtilization=60"]),
    file("pilot: {autoscaleMin: 2, autoscaleMax: 7, cpu: {targetAverageUtilization: 60}}\n"),
    set(&["pilot.rollingMaxSurge=1,pilot.rollingMaxUnavailable=0"]),
    set(&["pilot.rollingMaxSurge=50%,pilot.rollingMaxUnavailable=1"]),
    set(&["pilot.resources.requests.cpu=2,pilot.resources.limits.memory=1Gi"]),
    set(&["pilot.resources.requests=null"]),
    file("pilot:\n  resources:\n    requests: {cpu: 500m, memory: 2Gi}\n    limits: {cpu: 1}\n"),
    file(
        "pilot: {env: {PILOT_ENABLE_X: true, NUMBER: 12345678, FRACTION: 0.5, CLUSTER_ID: mine, A: b}}\n",
    ),
    set(&["pilot.env.A=true,pilot.env.B=2,pilot.env.REVISION=other"]),
    set(&[r"pilot.nodeSelector.kubernetes\.io/os=linux"]),
    file(
        "pilot:\n  tolerations:\n  - {key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 300}\n  - {operator: Exists}\n",
    ),
    file(
        "pilot:\n  affinity:\n    nodeAffinity:\n      requiredDuringSchedulingIgnoredDuringExecution:\n        nodeSelectorTerms:\n\
        \x20       - matchExpressions: [{key: a, operator: In, values: [b, c]}]\n",
    ),
    file("pilot: {affinity: {}, tolerations: [], nodeSelector: {}, podLabels: {}}\n"),
    file(
        "pilot: {podAnnotations: {a: 1, prometheus.io/scrape: false}, podLabels: {b: true, app.kubernetes.io/name: other}}\n",
    ),
    file(
        "pilot: {deploymentLabels: {c: d, app.kubernetes.io/part-of: other}, serviceAnnotations: {e: 1.5}}\n",
    ),
    file(
        "pilot: {serviceAccountAnnotations: {eks.amazonaws.com/role-arn: \"arn:aws:iam::1:role/x\"}}\n",
    ),
    set(&["sidecarInjectorWebhook.enableNamespacesByDefault=true"]),
    set(&["sidecarInjectorWebhook.enableNamespacesByDefault=true,revision=canary"]),
    set(&["sidecarInjectorWebhook.reinvocationPolicy=IfNeeded"]),
    set(&["sidecarInjectorWebhook.reinvocationPolicy="]),
    set(&["sidecarInjectorWebhook.rewriteAppHTTPProbe=false"]),
    file(
        "sidecarInjectorWebhook:\n  neverInjectSelector: [{matchLabels: {a: b}}]\n  alwaysInjectSelector: [{matchExpressions: [{key: c, operator: Exists}]}]\n",
    ),
    set(&["meshConfig.accessLogFile=/dev/stdout,meshConfig.enablePrometheusMerge=false"]),
    set(&["meshConfig.trustDomain=example.test,meshConfig.rootNamespace=root"]),
    set(&["meshConfig.defaultConfig.discoveryAddress=elsewhere.test:15012"]),
    file(
        "meshConfig:\n  defaultConfig: {holdApplicationUntilProxyStarts: true, concurrency: 3, proxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}}\n  \
        connectTimeout: 5s\n  outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n",
    ),
    // Istio's own that nothing reads yet are no error.
    set(&["pilot.traceSampling=1,global.variant=distroless"]),
];

/// What neither takes, and the word that both say of it.
pub(super) const REFUSED: &[(&str, &str)] = &[
    ("pilot.replicaCout=3", "replicaCout"),
    ("global.proxy.logLevl=debug", "logLevl"),
    ("global.hubb=x", "hubb"),
    ("meshConfig.acessLogFile=/dev/stdout", "acessLogFile"),
    ("pilot.autoscaleMin=few", "autoscaleMin"),
    ("pilot.resources.request.cpu=1", "request"),
    ("revision=Canary", "revision"),
    ("global.imagePullPolicy=Sometimes", "imagePullPolicy"),
    (
        "sidecarInjectorWebhook.reinvocationPolicy=no",
        "reinvocationPolicy",
    ),
    ("pilot.cpu=null", "cpu"),
    ("global.proxy=null", "proxy"),
];

impl Case {
    pub(super) fn layers(&self) -> Vec<Layer> {
        let file = Layer::File {
            name: "values.yaml".to_owned(),
            text: self.file.to_owned(),
        };
        let file = (!self.file.is_empty()).then_some(file);
        let set = self.set.iter().map(|set| Layer::Set((*set).to_owned()));
        file.into_iter().chain(set).collect()
    }
}

/// Paths at which two values differ, down to where types know names.
fn differing(
    schema: &Schema,
    ours: &Value,
    theirs: &Value,
    path: &str,
    found: &mut BTreeSet<String>,
) {
    match schema {
        Schema::Message(message) if ours.is_object() || theirs.is_object() => {
            for (name, schema) in &message.fields {
                let path = format!("{path}.{name}");
                differing(schema, &ours[name], &theirs[name], &path, found);
            }
        }
        _ if ours != theirs => drop(found.insert(path.to_owned())),
        _ => {}
    }
}

/// Every place that types know a name for.
fn places(schema: &Schema, path: &str, found: &mut BTreeSet<String>) {
    // Of Kubernetes' own types one field stands for all.
    let is_kubernetes = path == ".pilot.affinity";
    match schema {
        Schema::Message(message) if !is_kubernetes => {
            for (name, schema) in &message.fields {
                places(schema, &format!("{path}.{name}"), found);
            }
        }
        _ => drop(found.insert(path.to_owned())),
    }
}

#[test]
fn cases_say_every_value_that_is_read() {
    let schema = schema::of::<Values>();
    let defaults = Values::merged(&[]).unwrap();
    let mut said = BTreeSet::new();
    for case in CASES {
        let merged = Values::merged(&case.layers()).unwrap();
        differing(&schema, &merged, &defaults, "", &mut said);
    }
    let mut read = BTreeSet::new();
    places(&schema, "", &mut read);
    let missing: Vec<&String> = read
        .iter()
        .filter(|place| !said.iter().any(|said| said.starts_with(place.as_str())))
        .collect();
    assert!(missing.is_empty(), "no case says {missing:?}");
}
