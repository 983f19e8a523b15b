use std::sync::Arc;

use super::Fraction;

/// Envoy `config.accesslog.v3.AccessLog` with a file or stream sink.
#[derive(Debug, Clone)]
pub struct AccessLog {
    pub sink: AccessLogSink,
    pub format: LogFormat,
    pub filter: Option<AccessLogFilter>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLogSink {
    Stdout,
    Stderr,
    File(Arc<str>),
}

#[derive(Debug, Clone)]
pub enum LogFormat {
    /// Written as it is; Istio's default ends with a newline.
    Text(Vec<LogPiece>),
    /// One object per line, keys in configuration order.
    Json(JsonNode),
}

#[derive(Debug, Clone)]
pub enum JsonNode {
    Object(Vec<(Arc<str>, Self)>),
    List(Vec<Self>),
    /// A lone operator keeps its type (numbers stay numbers); anything else is a string.
    Template(Vec<LogPiece>),
    Number(serde_json::Number),
    Bool(bool),
    Null,
}

/// A run of text or an operator of a format string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogPiece {
    Literal(Arc<str>),
    Operator {
        operator: Operator,
        /// `:N`, the longest output in bytes.
        max_bytes: Option<usize>,
    },
}

/// Envoy's access-log command operators that we have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// `%REQ(X?Y)%`: lower-case names; pseudo-headers with colon.
    RequestHeader {
        name: Arc<str>,
        or: Option<Arc<str>>,
    },
    /// The same without what follows a `?`, for paths.
    RequestHeaderWithoutQuery {
        name: Arc<str>,
        or: Option<Arc<str>>,
    },
    ResponseHeader {
        name: Arc<str>,
        or: Option<Arc<str>>,
    },
    Trailer {
        name: Arc<str>,
        or: Option<Arc<str>>,
    },
    /// `%QUERY_PARAM(X)%`: the first of that name, as it was sent.
    QueryParameter(Arc<str>),
    /// `%START_TIME%` with an optional strftime-like format.
    StartTime(Option<Arc<str>>),
    Duration,
    RequestDuration,
    ResponseDuration,
    ResponseTxDuration,
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ResponseFlagsLong,
    ConnectionTerminationDetails,
    UpstreamTransportFailureReason,
    DownstreamTransportFailureReason,
    BytesReceived,
    BytesSent,
    UpstreamHost,
    UpstreamRemoteAddress,
    UpstreamRemotePort,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamLocalAddress,
    UpstreamLocalAddressWithoutPort,
    UpstreamLocalPort,
    UpstreamRemoteAddressWithoutPort,
    /// The name of the endpoint, else its address.
    UpstreamHostName,
    UpstreamRequestAttemptCount,
    UpstreamPeerUriSan,
    UpstreamLocalUriSan,
    UpstreamTlsCipher,
    UpstreamTlsVersion,
    DownstreamLocalAddress,
    DownstreamLocalAddressWithoutPort,
    DownstreamLocalPort,
    DownstreamRemoteAddress,
    DownstreamRemoteAddressWithoutPort,
    DownstreamRemotePort,
    DownstreamDirectRemoteAddress,
    DownstreamDirectRemoteAddressWithoutPort,
    DownstreamDirectRemotePort,
    DownstreamPeerUriSan,
    DownstreamLocalUriSan,
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    DownstreamPeerFingerprint256,
    RequestedServerName,
    RouteName,
    VirtualHostName,
    FilterChainName,
    ConnectionId,
    GrpcStatus,
    GrpcStatusNumber,
    /// `%DYNAMIC_METADATA(namespace:key)%` of what authorization left.
    DynamicMetadata {
        namespace: Arc<str>,
        key: Arc<str>,
    },
    /// An operator of Envoy's of which we never have a value, such as `%FILTER_STATE(...)%` or `%TRACE_ID%`: always `-`.
    Absent,
}

/// Which requests are logged (Envoy `AccessLogFilter`).
#[derive(Debug, Clone)]
pub enum AccessLogFilter {
    StatusCode(Comparison),
    /// Milliseconds.
    Duration(Comparison),
    /// Any of these flags; empty: any flag at all.
    ResponseFlags(Vec<Arc<str>>),
    GrpcStatus {
        codes: Vec<u32>,
        exclude: bool,
    },
    Header(super::HeaderMatcher),
    Runtime(Fraction),
    AllOf(Vec<Self>),
    AnyOf(Vec<Self>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    pub op: ComparisonOp,
    pub value: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComparisonOp {
    Equal,
    AtLeast,
    AtMost,
    NotEqual,
}
