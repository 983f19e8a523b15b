//! Resources in proto3 JSON, shaped as Istio generates them, and what must be refused of them.

use std::time::Duration;

use meltemi_proto::{any, json, type_url};
use serde_json::{Value, json};

use super::*;
use crate::runtime::{
    CertificateSource, ClusterTarget, Discovery, HttpFilterKind, InspectorKind, LbPolicy,
    NetworkFilter, RouteAction, RouteSource, Terminal, TrustSource, UpstreamHttpVersion,
};

fn message<M: prost::Message + prost::Name + Default>(type_url: &str, json: &Value) -> M {
    any::unpack_named(&json::json_to_any(type_url, json).unwrap()).unwrap()
}

fn compile_listener(json: &Value) -> Result<runtime::Listener, CompileErrors> {
    listener(message(type_url::LISTENER, json))
}

fn compile_cluster(json: &Value) -> Result<runtime::Cluster, CompileErrors> {
    cluster(message(type_url::CLUSTER, json))
}

fn compile_routes(json: &Value) -> Result<runtime::RouteConfiguration, CompileErrors> {
    route_configuration(message(type_url::ROUTE, json))
}

fn encoded(json: &Value) -> Bytes {
    json::json_to_any(type_url::ROUTE, json)
        .unwrap()
        .value
        .into()
}

fn check_refused<T: fmt::Debug>(result: Result<T, CompileErrors>, expected: &str) {
    assert_eq!(result.unwrap_err().to_string(), expected);
}

fn sds(name: &str) -> Value {
    json!({"name": name, "sdsConfig": {"ads": {}, "resourceApiVersion": "V3"}})
}

fn hcm(routes: Value) -> Value {
    let mut hcm = json!({
        "@type": type_url::HTTP_CONNECTION_MANAGER,
        "statPrefix": "inbound_0.0.0.0_9080",
        "httpFilters": [
            {"name": "istio.metadata_exchange", "typedConfig": {
                "@type": type_url::UDPA_TYPED_STRUCT,
                "typeUrl": type_url::PEER_METADATA,
                "value": {"downstream_discovery": [{"istio_headers": {}}, {"workload_discovery": {}}], "downstream_propagation": [{"istio_headers": {}}]}}},
            {"name": "envoy.filters.http.rbac", "typedConfig": {"@type": type_url::RBAC, "rules": {"policies": {"ns[default]-policy[allow]-rule[0]": {
                "permissions": [{"andRules": {"rules": [{"orRules": {"rules": [{"header": {"name": ":method", "stringMatch": {"exact": "GET"}}}]}}]}}],
                "principals": [{"andIds": {"ids": [{"orIds": {"ids": [{"filterState": {"key": "io.istio.peer_principal", "stringMatch": {"exact": "spiffe://cluster.local/ns/default/sa/sleep"}}}]}}]}}]}}}}},
            {"name": "istio.alpn", "typedConfig": {"@type": type_url::ISTIO_ALPN, "alpnOverride": [{"upstreamProtocol": "HTTP11", "alpnOverride": ["istio-http/1.1", "istio", "http/1.1"]}]}},
            {"name": "envoy.filters.http.grpc_stats", "typedConfig": {"@type": type_url::GRPC_STATS, "emitFilterState": true, "statsForAllMethods": false}},
            {"name": "envoy.filters.http.fault", "typedConfig": {"@type": type_url::FAULT}},
            {"name": "envoy.filters.http.cors", "typedConfig": {"@type": type_url::CORS}},
            {"name": "istio.stats", "typedConfig": {"@type": type_url::ISTIO_STATS, "disableHostHeaderFallback": true}},
            {"name": "envoy.filters.http.router", "typedConfig": {"@type": type_url::ROUTER}}
        ],
        "serverName": "istio-envoy",
        "streamIdleTimeout": "0s",
        "accessLog": [{"name": "envoy.access_loggers.file", "typedConfig": {"@type": type_url::FILE_ACCESS_LOG, "path": "/dev/stdout", "logFormat": {"textFormatSource": {"inlineString": "%START_TIME% %REQ(X-A?:PATH)%\n"}}}}],
        "useRemoteAddress": false,
        "forwardClientCertDetails": "APPEND_FORWARD",
        "setCurrentClientCertDetails": {"subject": true, "dns": true, "uri": true},
        "upgradeConfigs": [{"upgradeType": "websocket"}],
        "normalizePath": true,
        "pathWithEscapedSlashesAction": "KEEP_UNCHANGED"
    });
    let fields = hcm.as_object_mut().unwrap();
    fields.extend(routes.as_object().unwrap().clone());
    hcm
}

fn inbound_route() -> Value {
    json!({"routeConfig": {"name": "inbound|9080||", "validateClusters": false, "virtualHosts": [{"name": "inbound|http|9080", "domains": ["*"], "routes": [
        {"name": "default", "match": {"prefix": "/"}, "decorator": {"operation": "reviews.default.svc.cluster.local:9080/*"},
         "route": {"cluster": "inbound|9080||", "timeout": "0s", "maxStreamDuration": {"maxStreamDuration": "0s", "grpcTimeoutHeaderMax": "0s"}}}]}]}})
}

fn virtual_inbound() -> Value {
    json!({
        "name": "virtualInbound",
        "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 15006}},
        "filterChains": [
            {"filterChainMatch": {"destinationPort": 15006}, "name": "virtualInbound-blackhole", "filters": [{"name": "tcp", "typedConfig": {"@type": type_url::TCP_PROXY, "statPrefix": "BlackHoleCluster", "cluster": "BlackHoleCluster"}}]},
            {"filterChainMatch": {"destinationPort": 9080, "transportProtocol": "tls", "applicationProtocols": ["istio-http/1.0", "istio-http/1.1", "istio-h2"]},
             "name": "0.0.0.0_9080",
             "filters": [{"name": "hcm", "typedConfig": hcm(inbound_route())}],
             "transportSocket": {"name": "envoy.transport_sockets.tls", "typedConfig": {"@type": type_url::DOWNSTREAM_TLS, "requireClientCertificate": true, "commonTlsContext": {
                "tlsParams": {"tlsMinimumProtocolVersion": "TLSv1_2", "tlsMaximumProtocolVersion": "TLSv1_3", "cipherSuites": ["ECDHE-ECDSA-AES256-GCM-SHA384"]},
                "alpnProtocols": ["h2", "http/1.1"],
                "tlsCertificateSdsSecretConfigs": [sds("default")],
                "combinedValidationContext": {"defaultValidationContext": {"matchSubjectAltNames": [{"prefix": "spiffe://cluster.local/"}]}, "validationContextSdsSecretConfig": sds("ROOTCA")}}}}},
            {"filterChainMatch": {"destinationPort": 9080, "transportProtocol": "raw_buffer"}, "name": "0.0.0.0_9080", "filters": [
                {"name": "istio.metadata_exchange", "typedConfig": {"@type": type_url::XDS_TYPED_STRUCT, "typeUrl": type_url::TCP_METADATA_EXCHANGE, "value": {"protocol": "istio-peer-exchange", "enable_discovery": true}}},
                {"name": "tcp", "typedConfig": {"@type": type_url::TCP_PROXY, "statPrefix": "x", "weightedClusters": {"clusters": [{"name": "a", "weight": 1}, {"name": "b", "weight": 3}]}}}]}
        ],
        "listenerFilters": [
            {"name": "envoy.filters.listener.original_dst", "typedConfig": {"@type": type_url::ORIGINAL_DST}},
            {"name": "envoy.filters.listener.tls_inspector", "typedConfig": {"@type": type_url::TLS_INSPECTOR}},
            {"name": "envoy.filters.listener.http_inspector", "typedConfig": {"@type": type_url::HTTP_INSPECTOR}, "filterDisabled": {"orMatch": {"rules": [{"destinationPortRange": {"start": 15006, "end": 15007}}, {"destinationPortRange": {"start": 3306, "end": 3307}}]}}}
        ],
        "listenerFiltersTimeout": "0s",
        "continueOnListenerFiltersTimeout": true,
        "trafficDirection": "INBOUND",
        "connectionBalanceConfig": {"exactBalance": {}}
    })
}

#[test]
fn istios_inbound_listener() {
    let listener = compile_listener(&virtual_inbound()).unwrap();
    assert!(
        listener.bind_to_port
            && !listener.use_original_dst
            && listener.continue_on_listener_filters_timeout
    );
    assert_eq!(listener.listener_filters_timeout, None);
    let http = &listener.listener_filters[2];
    assert_eq!(http.kind, InspectorKind::Http);
    assert!(http.is_enabled_for(9080) && !http.is_enabled_for(3306) && !http.is_enabled_for(15006));

    let chain = &listener.filter_chains[1];
    let tls = chain.tls.as_ref().unwrap();
    assert!(tls.require_client_certificate);
    assert_eq!(tls.certificate, CertificateSource::Sds("default".into()));
    let validation = tls.validation.as_ref().unwrap();
    assert_eq!(validation.trust, TrustSource::Sds("ROOTCA".into()));
    assert!(
        validation.sans[0]
            .matcher
            .matches(b"spiffe://cluster.local/ns/a/sa/b")
    );

    let Terminal::Http(hcm) = &chain.terminal else {
        panic!("{:?}", chain.terminal)
    };
    assert_eq!((hcm.stream_idle_timeout, hcm.http_filters.len()), (None, 7));
    let HttpFilterKind::PeerMetadata(peer) = &hcm.http_filters[0].kind else {
        panic!()
    };
    assert_eq!(
        (
            peer.downstream_discovery.len(),
            peer.downstream_propagation.len()
        ),
        (2, 1)
    );
    let RouteSource::Inline(routes) = &hcm.routes else {
        panic!()
    };
    let RouteAction::Forward(action) = &routes.virtual_hosts[0].get().unwrap().routes[0].action
    else {
        panic!()
    };
    assert_eq!(
        (
            action.timeout,
            action.max_stream_duration,
            action.grpc_timeout_max
        ),
        (None, Some(None), Some(None))
    );

    let plain = &listener.filter_chains[2];
    assert!(
        matches!(&plain.filters[..], [NetworkFilter::MetadataExchange(exchange)] if exchange.enable_discovery)
    );
    let Terminal::Tcp(tcp) = &plain.terminal else {
        panic!()
    };
    let picked = |random| tcp.target.pick(random).to_string();
    assert_eq!(
        [picked(0), picked(1), picked(3), picked(4)],
        ["a", "b", "b", "a"]
    );
}

#[test]
fn every_problem_of_a_listener_is_told() {
    let mut listener = virtual_inbound();
    listener["filterChains"][0]["filterChainMatch"]["addressSuffix"] = json!("1");
    listener["filterChains"][1]["filters"][0]["typedConfig"]["httpFilters"][1]["typedConfig"]["rules"]
        ["policies"]["ns[default]-policy[allow]-rule[0]"]["permissions"] =
        json!([{"metadata": {"filter": "x"}}]);
    listener["filterChains"][1]["filters"][0]["typedConfig"]["localReplyConfig"] = json!({});
    listener["tcpFastOpenQueueLength"] = json!(5);
    check_refused(
        compile_listener(&listener),
        "virtualInbound: filter_chains[0].filter_chain_match.address_suffix: is not supported; \
         virtualInbound: filter_chains[1].filters[0].typed_config.http_filters[1].typed_config.rules.policies\
         [\"ns[default]-policy[allow]-rule[0]\"].permissions[0]: this kind of permission is not supported; \
         virtualInbound: filter_chains[1].filters[0].typed_config.local_reply_config: is not supported; \
         virtualInbound: tcp_fast_open_queue_length: is not supported",
    );
}

#[test]
fn unknown_filters_are_refused_unless_optional() {
    let wasm = |is_optional: bool| {
        let mut listener = virtual_inbound();
        let filters = listener["filterChains"][1]["filters"][0]["typedConfig"]["httpFilters"]
            .as_array_mut()
            .unwrap();
        filters.insert(0, json!({"name": "limit", "isOptional": is_optional, "typedConfig": {"@type": type_url::RATE_LIMIT}}));
        compile_listener(&listener)
    };
    assert!(wasm(true).is_ok());
    check_refused(
        wasm(false),
        &format!(
            "virtualInbound: filter_chains[1].filters[0].typed_config.http_filters[0].typed_config: {} is not supported",
            type_url::RATE_LIMIT
        ),
    );
}

#[test]
fn equal_matches_are_refused() {
    let mut listener = virtual_inbound();
    let chain = listener["filterChains"][0].clone();
    listener["filterChains"].as_array_mut().unwrap().push(chain);
    check_refused(
        compile_listener(&listener),
        "virtualInbound: filter_chains[3].filter_chain_match: is that of filter_chains[0]",
    );
}

fn reviews_cluster() -> Value {
    json!({
        "name": "outbound|9080|v1|reviews.default.svc.cluster.local",
        "type": "EDS",
        "edsClusterConfig": {"edsConfig": {"ads": {}}, "serviceName": "outbound|9080|v1|reviews.default.svc.cluster.local"},
        "connectTimeout": "10s",
        "lbPolicy": "LEAST_REQUEST",
        "circuitBreakers": {"thresholds": [{"maxConnections": 4294967295u32, "maxPendingRequests": 4294967295u32, "maxRequests": 4294967295u32, "maxRetries": 4294967295u32, "trackRemaining": true}]},
        "commonLbConfig": {"healthyPanicThreshold": {"value": 0}, "localityWeightedLbConfig": {}},
        "outlierDetection": {"consecutive5xx": 3, "interval": "1s", "enforcingSuccessRate": 0, "enforcingConsecutive5xx": 100},
        "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": type_url::HTTP_PROTOCOL_OPTIONS, "useDownstreamProtocolConfig": {"httpProtocolOptions": {}, "http2ProtocolOptions": {}}}},
        "transportSocketMatches": [
            {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transportSocket": {"name": "envoy.transport_sockets.tls", "typedConfig": {"@type": type_url::UPSTREAM_TLS,
                "sni": "outbound_.9080_.v1_.reviews.default.svc.cluster.local",
                "commonTlsContext": {"alpnProtocols": ["istio-peer-exchange", "istio"], "tlsCertificateSdsSecretConfigs": [sds("default")],
                    "tlsParams": {"tlsMinimumProtocolVersion": "TLSv1_2", "tlsMaximumProtocolVersion": "TLSv1_3"},
                    "combinedValidationContext": {"defaultValidationContext": {"matchSubjectAltNames": [{"exact": "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"}]}, "validationContextSdsSecretConfig": sds("ROOTCA")}}}}},
            {"name": "tlsMode-disabled", "match": {}, "transportSocket": {"name": "envoy.transport_sockets.raw_buffer", "typedConfig": {"@type": type_url::RAW_BUFFER}}}
        ],
        "filters": [{"name": "istio.metadata_exchange", "typedConfig": {"@type": type_url::TCP_METADATA_EXCHANGE, "protocol": "istio-peer-exchange"}}],
        "metadata": {"filterMetadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews", "services": [{"host": "reviews.default.svc.cluster.local", "name": "reviews", "namespace": "default"}]}}}
    })
}

fn assignment() -> runtime::ClusterLoadAssignment {
    let endpoint = |ip: &str, metadata: Value| json!({"endpoint": {"address": {"socketAddress": {"address": ip, "portValue": 9080}}}, "healthStatus": "HEALTHY", "metadata": {"filterMetadata": metadata}, "loadBalancingWeight": 1});
    let json = json!({"clusterName": "outbound|9080|v1|reviews.default.svc.cluster.local", "endpoints": [{"locality": {"region": "r"}, "loadBalancingWeight": 2, "lbEndpoints": [
        endpoint("10.244.0.7", json!({"envoy.transport_socket_match": {"tlsMode": "istio"}, "istio": {"workload": "reviews-v1;default;reviews;v1;Kubernetes"}})),
        endpoint("10.244.0.8", json!({}))]}]});
    cluster_load_assignment(message(type_url::ENDPOINT, &json)).unwrap()
}

#[test]
fn istios_cluster_and_its_endpoints() {
    let cluster = compile_cluster(&reviews_cluster()).unwrap();
    assert!(matches!(cluster.discovery, Discovery::Eds { .. }));
    assert_eq!(cluster.lb, LbPolicy::LeastRequest { choices: 2 });
    assert_eq!(cluster.http.version, UpstreamHttpVersion::Downstream);
    assert_eq!(
        (
            &*cluster.services[0].name,
            cluster.circuit_breakers.default.max_retries
        ),
        ("reviews", u32::MAX)
    );
    assert_eq!(cluster.outlier_detection.unwrap().consecutive_5xx, 3);
    assert!(cluster.locality_weighted && cluster.panic_threshold_percent == 0.0);

    let assignment = assignment();
    let endpoints: Vec<_> = assignment.endpoints().collect();
    let tls = cluster.transport_for(endpoints[0]).unwrap();
    assert_eq!(
        tls.sni.as_deref(),
        Some("outbound_.9080_.v1_.reviews.default.svc.cluster.local")
    );
    assert!(
        tls.validation.as_ref().unwrap().sans[0]
            .matcher
            .matches(b"spiffe://cluster.local/ns/default/sa/bookinfo-reviews")
    );
    assert!(cluster.transport_for(endpoints[1]).is_none());
    let workload = endpoints[0].workload.as_ref().unwrap();
    assert_eq!(
        (&*workload.canonical_name, &*workload.canonical_revision),
        ("reviews", "v1")
    );
}

#[test]
fn unsupported_clusters_are_refused() {
    let with = |field: &str, value: Value| {
        let mut cluster = reviews_cluster();
        cluster["name"] = json!("c");
        cluster[field] = value;
        compile_cluster(&cluster)
    };
    check_refused(
        with("healthChecks", json!([{"timeout": "1s", "interval": "1s"}])),
        "c: health_checks: is not supported",
    );
    check_refused(
        with("outlierDetection", json!({"enforcingSuccessRate": 50})),
        "c: outlier_detection.enforcing_success_rate: is not supported",
    );
    check_refused(
        with("lbPolicy", json!("LOAD_BALANCING_POLICY_CONFIG")),
        "c: lb_policy: LOAD_BALANCING_POLICY_CONFIG is not supported",
    );
    check_refused(
        with("ringHashLbConfig", json!({})),
        "c: lb_config: does not go with LEAST_REQUEST",
    );
    check_refused(
        with(
            "transportSocket",
            json!({"name": "x", "typedConfig": {"@type": type_url::UPSTREAM_TLS, "commonTlsContext": {"tlsParams": {"tlsMinimumProtocolVersion": "TLSv1_0"}}}}),
        ),
        "c: transport_socket.typed_config.common_tls_context.tls_params.tls_minimum_protocol_version: TLS below 1.2 is not supported",
    );
}

#[test]
fn passthrough_binds_its_source() {
    let cluster = compile_cluster(&json!({"name": "InboundPassthroughCluster", "type": "ORIGINAL_DST", "lbPolicy": "CLUSTER_PROVIDED", "connectTimeout": "10s",
        "upstreamBindConfig": {"sourceAddress": {"address": "127.0.0.6", "portValue": 0}}}))
    .unwrap();
    assert!(matches!(
        cluster.discovery,
        Discovery::OriginalDst {
            port_override: None
        }
    ));
    assert_eq!(cluster.source_address, Some("127.0.0.6".parse().unwrap()));
}

fn reviews_routes() -> Value {
    let retry = json!({"retryOn": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes", "numRetries": 2,
        "retryHostPredicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typedConfig": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {}}}],
        "hostSelectionRetryMaxAttempts": "5"});
    json!({"name": "9080", "validateClusters": false, "ignorePortInHostMatching": true, "maxDirectResponseBodySizeBytes": 1048576, "virtualHosts": [
    {"name": "block_all", "domains": ["*"], "routes": [{"name": "block_all", "match": {"prefix": "/"}, "directResponse": {"status": 502}}]},
    {"name": "reviews.default.svc.cluster.local:9080", "domains": ["reviews", "reviews.default.svc.cluster.local"], "includeRequestAttemptCount": true, "routes": [
        {"match": {"prefix": "/", "caseSensitive": true, "headers": [{"name": "end-user", "stringMatch": {"exact": "jason"}}]},
         "route": {"cluster": "v2", "timeout": "0.5s", "retryPolicy": retry, "regexRewrite": {"pattern": {"regex": "/(.*)"}, "substitution": "/v2/\\1"}},
         "typedPerFilterConfig": {"envoy.filters.http.fault": {"@type": type_url::FAULT, "delay": {"fixedDelay": "7s", "percentage": {"numerator": 1000000, "denominator": "MILLION"}}}},
         "requestHeadersToAdd": [{"header": {"key": "x-a", "value": "%REQ(:PATH)%"}, "appendAction": "OVERWRITE_IF_EXISTS_OR_ADD"}],
         "metadata": {"filterMetadata": {"istio": {"config": "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"}}}},
        {"name": "canary", "match": {"safeRegex": {"regex": "/api/v[0-9]+"}}, "route": {"weightedClusters": {"clusters": [{"name": "v1", "weight": 90}, {"name": "v3", "weight": 10}], "totalWeight": 100}, "hashPolicy": [{"header": {"headerName": "x-user"}}]}}
    ]}]})
}

#[test]
fn istios_routes() {
    let config = compile_routes(&reviews_routes()).unwrap();
    let host = crate::virtual_host::select(&config, "reviews:9080").unwrap();
    assert!(host.include_request_attempt_count);
    let RouteAction::Forward(action) = &host.routes[0].action else {
        panic!()
    };
    let retry = action.retry.as_ref().unwrap();
    assert!(
        retry.on.connect_failure
            && retry.on.grpc_unavailable
            && !retry.on.server_error
            && retry.avoid_previous_hosts
    );
    assert_eq!((retry.num_retries, retry.host_selection_attempts), (2, 5));
    assert_eq!(retry.backoff.max, Duration::from_millis(250));
    assert_eq!(action.timeout, Some(Duration::from_millis(500)));
    let over = host.routes[0].per_filter.get("envoy.filters.http.fault");
    let Some(runtime::OverrideConfig::Fault(fault)) = over.unwrap().config.as_ref() else {
        panic!("{over:?}");
    };
    assert_eq!(fault.delay.unwrap().delay, Duration::from_secs(7));
    let headers = http::HeaderMap::new();
    let head = crate::request::RequestHead {
        method: "GET",
        path: "/x?y",
        authority: "reviews:9080",
        scheme: "http",
        headers: &headers,
    };
    assert_eq!(
        crate::rewrite::path(&host.routes[0], action, &head).unwrap(),
        "/v2/x?y"
    );
    let RouteAction::Forward(canary) = &host.routes[1].action else {
        panic!()
    };
    assert!(matches!(&canary.cluster, ClusterTarget::Weighted(w) if w.total_weight == 100));
    assert_eq!(canary.timeout, Some(Duration::from_secs(15)));
    assert_eq!(
        &*crate::virtual_host::select(&config, "unknown")
            .unwrap()
            .name,
        "block_all"
    );
}

#[test]
fn unsupported_routes_are_refused() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut routes = reviews_routes();
        change(&mut routes);
        compile_routes(&routes)
    };
    let first = |routes: &mut Value, field: &str, value: Value| {
        routes["virtualHosts"][1]["routes"][0]["route"][field] = value
    };
    check_refused(
        with(&|routes| {
            first(
                routes,
                "retryPolicy",
                json!({"retryOn": "http3-post-connect-failure"}),
            )
        }),
        "9080: virtual_hosts[1].routes[0].route.retry_policy.retry_on: \"http3-post-connect-failure\" is not supported",
    );
    check_refused(
        with(&|routes| {
            routes["virtualHosts"][1]["routes"][1]["match"]["safeRegex"]["regex"] = json!("/a(")
        }),
        "9080: virtual_hosts[1].routes[1].match.safe_regex.regex: \"/a(\" does not compile: error: unclosed group",
    );
    check_refused(
        with(&|routes| first(routes, "metadataMatch", json!({}))),
        "9080: virtual_hosts[1].routes[0].route.metadata_match: is not supported",
    );
    check_refused(
        with(&|routes| routes["virtualHosts"][1]["domains"] = json!(["*"])),
        "9080: virtual_hosts[1].domains: \"*\" is there twice",
    );
}

#[test]
fn a_long_regex_is_refused() {
    let mut routes = reviews_routes();
    routes["virtualHosts"][1]["routes"][1]["match"]["safeRegex"]["regex"] = json!("a".repeat(1025));
    check_refused(
        compile_routes(&routes),
        "9080: virtual_hosts[1].routes[1].match.safe_regex.regex: is longer than 1024 characters",
    );
}

#[test]
fn a_regex_cannot_break_out_of_its_anchors() {
    let mut routes = reviews_routes();
    routes["virtualHosts"][1]["routes"][1]["match"]["safeRegex"]["regex"] = json!("/a)|(/b");
    check_refused(
        compile_routes(&routes),
        "9080: virtual_hosts[1].routes[1].match.safe_regex.regex: \"/a)|(/b\" does not compile: error: unopened group",
    );
}

#[test]
fn a_virtual_host_that_is_refused_spoils_no_other() {
    let with = |value: &str, domains: Value, new_path: &str| {
        let route = |path: &str, header: &str| {
            json!({"match": {"prefix": path}, "route": {"cluster": "c"},
                   "requestHeadersToAdd": [{"header": {"key": "x", "value": header}}]})
        };
        encoded(&json!({"name": "80", "virtualHosts": [
            {"name": "good", "domains": ["good"], "routes": [route(new_path, "1")]},
            {"name": "bad", "domains": domains, "routes": [route("/", "1"), route(new_path, value)]},
        ]}))
    };
    let path_of = |routes: &runtime::RouteConfiguration, authority: &str| {
        let host = crate::virtual_host::select(routes, authority)?;
        Some(
            host.routes
                .iter()
                .map(|route| format!("{:?}", route.matches.path))
                .collect::<Vec<_>>(),
        )
    };
    let first =
        encoded_route_configuration(&with("%PROTOCOL%", json!(["bad"]), "/a"), None).unwrap();
    assert!(first.refused.is_none());

    // The last good routes, for the names of now; everybody else moves on.
    let body = with("%NO%", json!(["bad", "worse"]), "/b");
    let second = encoded_route_configuration(&body, Some(&first.routes)).unwrap();
    let (errors, effective) = second.refused.unwrap();
    assert_eq!(
        errors.to_string(),
        "80: virtual_hosts[1].routes[1].request_headers_to_add[0].header.value: %NO% is not supported (virtual host \"bad\")"
    );
    assert!(path_of(&second.routes, "good").unwrap()[0].contains("/b"));
    assert!(path_of(&second.routes, "bad").unwrap()[1].contains("/a"));
    assert!(path_of(&second.routes, "worse").unwrap()[1].contains("/a"));
    // What is in force can be read again, and is sound.
    let again = encoded_route_configuration(&effective, None).unwrap();
    assert!(again.refused.is_none());
    assert!(path_of(&again.routes, "worse").unwrap()[1].contains("/a"));

    // Without a last good one it answers 404, and no wildcard takes its requests.
    let alone = encoded_route_configuration(&body, None).unwrap();
    assert!(alone.refused.is_some());
    assert_eq!(path_of(&alone.routes, "bad"), Some(Vec::new()));
    assert!(path_of(&alone.routes, "good").unwrap()[0].contains("/b"));
}

/// Every operator that Envoy documents is taken, with `-` for what there is none of.
#[test]
fn operators_without_a_value_are_taken() {
    for format in [
        "%REQ_WITHOUT_QUERY(:PATH)% %HOSTNAME% %TRACE_ID% %STREAM_ID%",
        "%REQUESTED_SERVER_NAME(SNI_ONLY:ORIG)% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
        "%DOWNSTREAM_PEER_CERT_V_END(%F)% %METADATA(ROUTE:istio:a):9%",
    ] {
        assert!(crate::access_log::parse(format).is_ok(), "{format}");
    }
}

/// A test that never matches would open what it is the negation of, or close what it allows: it is refused by its name.
#[test]
fn rules_that_cannot_be_judged_are_refused() {
    let with = |permission: Value, principal: Value| {
        let mut listener = virtual_inbound();
        let filters = &mut listener["filterChains"][1]["filters"][0]["typedConfig"]["httpFilters"];
        filters[1]["typedConfig"]["rules"]["policies"] =
            json!({"p": {"permissions": [permission], "principals": [principal]}});
        compile_listener(&listener)
    };
    let any = || json!({"any": true});
    let template = |template: &str| {
        json!({"uriTemplate": {"name": "x", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "pathTemplate": template}}})
    };
    let claim = |more: Value| {
        let mut matcher = json!({"filter": "envoy.filters.http.jwt_authn",
            "path": [{"key": "payload"}, {"key": "iss"}], "value": {"stringMatch": {"exact": "a"}}});
        let fields = matcher.as_object_mut().unwrap();
        fields.extend(more.as_object().unwrap().clone());
        matcher
    };
    let sourced = |more| json!({"sourcedMetadata": {"metadataMatcher": claim(more)}});
    for good in [
        with(any(), sourced(json!({}))),
        with(any(), json!({"metadata": claim(json!({}))})),
        with(any(), sourced(json!({"path": [{"key": "issuer"}]}))),
        with(any(), sourced(json!({"invert": true}))),
        with(template("/a/*/b/**"), any()),
        with(template("/a/**.png"), any()),
    ] {
        good.unwrap();
    }
    let at = "p";
    for (result, expected) in [
        (with(template("a/*"), any()), "\"a/*\" is no path template"),
        (
            with(template("/a/{x}"), any()),
            "\"/a/{x}\" is no path template",
        ),
        (with(template("/**/*"), any()), "** is the last operator"),
        (
            with(
                any(),
                sourced(json!({"filter": "envoy.filters.http.other"})),
            ),
            "\"envoy.filters.http.other\" is not supported",
        ),
        (
            with(any(), sourced(json!({"path": []}))),
            "path: is required",
        ),
        (
            with(any(), sourced(json!({"value": {}}))),
            "this kind of value is not supported",
        ),
        (
            with(any(), sourced(json!({"value": {"presentMatch": false}}))),
            "this kind of value is not supported",
        ),
        (
            with(
                any(),
                json!({"sourcedMetadata": {"metadataSource": "ROUTE", "metadataMatcher": claim(json!({}))}}),
            ),
            "only DYNAMIC is supported",
        ),
    ] {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(expected) && text.contains(at), "{text}");
    }
}
