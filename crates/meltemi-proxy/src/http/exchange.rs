//! One exchange: everything that is learnt of a request and its response, told once at its end to metrics and logs.

use std::borrow::Cow;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response, StatusCode};
use meltemi_proxy_core::error::{ErrorKind, ProxyError};
use meltemi_proxy_core::flags::ResponseFlags;
use meltemi_proxy_core::headers::HeaderChange;
use meltemi_proxy_core::quick::QuickMap;
use meltemi_proxy_core::record::AuthorizationRecord;
use meltemi_proxy_core::retry::grpc_status;
use meltemi_proxy_core::runtime::Route;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::body::{BodyProgress, ResponseBody};
use super::incoming::{Incoming, StreamError};
use super::intake::{self, Head, Intake};
use super::record;
use super::respond;
use super::serve::HttpConnection;
use super::upgrade::OnUpgrade;
use crate::telemetry::peer::Workload;
use crate::telemetry::series::HttpSeries;
use crate::upstream::cluster::Slot;
use crate::upstream::host::ActiveRequest;
use crate::upstream::{ConnectionFacts, Host, Principals, Upstream};

/// The service of every downstream HTTP connection. It never fails: an error becomes a response or a reset body.
pub(crate) fn answer(
    connection: &Arc<HttpConnection>,
    request: Request<Incoming>,
    on_upgrade: OnUpgrade,
) -> impl Future<Output = Response<ResponseBody>> + use<> {
    let shared = connection.worker.shared.clone();
    shared.telemetry.counters.downstream_requests.add(1);
    let is_http1 = request.version() < http::Version::HTTP_2;
    let end = connection.end.clone();
    // Boxed before anything else holds it: it is large, and whoever passes it on would copy it.
    let serving = contain(Box::pin(serve(connection.clone(), request, on_upgrade)));
    async move {
        let mut response = match serving.await {
            Some(response) => response,
            None => {
                shared.telemetry.counters.panics.add(1);
                respond::internal_error()
            }
        };
        if end.is_announced() && is_http1 && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = http::HeaderValue::from_static("close");
            response
                .headers_mut()
                .insert(http::header::CONNECTION, close);
        }
        response
    }
}

/// Runs a request so that a bug in it ends it alone: the worker, its locks (which do not poison) and the other streams go
/// on.
async fn contain<T>(request: Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    AssertUnwindSafe(request).catch_unwind().await.ok()
}

async fn serve(
    connection: Arc<HttpConnection>,
    request: Request<Incoming>,
    on_upgrade: OnUpgrade,
) -> Response<ResponseBody> {
    let (parts, body) = request.into_parts();
    let number = connection.activity.begin();
    match intake::take_in(&connection, parts) {
        Intake::Accepted(mut head) => {
            let (peer, asked) = intake::downstream_peer(&connection, &mut head);
            let mut exchange = Exchange::new(connection, head, number);
            exchange.downstream_peer = peer;
            exchange.peer_asked = asked;
            super::forward::route(exchange, body, on_upgrade).await
        }
        Intake::Refused(head, kind) => refused(connection, head, kind, number),
        Intake::Redirect(head, location) => respond::redirect(
            Exchange::new(connection, head, number),
            StatusCode::TEMPORARY_REDIRECT,
            &location,
        ),
    }
}

/// Answers a request that could not be read.
pub(crate) fn refuse(connection: Arc<HttpConnection>, kind: ErrorKind) -> Response<ResponseBody> {
    let counters = &connection.worker.shared.telemetry.counters;
    counters.downstream_requests.add(1);
    let number = connection.activity.begin();
    refused(connection, Head::unread(), kind, number)
}

fn refused(
    connection: Arc<HttpConnection>,
    head: Head,
    kind: ErrorKind,
    number: u64,
) -> Response<ResponseBody> {
    let counters = &connection.worker.shared.telemetry.counters;
    counters.refused_requests.add(1);
    let is_http1 = head.version < http::Version::HTTP_2;
    let mut response = respond::error(Exchange::new(connection, head, number), kind.into());
    if is_http1 {
        // What follows a malformed head cannot be trusted to be the next request.
        let close = http::HeaderValue::from_static("close");
        response
            .headers_mut()
            .insert(http::header::CONNECTION, close);
    }
    response
}

/// The state of one exchange. Dropped before it was completed, the downstream has gone.
pub(crate) struct Exchange(Box<State>);

pub(crate) struct State {
    pub(crate) connection: Arc<HttpConnection>,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    pub(crate) head: Head,
    pub(crate) downstream_peer: Option<Arc<Workload>>,
    /// The downstream introduced itself and expects the same of us.
    pub(crate) peer_asked: bool,
    pub(crate) upstream_peer: Option<Arc<Workload>>,
    pub(crate) virtual_host: Option<Arc<str>>,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) cluster_name: Option<Arc<str>>,
    pub(crate) host: Option<Arc<Host>>,
    pub(crate) facts: Option<Arc<ConnectionFacts>>,
    pub(crate) attempts: u32,
    pub(crate) request_body: Option<Arc<BodyProgress>>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    pub(crate) transport_failure: Option<Arc<str>>,
    pub(crate) error: Option<ProxyError>,
    pub(crate) authorization: AuthorizationRecord,
    /// Kept for the access log only.
    pub(crate) response_headers: Option<HeaderMap>,
    pub(crate) response_trailers: Option<HeaderMap>,
    pub(crate) first_byte: Option<Instant>,
    pub(crate) sent_bytes: u64,
    pub(crate) sent_messages: u64,
    /// Bytes through an upgraded connection from the downstream.
    pub(crate) tunnelled_bytes: u64,
    pub(crate) grpc_status: Option<u32>,
    /// The cookie that makes later requests stick to the same endpoint.
    pub(crate) set_cookie: Option<String>,
    /// The payloads of tokens that were verified, by the name that their provider gives them.
    pub(crate) verified: Option<Arc<Map<String, Value>>>,
    /// What authorizers want changed on the response.
    pub(crate) response_changes: Vec<Arc<[HeaderChange]>>,
    pub(crate) guards: Guards,
    completed: bool,
}

/// What counts the exchange for as long as it lasts.
#[derive(Default)]
pub(crate) struct Guards {
    pub(crate) request: Option<Slot>,
    /// Of the attempt.
    pub(crate) host: Option<ActiveRequest>,
    /// Until the retry has an outcome.
    pub(crate) retry: Option<Slot>,
}

impl std::ops::Deref for Exchange {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl std::ops::DerefMut for Exchange {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl Exchange {
    fn new(connection: Arc<HttpConnection>, head: Head, number: u64) -> Self {
        if connection
            .manager
            .max_requests_per_connection
            .is_some_and(|max| number >= u64::from(max))
        {
            connection.end.announce();
        }
        Self(Box::new(State {
            started: Instant::now(),
            started_at: SystemTime::now(),
            connection,
            head,
            downstream_peer: None,
            peer_asked: false,
            upstream_peer: None,
            virtual_host: None,
            route: None,
            upstream: None,
            cluster_name: None,
            host: None,
            facts: None,
            attempts: 0,
            request_body: None,
            status: None,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed("via_upstream"),
            transport_failure: None,
            error: None,
            authorization: AuthorizationRecord::default(),
            response_headers: None,
            response_trailers: None,
            first_byte: None,
            sent_bytes: 0,
            sent_messages: 0,
            tunnelled_bytes: 0,
            grpc_status: None,
            set_cookie: None,
            verified: None,
            response_changes: Vec::new(),
            guards: Guards::default(),
            completed: false,
        }))
    }

    /// Whether nothing can follow on the connection: where the next request would begin is not known, or what follows was
    /// meant for a tunnel that is not there (RFC 9110 section 9.3.6).
    pub(crate) fn is_last(&self) -> bool {
        self.head.version < http::Version::HTTP_2
            && (self.head.upgrade.is_some()
                || self.head.method == http::Method::CONNECT
                || self.body_fault().is_some())
    }

    /// Why the downstream's body could not be read to its end.
    pub(crate) fn broken_body(&self) -> ErrorKind {
        let fault = self.body_fault().cloned();
        fault.unwrap_or(ErrorKind::DownstreamDisconnect)
    }

    fn body_fault(&self) -> Option<&ErrorKind> {
        self.request_body.as_deref()?.fault()
    }

    /// Whom the request is from.
    pub(crate) fn client(&self) -> IpAddr {
        let peer = || self.connection.downstream.arrival.peer.ip();
        self.head.client.unwrap_or_else(peer)
    }

    /// What tokens prove of the request (Envoy's dynamic metadata of `envoy.filters.http.jwt_authn`): with Istio's
    /// configuration the claims stand under `payload`. `None` where no token was verified.
    pub(crate) fn jwt_payload(&self) -> Option<&Map<String, Value>> {
        self.verified.as_deref()
    }

    pub(crate) fn counts_messages(&self) -> bool {
        self.head.is_grpc
    }

    pub(crate) fn logs(&self) -> bool {
        !self.connection.manager.access_log.is_empty()
    }

    /// Notes the head of the response that goes downstream.
    pub(crate) fn responded(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = Some(status);
        self.first_byte = Some(Instant::now());
        if self.head.is_grpc {
            self.grpc_status = grpc_status(headers);
        }
        if self.logs() {
            self.response_headers = Some(headers.clone());
        }
    }

    /// Notes an error that becomes the response.
    pub(crate) fn failed(&mut self, error: &ProxyError) {
        self.flags.insert(error.flag());
        self.details = Cow::Owned(error.details());
        if let Some(failure) = &error.transport_failure {
            self.transport_failure = Some(failure.clone());
        }
        self.error = Some(error.clone());
    }

    pub(crate) fn sent(&mut self, bytes: u64, messages: u64) {
        self.sent_bytes += bytes;
        self.sent_messages += messages;
    }

    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if self.head.is_grpc {
            self.grpc_status = grpc_status(trailers).or(self.grpc_status);
        }
        if self.logs() {
            self.response_trailers = Some(trailers.clone());
        }
    }

    /// The upstream ended the response before its end.
    pub(crate) fn upstream_reset(&mut self, error: &StreamError) {
        self.failed(&ErrorKind::UpstreamResetAfterResponse(error.reset_reason()).into());
        self.complete();
    }

    pub(crate) fn stream_idle(&mut self) {
        self.failed(
            &ErrorKind::StreamIdleTimeout {
                request_complete: true,
            }
            .into(),
        );
        self.complete();
    }

    pub(crate) fn timed_out(&mut self, kind: ErrorKind) {
        self.failed(&kind.into());
        self.complete();
    }

    /// Tells metrics and logs; later calls do nothing.
    pub(crate) fn complete(&mut self) {
        if self.completed {
            return;
        }
        self.completed = true;
        self.guards = Guards::default();
        record::tell(self);
        self.connection.activity.end();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.completed && std::thread::panicking() {
            self.failed(&ErrorKind::Internal.into());
            self.status = Some(StatusCode::INTERNAL_SERVER_ERROR);
            self.complete();
        }
        if !self.completed {
            self.connection.note_reset(self.started);
            self.failed(&ErrorKind::DownstreamDisconnect.into());
            if self.status.is_none() {
                // Envoy logs 0 for a request that got no response.
                self.details = Cow::Borrowed("downstream_remote_disconnect");
            }
            self.complete();
        }
    }
}

/// Series that the connection used last, found by a few numbers instead of by twenty-five labels.
#[derive(Default)]
pub(crate) struct SeriesMemo(Mutex<QuickMap<SeriesKey, (Arc<HttpSeries>, Held)>>);

/// What the addresses in a key belong to.
pub(crate) type Held = (
    Option<Arc<Upstream>>,
    Option<Arc<Workload>>,
    Option<Arc<Workload>>,
    Option<Arc<Principals>>,
);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeriesKey {
    pub(crate) upstream: usize,
    pub(crate) source: usize,
    pub(crate) destination: usize,
    pub(crate) principals: usize,
    /// Of what a destination is called that is no service; 0 for services.
    pub(crate) called: u64,
    pub(crate) status: u16,
    pub(crate) grpc: Option<u32>,
    pub(crate) is_grpc: bool,
    pub(crate) flags: ResponseFlags,
}

/// Series remembered per connection; a connection with more starts over.
const MEMO_LIMIT: usize = 64;

impl std::hash::Hash for SeriesKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // Flags and the gRPC status rarely tell keys apart that agree in the rest.
        (
            self.upstream,
            self.source,
            self.destination,
            self.principals,
            self.called,
            self.status,
        )
            .hash(state);
    }
}

impl SeriesMemo {
    pub(crate) fn get(
        &self,
        key: SeriesKey,
        held: Held,
        find: impl FnOnce() -> Arc<HttpSeries>,
    ) -> Arc<HttpSeries> {
        let mut memo = self.0.lock();
        if let Some((series, _)) = memo.get(&key) {
            return series.clone();
        }
        if memo.len() >= MEMO_LIMIT {
            memo.clear();
        }
        let series = find();
        memo.insert(key, (series.clone(), held));
        series
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F31.
    #[tokio::test]
    async fn a_panic_ends_its_request_alone() {
        let broken = contain(Box::pin(async {
            tokio::task::yield_now().await;
            let nothing: Option<u8> = "".parse().ok();
            nothing.unwrap()
        }));
        assert_eq!(broken.await, None);
        assert_eq!(contain(Box::pin(async { 7 })).await, Some(7));
    }
}
