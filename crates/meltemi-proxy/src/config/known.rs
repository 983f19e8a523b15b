//! Clusters in force, used or not.

use std::sync::{Arc, OnceLock};

use meltemi_proto::envoy::config::cluster::v3::Cluster as WireCluster;
use meltemi_proto::envoy::config::endpoint::v3::ClusterLoadAssignment as WireAssignment;
use meltemi_proxy_core::compile;
use meltemi_proxy_core::quick::QuickMap;
use meltemi_proxy_core::runtime::{Cluster, ClusterLoadAssignment, Discovery};
use parking_lot::Mutex;
use prost::Message as _;

use super::dump::Retained;
use crate::upstream::Upstream;

/// Clusters by name.
pub(crate) type KnownClusters = QuickMap<Arc<str>, Arc<Known>>;

/// A cluster in force. It was compiled to be accepted; what it takes to serve is made at its first use, because of the
/// thousands of clusters in a large mesh a workload uses a few.
pub(crate) struct Known {
    cluster: Arc<Retained>,
    /// What to ask for its endpoints by.
    eds_name: Option<Arc<str>>,
    /// The last that came. Locked while they are put in force, so that none of them is overtaken.
    endpoints: Mutex<Option<Arc<Retained>>>,
    in_use: OnceLock<Arc<Upstream>>,
}

impl Known {
    /// Takes up a cluster, or a new version of one: what is in use stays in use.
    pub(super) fn new(
        compiled: Cluster,
        kept: Arc<Retained>,
        endpoints: Option<Arc<Retained>>,
        previous: Option<&Self>,
    ) -> Self {
        let eds_name = compiled.eds_name().cloned();
        let of_same_name = previous.filter(|previous| previous.eds_name == eds_name);
        let known = Self {
            cluster: kept,
            eds_name,
            endpoints: Mutex::new(
                endpoints.or_else(|| of_same_name.and_then(|p| p.endpoints.lock().clone())),
            ),
            in_use: OnceLock::new(),
        };
        let previous = previous.and_then(Self::in_use);
        // Names are looked up for whoever comes first.
        let has_names = matches!(
            compiled.discovery,
            Discovery::StrictDns { .. } | Discovery::LogicalDns { .. }
        );
        if previous.is_some() || has_names {
            known.start(compiled, previous);
        }
        known
    }

    /// The cluster at work, from now on if it was not.
    pub(crate) fn upstream(&self) -> Option<Arc<Upstream>> {
        if let Some(upstream) = self.in_use() {
            return Some(upstream.clone());
        }
        // It is `None` for no cluster: what does not compile was not accepted.
        self.start(self.compile()?, None);
        self.in_use().cloned()
    }

    /// The cluster at work, if it was ever used.
    pub(crate) fn in_use(&self) -> Option<&Arc<Upstream>> {
        self.in_use.get()
    }

    /// As [`Self::upstream`], but to be looked at only.
    pub(crate) fn shown(&self) -> Option<Arc<Upstream>> {
        let made = || Some(Arc::new(self.make(self.compile()?, None)));
        self.in_use().cloned().or_else(made)
    }

    /// Whether endpoints came, if they come by name.
    pub(crate) fn has_endpoints(&self) -> bool {
        self.eds_name.is_none() || self.endpoints.lock().is_some()
    }

    pub(super) fn eds_name(&self) -> Option<&Arc<str>> {
        self.eds_name.as_ref()
    }

    /// Whether its names were looked up once, if it has any.
    pub(super) fn is_initialised(&self) -> bool {
        self.in_use()
            .is_none_or(|upstream| upstream.is_initialised())
    }

    /// Replaces the endpoints.
    pub(super) fn set_endpoints(
        &self,
        kept: &Arc<Retained>,
        compiled: &Arc<ClusterLoadAssignment>,
    ) {
        let mut endpoints = self.endpoints.lock();
        *endpoints = Some(kept.clone());
        if let Some(upstream) = self.in_use() {
            upstream.set_endpoints(compiled.clone());
        }
    }

    fn compile(&self) -> Option<Cluster> {
        compile::cluster(WireCluster::decode(&*self.cluster.body).ok()?).ok()
    }

    fn start(&self, cluster: Cluster, previous: Option<&Arc<Upstream>>) {
        let endpoints = self.endpoints.lock();
        self.in_use
            .get_or_init(|| Arc::new(make(cluster, endpoints.as_deref(), previous)));
    }

    fn make(&self, cluster: Cluster, previous: Option<&Arc<Upstream>>) -> Upstream {
        make(cluster, self.endpoints.lock().as_deref(), previous)
    }
}

fn make(
    cluster: Cluster,
    endpoints: Option<&Retained>,
    previous: Option<&Arc<Upstream>>,
) -> Upstream {
    let upstream = Upstream::new(Arc::new(cluster), previous.map(|previous| &**previous));
    let decoded = endpoints.and_then(|kept| WireAssignment::decode(&*kept.body).ok());
    let compiled = decoded.and_then(|decoded| compile::cluster_load_assignment(decoded).ok());
    if let Some(assignment) = compiled {
        upstream.set_endpoints(Arc::new(assignment));
    }
    upstream
}
