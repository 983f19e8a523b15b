//! One endpoint with what we know of it beyond its configuration.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use meltemi_pki::HandshakeInfo;
use meltemi_proxy_core::runtime::{Cluster, Endpoint, Health, UpstreamTls};
use parking_lot::Mutex;

use super::connection::Principals;
use super::outlier::Outlier;
use crate::telemetry::peer::Workload;
use crate::telemetry::series::Counter;

/// The TLS context of an endpoint; its fingerprint tells connections of different contexts apart.
#[derive(Clone)]
pub(crate) struct HostTls {
    pub(crate) context: Arc<UpstreamTls>,
    pub(crate) fingerprint: u64,
}

/// An endpoint that requests can be sent to.
pub(crate) struct Host {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) address: SocketAddr,
    /// `None` is plain text.
    pub(crate) tls: Option<HostTls>,
    pub(crate) workload: Option<Arc<Workload>>,
    pub(crate) state: Arc<HostState>,
}

/// What outlives an update of the endpoint: load, statistics, ejection.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    pub(crate) active_requests: AtomicU32,
    pub(crate) active_connections: AtomicU32,
    pub(crate) connections: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) requests: Counter,
    pub(crate) successes: Counter,
    pub(crate) errors: Counter,
    pub(crate) timeouts: Counter,
    pub(crate) outlier: Outlier,
    /// Of the last connection made, which are nearly always those of the next.
    principals: Mutex<Arc<Principals>>,
}

impl HostState {
    /// The principals of a new connection; those of the connection before, if they are the same.
    pub(crate) fn principals(&self, handshake: Option<&HandshakeInfo>) -> Arc<Principals> {
        let made = Principals::of(handshake);
        let mut last = self.principals.lock();
        if **last != made {
            *last = Arc::new(made);
        }
        last.clone()
    }
}

impl Host {
    pub(crate) fn new(
        cluster: &Cluster,
        endpoint: Arc<Endpoint>,
        address: SocketAddr,
        state: Arc<HostState>,
        fingerprint: impl Fn(&Arc<UpstreamTls>) -> u64,
    ) -> Self {
        let tls = cluster.transport_for(&endpoint).map(|context| HostTls {
            context: context.clone(),
            fingerprint: fingerprint(context),
        });
        let workload = endpoint
            .workload
            .as_deref()
            .map(|workload| Arc::new(Workload::from_endpoint(workload)));
        Self {
            endpoint,
            address,
            tls,
            workload,
            state,
        }
    }

    pub(crate) fn fingerprint(&self) -> u64 {
        self.tls.as_ref().map_or(0, |tls| tls.fingerprint)
    }

    /// Whether the control plane or outlier detection say that it cannot serve.
    pub(crate) fn has_failed(&self) -> bool {
        self.endpoint.health == Health::Unhealthy || self.state.outlier.is_ejected()
    }

    /// Counts a request for as long as the guard lives; least-request balancing reads the count.
    pub(crate) fn begin_request(&self) -> ActiveRequest {
        self.state.requests.add(1);
        self.state.active_requests.fetch_add(1, Ordering::Relaxed);
        ActiveRequest(self.state.clone())
    }
}

#[derive(Debug)]
pub(crate) struct ActiveRequest(Arc<HostState>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.active_requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts an open connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct ActiveConnection(Arc<HostState>);

impl ActiveConnection {
    pub(crate) fn new(state: &Arc<HostState>) -> Self {
        state.connections.add(1);
        state.active_connections.fetch_add(1, Ordering::Relaxed);
        Self(state.clone())
    }
}

impl Drop for ActiveConnection {
    fn drop(&mut self) {
        self.0.active_connections.fetch_sub(1, Ordering::Relaxed);
    }
}
