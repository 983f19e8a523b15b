//! Request mirroring (Envoy `request_mirror_policies`): copies are sent and their answers thrown away.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Limited};
use meltemi_proxy_core::runtime::{ForwardAction, MirrorPolicy};

use super::attempt;
use super::body::{ReplaySource, RequestBody};
use super::exchange::Exchange;
use super::forward::Matched;
use super::request;
use crate::upstream::cluster::{PickFor, Slot};
use crate::upstream::connect::{self, Wish};
use crate::upstream::{Host, Picked, PoolProtocol, Upstream};
use crate::worker::Worker;

/// Bound of a copy, its answer included.
const LIMIT: Duration = Duration::from_secs(15);
/// Bytes of a copy's answer that are read; longer ones cost the connection.
const ANSWER_LIMIT_BYTES: usize = 1024 * 1024;

/// The policies of a route, or else of its route configuration.
pub(crate) fn policies<'a>(matched: &'a Matched, action: &'a ForwardAction) -> &'a [MirrorPolicy] {
    if action.mirrors.is_empty() {
        &matched.config.mirrors
    } else {
        &action.mirrors
    }
}

/// Sends the copies that the policies ask for. A copy of a request with a body goes when that has been read; one above the
/// replay bound is not copied.
pub(crate) fn send(
    exchange: &Exchange,
    matched: &Matched,
    action: &ForwardAction,
    body: Option<&Arc<ReplaySource>>,
) {
    let unmirrored = &exchange
        .connection
        .worker
        .shared
        .telemetry
        .counters
        .unmirrored;
    for policy in policies(matched, action) {
        if !policy.share.contains(rand::random()) {
            continue;
        }
        match prepare(exchange, matched, action, policy) {
            Some(copy) => drop(tokio::spawn(copy.send(body.cloned()))),
            None => unmirrored.add(1),
        }
    }
}

/// A copy that is ready to go, without ties to the exchange it came from.
struct Copy {
    worker: Arc<Worker>,
    upstream: Arc<Upstream>,
    host: Arc<Host>,
    protocol: PoolProtocol,
    wish: Wish,
    request: Request<RequestBody>,
    _slot: Slot,
}

fn prepare(
    exchange: &Exchange,
    matched: &Matched,
    action: &ForwardAction,
    policy: &MirrorPolicy,
) -> Option<Copy> {
    let worker = exchange.connection.worker.clone();
    let upstream = worker.shared.store.upstream(&policy.cluster)?;
    let limit = upstream.thresholds(action.high_priority).max_requests;
    let slot = Slot::take(&upstream.stats, |stats| &stats.active_requests, limit)?;
    let pick = PickFor {
        hash: None,
        attempts: 0,
        original_dst: Some(exchange.connection.downstream.arrival.destination),
        tried: &[],
    };
    let Picked::Host(host) = upstream.pick(&pick) else {
        return None;
    };
    let protocol = attempt::protocol(exchange, &upstream);
    let target = attempt::Target {
        matched,
        action,
        weighted: None,
        upstream: &upstream,
        host: &host,
    };
    let mut request = request::build(exchange, &target, protocol, RequestBody::Empty).ok()?;
    // Before the suffix, which no certificate knows.
    let wish = attempt::wish(exchange, &upstream, protocol, &request);
    if !policy.disable_shadow_host_suffix {
        request::add_host_suffix(&mut request, "-shadow");
    }
    Some(Copy {
        worker,
        upstream,
        host,
        protocol,
        wish,
        request,
        _slot: slot,
    })
}

impl Copy {
    async fn send(mut self, body: Option<Arc<ReplaySource>>) {
        let cluster = self.upstream.config.name.clone();
        let shared = self.worker.shared.clone();
        let sending = async {
            if let Some(body) = body {
                let Some(body) = body.copied().await else {
                    shared.telemetry.counters.unmirrored.add(1);
                    return;
                };
                *self.request.body_mut() = RequestBody::Kept(body);
            }
            let _active = self.host.begin_request();
            self.upstream.stats.requests.add(1);
            let leasing = connect::lease(
                &self.worker,
                &self.upstream,
                &self.host,
                self.protocol,
                &self.wish,
                false,
            );
            let Ok(mut lease) = leasing.await else { return };
            let Ok(response) = lease.send(self.request).await else {
                return;
            };
            if Limited::new(response.into_body(), ANSWER_LIMIT_BYTES)
                .collect()
                .await
                .is_ok()
            {
                lease.finish();
            }
        };
        if tokio::time::timeout(LIMIT, sending).await.is_err() {
            tracing::debug!(%cluster, "a mirrored request took too long");
        }
    }
}
