use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::frame_budget::FrameRules;

use super::{AccessLog, HttpFilter, RouteConfiguration, Router};

/// Envoy `HttpConnectionManager`. Durations that are `None` mean no bound.
#[derive(Debug, Clone)]
pub struct HttpConnectionManager {
    pub stat_prefix: Arc<str>,
    pub codec: HttpCodec,
    pub routes: RouteSource,
    /// Before the router, in order.
    pub http_filters: Vec<HttpFilter>,
    pub router: Router,
    pub server_name: HeaderValue,
    pub server_header: ServerHeader,
    pub use_remote_address: bool,
    pub skip_xff_append: bool,
    pub xff_num_trusted_hops: u32,
    pub forward_client_cert: ForwardClientCert,
    pub client_cert_details: ClientCertDetails,
    /// Default 5 min.
    pub stream_idle_timeout: Option<Duration>,
    pub request_timeout: Option<Duration>,
    /// Default 15 s, where Envoy has none: an unfinished head costs us memory.
    pub request_headers_timeout: Option<Duration>,
    /// Of the connection without streams; default 1 h.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    /// After our last byte, for the peer to close first; default 1 s.
    pub delayed_close_timeout: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    /// Default 60 KiB.
    pub max_request_headers_bytes: usize,
    /// Default 100.
    pub max_request_headers_count: usize,
    pub reject_underscore_headers: bool,
    pub drop_underscore_headers: bool,
    pub upgrades: Vec<Upgrade>,
    pub path: PathNormalisation,
    pub strip_port: StripPort,
    pub strip_trailing_host_dot: bool,
    pub generate_request_id: bool,
    pub preserve_external_request_id: bool,
    pub always_set_request_id_in_response: bool,
    pub via: Option<HeaderValue>,
    pub access_log: Vec<Arc<AccessLog>>,
    pub http1: Http1Options,
    pub http2: Http2Options,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpCodec {
    /// HTTP/2 when ALPN or the connection preface says so, else HTTP/1.
    Auto,
    Http1,
    Http2,
}

#[derive(Debug, Clone)]
pub enum RouteSource {
    /// A resource to subscribe to.
    Rds(Arc<str>),
    Inline(Arc<RouteConfiguration>),
}

/// What happens to the `server` response header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeader {
    Overwrite,
    AppendIfAbsent,
    PassThrough,
}

/// What happens to `x-forwarded-client-cert` of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// Which optional keys an XFCC element carries; `By` and `Hash` are always there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientCertDetails {
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}

/// An upgrade that the listener allows, lower-case (`websocket`, `connect`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    pub kind: Arc<str>,
    pub enabled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathNormalisation {
    /// Dot segments and unreserved escapes (Istio BASE).
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

/// What to do with `%2F` and `%5C` in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    Keep,
    Matching,
    Any,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http1Options {
    pub allow_absolute_url: bool,
    pub accept_http_10: bool,
    /// The Host of HTTP/1.0 requests without one.
    pub default_host_for_http_10: Option<Arc<str>>,
    pub preserve_header_case: bool,
    pub enable_trailers: bool,
    /// `Transfer-Encoding: chunked` wins over a `Content-Length` beside it, instead of the request being refused.
    pub allow_chunked_length: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Http2Options {
    pub max_concurrent_streams: Option<u32>,
    pub initial_stream_window_bytes: Option<u32>,
    pub initial_connection_window_bytes: Option<u32>,
    pub allow_connect: bool,
    pub keepalive_interval: Option<Duration>,
    pub keepalive_timeout: Option<Duration>,
    pub frames: FrameRules,
}
