//! Type URLs, spelled as Envoy and Istio register them.

// Resources of the aggregated discovery service.
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const ENDPOINT: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
pub const VIRTUAL_HOST: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
pub const EXTENSION_CONFIG: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
pub const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";

// Listener filters.
pub const ORIGINAL_DST: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
pub const TLS_INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
pub const HTTP_INSPECTOR: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
pub const PROXY_PROTOCOL: &str =
    "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

// Network filters.
pub const HTTP_CONNECTION_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
pub const TCP_PROXY: &str =
    "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
pub const NETWORK_RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
pub const NETWORK_EXT_AUTHZ: &str =
    "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz";
pub const TCP_METADATA_EXCHANGE: &str =
    "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

// HTTP filters.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
pub const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
pub const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
pub const CORS_POLICY: &str =
    "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy";
pub const GRPC_STATS: &str =
    "type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";
pub const GRPC_WEB: &str = "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
pub const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC";
pub const RBAC_PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute";
pub const JWT_AUTHN: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
pub const JWT_AUTHN_PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig";
pub const EXT_AUTHZ: &str =
    "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
pub const EXT_AUTHZ_PER_ROUTE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
pub const LOCAL_RATE_LIMIT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
pub const RATE_LIMIT: &str =
    "type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit";
pub const UPSTREAM_CODEC: &str =
    "type.googleapis.com/envoy.extensions.filters.http.upstream_codec.v3.UpstreamCodec";
pub const PEER_METADATA: &str = "type.googleapis.com/io.istio.http.peer_metadata.Config";
pub const ISTIO_STATS: &str = "type.googleapis.com/stats.PluginConfig";
pub const ISTIO_ALPN: &str =
    "type.googleapis.com/istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig";

// Transport sockets and upstream options.
pub const DOWNSTREAM_TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
pub const UPSTREAM_TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
pub const RAW_BUFFER: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
pub const HTTP_PROTOCOL_OPTIONS: &str =
    "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

// Access logs.
pub const FILE_ACCESS_LOG: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog";
pub const STDOUT_ACCESS_LOG: &str =
    "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
pub const REQ_WITHOUT_QUERY: &str =
    "type.googleapis.com/envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery";
pub const FORMATTER_METADATA: &str =
    "type.googleapis.com/envoy.extensions.formatter.metadata.v3.Metadata";

// Parts of a config dump (`envoy.admin.v3.ConfigDump`) and other admin answers.
pub const BOOTSTRAP_CONFIG_DUMP: &str = "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump";
pub const CLUSTERS_CONFIG_DUMP: &str = "type.googleapis.com/envoy.admin.v3.ClustersConfigDump";
pub const LISTENERS_CONFIG_DUMP: &str = "type.googleapis.com/envoy.admin.v3.ListenersConfigDump";
pub const ROUTES_CONFIG_DUMP: &str = "type.googleapis.com/envoy.admin.v3.RoutesConfigDump";
pub const SCOPED_ROUTES_CONFIG_DUMP: &str =
    "type.googleapis.com/envoy.admin.v3.ScopedRoutesConfigDump";
pub const SECRETS_CONFIG_DUMP: &str = "type.googleapis.com/envoy.admin.v3.SecretsConfigDump";
pub const ENDPOINTS_CONFIG_DUMP: &str = "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump";
pub const CONFIG_DUMP: &str = "type.googleapis.com/envoy.admin.v3.ConfigDump";
pub const CLUSTERS: &str = "type.googleapis.com/envoy.admin.v3.Clusters";
pub const SERVER_INFO: &str = "type.googleapis.com/envoy.admin.v3.ServerInfo";
pub const CERTIFICATES: &str = "type.googleapis.com/envoy.admin.v3.Certificates";
pub const LISTENERS: &str = "type.googleapis.com/envoy.admin.v3.Listeners";

// Well-known types.
pub const STRUCT: &str = "type.googleapis.com/google.protobuf.Struct";
pub const XDS_TYPED_STRUCT: &str = "type.googleapis.com/xds.type.v3.TypedStruct";
pub const UDPA_TYPED_STRUCT: &str = "type.googleapis.com/udpa.type.v1.TypedStruct";

/// Every constant above, so that a test can compare them with the descriptors.
#[cfg(test)]
pub(crate) const ALL: &[&str] = &[
    LISTENER,
    CLUSTER,
    ROUTE,
    ENDPOINT,
    SECRET,
    VIRTUAL_HOST,
    EXTENSION_CONFIG,
    RUNTIME,
    ORIGINAL_DST,
    TLS_INSPECTOR,
    HTTP_INSPECTOR,
    PROXY_PROTOCOL,
    HTTP_CONNECTION_MANAGER,
    TCP_PROXY,
    NETWORK_RBAC,
    NETWORK_EXT_AUTHZ,
    TCP_METADATA_EXCHANGE,
    ROUTER,
    FAULT,
    CORS,
    CORS_POLICY,
    GRPC_STATS,
    GRPC_WEB,
    RBAC,
    RBAC_PER_ROUTE,
    JWT_AUTHN,
    JWT_AUTHN_PER_ROUTE,
    EXT_AUTHZ,
    EXT_AUTHZ_PER_ROUTE,
    LOCAL_RATE_LIMIT,
    RATE_LIMIT,
    UPSTREAM_CODEC,
    PEER_METADATA,
    ISTIO_STATS,
    ISTIO_ALPN,
    DOWNSTREAM_TLS,
    UPSTREAM_TLS,
    RAW_BUFFER,
    HTTP_PROTOCOL_OPTIONS,
    FILE_ACCESS_LOG,
    STDOUT_ACCESS_LOG,
    REQ_WITHOUT_QUERY,
    FORMATTER_METADATA,
    BOOTSTRAP_CONFIG_DUMP,
    CLUSTERS_CONFIG_DUMP,
    LISTENERS_CONFIG_DUMP,
    ROUTES_CONFIG_DUMP,
    SCOPED_ROUTES_CONFIG_DUMP,
    SECRETS_CONFIG_DUMP,
    ENDPOINTS_CONFIG_DUMP,
    CONFIG_DUMP,
    CLUSTERS,
    SERVER_INFO,
    CERTIFICATES,
    LISTENERS,
    STRUCT,
    XDS_TYPED_STRUCT,
    UDPA_TYPED_STRUCT,
];
