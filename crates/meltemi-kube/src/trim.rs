//! Leaves of an object what the mesh reads: a cluster's pods are many, and most of a pod is nobody's concern here.

use meltemi_api::Kind;
use serde_json::{Map, Value};

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The keys of a Secret that holds certificates for a gateway (Istio, `credentialName`).
const CREDENTIAL: [&str; 6] = ["tls.crt", "tls.key", "ca.crt", "cert", "key", "cacert"];

pub(crate) fn trim(kind: Kind, object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
        {
            annotations.remove(LAST_APPLIED);
        }
    }
    if kind == Kind::Node {
        // Where it stands is all that is asked of it; the rest changes all the time.
        keep(Some(&mut *object), &["apiVersion", "kind", "metadata"]);
        keep(
            object.get_mut("metadata"),
            &[
                "name",
                "uid",
                "resourceVersion",
                "labels",
                "creationTimestamp",
            ],
        );
    }
    if kind == Kind::Secret {
        // Nobody needs the rest, and the authority's own key is among it.
        keep(object.get_mut("data"), &CREDENTIAL);
    }
    if kind == Kind::Pod {
        keep(
            object.get_mut("spec"),
            &[
                "serviceAccountName",
                "nodeName",
                "hostNetwork",
                "containers",
                "initContainers",
            ],
        );
        for list in ["/spec/containers", "/spec/initContainers"] {
            let containers = object.pointer_mut(list).and_then(Value::as_array_mut);
            for container in containers.into_iter().flatten() {
                keep(
                    Some(container),
                    &["name", "image", "ports", "restartPolicy"],
                );
            }
        }
        keep(
            object.get_mut("status"),
            &["phase", "podIP", "podIPs", "hostIP", "conditions"],
        );
    }
}

fn keep(object: Option<&mut Value>, fields: &[&str]) {
    if let Some(object) = object.and_then(Value::as_object_mut) {
        let all = std::mem::replace(object, Map::new());
        object.extend(
            all.into_iter()
                .filter(|(name, _)| fields.contains(&name.as_str())),
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_node_only_the_place_is_left() {
        let mut node = json!({
            "kind": "Node",
            "metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z"}, "annotations": {"csi": "changes"}},
            "spec": {"podCIDR": "10.0.0.0/24"},
            "status": {"conditions": [{}]},
        });
        trim(Kind::Node, &mut node);
        assert_eq!(
            node,
            json!({"kind": "Node", "metadata": {"name": "a", "labels": {"topology.kubernetes.io/zone": "z"}}})
        );
    }

    #[test]
    fn of_a_pod_little_is_left() {
        let mut pod = json!({
            "kind": "Pod",
            "metadata": {"name": "a", "managedFields": [{}], "annotations": {LAST_APPLIED: "{}", "b": "c"}},
            "spec": {"serviceAccountName": "s", "volumes": [{}], "containers": [{"name": "x", "image": "i", "env": [{}], "ports": [{"containerPort": 80}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "containerStatuses": [{}]},
        });
        trim(Kind::Pod, &mut pod);
        assert_eq!(
            pod,
            json!({
                "kind": "Pod",
                "metadata": {"name": "a", "annotations": {"b": "c"}},
                "spec": {"serviceAccountName": "s", "containers": [{"name": "x", "image": "i", "ports": [{"containerPort": 80}]}]},
                "status": {"phase": "Running", "podIP": "10.0.0.1"},
            })
        );
    }

    #[test]
    fn other_kinds_keep_what_they_say() {
        let mut service = json!({"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
        let before = service.clone();
        trim(Kind::Service, &mut service);
        assert_eq!(service, before);
    }
}
