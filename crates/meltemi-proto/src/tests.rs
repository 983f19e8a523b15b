use prost::Name;
use serde_json::json;

use crate::envoy::config::cluster::v3::{Cluster, cluster::TransportSocketMatch};
use crate::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use crate::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use crate::google::protobuf::{Any, Duration};
use crate::json::{FieldNames, any_to_json, any_to_json_with, descriptors, json_to_any};
use crate::{any, type_url};

fn cluster_with_socket(typed_config: Any) -> Cluster {
    Cluster {
        name: "outbound|80||a.example".into(),
        connect_timeout: Some(Duration {
            seconds: 10,
            nanos: 0,
        }),
        transport_socket_matches: vec![TransportSocketMatch {
            name: "tlsMode-istio".into(),
            transport_socket: Some(TransportSocket {
                name: "envoy.transport_sockets.tls".into(),
                config_type: Some(ConfigType::TypedConfig(typed_config)),
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

#[test]
fn every_type_url_names_a_message_we_can_print() {
    for url in type_url::ALL {
        let (_, name) = url.split_once('/').expect("a type URL has a slash");
        assert!(descriptors().get_message_by_name(name).is_some(), "{url}");
    }
}

#[test]
fn own_and_envoy_messages_know_their_type_url() {
    assert_eq!(Cluster::type_url(), type_url::CLUSTER);
    assert_eq!(
        crate::stats::PluginConfig::type_url(),
        type_url::ISTIO_STATS
    );
    assert_eq!(crate::alpn::FilterConfig::type_url(), type_url::ISTIO_ALPN);
    assert_eq!(
        crate::typed_struct::udpa::TypedStruct::type_url(),
        type_url::UDPA_TYPED_STRUCT
    );
}

#[test]
fn unpack_refuses_another_type() {
    let packed = any::pack(type_url::CLUSTER, &Cluster::default());
    let error = any::unpack::<Cluster>(&packed, type_url::LISTENER).unwrap_err();
    assert!(matches!(error, any::UnpackError::Type { .. }));
    assert_eq!(
        any::unpack_named::<Cluster>(&packed).unwrap(),
        Cluster::default()
    );
}

#[test]
fn nested_any_is_expanded_with_its_type() {
    let tls = UpstreamTlsContext {
        sni: "outbound_.80_._.a.example".into(),
        ..Default::default()
    };
    let cluster = cluster_with_socket(any::pack(type_url::UPSTREAM_TLS, &tls));
    let packed = any::pack(type_url::CLUSTER, &cluster);
    let expected = json!({
        "@type": type_url::CLUSTER,
        "name": "outbound|80||a.example",
        "connectTimeout": "10s",
        "transportSocketMatches": [{
            "name": "tlsMode-istio",
            "transportSocket": {
                "name": "envoy.transport_sockets.tls",
                "typedConfig": { "@type": type_url::UPSTREAM_TLS, "sni": "outbound_.80_._.a.example" },
            },
        }],
    });
    assert_eq!(any_to_json(&packed).unwrap(), expected);
    let back = json_to_any(type_url::CLUSTER, &expected).unwrap();
    assert_eq!(
        any::unpack::<Cluster>(&back, type_url::CLUSTER).unwrap(),
        cluster
    );
}

#[test]
fn proto_names_are_those_of_envoys_admin_interface() {
    let packed = any::pack(
        type_url::CLUSTER,
        &Cluster {
            alt_stat_name: "a".into(),
            ..Default::default()
        },
    );
    let shown = any_to_json_with(&packed, FieldNames::Proto).unwrap();
    assert_eq!(shown["alt_stat_name"], "a");
}

#[test]
fn a_foreign_extension_does_not_hide_the_rest() {
    let foreign = Any {
        type_url: "type.googleapis.com/acme.Secretive".into(),
        value: vec![1, 2, 3],
    };
    let packed = any::pack(type_url::CLUSTER, &cluster_with_socket(foreign));
    let shown = any_to_json(&packed).unwrap();
    let config = &shown["transportSocketMatches"][0]["transportSocket"]["typedConfig"];
    assert_eq!(config["@type"], type_url::XDS_TYPED_STRUCT);
    assert_eq!(config["typeUrl"], "type.googleapis.com/acme.Secretive");
    assert_eq!(shown["name"], "outbound|80||a.example");
}

#[test]
fn a_type_that_json_holds_as_a_scalar_goes_under_value() {
    let ten = Duration {
        seconds: 10,
        nanos: 0,
    };
    let packed = any::pack_named(&ten);
    assert_eq!(any_to_json(&packed).unwrap()["value"], "10s");
}

#[test]
fn unknown_json_fields_are_refused() {
    let error = json_to_any(type_url::CLUSTER, &json!({ "nmae": "x" })).unwrap_err();
    assert!(matches!(error, crate::json::JsonError::Convert { .. }));
}

/// The descriptors come from the `envoy-types` that was resolved when the build script last ran.
#[test]
fn descriptors_are_of_the_locked_envoy_types() {
    let lock = include_str!("../../../Cargo.lock");
    let built = env!("MELTEMI_ENVOY_TYPES_VERSION");
    let entry = format!("name = \"envoy-types\"\nversion = \"{built}\"\n");
    assert!(lock.contains(&entry), "touch build.rs: built with {built}");
}
