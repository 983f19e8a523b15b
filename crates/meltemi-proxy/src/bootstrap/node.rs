//! The xDS node: who this proxy is, in the metadata keys that istiod and Kiali read.

use meltemi_core::names::label;
use meltemi_proto::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use meltemi_proto::google::protobuf::{Struct, Value, value::Kind};

use super::Bootstrap;

/// Builds the node of the xDS stream. `node.metadata` uses Istio's keys (Istio `NodeMetadata`).
pub(crate) fn node(bootstrap: &Bootstrap) -> Node {
    let app = bootstrap
        .labels
        .get(label::APP)
        .map_or(bootstrap.workload_name.as_str(), String::as_str);
    Node {
        id: bootstrap.node_id(),
        cluster: format!("{app}.{}", bootstrap.namespace),
        metadata: Some(metadata(bootstrap)),
        user_agent_name: "meltemi".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(
            meltemi_process::VERSION.to_owned(),
        )),
        ..Node::default()
    }
}

fn metadata(bootstrap: &Bootstrap) -> Struct {
    let mut fields: Vec<(String, Value)> = Vec::new();
    for (name, value) in &bootstrap.metadata {
        // POD_PORTS and the like are JSON inside a string, as istiod expects; keep them as text.
        fields.push((name.clone(), text(value)));
    }
    let mut put = |name: &str, value: Value| fields.push((name.to_owned(), value));
    put("ISTIO_VERSION", text(meltemi_process::VERSION));
    put("NAME", text(&bootstrap.pod_name));
    put("NAMESPACE", text(&bootstrap.namespace));
    put("SERVICE_ACCOUNT", text(&bootstrap.service_account));
    put("WORKLOAD_NAME", text(&bootstrap.workload_name));
    put("OWNER", text(&bootstrap.owner));
    put("CLUSTER_ID", text(&bootstrap.cluster_id));
    put("MESH_ID", text(&bootstrap.mesh_id));
    put("INSTANCE_IPS", text(&bootstrap.instance_ip.to_string()));
    put("LABELS", map(&bootstrap.labels));
    put("ANNOTATIONS", map(&bootstrap.annotations));
    if !bootstrap.metadata.contains_key("INTERCEPTION_MODE") {
        put("INTERCEPTION_MODE", text("REDIRECT"));
    }
    Struct {
        fields: fields.into_iter().collect(),
    }
}

/// What peers are told of this workload: Istio's peer metadata (`x-envoy-peer-metadata`).
pub(crate) fn peer_metadata(bootstrap: &Bootstrap) -> Struct {
    let kept = [
        label::APP,
        label::VERSION,
        label::CANONICAL_NAME,
        label::CANONICAL_REVISION,
        label::K8S_APP_NAME,
        label::K8S_APP_VERSION,
    ];
    let labels = bootstrap
        .labels
        .iter()
        .filter(|(name, _)| kept.contains(&name.as_str()));
    let labels = labels
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let fields = [
        ("NAME", text(&bootstrap.pod_name)),
        ("NAMESPACE", text(&bootstrap.namespace)),
        ("OWNER", text(&bootstrap.owner)),
        ("WORKLOAD_NAME", text(&bootstrap.workload_name)),
        ("CLUSTER_ID", text(&bootstrap.cluster_id)),
        ("LABELS", map(&labels)),
    ];
    Struct {
        fields: fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

fn map(values: &std::collections::BTreeMap<String, String>) -> Value {
    let fields = values
        .iter()
        .map(|(name, value)| (name.clone(), text(value)))
        .collect();
    Value {
        kind: Some(Kind::StructValue(Struct { fields })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::tests::{POD, from};

    #[test]
    fn has_istios_keys() {
        let mut vars = POD.to_vec();
        vars.extend([
            ("ISTIO_META_WORKLOAD_NAME", "reviews-v1"),
            ("ISTIO_META_POD_PORTS", "[]"),
        ]);
        let node = node(&from(&vars).unwrap());
        assert_eq!(node.cluster, "reviews-v1.default");
        let fields = node.metadata.unwrap().fields;
        for key in [
            "NAME",
            "NAMESPACE",
            "SERVICE_ACCOUNT",
            "WORKLOAD_NAME",
            "CLUSTER_ID",
            "LABELS",
            "POD_PORTS",
        ] {
            assert!(fields.contains_key(key), "{key}");
        }
        assert_eq!(fields["NAME"], text("reviews-v1-abc"));
    }
}
