//! The bounds of both ends.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

/// The largest request a server reads, and gRPC's own default. A reconnecting proxy that holds 40,000 resources
/// with names of 80 bytes sends this much.
pub const REQUEST_LIMIT_BYTES: usize = 4 << 20;
/// The largest response a client reads: one delta response is split at [`RESPONSE_TARGET_BYTES`], but a single
/// resource and a state-of-the-world response are not.
pub const RESPONSE_LIMIT_BYTES: usize = 256 << 20;
/// A delta response is closed once its resources reach this size; the rest follows after the ACK, so that neither
/// end holds more than one such message per connection. All proxies of a mesh may connect at one time: a control plane has
/// to hold one for each of them.
pub const RESPONSE_TARGET_BYTES: usize = 256 << 10;
/// Responses waiting for the transport, per stream. One, so that a slow peer gets merged pushes, not a queue.
pub const RESPONSE_QUEUE: usize = 1;
/// Requests waiting for the transport, per stream of a client.
pub const REQUEST_QUEUE: usize = 16;
/// Resource types that one stream may name.
pub const TYPES_PER_STREAM: usize = 32;
/// Names that one stream may subscribe to, per type.
pub const NAMES_PER_TYPE: usize = 100_000;
/// Virtual hosts that one stream may subscribe to. Each is made for the one who asks, and hosts are what strangers name:
/// four times what our proxy holds at most.
pub const VIRTUAL_HOSTS_PER_STREAM: usize = 8192;
/// The longest NACK text that is sent or kept.
pub const DETAIL_LIMIT_BYTES: usize = 16 << 10;
/// A stream that says nothing within this time is closed: it holds a connection and is nobody yet.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A client gives up on a connection that is not established by then.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 PING when idle, on both ends; a peer that vanished is noticed after at most interval + timeout.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first and the longest pause between two connections of a client, before jitter.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
pub const BACKOFF_MAX: Duration = Duration::from_secs(15);
/// HTTP/2 streams that one connection may open; a proxy needs two or three.
const STREAMS_PER_CONNECTION: u32 = 100;

/// Sets keepalive and windows on the way to a control plane. The adaptive window matters across a wide area, where
/// a fixed one caps the speed of a push.
pub fn client_endpoint(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(true)
        .tcp_nodelay(true)
}

/// Sets keepalive, windows and the stream bound of a control plane's gRPC server.
pub fn server_builder() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_adaptive_window(Some(true))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .tcp_nodelay(true)
}

/// Cuts a text to [`DETAIL_LIMIT_BYTES`] at a character's boundary.
pub(crate) fn bounded_detail(mut detail: String) -> String {
    if detail.len() > DETAIL_LIMIT_BYTES {
        detail.truncate(detail.floor_char_boundary(DETAIL_LIMIT_BYTES));
        detail.push_str(" ...");
    }
    detail
}
