//! Fields that Kubernetes knows and the lab cannot give: each use is a warning that names the field.

use std::collections::BTreeMap;

use meltemi_api::{Kind, ObjectKey};
use meltemi_core::{Diagnostic, FieldPath};
use serde_json::Value;

/// A field and what happens instead of what it asks.
type Table = &'static [(&'static str, &'static str)];

const ONE_NODE: &str = "there is one node, which takes every pod";
const NO_IMAGES: &str = "no image is pulled";
const NO_LIMITS: &str = "processes share the machine without limits";
const NO_PROFILES: &str = "the machine's own security settings hold";

/// Pod fields that the lab does not act on.
const POD: Table = &[
    ("hostNetwork", "the pod gets a network of its own"),
    ("hostPID", "the pod sees the lab's processes only"),
    ("hostIPC", "the pod sees the lab's processes only"),
    ("hostUsers", "the lab decides about user namespaces"),
    ("dnsConfig", "the cluster's DNS is used"),
    ("hostnameOverride", "the pod has the name of the pod"),
    ("setHostnameAsFQDN", "the pod has its short name"),
    (
        "runtimeClassName",
        "containers are processes of this machine",
    ),
    ("os", "containers are processes of this machine"),
    ("activeDeadlineSeconds", "the pod runs without a deadline"),
    (
        "shareProcessNamespace",
        "containers of one lab see each other's processes, but do not share signals",
    ),
    ("ephemeralContainers", "they are not started"),
    ("nodeName", ONE_NODE),
    ("nodeSelector", ONE_NODE),
    ("affinity", ONE_NODE),
    ("tolerations", ONE_NODE),
    ("topologySpreadConstraints", ONE_NODE),
    ("schedulerName", ONE_NODE),
    ("schedulingGates", ONE_NODE),
    ("priorityClassName", ONE_NODE),
    ("priority", ONE_NODE),
    ("preemptionPolicy", ONE_NODE),
    ("readinessGates", "readiness is that of the containers"),
    ("imagePullSecrets", NO_IMAGES),
    ("resources", NO_LIMITS),
    ("resourceClaims", NO_LIMITS),
    ("overhead", NO_LIMITS),
    (
        "automountServiceAccountToken",
        "a token is mounted by a projected volume only",
    ),
    (
        "enableServiceLinks",
        "Services are found by DNS, not in the environment",
    ),
];
/// What holds for a whole pod's processes.
const POD_SECURITY: Table = &[
    ("supplementalGroups", "fsGroup is the one further group"),
    (
        "supplementalGroupsPolicy",
        "fsGroup is the one further group",
    ),
    ("fsGroupChangePolicy", "owners of files stay"),
    ("seccompProfile", NO_PROFILES),
    ("seLinuxOptions", NO_PROFILES),
    ("seLinuxChangePolicy", NO_PROFILES),
    ("appArmorProfile", NO_PROFILES),
    ("windowsOptions", "containers are processes of this machine"),
];
const CONTAINER: Table = &[
    ("volumeDevices", "there are no block devices"),
    ("stdin", "the container reads from /dev/null"),
    ("stdinOnce", "the container reads from /dev/null"),
    ("tty", "the container has no terminal"),
    ("resources", NO_LIMITS),
    ("resizePolicy", NO_LIMITS),
    ("restartPolicyRules", "the container's restartPolicy counts"),
    ("terminationMessagePath", "logs tell why a container ended"),
];
const CONTAINER_SECURITY: Table = &[
    ("privileged", "only capabilities that are named are given"),
    (
        "allowPrivilegeEscalation",
        "no process gains rights that it did not start with",
    ),
    ("procMount", NO_PROFILES),
    ("seccompProfile", NO_PROFILES),
    ("seLinuxOptions", NO_PROFILES),
    ("appArmorProfile", NO_PROFILES),
    ("windowsOptions", "containers are processes of this machine"),
];
const MOUNT: Table = &[
    ("mountPropagation", "mounts stay in their container"),
    ("recursiveReadOnly", "readOnly counts"),
];
/// What a volume may be.
const VOLUMES: &[&str] = &[
    "name",
    "configMap",
    "secret",
    "emptyDir",
    "projected",
    "downwardAPI",
    "persistentVolumeClaim",
    "ephemeral",
];
const NO_STORAGE: &str = "the lab has no storage: each pod gets an emptyDir, gone with it";
/// What a machine with one id for all (a user namespace without ranges) cannot give.
const POD_IDS: Table = &[
    ("runAsUser", ONE_ID),
    ("runAsGroup", ONE_ID),
    ("fsGroup", ONE_ID),
];
const CONTAINER_IDS: Table = &[("runAsUser", ONE_ID), ("runAsGroup", ONE_ID)];
const ONE_ID: &str = "one user id is mapped on this machine, and every process has it; as root the lab gives each its own";
const PORT: Table = &[("hostPort", INSIDE_ONLY), ("hostIP", INSIDE_ONLY)];
const INSIDE_ONLY: &str = "the port is there in the lab only; use `meltemi lab forward`";
const EMPTY_DIR: Table = &[
    ("medium", "the directory is on the machine's disk"),
    ("sizeLimit", "the directory may fill the machine's disk"),
];
const PROJECTION: Table = &[
    ("clusterTrustBundle", "the file is not there"),
    ("podCertificate", "the files are not there"),
];
const LOCAL: &str = "the Service has its address inside the lab only";
const SERVICE: Table = &[
    ("externalIPs", "they are not reachable"),
    ("sessionAffinity", "connections are spread at random"),
    ("loadBalancerIP", LOCAL),
    ("loadBalancerClass", LOCAL),
    ("loadBalancerSourceRanges", LOCAL),
    ("healthCheckNodePort", LOCAL),
    ("trafficDistribution", ONE_NODE),
];
const DEPLOYMENT: Table = &[
    ("minReadySeconds", "a ready pod is available at once"),
    ("paused", "a changed template is rolled out at once"),
];
const STATEFUL_SET: Table = &[
    ("minReadySeconds", "a ready pod is available at once"),
    ("ordinals", "pods are numbered from 0"),
    ("volumeClaimTemplates", NO_STORAGE),
    (
        "persistentVolumeClaimRetentionPolicy",
        "the lab has no storage",
    ),
];
const JOB: Table = &[
    ("ttlSecondsAfterFinished", "finished jobs stay"),
    ("activeDeadlineSeconds", "the job runs without a deadline"),
    ("suspend", "the job runs"),
    ("completionMode", "pods have no index"),
    ("backoffLimitPerIndex", "pods have no index"),
    ("maxFailedIndexes", "pods have no index"),
    ("podFailurePolicy", "backoffLimit counts"),
    ("podReplacementPolicy", "a failed pod is replaced at once"),
    ("successPolicy", "completions counts"),
    ("managedBy", "the lab's own controller runs the job"),
];

/// Words that say what the lab does anyway.
const AS_IT_IS: &[(&str, &str)] = &[
    ("sessionAffinity", "None"),
    ("schedulerName", "default-scheduler"),
    ("preemptionPolicy", "PreemptLowerPriority"),
    ("procMount", "Default"),
    ("mountPropagation", "None"),
    ("completionMode", "NonIndexed"),
    ("terminationMessagePath", "/dev/termination-log"),
];

/// The lab's network has one family, as Istio's default has (`ISTIO_DUAL_STACK` is off).
const IPV4_ONLY: &str = "the Service has an IPv4 address only";

/// Lists the fields of an object that will have no effect; `single_id` says whether the machine maps one user id only.
pub(crate) fn check(key: &ObjectKey, object: &Value, single_id: bool) -> Vec<Diagnostic> {
    let spec = FieldPath::new("spec");
    let template = spec.field("template").field("spec");
    let mut found = Vec::new();
    let at = |path: &str| object.pointer(path).unwrap_or(&Value::Null);
    let own: Table = match key.kind {
        Kind::Deployment => DEPLOYMENT,
        Kind::StatefulSet => STATEFUL_SET,
        Kind::Job => JOB,
        _ => &[],
    };
    fields(at("/spec"), &spec, own, &mut found);
    let update = at("/spec/updateStrategy");
    let asks_more = update["type"] == "OnDelete" || !update["rollingUpdate"].is_null();
    if key.kind == Kind::StatefulSet && asks_more {
        let consequence = "pods are replaced one by one, the last first";
        found.push(warning(&spec.field("updateStrategy"), consequence));
    }
    match key.kind {
        Kind::Pod => {
            pod(at("/spec"), &spec, &mut found);
            ids(at("/spec"), &spec, single_id, &mut found);
        }
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet | Kind::Job => {
            pod(at("/spec/template/spec"), &template, &mut found);
            ids(at("/spec/template/spec"), &template, single_id, &mut found);
        }
        Kind::Service => service(at("/spec"), &spec, &mut found),
        _ => {}
    }
    found
        .into_iter()
        .map(|diagnostic| diagnostic.object(key.reference()))
        .collect()
}

/// One line for each kind of field: the first, and how many more there are in the same file.
pub(crate) fn grouped(found: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut groups: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut kept: Vec<(Diagnostic, usize)> = Vec::new();
    for diagnostic in found {
        let field = diagnostic.field.as_str().rsplit('.').next();
        let name = field.unwrap_or_default().to_owned();
        let group = (name, diagnostic.message.clone());
        match groups.get(&group).and_then(|at| kept.get_mut(*at)) {
            Some((_, more)) => *more += 1,
            None => {
                groups.insert(group, kept.len());
                kept.push((diagnostic, 0));
            }
        }
    }
    let counted = |(mut diagnostic, more): (Diagnostic, usize)| {
        if more > 0 {
            diagnostic.message += &format!(" (and {more} more in this file)");
        }
        diagnostic
    };
    kept.into_iter().map(counted).collect()
}

fn pod(spec: &Value, path: &FieldPath, found: &mut Vec<Diagnostic>) {
    fields(spec, path, POD, found);
    if let Some(policy @ ("Default" | "None" | "ClusterFirstWithHostNet")) =
        spec["dnsPolicy"].as_str()
    {
        let consequence = format!("{policy}: the cluster's DNS is used");
        found.push(warning(&path.field("dnsPolicy"), &consequence));
    }
    let security = path.field("securityContext");
    fields(&spec["securityContext"], &security, POD_SECURITY, found);
    for (index, sysctl) in list_of(&spec["securityContext"], "sysctls").enumerate() {
        // Every pod of the lab has it so.
        let is_so =
            sysctl["name"] == "net.ipv4.ip_unprivileged_port_start" && sysctl["value"] == "0";
        if !is_so {
            let consequence = "the pod's network has the lab's settings";
            found.push(warning(
                &security.field("sysctls").index(index),
                consequence,
            ));
        }
    }
    for list in ["initContainers", "containers"] {
        for (index, one) in list_of(spec, list).enumerate() {
            container(spec, one, &path.field(list).index(index), found);
        }
    }
    for (index, one) in list_of(spec, "volumes").enumerate() {
        volume(one, &path.field("volumes").index(index), found);
    }
}

fn volume(volume: &Value, path: &FieldPath, found: &mut Vec<Diagnostic>) {
    for (kind, _) in volume.as_object().into_iter().flatten() {
        let consequence = match kind.as_str() {
            "persistentVolumeClaim" | "ephemeral" => NO_STORAGE,
            known if VOLUMES.contains(&known) => continue,
            _ => "the volume is an empty directory, read-only for the container",
        };
        found.push(warning(&path.field(kind), consequence));
    }
    fields(
        &volume["emptyDir"],
        &path.field("emptyDir"),
        EMPTY_DIR,
        found,
    );
    let projected = path.field("projected").field("sources");
    for (index, source) in list_of(&volume["projected"], "sources").enumerate() {
        fields(source, &projected.index(index), PROJECTION, found);
    }
}

/// Ids that no process can have where the machine maps one.
fn ids(spec: &Value, path: &FieldPath, single_id: bool, found: &mut Vec<Diagnostic>) {
    if !single_id {
        return;
    }
    let context = "securityContext";
    fields(&spec[context], &path.field(context), POD_IDS, found);
    for list in ["initContainers", "containers"] {
        for (index, one) in list_of(spec, list).enumerate() {
            let path = path.field(list).index(index).field(context);
            fields(&one[context], &path, CONTAINER_IDS, found);
        }
    }
}

fn container(spec: &Value, one: &Value, path: &FieldPath, found: &mut Vec<Diagnostic>) {
    fields(one, path, CONTAINER, found);
    if one["imagePullPolicy"] == "Always" {
        found.push(warning(&path.field("imagePullPolicy"), NO_IMAGES));
    }
    let security = path.field("securityContext");
    let own = &one["securityContext"];
    fields(own, &security, CONTAINER_SECURITY, found);
    let of_either = |field: &str| match &own[field] {
        Value::Null => spec["securityContext"][field].clone(),
        own => own.clone(),
    };
    if of_either("runAsNonRoot") == true && of_either("runAsUser") == 0 {
        let consequence = "the container runs as root, as runAsUser says";
        found.push(warning(&security.field("runAsNonRoot"), consequence));
    }
    for (index, mount) in list_of(one, "volumeMounts").enumerate() {
        fields(
            mount,
            &path.field("volumeMounts").index(index),
            MOUNT,
            found,
        );
    }
    for (index, port) in list_of(one, "ports").enumerate() {
        fields(port, &path.field("ports").index(index), PORT, found);
    }
    if !one["lifecycle"]["stopSignal"].is_null() {
        let path = path.field("lifecycle").field("stopSignal");
        found.push(warning(&path, "containers are ended with SIGTERM"));
    }
}

fn list_of<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object[field].as_array().into_iter().flatten()
}

fn service(spec: &Value, path: &FieldPath, found: &mut Vec<Diagnostic>) {
    fields(spec, path, SERVICE, found);
    if let Some(kind @ ("NodePort" | "LoadBalancer")) = spec["type"].as_str() {
        let consequence = format!(
            "{kind}: the Service has its address inside the lab only; use `meltemi lab forward`"
        );
        found.push(warning(&path.field("type"), &consequence));
    }
    if let Some(policy @ ("PreferDualStack" | "RequireDualStack")) = spec["ipFamilyPolicy"].as_str()
    {
        let consequence = format!("{policy}: {IPV4_ONLY}");
        found.push(warning(&path.field("ipFamilyPolicy"), &consequence));
    }
    for policy in ["externalTrafficPolicy", "internalTrafficPolicy"] {
        if spec[policy] == "Local" {
            found.push(warning(&path.field(policy), &format!("Local: {ONE_NODE}")));
        }
    }
    let families = spec["ipFamilies"].as_array().into_iter().flatten();
    for (index, _) in families.enumerate().filter(|(_, family)| *family == "IPv6") {
        found.push(warning(&path.field("ipFamilies").index(index), IPV4_ONLY));
    }
}

fn fields(object: &Value, path: &FieldPath, table: Table, found: &mut Vec<Diagnostic>) {
    let is_asked = |field: &str| match &object[field] {
        Value::Null | Value::Bool(false) => false,
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::String(word) => !AS_IT_IS.contains(&(field, word.as_str())),
        Value::Bool(true) | Value::Number(_) => true,
    };
    found.extend(
        table
            .iter()
            .filter(|(field, _)| is_asked(field))
            .map(|(field, what)| warning(&path.field(field), what)),
    );
}

fn warning(field: &FieldPath, consequence: &str) -> Diagnostic {
    Diagnostic::warning(
        "MEL0510",
        format!("not available in the lab: {consequence}"),
    )
    .field(field.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_fields(kind: Kind, object: &Value, expected: &[&str]) {
        let found = check(&ObjectKey::new(kind, "default", "x"), object, false);
        assert_eq!(
            found
                .iter()
                .map(|diagnostic| diagnostic.field.as_str())
                .collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn names_what_has_no_effect() {
        let spec = json!({
            "hostNetwork": true, "hostPID": false,
            "containers": [{"name": "c", "tty": true, "securityContext": {"privileged": true}}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {"path": "/x"}}]
        });
        let fields = [
            "hostNetwork",
            "containers[0].tty",
            "containers[0].securityContext.privileged",
            "volumes[1].hostPath",
        ];
        let expected: Vec<String> = fields
            .iter()
            .map(|field| format!("spec.template.spec.{field}"))
            .collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check_fields(
            Kind::Deployment,
            &json!({"spec": {"template": {"spec": spec}}}),
            &expected,
        );
        check_fields(
            Kind::Service,
            &json!({"spec": {"type": "NodePort", "sessionAffinity": "None"}}),
            &["spec.type"],
        );
        check_fields(Kind::Service, &json!({"spec": {"type": "ClusterIP"}}), &[]);
        check_fields(
            Kind::Service,
            &json!({"spec": {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}}),
            &["spec.ipFamilyPolicy", "spec.ipFamilies[1]"],
        );
        check_fields(
            Kind::Service,
            &json!({"spec": {"type": "ExternalName", "externalName": "example.com"}}),
            &[],
        );
    }

    #[test]
    fn what_the_lab_does_anyway_is_no_warning() {
        let spec = json!({
            "schedulerName": "default-scheduler", "dnsPolicy": "ClusterFirst", "hostNetwork": false, "tolerations": [],
            "securityContext": {"runAsUser": 5, "fsGroup": 6, "runAsNonRoot": true},
            "containers": [{
                "name": "c", "image": "i", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true}
            }]
        });
        check_fields(Kind::Pod, &json!({"spec": spec}), &[]);
    }

    #[test]
    fn a_pod_is_looked_at_field_by_field() {
        let spec = json!({
            "nodeSelector": {"a": "b"}, "priorityClassName": "high", "dnsPolicy": "None",
            "securityContext": {
                "seccompProfile": {"type": "RuntimeDefault"}, "runAsNonRoot": true,
                "sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}, {"name": "net.core.somaxconn", "value": "9"}],
            },
            "containers": [{
                "name": "c", "image": "i", "imagePullPolicy": "Always", "resources": {"limits": {"cpu": "1"}},
                "securityContext": {"runAsUser": 0}, "lifecycle": {"stopSignal": "SIGINT"},
                "volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]
            }]
        });
        check_fields(
            Kind::Pod,
            &json!({"spec": spec}),
            &[
                "spec.nodeSelector",
                "spec.priorityClassName",
                "spec.dnsPolicy",
                "spec.securityContext.seccompProfile",
                "spec.securityContext.sysctls[1]",
                "spec.containers[0].resources",
                "spec.containers[0].imagePullPolicy",
                "spec.containers[0].securityContext.runAsNonRoot",
                "spec.containers[0].volumeMounts[0].mountPropagation",
                "spec.containers[0].lifecycle.stopSignal",
            ],
        );
        check_fields(
            Kind::StatefulSet,
            &json!({"spec": {"minReadySeconds": 5, "volumeClaimTemplates": [{}]}}),
            &["spec.minReadySeconds", "spec.volumeClaimTemplates"],
        );
    }

    #[test]
    fn volumes_and_ports_that_are_less_than_asked_for() {
        let sources = json!([{"clusterTrustBundle": {"path": "ca"}}, {"configMap": {"name": "m"}}]);
        let spec = json!({
            "containers": [{"name": "c", "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 81}]}],
            "volumes": [
                {"name": "a", "persistentVolumeClaim": {"claimName": "a"}},
                {"name": "b", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "c", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
                {"name": "d", "projected": {"sources": sources}},
            ],
        });
        check_fields(
            Kind::Pod,
            &json!({"spec": spec}),
            &[
                "spec.containers[0].ports[1].hostPort",
                "spec.volumes[0].persistentVolumeClaim",
                "spec.volumes[1].ephemeral",
                "spec.volumes[2].emptyDir.medium",
                "spec.volumes[2].emptyDir.sizeLimit",
                "spec.volumes[3].projected.sources[0].clusterTrustBundle",
            ],
        );
    }

    #[test]
    fn ids_are_told_where_there_is_one_for_all() {
        let spec = json!({
            "securityContext": {"runAsUser": 0, "fsGroup": 9},
            "containers": [{"name": "c", "securityContext": {"runAsGroup": 8}}],
        });
        let told = |single_id: bool| {
            let key = ObjectKey::new(Kind::Pod, "default", "x");
            let found = check(&key, &json!({"spec": spec}), single_id);
            let field = |found: &Diagnostic| found.field.as_str().to_owned();
            found.iter().map(field).collect::<Vec<_>>()
        };
        assert_eq!(told(false), Vec::<String>::new());
        assert_eq!(
            told(true),
            [
                "spec.securityContext.runAsUser",
                "spec.securityContext.fsGroup",
                "spec.containers[0].securityContext.runAsGroup",
            ]
        );
    }

    #[test]
    fn many_fields_of_a_kind_are_one_line() {
        let limits = |name: &str| {
            let spec =
                json!({"containers": [{"resources": {"limits": {}}}], "hostPID": name == "b"});
            check(
                &ObjectKey::new(Kind::Pod, "default", name),
                &json!({"spec": spec}),
                false,
            )
        };
        let found = grouped([limits("a"), limits("b"), limits("c")].concat());
        let told: Vec<String> = found
            .iter()
            .map(|found| format!("{} {}", found.object.as_ref().unwrap(), found.message))
            .collect();
        assert_eq!(
            told,
            [
                "Pod default/a not available in the lab: processes share the machine without limits (and 2 more in this file)",
                "Pod default/b not available in the lab: the pod sees the lab's processes only",
            ]
        );
    }
}
