//! A request on its way to a cluster: attempts, retries, and the answer that counts.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use http::header::HeaderValue;
use http::{Response, StatusCode, Version};
use meltemi_proxy_core::error::{ErrorKind, ProxyError, ResetReason, grpc};
use meltemi_proxy_core::flags::ResponseFlags;
use meltemi_proxy_core::hash::{RequestHash, request_hash};
use meltemi_proxy_core::headers;
use meltemi_proxy_core::retry::{AttemptOutcome, Retries, RetryDecision, grpc_status};
use meltemi_proxy_core::runtime::{ForwardAction, WeightedCluster};
use meltemi_proxy_core::timeout::RequestTimeouts;
use rand::Rng as _;

use super::body::{ResponseBody, UpstreamBody};
use super::bounds::{Bounds, Expiry};
use super::exchange::Exchange;
use super::forward::Matched;
use super::headers::GRPC_STATUS;
use super::incoming::Incoming;
use super::request::BodySource;
use super::timeouts::IdleTimer;
use super::upgrade::OnUpgrade;
use super::{attempt, mirror, respond, response, upgrade};
use crate::upstream::cluster::{PickFor, Slot};
use crate::upstream::{Host, Lease, Picked, Upstream};

/// A request on its way to a cluster, over all its attempts.
pub(crate) struct Call<'a> {
    matched: &'a Matched,
    action: &'a ForwardAction,
    weighted: Option<&'a WeightedCluster>,
    upstream: Arc<Upstream>,
    body: BodySource,
    bounds: Bounds,
    hash: Option<u64>,
    tried: Vec<SocketAddr>,
}

/// How an attempt ended.
enum Attempt {
    Response(Box<Response<Incoming>>, Lease, Arc<Host>),
    Failed(ProxyError, Failure),
}

/// What retry policies ask of a failed attempt.
#[derive(Clone, Copy)]
enum Failure {
    Reset {
        reason: ResetReason,
        request_started: bool,
    },
    PerTryTimeout,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        exchange: &mut Exchange,
        matched: &'a Matched,
        action: &'a ForwardAction,
        weighted: Option<&'a WeightedCluster>,
        upstream: Arc<Upstream>,
        body: BodySource,
    ) -> Self {
        let steers = steers(exchange);
        let connection = exchange.connection.clone();
        let manager = &connection.manager;
        let mut timeouts = RequestTimeouts::resolve(action, manager, &exchange.head.view(), steers);
        let request_timeout = manager.request_timeout;
        if timeouts.max_stream_duration.is_none() {
            timeouts.max_stream_duration = upstream.config.http.max_stream_duration;
        }
        let source = exchange.client();
        let mut hash = RequestHash::default();
        if !action.hash.is_empty() {
            hash = request_hash(&action.hash, &exchange.head.view(), source, rand::random());
        }
        exchange.set_cookie = hash.set_cookie;
        let bounds = Bounds::new(timeouts, request_timeout, exchange.request_body.clone());
        Self {
            matched,
            action,
            weighted,
            upstream,
            body,
            bounds,
            hash: hash.hash,
            tried: Vec::new(),
        }
    }

    pub(crate) async fn run(
        mut self,
        mut exchange: Exchange,
        on_upgrade: OnUpgrade,
    ) -> Response<ResponseBody> {
        self.mirror(&exchange);
        match self.attempts(&mut exchange).await {
            Ok((response, lease, host)) => {
                self.respond(exchange, response, lease, &host, on_upgrade)
            }
            Err(error) => respond::error(exchange, error),
        }
    }

    /// Sends copies where the route wants them. The request itself never waits for one.
    fn mirror(&self, exchange: &Exchange) {
        if exchange.head.upgrade.is_none() {
            let body = match &self.body {
                BodySource::Empty => None,
                BodySource::Stream(source) => Some(source),
            };
            mirror::send(exchange, self.matched, self.action, body);
        }
    }

    /// Tries until an attempt's outcome is final.
    async fn attempts(
        &mut self,
        exchange: &mut Exchange,
    ) -> Result<(Response<Incoming>, Lease, Arc<Host>), ProxyError> {
        let steers = steers(exchange);
        let action: &'a ForwardAction = self.action;
        let mut retries = action
            .retry
            .as_deref()
            .and_then(|policy| Retries::new(policy, &exchange.head.view(), steers));
        loop {
            let attempt = self.attempt(exchange).await?;
            let outcome = match &attempt {
                Attempt::Response(response, ..) => AttemptOutcome::Response {
                    status: response.status(),
                    headers: response.headers(),
                },
                Attempt::Failed(
                    _,
                    Failure::Reset {
                        reason,
                        request_started,
                    },
                ) => AttemptOutcome::Reset {
                    reason: *reason,
                    request_started: *request_started,
                },
                Attempt::Failed(_, Failure::PerTryTimeout) => AttemptOutcome::PerTryTimeout,
            };
            let decision = match &mut retries {
                Some(retries) if self.body.can_replay() => {
                    retries.on_attempt(&outcome, rand::rng().random())
                }
                _ => RetryDecision::Stop,
            };
            let pause = match decision {
                RetryDecision::After(pause) => pause,
                RetryDecision::Stop => return self.settle(exchange, attempt),
                RetryDecision::Exhausted => {
                    exchange
                        .flags
                        .insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                    return self.settle(exchange, attempt);
                }
            };
            if !self.admit_retry(exchange) {
                // Envoy: the outcome stands, with the flag that says why it was not tried again.
                exchange.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
                return self.settle(exchange, attempt);
            }
            drop(attempt);
            exchange.guards.host = None;
            self.upstream.stats.retries.add(1);
            self.bounds.pause(pause).await?;
        }
    }

    /// The circuit breaker of retries: a budget or a number at a time.
    fn admit_retry(&self, exchange: &mut Exchange) -> bool {
        exchange.guards.retry = None;
        let thresholds = self.upstream.thresholds(self.action.high_priority);
        let limit = match thresholds.retry_budget {
            Some(budget) => {
                let active = self
                    .upstream
                    .stats
                    .active_requests
                    .load(std::sync::atomic::Ordering::Relaxed);
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a share of a u32 between 0 and 100 percent fits"
                )]
                let share = (f64::from(active) * budget.percent / 100.0) as u32;
                share.max(budget.min_concurrency)
            }
            None => thresholds.max_retries,
        };
        match Slot::take(&self.upstream.stats, |stats| &stats.active_retries, limit) {
            Some(slot) => {
                exchange.guards.retry = Some(slot);
                true
            }
            None => false,
        }
    }

    fn settle(
        &self,
        exchange: &mut Exchange,
        attempt: Attempt,
    ) -> Result<(Response<Incoming>, Lease, Arc<Host>), ProxyError> {
        exchange.guards.retry = None;
        match attempt {
            Attempt::Response(response, lease, host) => Ok((*response, lease, host)),
            Attempt::Failed(mut error, _) => {
                error.was_retried = exchange.attempts > 1;
                Err(error)
            }
        }
    }

    /// One attempt, on one host. An `Err` is final.
    async fn attempt(&mut self, exchange: &mut Exchange) -> Result<Attempt, ProxyError> {
        exchange.attempts += 1;
        if let Some(before) = &exchange.host {
            self.tried.push(before.address);
        }
        let host = self.pick(exchange)?;
        exchange.host = Some(host.clone());
        exchange.guards.host = Some(host.begin_request());
        self.upstream.stats.requests.add(1);
        let mut fresh = false;
        loop {
            let target = attempt::Target {
                matched: self.matched,
                action: self.action,
                weighted: self.weighted,
                upstream: &self.upstream,
                host: &host,
            };
            let body = self.body.clone();
            let sent = {
                let sending = pin!(attempt::send(exchange, &target, &body, fresh));
                self.bounds.wait(sending).await
            };
            let sent = match sent {
                Ok(sent) => sent,
                Err(expiry) => return self.expired(&host, expiry),
            };
            match sent {
                Ok((response, lease)) => {
                    self.note(&host, &response);
                    return Ok(Attempt::Response(Box::new(response), lease, host));
                }
                // The peer closed an idle connection while the request was on its way: no attempt is used up.
                Err(failed) if failed.stale && self.body.can_replay() && !fresh => fresh = true,
                // The downstream broke off: not the host's fault.
                Err(_) if self.body.is_broken() => return Err(exchange.broken_body().into()),
                Err(failed) => {
                    host.state.errors.add(1);
                    if failed.reason != ResetReason::Overflow {
                        self.upstream
                            .observe(&host, crate::upstream::Outcome::LocalOrigin);
                    }
                    let error = ProxyError::reset(failed.reason, failed.failure.as_deref());
                    let failure = Failure::Reset {
                        reason: failed.reason,
                        request_started: failed.request_started,
                    };
                    return Ok(Attempt::Failed(error, failure));
                }
            }
        }
    }

    /// An attempt that took too long. What the client has yet to send is not the host's fault.
    fn expired(&self, host: &Host, expiry: Expiry) -> Result<Attempt, ProxyError> {
        if self.body.has_ended() {
            host.state.timeouts.add(1);
            host.state.errors.add(1);
            self.upstream
                .observe(host, crate::upstream::Outcome::LocalOrigin);
        }
        match expiry {
            Expiry::Call(kind) => Err(kind.into()),
            Expiry::Attempt => Ok(Attempt::Failed(
                ErrorKind::PerTryTimeout.into(),
                Failure::PerTryTimeout,
            )),
        }
    }

    fn pick(&self, exchange: &Exchange) -> Result<Arc<Host>, ProxyError> {
        let policy = self.action.retry.as_deref();
        let tried: &[SocketAddr] = if policy.is_some_and(|policy| policy.avoid_previous_hosts) {
            &self.tried
        } else {
            &[]
        };
        let pick = PickFor {
            hash: self.hash,
            attempts: policy.map_or(0, |policy| policy.host_selection_attempts),
            original_dst: Some(exchange.connection.downstream.arrival.destination),
            tried,
        };
        match self.upstream.pick(&pick) {
            Picked::Host(host) => Ok(host),
            Picked::NoHealthyHost => Err(ErrorKind::NoHealthyUpstream.into()),
            Picked::Dropped => Err(ErrorKind::DropOverload.into()),
        }
    }

    /// Counts an answer for the host's statistics and for outlier detection.
    fn note(&self, host: &Host, response: &Response<Incoming>) {
        let status = match response.headers().get(GRPC_STATUS) {
            Some(_) => {
                grpc_status(response.headers()).map_or_else(|| response.status(), grpc::to_http)
            }
            None => response.status(),
        };
        if status.is_server_error() {
            host.state.errors.add(1);
        } else {
            host.state.successes.add(1);
        }
        self.upstream
            .observe(host, crate::upstream::Outcome::Status(status.as_u16()));
    }

    fn respond(
        &self,
        mut exchange: Exchange,
        upstream: Response<Incoming>,
        lease: Lease,
        host: &Arc<Host>,
        on_upgrade: OnUpgrade,
    ) -> Response<ResponseBody> {
        exchange.facts = Some(lease.facts().clone());
        let (mut parts, body) = upstream.into_parts();
        let switching = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        if switching && exchange.head.upgrade.is_none() {
            return respond::error(exchange, ErrorKind::UpstreamProtocol.into());
        }
        response::finish(&mut exchange, self.matched, self.weighted, host, &mut parts);
        exchange.responded(parts.status, &parts.headers);
        if switching {
            return upgrade::tunnel(exchange, parts, lease, on_upgrade);
        }
        if exchange.head.upgrade.is_some() {
            // What the client sent behind its upgrade is not HTTP: it must not be read as the next request.
            parts
                .headers
                .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        let idle = self.bounds.stream_idle().map(IdleTimer::new);
        // Envoy `enable_trailers`: without it HTTP/1 has none.
        let keeps_trailers =
            lease.facts().is_http2 || self.upstream.config.http.http1.enable_trailers;
        let version = match parts.version {
            Version::HTTP_2 => Version::HTTP_11,
            version => version,
        };
        parts.version = version;
        let body = UpstreamBody::new(body, lease, exchange, keeps_trailers, idle, &self.bounds);
        Response::from_parts(parts, ResponseBody::Upstream(Box::new(body)))
    }
}

/// Whether the request brings headers that steer us, of an application that may.
fn steers(exchange: &Exchange) -> bool {
    !exchange.connection.downstream.is_inbound() && headers::has_envoys(&exchange.head.headers)
}
