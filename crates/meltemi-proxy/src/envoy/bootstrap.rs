//! Envoy's bootstrap: where the control plane and the secrets are, and who this workload is.

use std::path::Path;

use anyhow::Context as _;
use meltemi_proto::json::{FieldNames, message_to_json};
use meltemi_proto::type_url;
use prost::Message as _;
use serde_json::{Value, json};

use crate::app;
use crate::bootstrap::{Bootstrap, node};
use crate::control_channel;

const NODE: &str = "type.googleapis.com/envoy.config.core.v3.Node";

/// Renders the bootstrap. The token in it is the one of this moment: Envoy reads no file for gRPC metadata.
pub(super) async fn render(bootstrap: &Bootstrap, sds_socket: &Path) -> anyhow::Result<Vec<u8>> {
    let endpoint = app::endpoint(bootstrap, &bootstrap.discovery_address);
    let token = control_channel::bearer(&endpoint).await?;
    let mut node = node(bootstrap);
    node.user_agent_name = "envoy".to_owned();
    node.user_agent_version_type = None;
    let node = message_to_json(NODE, &node.encode_to_vec(), FieldNames::Proto)?;
    let document = document(bootstrap, node, token.to_str()?, sds_socket)?;
    Ok(serde_json::to_vec_pretty(&document)?)
}

fn document(
    bootstrap: &Bootstrap,
    node: Value,
    token: &str,
    sds_socket: &Path,
) -> anyhow::Result<Value> {
    let (host, port) = bootstrap
        .discovery_address
        .rsplit_once(':')
        .context("discoveryAddress is not host:port")?;
    let port: u16 = port.parse().context("discoveryAddress is not host:port")?;
    let mut document = json!({
        "node": node,
        "admin": { "address": address("127.0.0.1", bootstrap.proxy_config.admin_port()) },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{
                    "envoy_grpc": { "cluster_name": "xds-grpc" },
                    "initial_metadata": [{ "key": "authorization", "value": token }],
                }],
            },
            "cds_config": { "ads": {}, "resource_api_version": "V3" },
            "lds_config": { "ads": {}, "resource_api_version": "V3" },
        },
        "static_resources": {
            "clusters": [
                {
                    "name": "sds-grpc",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "typed_extension_protocol_options": http2(),
                    "load_assignment": assignment("sds-grpc", &json!({ "pipe": { "path": sds_socket } })),
                },
                {
                    "name": "xds-grpc",
                    "type": "STRICT_DNS",
                    "dns_lookup_family": "V4_ONLY",
                    "respect_dns_ttl": true,
                    "connect_timeout": "5s",
                    "typed_extension_protocol_options": http2(),
                    "load_assignment": assignment("xds-grpc", &address(host, port)),
                    "transport_socket": {
                        "name": "envoy.transport_sockets.tls",
                        "typed_config": {
                            "@type": type_url::UPSTREAM_TLS,
                            "sni": host,
                            "common_tls_context": {
                                "alpn_protocols": ["h2"],
                                "validation_context": {
                                    "trusted_ca": { "filename": bootstrap.paths.root_cert },
                                    "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": host } }],
                                },
                            },
                        },
                    },
                },
            ],
        },
    });
    if let Some(mark) = bootstrap.socket_mark {
        // SOL_SOCKET, SO_MARK: capture exempts the proxy by mark.
        document["cluster_manager"] = json!({
            "upstream_bind_config": {
                "source_address": { "address": "0.0.0.0", "port_value": 0 },
                "socket_options": [{ "level": 1, "name": 36, "int_value": mark, "state": "STATE_PREBIND" }],
            },
        });
    }
    Ok(document)
}

fn address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn assignment(cluster: &str, address: &Value) -> Value {
    json!({
        "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }],
    })
}

fn http2() -> Value {
    json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": type_url::HTTP_PROTOCOL_OPTIONS,
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::tests::{POD, from};

    #[test]
    fn is_a_bootstrap() {
        let bootstrap = from(&POD).unwrap();
        let node =
            message_to_json(NODE, &node(&bootstrap).encode_to_vec(), FieldNames::Proto).unwrap();
        let document = document(&bootstrap, node, "Bearer t", Path::new("/tmp/sds")).unwrap();
        let type_url = "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap";
        let any = meltemi_proto::json::json_to_any(type_url, &document).unwrap();
        let parsed: meltemi_proto::envoy::config::bootstrap::v3::Bootstrap =
            meltemi_proto::any::unpack(&any, type_url).unwrap();
        assert_eq!(parsed.node.unwrap().id, bootstrap.node_id());
        assert_eq!(parsed.static_resources.unwrap().clusters.len(), 2);
    }
}
