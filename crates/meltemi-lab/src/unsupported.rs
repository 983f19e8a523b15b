//! Fields that Kubernetes knows and the lab cannot give: each use is a warning that names the field.

use meltemi_api::{Kind, ObjectKey};
use meltemi_core::{Diagnostic, FieldPath};
use serde_json::Value;

/// Pod fields that the lab does not act on, and what happens instead.
const POD: &[(&str, &str)] = &[
    ("hostNetwork", "the pod gets a network of its own"),
    ("hostPID", "the pod sees the lab's processes only"),
    ("dnsConfig", "the cluster's DNS is used"),
    (
        "runtimeClassName",
        "containers are processes of this machine",
    ),
    ("activeDeadlineSeconds", "the pod runs without a deadline"),
    (
        "shareProcessNamespace",
        "containers of one lab see each other's processes, but do not share signals",
    ),
    ("ephemeralContainers", "they are not started"),
];
const CONTAINER: &[(&str, &str)] = &[
    ("volumeDevices", "there are no block devices"),
    ("stdin", "the container reads from /dev/null"),
    ("tty", "the container has no terminal"),
];
/// What a volume may be.
const VOLUMES: &[&str] = &[
    "name",
    "configMap",
    "secret",
    "emptyDir",
    "projected",
    "downwardAPI",
];
const SERVICE: &[(&str, &str)] = &[
    ("externalIPs", "they are not reachable"),
    ("sessionAffinity", "connections are spread at random"),
];
const JOB: &[(&str, &str)] = &[
    ("ttlSecondsAfterFinished", "finished jobs stay"),
    ("activeDeadlineSeconds", "the job runs without a deadline"),
    ("suspend", "the job runs"),
];

/// The lab's network has one family, as Istio's default has (`ISTIO_DUAL_STACK` is off).
const IPV4_ONLY: &str = "the Service has an IPv4 address only";

/// Lists the fields of an object that will have no effect.
pub(crate) fn check(key: &ObjectKey, object: &Value) -> Vec<Diagnostic> {
    let spec = FieldPath::new("spec");
    let template = spec.field("template").field("spec");
    let mut found = Vec::new();
    let at = |path: &str| object.pointer(path).unwrap_or(&Value::Null);
    match key.kind {
        Kind::Pod => pod(at("/spec"), &spec, &mut found),
        Kind::Deployment | Kind::ReplicaSet | Kind::StatefulSet => {
            pod(at("/spec/template/spec"), &template, &mut found)
        }
        Kind::Job => {
            fields(at("/spec"), &spec, JOB, &mut found);
            pod(at("/spec/template/spec"), &template, &mut found);
        }
        Kind::Service => service(at("/spec"), &spec, &mut found),
        _ => {}
    }
    if key.kind == Kind::StatefulSet && !at("/spec/volumeClaimTemplates").is_null() {
        found.push(warning(
            &spec.field("volumeClaimTemplates"),
            "the lab has no storage; use emptyDir",
        ));
    }
    found
        .into_iter()
        .map(|diagnostic| diagnostic.object(key.reference()))
        .collect()
}

fn pod(spec: &Value, path: &FieldPath, found: &mut Vec<Diagnostic>) {
    fields(spec, path, POD, found);
    for list in ["initContainers", "containers"] {
        for (index, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            let path = path.field(list).index(index);
            fields(container, &path, CONTAINER, found);
            if container.pointer("/securityContext/privileged") == Some(&Value::Bool(true)) {
                let path = path.field("securityContext").field("privileged");
                found.push(warning(&path, "only capabilities that are named are given"));
            }
        }
    }
    for (index, volume) in spec["volumes"].as_array().into_iter().flatten().enumerate() {
        for kind in volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(field, _)| field)
        {
            if !VOLUMES.contains(&kind.as_str()) {
                let path = path.field("volumes").index(index).field(kind);
                found.push(warning(
                    &path,
                    "the volume is an empty directory, read-only for the container",
                ));
            }
        }
    }
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
    let families = spec["ipFamilies"].as_array().into_iter().flatten();
    for (index, _) in families.enumerate().filter(|(_, family)| *family == "IPv6") {
        found.push(warning(&path.field("ipFamilies").index(index), IPV4_ONLY));
    }
}

fn fields(object: &Value, path: &FieldPath, table: &[(&str, &str)], found: &mut Vec<Diagnostic>) {
    let set = |field: &str| {
        !matches!(
            object.get(field),
            None | Some(Value::Null | Value::Bool(false))
        ) && object[field] != "None"
    };
    found.extend(
        table
            .iter()
            .filter(|(field, _)| set(field))
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
        let found = check(&ObjectKey::new(kind, "default", "x"), object);
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
}
