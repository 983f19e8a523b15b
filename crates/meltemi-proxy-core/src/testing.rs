//! Builders for the tests of this crate.

use std::sync::Arc;
use std::time::Duration;

use crate::runtime::{
    ClientCertDetails, Cluster, ClusterTarget, EscapedSlashes, FilterChain, FilterChainMatch,
    ForwardAction, ForwardClientCert, HeaderMutations, Http1Options, Http2Options, HttpCodec,
    HttpConnectionManager, Listener, PathMatch, PathNormalisation, PerFilterConfig, Route,
    RouteAction, RouteMatch, RouteSource, Router, ServerHeader, StripPort, Terminal,
    TrafficDirection,
};

/// A listener named after its address.
pub(crate) fn listener(address: &str) -> Listener {
    Listener {
        name: address.into(),
        address: address.parse().unwrap(),
        additional_addresses: Vec::new(),
        bind_to_port: false,
        use_original_dst: false,
        transparent: false,
        traffic_direction: TrafficDirection::Outbound,
        listener_filters: Vec::new(),
        listener_filters_timeout: Some(Duration::from_secs(15)),
        continue_on_listener_filters_timeout: false,
        filter_chains: Vec::new(),
        default_filter_chain: None,
        access_log: Vec::new(),
        per_connection_buffer_limit_bytes: 1 << 20,
    }
}

pub(crate) fn filter_chain(name: &str, matches: FilterChainMatch) -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: name.into(),
        matches,
        tls: None,
        transport_socket_connect_timeout: None,
        filters: Vec::new(),
        terminal: Terminal::Close,
    })
}

/// A route to the cluster of its name.
pub(crate) fn route(name: &str, path: PathMatch) -> Route {
    Route {
        name: name.into(),
        matches: RouteMatch {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            runtime_fraction: None,
            grpc_only: false,
            metadata: Vec::new(),
        },
        action: RouteAction::Forward(Box::new(forward(name))),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        per_filter: PerFilterConfig::default(),
        config_source: None,
        operation: None,
    }
}

pub(crate) fn forward(cluster: &str) -> ForwardAction {
    ForwardAction {
        cluster: ClusterTarget::Cluster(cluster.into()),
        cluster_not_found_status: http::StatusCode::SERVICE_UNAVAILABLE,
        path_rewrite: None,
        host_rewrite: None,
        append_x_forwarded_host: false,
        timeout: None,
        idle_timeout: None,
        max_stream_duration: None,
        grpc_timeout_max: None,
        grpc_timeout_offset: None,
        retry: None,
        hash: Arc::new([]),
        mirrors: Arc::new([]),
        upgrades: Vec::new(),
        high_priority: false,
    }
}

pub(crate) fn http_connection_manager() -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: "test".into(),
        codec: HttpCodec::Auto,
        routes: RouteSource::Rds("9080".into()),
        http_filters: Vec::new(),
        router: Router::default(),
        server_name: http::HeaderValue::from_static("istio-envoy"),
        server_header: ServerHeader::Overwrite,
        use_remote_address: false,
        skip_xff_append: false,
        xff_num_trusted_hops: 0,
        forward_client_cert: ForwardClientCert::Sanitize,
        client_cert_details: ClientCertDetails::default(),
        stream_idle_timeout: Some(Duration::from_secs(300)),
        request_timeout: None,
        request_headers_timeout: None,
        idle_timeout: Some(Duration::from_secs(3600)),
        max_connection_duration: None,
        max_stream_duration: None,
        delayed_close_timeout: Some(Duration::from_secs(1)),
        max_requests_per_connection: None,
        max_request_headers_bytes: 60 * 1024,
        max_request_headers_count: 100,
        reject_underscore_headers: false,
        drop_underscore_headers: false,
        upgrades: Vec::new(),
        path: PathNormalisation {
            normalize: true,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
        },
        strip_port: StripPort::Keep,
        strip_trailing_host_dot: false,
        generate_request_id: true,
        preserve_external_request_id: false,
        always_set_request_id_in_response: false,
        via: None,
        access_log: Vec::new(),
        http1: Http1Options::default(),
        http2: Http2Options::default(),
    }
}

pub(crate) fn connection_record() -> crate::record::ConnectionRecord {
    crate::record::ConnectionRecord {
        id: 1,
        direction: TrafficDirection::Outbound,
        listener: "0.0.0.0_9080".into(),
        filter_chain: "".into(),
        local_address: "10.96.0.7:9080".parse().unwrap(),
        remote_address: "10.244.0.5:50000".parse().unwrap(),
        direct_remote_address: "10.244.0.5:50000".parse().unwrap(),
        requested_server_name: None,
        tls: None,
        transport_failure: None,
    }
}

/// A static cluster without endpoints.
pub(crate) fn cluster(name: &str) -> Cluster {
    crate::compile::cluster(meltemi_proto::envoy::config::cluster::v3::Cluster {
        name: name.to_owned(),
        ..Default::default()
    })
    .unwrap()
}
