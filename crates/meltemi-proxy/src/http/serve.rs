use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderValue, Request};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use meltemi_proxy_core::runtime::{HttpCodec, HttpConnectionManager};
use meltemi_proxy_core::strict::HeadRules;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::exchange::SeriesMemo;
use super::filters::FilterPlan;
use super::incoming::Incoming;
use super::rate_limit::RateLimits;
use super::upgrade::OnUpgrade;
use super::watch::{Event, Outside, WATCH_INTERVAL};
use super::wire::{Wire, WireState};
use crate::downstream::Downstream;
use crate::drain::ConnectionEnd;
use crate::http1::{self, After, Next};
use crate::io::{Replay, Transport, gather};
use crate::listener::inspect::Spoken;
use crate::listener::sniff::{Inspection, sniff};
use crate::telemetry::peer::PeerMemo;
use crate::worker::Worker;

/// Streams of one downstream HTTP/2 connection when the listener sets no limit.
const DEFAULT_MAX_STREAMS: u32 = 1024;

/// An HTTP connection of a downstream: what its exchanges share.
pub(crate) struct HttpConnection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) downstream: Arc<Downstream>,
    pub(crate) manager: Arc<HttpConnectionManager>,
    pub(crate) end: ConnectionEnd,
    pub(crate) peers: PeerMemo,
    pub(crate) upstream_peers: PeerMemo,
    pub(crate) series: SeriesMemo,
    pub(crate) activity: Activity,
    pub(crate) wire: Arc<WireState>,
    /// `x-forwarded-client-cert` of requests that bring none.
    pub(crate) xfcc: OnceLock<Option<HeaderValue>>,
    /// Of filters whose buckets are the connection's own.
    pub(crate) rate_limits: RateLimits,
    pub(crate) plan: FilterPlan,
}

/// Streams that a peer may reset soon after it opened them, and the time that is soon: Envoy's
/// `overload.premature_reset_total_stream_count` and `premature_reset_min_stream_lifetime_seconds`.
const PREMATURE_RESETS: u64 = 500;
const PREMATURE_LIFETIME: Duration = Duration::from_secs(1);

impl HttpConnection {
    /// Counts a stream that its peer gave up. One that opens streams mostly to reset them makes us work for nothing
    /// (CVE-2023-44487).
    pub(crate) fn note_reset(&self, started: Instant) {
        if started.elapsed() >= PREMATURE_LIFETIME {
            return;
        }
        let resets = self
            .activity
            .premature_resets
            .fetch_add(1, Ordering::Relaxed)
            + 1;
        if resets >= PREMATURE_RESETS
            && resets * 2 > self.activity.exchanges.load(Ordering::Relaxed)
        {
            self.wire.flooded();
        }
    }
}

/// Whether the connection is at work, for time-outs.
#[derive(Debug)]
pub(crate) struct Activity {
    in_flight: AtomicUsize,
    exchanges: AtomicU64,
    premature_resets: AtomicU64,
    idle_since: Mutex<Instant>,
}

impl Activity {
    fn new() -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            exchanges: AtomicU64::new(0),
            premature_resets: AtomicU64::new(0),
            idle_since: Mutex::new(Instant::now()),
        }
    }

    /// Counts an exchange and says how many there have been.
    pub(crate) fn begin(&self) -> u64 {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.exchanges.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn end(&self) {
        if self.in_flight.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.idle_since.lock() = Instant::now();
        }
    }

    /// How long nothing has been in flight.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        let is_idle = self.in_flight.load(Ordering::Relaxed) == 0;
        is_idle.then(|| self.idle_since.lock().elapsed())
    }
}

/// Serves HTTP on a downstream connection to its end.
pub(crate) async fn serve(
    worker: &Arc<Worker>,
    downstream: Arc<Downstream>,
    manager: Arc<HttpConnectionManager>,
    transport: Transport,
) {
    worker
        .shared
        .telemetry
        .counters
        .downstream_connections
        .add(1);
    let Some((is_http2, transport)) = choose_codec(&downstream, &manager, transport).await else {
        return;
    };
    let plan = FilterPlan::new(&manager, &worker.shared.telemetry);
    let connection = Arc::new(HttpConnection {
        worker: worker.clone(),
        downstream,
        manager,
        end: ConnectionEnd::default(),
        peers: PeerMemo::default(),
        upstream_peers: PeerMemo::default(),
        series: SeriesMemo::default(),
        activity: Activity::new(),
        wire: Arc::default(),
        xfcc: OnceLock::new(),
        rate_limits: RateLimits::default(),
        plan,
    });
    let wire = Wire::new(
        transport,
        is_http2,
        &connection.manager,
        connection.wire.clone(),
    );
    if is_http2 {
        serve_http2(connection, wire).await;
    } else {
        serve_http1(connection, wire).await;
    }
}

/// HTTP/2 by ALPN or by its preface, HTTP/1 else (Envoy `codec_type` AUTO).
async fn choose_codec(
    downstream: &Downstream,
    manager: &HttpConnectionManager,
    transport: Transport,
) -> Option<(bool, Transport)> {
    match manager.codec {
        HttpCodec::Http1 => return Some((false, transport)),
        HttpCodec::Http2 => return Some((true, transport)),
        HttpCodec::Auto => {}
    }
    if let Some(handshake) = &downstream.handshake {
        return Some((handshake.alpn_str() == "h2", transport));
    }
    match (&downstream.arrival.spoken, transport) {
        (Spoken::Http2, transport) => Some((true, transport)),
        (Spoken::Http10 | Spoken::Http11, transport) => Some((false, transport)),
        (_, Transport::Plain(replay)) => {
            // The listener did not inspect: the port is declared HTTP, so the client speaks first.
            let mut socket = crate::io::Socket::boxed(replay);
            let inspection = Inspection {
                tls: false,
                http: true,
                timeout: Some(WATCH_INTERVAL),
                continue_on_timeout: false,
            };
            let (spoken, prefix) = sniff(&mut socket, inspection).await.ok()?;
            Some((
                spoken == Spoken::Http2,
                Transport::Plain(Replay::new(prefix, socket)),
            ))
        }
        (_, transport) => Some((false, transport)),
    }
}

async fn serve_http1(connection: Arc<HttpConnection>, wire: Wire) {
    let manager = &connection.manager;
    let options = http1::ServerOptions {
        rules: HeadRules {
            max_bytes: manager.max_request_headers_bytes,
            max_fields: manager.max_request_headers_count,
            allow_chunked_length: manager.http1.allow_chunked_length,
        },
        head_timeout: manager.request_headers_timeout,
        preserve_header_case: manager.http1.preserve_header_case,
        enable_trailers: manager.http1.enable_trailers,
    };
    let mut server = http1::Server::new(wire, options);
    let mut ending = Ending {
        outside: Outside::new(&connection),
        shut: false,
    };
    // Whatever ends one of its steps early ends the connection.
    while let Some(()) = serve_one(&connection, &mut server, &mut ending).await {}
}

/// Serves the next request. `None` is the end of the connection.
async fn serve_one(
    connection: &Arc<HttpConnection>,
    server: &mut http1::Server,
    ending: &mut Ending,
) -> Option<()> {
    let response = match ending.unless(server, http1::Server::poll_next).await? {
        Next::Request(request, on_tunnel) => {
            let on_upgrade = on_tunnel.map_or(OnUpgrade::Never, OnUpgrade::Http1);
            let request = request.map(Incoming::Http1);
            let mut answering = pin!(super::exchange::answer(connection, request, on_upgrade));
            let answered = |server: &mut http1::Server, cx: &mut Context<'_>| {
                let answer = answering.as_mut().poll(cx).map(Some);
                if answer.is_pending() && server.poll_gone(cx).is_ready() {
                    return Poll::Ready(None);
                }
                answer
            };
            ending.unless(server, answered).await??
        }
        Next::Refused(kind) => super::exchange::refuse(connection.clone(), kind),
        Next::End => {
            return close(server, ending).await;
        }
    };
    let mut answer = match server.respond(response) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(id = connection.downstream.id, %error, "a response cannot be sent");
            return close(server, ending).await;
        }
    };
    let sent = ending
        .unless(server, |server, cx| {
            let sent = server.poll_answer(&mut answer, cx).map(Some);
            if sent.is_pending() && server.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            sent
        })
        .await??;
    if let Err(error) = sent {
        tracing::debug!(id = connection.downstream.id, %error, "downstream connection ended");
        if answer.ends_connection() {
            server.reset();
            return None;
        }
        return close(server, ending).await;
    }
    match ending.unless(server, http1::Server::poll_after).await? {
        After::Next => Some(()),
        After::Close => close(server, ending).await,
        After::Tunnel => None,
    }
}

async fn close(server: &mut http1::Server, ending: &mut Ending) -> Option<()> {
    ending.unless(server, http1::Server::poll_close).await;
    None
}

/// The end of an HTTP/1 connection, when it comes from outside.
struct Ending {
    outside: Outside,
    /// It was told once.
    shut: bool,
}

impl Ending {
    /// Takes a step of the connection, unless it is to end at once.
    async fn unless<T>(
        &mut self,
        server: &mut http1::Server,
        mut step: impl FnMut(&mut http1::Server, &mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        poll_fn(|cx| match step(server, cx) {
            Poll::Ready(stepped) => Poll::Ready(Some(stepped)),
            Poll::Pending if self.poll_now(server, cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    fn poll_now(&mut self, server: &mut http1::Server, cx: &mut Context<'_>) -> bool {
        while let Poll::Ready(event) = self.outside.poll(cx) {
            match event {
                // The next response says so.
                Event::Announced => {}
                Event::CloseIdle if self.shut || server.is_idle() => return true,
                Event::CloseIdle => {
                    self.shut = true;
                    server.end_after_this();
                }
            }
        }
        false
    }
}

async fn serve_http2(connection: Arc<HttpConnection>, wire: Wire) {
    let service = {
        let connection = connection.clone();
        service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let on_upgrade = OnUpgrade::Http2(hyper::upgrade::on(&mut request));
            let request = request.map(Incoming::Http2);
            super::exchange::answer(&connection, request, on_upgrade).map(Ok::<_, Infallible>)
        })
    };
    let manager = &connection.manager;
    let header_limit = u32::try_from(manager.max_request_headers_bytes).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(
            manager
                .http2
                .max_concurrent_streams
                .unwrap_or(DEFAULT_MAX_STREAMS)
                .min(DEFAULT_MAX_STREAMS),
        )
        .initial_stream_window_size(
            manager
                .http2
                .initial_stream_window_bytes
                .unwrap_or(super::H2_STREAM_WINDOW_BYTES)
                .min(super::H2_STREAM_WINDOW_BYTES),
        )
        .initial_connection_window_size(
            manager
                .http2
                .initial_connection_window_bytes
                .unwrap_or(super::H2_CONNECTION_WINDOW_BYTES)
                .min(super::H2_CONNECTION_WINDOW_BYTES),
        )
        .max_header_list_size(header_limit);
    if manager.http2.allow_connect {
        builder.enable_connect_protocol();
    }
    if let Some(interval) = manager.http2.keepalive_interval {
        builder.keep_alive_interval(interval);
        builder.keep_alive_timeout(manager.http2.keepalive_timeout.unwrap_or(WATCH_INTERVAL));
    }
    let (gathered, turn) = gather(wire);
    let serving = builder.serve_connection(TokioIo::new(gathered), service);
    let mut serving = std::pin::pin!(serving);
    let mut outside = Outside::new(&connection);
    let mut shut = false;
    loop {
        tokio::select! {
            biased;
            result = poll_fn(|cx| turn.poll(cx, |cx| serving.as_mut().poll(cx))) => {
                let mut flooded = connection.wire.was_flooded();
                if let Err(error) = result {
                    flooded |= is_flood(&error);
                    tracing::debug!(id = connection.downstream.id, %error, "downstream connection ended");
                }
                if flooded {
                    connection.worker.shared.telemetry.counters.frame_floods.add(1);
                }
                return;
            }
            event = outside.next() => match event {
                // GOAWAY names the last stream taken, so nothing that is on its way is lost.
                Event::Announced => serving.as_mut().graceful_shutdown(),
                // Whoever has not gone by now stays for ever.
                Event::CloseIdle if shut => return,
                Event::CloseIdle => {
                    shut = true;
                    serving.as_mut().graceful_shutdown();
                }
            },
        }
    }
}

/// Whether the library sent the peer away for its frames, by a bound of its own.
fn is_flood(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    let source = error.source().and_then(|source| source.downcast_ref());
    source.is_some_and(|error: &h2::Error| {
        !error.is_remote() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM)
    })
}
