//! From a request to a response: route, filters, attempts.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::{Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::upgrade::OnUpgrade;
use meltemi_proxy_core::error::{ErrorKind, ProxyError, ResetReason, grpc};
use meltemi_proxy_core::retry::{AttemptOutcome, Retries, RetryDecision, grpc_status};
use meltemi_proxy_core::runtime::{
    ForwardAction, Route, RouteAction, RouteConfiguration, RouteSource, VirtualHost,
    WeightedCluster,
};
use meltemi_proxy_core::timeout::RequestTimeouts;
use meltemi_proxy_core::{fault, hash, rewrite, routing, virtual_host};
use rand::Rng as _;
use tokio::time::Instant;

use super::body::{Deadline, REPLAY_LIMIT_BYTES, ReplaySource, ResponseBody, UpstreamBody};
use super::exchange::{Exchange, Guard};
use super::headers::GRPC_STATUS;
use super::timeouts::IdleTimer;
use super::{attempt, filters, mirror, request, respond, response, upgrade};
use crate::config::demand::Unanswered;
use crate::upstream::cluster::{PickFor, Slot};
use crate::upstream::{Host, Lease, Picked, Upstream};

/// Finds the route of a request and does what it says.
pub(crate) async fn route(
    mut exchange: Exchange,
    body: Incoming,
    on_upgrade: OnUpgrade,
) -> Response<ResponseBody> {
    let Some(config) = route_configuration(&exchange) else {
        return respond::error(exchange, ErrorKind::RouteNotFound.into());
    };
    let host = match virtual_host(&exchange, &config).await {
        Ok(Some(host)) => host,
        Ok(None) => return respond::error(exchange, ErrorKind::RouteNotFound.into()),
        Err(Unanswered) => return respond::error(exchange, ErrorKind::NotDiscovered.into()),
    };
    exchange.virtual_host = Some(host.name.clone());
    let random = rand::rng().random();
    let Some(route) = routing::select(&host, &exchange.head.view(), random).cloned() else {
        return respond::error(exchange, ErrorKind::RouteNotFound.into());
    };
    exchange.route = Some(route.clone());
    let matched = Matched {
        config,
        host,
        route,
    };
    if let Some(answer) = filters::before_routing(&mut exchange, &matched).await {
        return filters::reply(exchange, answer);
    }
    match &matched.route.action {
        RouteAction::Forward(action) => {
            let action: &ForwardAction = action;
            forward(exchange, &matched, action, body, on_upgrade).await
        }
        RouteAction::Redirect(redirect) => {
            let location = rewrite::redirect(redirect, &matched.route, &exchange.head.view());
            respond::redirect(exchange, redirect.status, &location)
        }
        RouteAction::DirectResponse(direct) => {
            let mut headers = http::HeaderMap::new();
            response::mutate(&exchange, &matched, None, &mut headers);
            respond::direct(exchange, direct.status, direct.body.clone(), headers)
        }
    }
}

/// What the request matched, held for its whole life.
pub(crate) struct Matched {
    pub(crate) config: Arc<RouteConfiguration>,
    pub(crate) host: Arc<VirtualHost>,
    pub(crate) route: Arc<Route>,
}

fn route_configuration(exchange: &Exchange) -> Option<Arc<RouteConfiguration>> {
    match &exchange.connection.manager.routes {
        RouteSource::Inline(config) => Some(config.clone()),
        RouteSource::Rds(name) => exchange
            .connection
            .worker
            .shared
            .store
            .routes
            .load()
            .get(name)
            .cloned(),
    }
}

/// The virtual host of the request's authority: one that is held, or one that is asked for.
async fn virtual_host(
    exchange: &Exchange,
    config: &RouteConfiguration,
) -> Result<Option<Arc<VirtualHost>>, Unanswered> {
    let authority = &exchange.head.authority;
    match &exchange.connection.worker.shared.store.demand {
        Some(demand) if config.asks_for_hosts => demand.host(config, authority).await,
        _ => Ok(virtual_host::select(config, authority).cloned()),
    }
}

async fn forward(
    mut exchange: Exchange,
    matched: &Matched,
    action: &ForwardAction,
    body: Incoming,
    on_upgrade: OnUpgrade,
) -> Response<ResponseBody> {
    let random = rand::rng().random();
    let Some(picked) = routing::pick_cluster(action, &exchange.head.view(), random) else {
        return respond::error(
            exchange,
            ErrorKind::ClusterNotFound(action.cluster_not_found_status).into(),
        );
    };
    let shared = exchange.connection.worker.shared.clone();
    exchange.cluster_name = Some(picked.name.clone());
    let Some(upstream) = shared.store.upstream(&picked.name) else {
        return respond::error(
            exchange,
            ErrorKind::ClusterNotFound(action.cluster_not_found_status).into(),
        );
    };
    exchange.upstream = Some(upstream.clone());
    if let Some(kind) = inject_fault(&mut exchange, matched, &picked.name).await {
        return respond::error(exchange, kind.into());
    }
    let limit = upstream.thresholds(action.high_priority).max_requests;
    match Slot::take(&upstream.stats, |stats| &stats.active_requests, limit) {
        Some(slot) => exchange.hold(Guard::Slot(slot)),
        None => return respond::error(exchange, ProxyError::reset(ResetReason::Overflow, None)),
    }
    if let Some(kind) = exchange.head.upgrade.clone()
        && action
            .upgrades
            .iter()
            .any(|upgrade| upgrade.kind == kind && !upgrade.enabled)
    {
        return respond::error(exchange, ErrorKind::UpgradeNotAllowed.into());
    }
    let call = Call::new(
        &mut exchange,
        matched,
        action,
        picked.weighted,
        upstream,
        body,
    );
    call.run(exchange, on_upgrade).await
}

/// Delays or aborts the request if the fault filter says so.
async fn inject_fault(
    exchange: &mut Exchange,
    matched: &Matched,
    cluster: &str,
) -> Option<ErrorKind> {
    let config = filters::fault(exchange, matched)?;
    let shared = exchange.connection.worker.shared.clone();
    let active = shared.active_faults.get();
    let decision = fault::decide(
        &config,
        cluster,
        &exchange.head.view(),
        active,
        rand::rng().random(),
    );
    if let Some(delay) = decision.delay {
        let _active = shared.active_faults.begin();
        exchange
            .flags
            .insert(meltemi_proxy_core::flags::ResponseFlags::DELAY_INJECTED);
        tokio::time::sleep(delay).await;
    }
    decision.abort.map(ErrorKind::FaultAbort)
}

/// A request on its way to a cluster, over all its attempts.
pub(crate) struct Call<'a> {
    matched: &'a Matched,
    action: &'a ForwardAction,
    weighted: Option<&'a WeightedCluster>,
    upstream: Arc<Upstream>,
    body: CallBody,
    timeouts: RequestTimeouts,
    hash: Option<u64>,
    tried: Vec<SocketAddr>,
    started: Instant,
}

/// The request's body for every attempt.
enum CallBody {
    Empty,
    Stream(Arc<ReplaySource>),
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
    fn new(
        exchange: &mut Exchange,
        matched: &'a Matched,
        action: &'a ForwardAction,
        weighted: Option<&'a WeightedCluster>,
        upstream: Arc<Upstream>,
        body: Incoming,
    ) -> Self {
        let trusted = !exchange.connection.downstream.is_inbound();
        let manager = &exchange.connection.manager;
        let timeouts = RequestTimeouts::resolve(action, manager, &exchange.head.view(), trusted);
        let source = exchange.connection.downstream.arrival.peer.ip();
        let hash = hash::request_hash(&action.hash, &exchange.head.view(), source, rand::random());
        exchange.set_cookie = hash.set_cookie;
        let body = if body.is_end_stream() {
            CallBody::Empty
        } else {
            let source = ReplaySource::new(body, REPLAY_LIMIT_BYTES, exchange.head.is_grpc);
            exchange.request_body = Some(source.progress().clone());
            CallBody::Stream(source)
        };
        Self {
            matched,
            action,
            weighted,
            upstream,
            body,
            timeouts,
            hash: hash.hash,
            tried: Vec::new(),
            started: Instant::now(),
        }
    }

    async fn run(
        mut self,
        mut exchange: Exchange,
        on_upgrade: OnUpgrade,
    ) -> Response<ResponseBody> {
        self.mirror(&exchange).await;
        match self.attempts(&mut exchange).await {
            Ok((response, lease, host)) => {
                self.respond(exchange, response, lease, &host, on_upgrade)
            }
            Err(error) => respond::error(exchange, error),
        }
    }

    /// Sends copies where the route wants them. A body above the replay bound is not copied.
    async fn mirror(&self, exchange: &Exchange) {
        if mirror::policies(self.matched, self.action).is_empty() || exchange.head.upgrade.is_some()
        {
            return;
        }
        let body = match &self.body {
            CallBody::Empty => Some(VecDeque::new()),
            CallBody::Stream(source) => source.whole().await,
        };
        match body {
            Some(body) => mirror::send(exchange, self.matched, self.action, &body),
            None => exchange
                .connection
                .worker
                .shared
                .telemetry
                .counters
                .unmirrored
                .add(1),
        }
    }

    /// Tries until an attempt's outcome is final.
    async fn attempts(
        &mut self,
        exchange: &mut Exchange,
    ) -> Result<(Response<Incoming>, Lease, Arc<Host>), ProxyError> {
        let trusted = !exchange.connection.downstream.is_inbound();
        let action: &'a ForwardAction = self.action;
        let mut retries = action
            .retry
            .as_deref()
            .and_then(|policy| Retries::new(policy, &exchange.head.view(), trusted));
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
            let pause = match (decision, attempt) {
                (RetryDecision::After(pause), attempt) => self
                    .admit_retry(exchange, pause)
                    .then_some((pause, attempt)),
                (RetryDecision::Exhausted, attempt) => {
                    exchange.flags.insert(
                        meltemi_proxy_core::flags::ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
                    );
                    return self.settle(exchange, attempt);
                }
                (RetryDecision::Stop, attempt) => return self.settle(exchange, attempt),
            };
            let Some((pause, attempt)) = pause else {
                return Err(ProxyError::reset(ResetReason::Overflow, None));
            };
            drop(attempt);
            exchange.release_host();
            self.upstream.stats.retries.add(1);
            self.pause(pause).await?;
        }
    }

    /// The circuit breaker of retries: a budget or a number at a time.
    fn admit_retry(&self, exchange: &mut Exchange, _pause: Duration) -> bool {
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
                exchange.hold(Guard::Slot(slot));
                true
            }
            None => false,
        }
    }

    fn settle(
        &self,
        exchange: &Exchange,
        attempt: Attempt,
    ) -> Result<(Response<Incoming>, Lease, Arc<Host>), ProxyError> {
        match attempt {
            Attempt::Response(response, lease, host) => Ok((*response, lease, host)),
            Attempt::Failed(mut error, _) => {
                error.was_retried = exchange.attempts > 1;
                Err(error)
            }
        }
    }

    async fn pause(&self, pause: Duration) -> Result<(), ProxyError> {
        let left = self.left();
        if left.is_some_and(|left| left <= pause) {
            tokio::time::sleep(left.unwrap_or_default()).await;
            return Err(self.expired());
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Time left of the route's timeout and of the stream's longest duration.
    fn left(&self) -> Option<Duration> {
        let spent = self.started.elapsed();
        let route = self.timeouts.route.filter(|_| self.body.has_ended());
        let bounds = [route, self.timeouts.max_stream_duration];
        bounds
            .into_iter()
            .flatten()
            .map(|bound| bound.saturating_sub(spent))
            .min()
    }

    fn expired(&self) -> ProxyError {
        self.expiry().into()
    }

    /// Which of the bounds is over first.
    fn expiry(&self) -> ErrorKind {
        match (self.timeouts.max_stream_duration, self.timeouts.route) {
            (Some(_), None) => ErrorKind::MaxStreamDuration {
                request_complete: self.body.has_ended(),
            },
            (Some(max), Some(route)) if max <= route => ErrorKind::MaxStreamDuration {
                request_complete: self.body.has_ended(),
            },
            _ => ErrorKind::RouteTimeout,
        }
    }

    /// One attempt, on one host. An `Err` is final.
    async fn attempt(&mut self, exchange: &mut Exchange) -> Result<Attempt, ProxyError> {
        exchange.attempts += 1;
        let host = self.pick(exchange)?;
        self.tried.push(host.address);
        exchange.host = Some(host.clone());
        exchange.hold(Guard::Host(host.begin_request()));
        let mut fresh = false;
        loop {
            // Until the response begins nothing moves, once the request is out.
            let idle = [self.timeouts.stream_idle, self.timeouts.per_try_idle];
            let idle = idle
                .into_iter()
                .flatten()
                .min()
                .filter(|_| self.body.has_ended());
            let limit = [self.left(), self.timeouts.per_try, idle]
                .into_iter()
                .flatten()
                .min();
            let target = attempt::Target {
                matched: self.matched,
                action: self.action,
                weighted: self.weighted,
                upstream: &self.upstream,
                host: &host,
            };
            let body = self.body.attempt();
            let sending = attempt::send(exchange, &target, &body, fresh);
            let Some(sent) = self.bounded(limit, sending).await else {
                return self.timed_out(&host);
            };
            match sent {
                Ok((response, lease)) => {
                    self.note(&host, &response);
                    return Ok(Attempt::Response(Box::new(response), lease, host));
                }
                // The peer closed an idle connection while the request was on its way: no attempt is used up.
                Err(failed) if failed.stale && self.body.can_replay() && !fresh => fresh = true,
                Err(failed) => {
                    host.state.errors.add(1);
                    if failed.reason != ResetReason::Overflow {
                        self.upstream
                            .observe(&host, crate::upstream::Outcome::LocalOrigin);
                    }
                    if exchange
                        .request_body
                        .as_ref()
                        .is_some_and(|body| body.is_broken())
                    {
                        return Err(ErrorKind::DownstreamDisconnect.into());
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

    /// Bounds an attempt; while the request is still being received only the per-try bound holds, as the route's starts
    /// with the request's end.
    async fn bounded<F: Future>(&self, limit: Option<Duration>, sending: F) -> Option<F::Output> {
        let mut sending = std::pin::pin!(sending);
        let mut limit = match (limit, self.timeouts.route) {
            (None, Some(route)) => Some(route),
            (limit, _) => limit,
        };
        loop {
            let Some(bound) = limit else {
                return Some(sending.await);
            };
            if let Ok(output) = tokio::time::timeout(bound, sending.as_mut()).await {
                return Some(output);
            }
            if self.timeouts.per_try.is_some()
                || self.body.has_ended()
                || self.left().is_some_and(|left| left.is_zero())
            {
                return None;
            }
            limit = self.timeouts.route;
        }
    }

    fn timed_out(&self, host: &Host) -> Result<Attempt, ProxyError> {
        host.state.timeouts.add(1);
        host.state.errors.add(1);
        self.upstream
            .observe(host, crate::upstream::Outcome::LocalOrigin);
        if self.left().is_some_and(|left| left.is_zero()) {
            return Err(self.expired());
        }
        if self.timeouts.per_try.is_some() || self.timeouts.per_try_idle.is_some() {
            return Ok(Attempt::Failed(
                ErrorKind::PerTryTimeout.into(),
                Failure::PerTryTimeout,
            ));
        }
        match self.timeouts.stream_idle {
            Some(_) => Err(ErrorKind::StreamIdleTimeout {
                request_complete: true,
            }
            .into()),
            None => Err(self.expired()),
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
        response::finish(
            &mut exchange,
            self.matched,
            self.weighted,
            host,
            self.started,
            &mut parts,
        );
        exchange.responded(parts.status, &parts.headers);
        if switching {
            return upgrade::tunnel(exchange, parts, body, lease, on_upgrade);
        }
        if exchange.head.upgrade.is_some() {
            // What the client sent behind its upgrade is not HTTP: it must not be read as the next request.
            parts
                .headers
                .insert(http::header::CONNECTION, HeaderValue::from_static("close"));
        }
        let idle = self.timeouts.stream_idle.map(IdleTimer::new);
        let deadline = self.left().map(|left| Deadline::new(left, self.expiry()));
        let version = match parts.version {
            http::Version::HTTP_2 => http::Version::HTTP_11,
            version => version,
        };
        parts.version = version;
        let body = UpstreamBody::new(body, lease, exchange, idle, deadline);
        Response::from_parts(parts, ResponseBody::Upstream(Box::new(body)))
    }
}

impl CallBody {
    fn can_replay(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => source.can_replay(),
        }
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => source.progress().has_ended(),
        }
    }

    fn attempt(&self) -> request::BodySource {
        match self {
            Self::Empty => request::BodySource::Empty,
            Self::Stream(source) => request::BodySource::Stream(source.clone()),
        }
    }
}
