//! The names and forms that users' tools know Istio's configuration by.

use serde_json::Value;

use super::support::{World, to_json};
use crate::{Flavour, Generated, Kind};

const BOOKINFO: &str = include_str!("../../testdata/bookinfo/in.yaml");
const PROTOCOLS: &str = include_str!("../../testdata/protocols/in.yaml");

fn names(generated: &Generated, kind: Kind) -> Vec<&str> {
    generated.of(kind).keys().map(AsRef::as_ref).collect()
}

fn resource(generated: &Generated, kind: Kind, name: &str) -> Value {
    to_json(&generated.of(kind)[name])
}

/// Chains as `name [port] transport/alpn,alpn mtls terminal`.
fn chains(listener: &Value) -> Vec<String> {
    listener["filterChains"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|chain| {
            let matched = &chain["filterChainMatch"];
            let protocols: Vec<_> = matched["applicationProtocols"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let last = chain["filters"].as_array().unwrap().last().unwrap();
            format!(
                "{} {} {}/{} {} {}",
                chain["name"].as_str().unwrap_or("-"),
                matched["destinationPort"],
                matched["transportProtocol"].as_str().unwrap_or("*"),
                protocols.join(","),
                if chain["transportSocket"].is_null() {
                    "plain"
                } else {
                    "mtls"
                },
                last["name"].as_str().unwrap().rsplit('.').next().unwrap(),
            )
        })
        .collect()
}

#[test]
fn bookinfo_has_istios_names() {
    let generated = World::new(BOOKINFO).generate("productpage-v1", Flavour::Meltemi);
    let hosts = ["details", "productpage", "ratings", "reviews"];
    let outbound = hosts.map(|host| format!("outbound|9080||{host}.default.svc.cluster.local"));
    let mut clusters: Vec<&str> = outbound.iter().map(String::as_str).collect();
    assert_eq!(names(&generated, Kind::Endpoints), clusters);
    clusters.extend([
        "BlackHoleCluster",
        "InboundPassthroughCluster",
        "PassthroughCluster",
        "inbound|9080||",
    ]);
    clusters.sort_unstable();
    assert_eq!(names(&generated, Kind::Cluster), clusters);
    assert_eq!(
        names(&generated, Kind::Listener),
        ["0.0.0.0_9080", "virtualInbound", "virtualOutbound"]
    );
    assert_eq!(names(&generated, Kind::Route), ["9080"]);

    let cluster = resource(&generated, Kind::Cluster, &outbound[3]);
    let first = &cluster["transportSocketMatches"][0];
    assert_eq!(first["name"], "tlsMode-istio");
    assert_eq!(first["match"]["tlsMode"], "istio");
    let tls = &first["transportSocket"]["typedConfig"];
    assert_eq!(
        tls["sni"],
        "outbound_.9080_._.reviews.default.svc.cluster.local"
    );
    let common = &tls["commonTlsContext"];
    assert_eq!(common["alpnProtocols"][0], "istio-peer-exchange");
    assert_eq!(
        common["tlsCertificateSdsSecretConfigs"][0]["name"],
        "default"
    );
    let san = &common["combinedValidationContext"]["defaultValidationContext"]["matchTypedSubjectAltNames"];
    assert_eq!(
        san[0]["matcher"]["exact"],
        "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
    );
    assert_eq!(san.as_array().unwrap().len(), 1);

    let hosts = &resource(&generated, Kind::Route, "9080")["virtualHosts"];
    let reviews = hosts
        .as_array()
        .unwrap()
        .iter()
        .find(|host| host["name"] == "reviews.default.svc.cluster.local:9080");
    assert_eq!(
        reviews.unwrap()["domains"],
        serde_json::json!([
            "reviews.default.svc.cluster.local",
            "reviews.default.svc.cluster.local.",
            "reviews",
            "reviews.default",
            "reviews.default.svc",
            "10.96.0.3",
        ])
    );
    assert_eq!(
        hosts.as_array().unwrap().last().unwrap()["name"],
        "allow_any"
    );
}

#[test]
fn inbound_chains_follow_mode_and_protocol() {
    let generated = World::new(PROTOCOLS).generate("server", Flavour::Meltemi);
    let listener = resource(&generated, Kind::Listener, "virtualInbound");
    let mesh_http = "istio-http/1.0,istio-http/1.1,istio-h2";
    let mesh_tcp = "istio-peer-exchange,istio";
    let mesh = format!("{mesh_tcp},{mesh_http}");
    assert_eq!(
        chains(&listener),
        [
            "virtualInbound-blackhole 15006 */ plain tcp_proxy".to_owned(),
            format!("virtualInbound-catchall-http null tls/{mesh_http} mtls http_connection_manager"),
            "virtualInbound null tls/ mtls tcp_proxy".to_owned(),
            // PERMISSIVE, TCP: three.
            format!("0.0.0.0_7000 7000 tls/{mesh} mtls tcp_proxy"),
            "0.0.0.0_7000 7000 raw_buffer/ plain tcp_proxy".to_owned(),
            "0.0.0.0_7000 7000 tls/ plain tcp_proxy".to_owned(),
            // STRICT, HTTP: one.
            "0.0.0.0_7070 7070 tls/ mtls http_connection_manager".to_owned(),
            // PERMISSIVE, sniffed: five.
            format!("0.0.0.0_8001 8001 tls/{mesh_http} mtls http_connection_manager"),
            "0.0.0.0_8001 8001 raw_buffer/http/1.1,h2c plain http_connection_manager".to_owned(),
            format!("0.0.0.0_8001 8001 tls/{mesh_tcp} mtls tcp_proxy"),
            "0.0.0.0_8001 8001 raw_buffer/ plain tcp_proxy".to_owned(),
            "0.0.0.0_8001 8001 tls/ plain tcp_proxy".to_owned(),
            "0.0.0.0_8080 8080 tls/ mtls http_connection_manager".to_owned(),
            // DISABLE, TCP: one, and nothing to wait for.
            "0.0.0.0_9000 9000 */ plain tcp_proxy".to_owned(),
            // DISABLE on a port that no service has.
            "virtualInbound-catchall-http 9999 raw_buffer/http/1.1,h2c plain http_connection_manager".to_owned(),
            "virtualInbound 9999 raw_buffer/ plain tcp_proxy".to_owned(),
            "virtualInbound 9999 tls/ plain tcp_proxy".to_owned(),
        ]
    );
    let filters = listener["listenerFilters"].as_array().unwrap();
    let disabled = |index: usize| filters[index]["filterDisabled"].to_string();
    assert!(disabled(1).contains("9000") && !disabled(1).contains("7000"));
    assert!(disabled(2).contains("7070") && !disabled(2).contains("8001"));
}

#[test]
fn outbound_listeners_follow_protocol_and_address() {
    let generated = World::new(PROTOCOLS).generate("server", Flavour::Meltemi);
    assert_eq!(
        names(&generated, Kind::Listener),
        [
            "0.0.0.0_443",
            "0.0.0.0_5432",
            "0.0.0.0_7070",
            "0.0.0.0_80",
            "10.244.0.1_7000",
            "10.96.0.1_8000",
            "10.96.0.1_9000",
            "virtualInbound",
            "virtualOutbound",
        ]
    );
    assert_eq!(
        names(&generated, Kind::Route),
        ["7070", "80", "server.default.svc.cluster.local:8000"]
    );
    let sni = resource(&generated, Kind::Listener, "0.0.0.0_443");
    assert_eq!(
        sni["filterChains"][0]["filterChainMatch"]["serverNames"][0],
        "api.example.com"
    );
    let ranges = resource(&generated, Kind::Listener, "0.0.0.0_5432");
    assert_eq!(
        ranges["filterChains"][0]["filterChainMatch"]["prefixRanges"][0]["addressPrefix"],
        "10.9.0.0"
    );
    // A declared TCP port waits for nothing, so that the server may speak first.
    let tcp = resource(&generated, Kind::Listener, "10.96.0.1_9000");
    assert!(tcp["listenerFilters"].is_null());
    let sniffed = resource(&generated, Kind::Listener, "10.96.0.1_8000");
    assert_eq!(sniffed["listenerFiltersTimeout"], "5s");
    // Mutual TLS is refused on port 9000 by the workload's own policy, whatever its label says.
    let disabled = resource(
        &generated,
        Kind::Endpoints,
        "outbound|9000||server.default.svc.cluster.local",
    );
    let metadata = &disabled["endpoints"][0]["lbEndpoints"][0]["metadata"]["filterMetadata"];
    assert!(metadata["envoy.transport_socket_match"].is_null());
    let enabled = resource(
        &generated,
        Kind::Endpoints,
        "outbound|7070||server.default.svc.cluster.local",
    );
    let metadata = &enabled["endpoints"][0]["lbEndpoints"][0]["metadata"]["filterMetadata"];
    assert_eq!(metadata["envoy.transport_socket_match"]["tlsMode"], "istio");
}

#[test]
fn a_stock_envoy_gets_only_what_it_ships() {
    let generated = World::new(BOOKINFO).generate("reviews-v1", Flavour::Envoy);
    for resource in generated.iter() {
        let text = to_json(resource).to_string();
        for foreign in ["istio.stats", "istio.alpn", "istio.metadata_exchange"] {
            assert!(!text.contains(foreign), "{foreign} in {}", resource.name);
        }
    }
    let cluster = resource(
        &generated,
        Kind::Cluster,
        "outbound|9080||ratings.default.svc.cluster.local",
    );
    let tls = &cluster["transportSocketMatches"][0]["transportSocket"]["typedConfig"];
    assert_eq!(
        tls["commonTlsContext"]["alpnProtocols"],
        serde_json::json!(["istio-http/1.1", "istio", "http/1.1"])
    );
}

#[test]
fn registry_only_blocks_what_is_unknown() {
    let world = World::new(BOOKINFO)
        .config("outboundTrafficPolicy: {mode: REGISTRY_ONLY}\naccessLogFile: /dev/stdout\n");
    let generated = world.generate("productpage-v1", Flavour::Meltemi);
    let routes = resource(&generated, Kind::Route, "9080");
    let last = routes["virtualHosts"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(last["name"], "block_all");
    assert_eq!(last["routes"][0]["directResponse"]["status"], 502);
    let outbound = resource(&generated, Kind::Listener, "virtualOutbound").to_string();
    assert!(!outbound.contains("PassthroughCluster") && outbound.contains("BlackHoleCluster"));
    assert!(outbound.contains("%DOWNSTREAM_REMOTE_ADDRESS%"));
}

#[test]
fn server_name_and_client_certificate_details_are_istios() {
    let generated = World::new(BOOKINFO).generate("productpage-v1", Flavour::Meltemi);
    let listener = resource(&generated, Kind::Listener, "virtualInbound").to_string();
    for part in [
        "istio-envoy",
        "APPEND_FORWARD",
        "inbound|http|9080",
        "inbound_0.0.0.0_9080;",
    ] {
        assert!(listener.contains(part), "{part}");
    }
}

#[test]
fn endpoints_name_the_cluster_of_the_mesh() {
    let world = World::new(BOOKINFO).in_cluster("east");
    let generated = world.generate("productpage-v1", Flavour::Meltemi);
    let details = "outbound|9080||details.default.svc.cluster.local";
    let assignment = resource(&generated, Kind::Endpoints, details);
    let endpoint = &assignment["endpoints"][0]["lbEndpoints"][0];
    assert_eq!(
        endpoint["metadata"]["filterMetadata"]["istio"]["workload"],
        "details-v1;default;details;v1;east"
    );
}

#[test]
fn a_grpc_abort_is_the_same_by_name_and_by_number() {
    for status in ["UNAVAILABLE", "14"] {
        let fault = format!(
            "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: details}}
spec:
  hosts: [details]
  http:
  - fault: {{abort: {{grpcStatus: '{status}'}}}}
    route: [{{destination: {{host: details}}}}]
"
        );
        let world = World::new(&(BOOKINFO.to_owned() + &fault));
        let generated = world.generate("productpage-v1", Flavour::Meltemi);
        let routes = resource(&generated, Kind::Route, "9080");
        let mut hosts = routes["virtualHosts"].as_array().unwrap().iter();
        let details = hosts
            .find(|host| host["name"] == "details.default.svc.cluster.local:9080")
            .unwrap();
        let faults = &details["routes"][0]["typedPerFilterConfig"]["envoy.filters.http.fault"];
        assert_eq!(faults["abort"]["grpcStatus"], 14, "{status}: {faults}");
    }
}
