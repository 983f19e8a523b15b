//! Sends a request once.

use std::sync::Arc;

use http::{Request, Response};
use meltemi_proxy_core::error::ResetReason;
use meltemi_proxy_core::runtime::{
    AlpnProtocol, ForwardAction, UpstreamHttpVersion, WeightedCluster,
};

use super::body::RequestBody;
use super::exchange::Exchange;
use super::forward::Matched;
use super::incoming::Incoming;
use super::request::{self, BodySource};
use crate::upstream::connect::{self, Alpn, ConnectError, Wish};
use crate::upstream::{Host, Lease, PoolProtocol, SendError, Upstream};

/// A request that got no response.
pub(crate) struct AttemptError {
    pub(crate) reason: ResetReason,
    pub(crate) failure: Option<String>,
    /// Some of the request may have reached the upstream.
    pub(crate) request_started: bool,
    /// The connection had been idle and its peer closed it: safe to send again on a new one.
    pub(crate) stale: bool,
}

impl From<ConnectError> for AttemptError {
    fn from(error: ConnectError) -> Self {
        Self {
            reason: error.reason,
            failure: error.failure,
            request_started: false,
            stale: false,
        }
    }
}

/// Where an attempt goes, and by which configuration.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) matched: &'a Matched,
    pub(crate) action: &'a ForwardAction,
    pub(crate) weighted: Option<&'a WeightedCluster>,
    pub(crate) upstream: &'a Upstream,
    pub(crate) host: &'a Host,
}

/// Sends the request on a connection of the pool, or with `fresh` on a new one.
pub(crate) async fn send(
    exchange: &Exchange,
    target: &Target<'_>,
    body: &BodySource,
    fresh: bool,
) -> Result<(Response<Incoming>, Lease), AttemptError> {
    let protocol = protocol(exchange, target.upstream);
    let worker = &exchange.connection.worker;
    let request =
        request::build(exchange, target, protocol, body.body()).map_err(|error| AttemptError {
            reason: ResetReason::LocalReset,
            failure: Some(format!("the rewritten request is malformed: {error}")),
            request_started: false,
            stale: false,
        })?;
    let wish = wish(exchange, target.upstream, protocol, &request);
    let mut lease =
        connect::lease(worker, target.upstream, target.host, protocol, &wish, fresh).await?;
    let is_idempotent = exchange.head.method.is_idempotent();
    match lease.send(request).await {
        Ok(response) => Ok((response, lease)),
        Err(error) => Err(classify(&error, lease.is_reused(), is_idempotent)),
    }
}

/// The protocol of the upstream connection (Envoy `HttpProtocolOptions`).
pub(crate) fn protocol(exchange: &Exchange, upstream: &Upstream) -> PoolProtocol {
    if exchange.head.upgrade.is_some() {
        return PoolProtocol::Http11;
    }
    match upstream.config.http.version {
        UpstreamHttpVersion::Http2 => PoolProtocol::Http2,
        UpstreamHttpVersion::Downstream if exchange.head.version == http::Version::HTTP_2 => {
            PoolProtocol::Http2
        }
        UpstreamHttpVersion::Http1
        | UpstreamHttpVersion::Downstream
        | UpstreamHttpVersion::Alpn => PoolProtocol::Http11,
    }
}

/// What the connection for a request is to be.
pub(crate) fn wish(
    exchange: &Exchange,
    upstream: &Upstream,
    protocol: PoolProtocol,
    request: &Request<RequestBody>,
) -> Wish {
    let alpn = match (&exchange.connection.plan.alpn, protocol) {
        // Only one protocol is offered, so that the answer is known before the connection is made.
        (None, _) if upstream.config.http.version == UpstreamHttpVersion::Alpn => {
            Alpn::These([Arc::from("http/1.1")].into())
        }
        (None, _) => Alpn::OfTheCluster,
        (Some(overrides), PoolProtocol::Http11) => {
            Alpn::Overridden(overrides.clone(), AlpnProtocol::Http11)
        }
        (Some(overrides), PoolProtocol::Http2) => {
            Alpn::Overridden(overrides.clone(), AlpnProtocol::Http2)
        }
    };
    let server_name = upstream.config.http.auto_sni.then(|| server_name(request));
    Wish { alpn, server_name }
}

/// The authority that the request is sent with, rewritten where the route says so (Envoy's router sets the server name
/// after the request's headers are final). Differs from Envoy: `auto_host_rewrite` counts, too.
fn server_name(request: &Request<RequestBody>) -> Arc<str> {
    let authority = request.uri().authority().map(http::uri::Authority::as_str);
    let host = || request.headers().get(http::header::HOST)?.to_str().ok();
    let authority = authority.or_else(host).unwrap_or_default();
    meltemi_proxy_core::request::without_port(authority).into()
}

/// What became of a request that got no answer.
pub(crate) fn classify(failed: &SendError, reused: bool, is_idempotent: bool) -> AttemptError {
    let unsent = failed.is_unsent;
    let reason = failed.error.reset_reason();
    // A request that was not written may go anywhere. One that was may have been acted on: only if doing it twice is
    // the same as once is it sent again without the retry policy's consent (RFC 9110 section 9.2.2).
    let lost_connection = matches!(reason, ResetReason::ConnectionTermination);
    let stale = (unsent && reused)
        || (reused && lost_connection && is_idempotent)
        || (reused && reason == ResetReason::RemoteRefusedStream);
    AttemptError {
        reason,
        failure: None,
        request_started: !unsent,
        stale,
    }
}
