//! Selects the route of a request, and the cluster of a route.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::request::RequestHead;
use crate::runtime::{
    ClusterTarget, ForwardAction, PathMatch, Route, RouteMatch, VirtualHost, WeightedCluster,
    WeightedClusters,
};

/// Selects the first route that matches (Envoy `VirtualHost.routes`). `random` serves `runtime_fraction`.
pub fn select<'v>(
    virtual_host: &'v VirtualHost,
    head: &RequestHead<'_>,
    random: u64,
) -> Option<&'v Arc<Route>> {
    select_verified(virtual_host, head, None, random)
}

/// The same for a request of which something was verified (Envoy's dynamic metadata of the JWT filter).
pub fn select_verified<'v>(
    virtual_host: &'v VirtualHost,
    head: &RequestHead<'_>,
    verified: Option<&Map<String, Value>>,
    random: u64,
) -> Option<&'v Arc<Route>> {
    virtual_host.routes.iter().find(|route| {
        let matches = &route.matches;
        let mut claims = matches.metadata.iter();
        matches.matches(head, random) && claims.all(|claim| claim.matches(verified))
    })
}

impl RouteMatch {
    /// All but what has to be verified.
    pub fn matches(&self, head: &RequestHead<'_>, random: u64) -> bool {
        self.path.matches(head)
            && self
                .runtime_fraction
                .is_none_or(|fraction| fraction.contains(random))
            && (!self.grpc_only || head.is_grpc())
            && self.headers.iter().all(|matcher| matcher.matches(head))
            && self.query.iter().all(|matcher| matcher.matches(head))
    }
}

impl PathMatch {
    /// The query takes no part. A CONNECT request without path matches only [`PathMatch::Connect`].
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        let is_connect = head.method == "CONNECT";
        if is_connect && head.path.is_empty() {
            return matches!(self, Self::Connect);
        }
        let path = head.path_without_query();
        match self {
            Self::Connect => is_connect,
            Self::Prefix {
                prefix,
                ignore_case,
            } => starts_with(path, prefix, *ignore_case),
            Self::Exact {
                path: wanted,
                ignore_case,
            } => path.len() == wanted.len() && starts_with(path, wanted, *ignore_case),
            Self::SeparatedPrefix {
                prefix,
                ignore_case,
            } => {
                starts_with(path, prefix, *ignore_case)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }

    /// How many bytes of the path a prefix rewrite replaces; `None` for the whole path.
    pub fn rewritten_len(&self) -> Option<usize> {
        match self {
            Self::Prefix { prefix, .. } | Self::SeparatedPrefix { prefix, .. } => {
                Some(prefix.len())
            }
            Self::Exact { .. } | Self::Regex(_) | Self::Connect => None,
        }
    }
}

fn starts_with(path: &str, prefix: &str, ignore_case: bool) -> bool {
    path.as_bytes().get(..prefix.len()).is_some_and(|head| {
        if ignore_case {
            head.eq_ignore_ascii_case(prefix.as_bytes())
        } else {
            head == prefix.as_bytes()
        }
    })
}

/// The cluster that a request goes to.
#[derive(Debug, Clone)]
pub struct PickedCluster<'a> {
    pub name: Arc<str>,
    /// Its own header mutations and filter settings, if it was one of several.
    pub weighted: Option<&'a WeightedCluster>,
}

/// Picks the cluster of a forwarding route with a uniformly random number; `None` if the header that names it is absent.
pub fn pick_cluster<'a>(
    action: &'a ForwardAction,
    head: &RequestHead<'_>,
    random: u64,
) -> Option<PickedCluster<'a>> {
    match &action.cluster {
        ClusterTarget::Cluster(name) => Some(PickedCluster {
            name: Arc::clone(name),
            weighted: None,
        }),
        ClusterTarget::Weighted(weighted) => weighted.pick(random).map(|cluster| PickedCluster {
            name: Arc::clone(&cluster.name),
            weighted: Some(cluster),
        }),
        ClusterTarget::Header(source) => {
            let value = head.values(source).next()?;
            let name = std::str::from_utf8(value).ok()?;
            Some(PickedCluster {
                name: name.into(),
                weighted: None,
            })
        }
    }
}

impl WeightedClusters {
    /// A cluster with probability weight / total.
    fn pick(&self, random: u64) -> Option<&WeightedCluster> {
        let mut rest = random.checked_rem(self.total_weight)?;
        self.clusters.iter().find(|cluster| {
            let weight = u64::from(cluster.weight);
            let is_here = rest < weight;
            rest = rest.saturating_sub(weight);
            is_here
        })
    }
}

#[cfg(test)]
mod tests;
