//! Where a request goes: its route, the filters before it, its cluster.

use std::sync::Arc;

use http::Response;
use meltemi_proxy_core::error::{ErrorKind, ProxyError, ResetReason};
use meltemi_proxy_core::runtime::{
    ClusterTarget, ForwardAction, PerFilterConfig, Route, RouteAction, RouteConfiguration,
    RouteSource, VirtualHost, WeightedCluster,
};
use meltemi_proxy_core::{fault, rewrite, routing, virtual_host};
use rand::Rng as _;

use super::body::ResponseBody;
use super::call::Call;
use super::exchange::Exchange;
use super::incoming::Incoming;
use super::request::BodySource;
use super::upgrade::OnUpgrade;
use super::{filters, respond, response};
use crate::config::demand::Unanswered;
use crate::upstream::cluster::Slot;

/// Finds the route of a request and does what it says. The filters judge a request without a route, too: it may not learn
/// from the answer what there is.
pub(crate) async fn route(
    mut exchange: Exchange,
    body: Incoming,
    on_upgrade: OnUpgrade,
) -> Response<ResponseBody> {
    let body = BodySource::new(&mut exchange, body);
    let mut found = match Found::of(&mut exchange).await {
        Ok(found) => found,
        Err(Unanswered) => return respond::error(exchange, ErrorKind::NotDiscovered.into()),
    };
    if let Some(answer) = filters::before_routing(&mut exchange, &mut found, &body).await {
        return filters::reply(exchange, answer);
    }
    let Some(matched) = found.matched else {
        return respond::error(exchange, ErrorKind::RouteNotFound.into());
    };
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

/// The virtual host of a request, and the route that it has come to.
pub(crate) struct Found {
    host: Option<(Arc<RouteConfiguration>, Arc<VirtualHost>)>,
    pub(crate) matched: Option<Matched>,
}

impl Found {
    /// Finds virtual host and route by what the request says now.
    pub(crate) async fn of(exchange: &mut Exchange) -> Result<Self, Unanswered> {
        let mut found = Self {
            host: None,
            matched: None,
        };
        if let Some(config) = route_configuration(exchange) {
            let host = virtual_host(exchange, &config).await?;
            found.host = host.map(|host| (config, host));
        }
        exchange.route = None;
        let host = found.host.as_ref();
        exchange.virtual_host = host.map(|(_, host)| host.name.clone());
        found.select(exchange);
        Ok(found)
    }

    /// Finds the route by what is known of the request now.
    pub(crate) fn select(&mut self, exchange: &mut Exchange) {
        let Some((config, host)) = &self.host else {
            return;
        };
        let (head, verified) = (exchange.head.view(), exchange.jwt_payload());
        let random = rand::rng().random();
        let route = routing::select_verified(host, &head, verified, random).cloned();
        exchange.route = route.clone();
        self.matched =
            route.map(|route| Matched::new(config.clone(), host.clone(), route, exchange));
    }
}

/// What the request matched, held for its whole life.
pub(crate) struct Matched {
    pub(crate) config: Arc<RouteConfiguration>,
    pub(crate) host: Arc<VirtualHost>,
    pub(crate) route: Arc<Route>,
    /// Where it goes; `None` where no cluster is named.
    cluster: Option<Arc<str>>,
    /// Which of the route's weighted clusters that is. It is chosen with the route, as it has filters of its own.
    weighted: Option<usize>,
    /// Whether any of these speaks of a filter: few do, and every filter asks.
    pub(crate) has_overrides: bool,
}

impl Matched {
    fn new(
        config: Arc<RouteConfiguration>,
        host: Arc<VirtualHost>,
        route: Arc<Route>,
        exchange: &Exchange,
    ) -> Self {
        let picked = match &route.action {
            RouteAction::Forward(action) => {
                routing::pick_cluster(action, &exchange.head.view(), rand::rng().random())
            }
            _ => None,
        };
        let weighted = picked.as_ref().and_then(|picked| {
            let picked = picked.weighted?;
            weighted_clusters(&route)
                .iter()
                .position(|cluster| std::ptr::eq(cluster, picked))
        });
        let cluster = picked.map(|picked| picked.name);
        let mut matched = Self {
            config,
            host,
            route,
            cluster,
            weighted,
            has_overrides: false,
        };
        let has_overrides = matched.per_filter().any(|level| !level.is_empty());
        matched.has_overrides = has_overrides;
        matched
    }

    /// What is said of filters, the most specific first: by weighted cluster, route, virtual host, configuration.
    pub(crate) fn per_filter(&self) -> impl Iterator<Item = &PerFilterConfig> {
        let levels = [
            self.weighted().map(|weighted| &weighted.per_filter),
            Some(&self.route.per_filter),
            Some(&self.host.per_filter),
            Some(&self.config.per_filter),
        ];
        levels.into_iter().flatten()
    }

    pub(crate) fn weighted(&self) -> Option<&WeightedCluster> {
        weighted_clusters(&self.route).get(self.weighted?)
    }
}

fn weighted_clusters(route: &Route) -> &[WeightedCluster] {
    match &route.action {
        RouteAction::Forward(action) => match &action.cluster {
            ClusterTarget::Weighted(weighted) => &weighted.clusters,
            _ => &[],
        },
        _ => &[],
    }
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
    body: BodySource,
    on_upgrade: OnUpgrade,
) -> Response<ResponseBody> {
    let Some(cluster) = matched.cluster.clone() else {
        return respond::error(
            exchange,
            ErrorKind::ClusterNotFound(action.cluster_not_found_status).into(),
        );
    };
    let shared = exchange.connection.worker.shared.clone();
    exchange.cluster_name = Some(cluster.clone());
    let Some(upstream) = shared.store.upstream(&cluster) else {
        return respond::error(
            exchange,
            ErrorKind::ClusterNotFound(action.cluster_not_found_status).into(),
        );
    };
    exchange.upstream = Some(upstream.clone());
    if let Some(kind) = inject_fault(&mut exchange, matched, &cluster).await {
        return respond::error(exchange, kind.into());
    }
    let limit = upstream.thresholds(action.high_priority).max_requests;
    match Slot::take(&upstream.stats, |stats| &stats.active_requests, limit) {
        Some(slot) => exchange.guards.request = Some(slot),
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
        matched.weighted(),
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
