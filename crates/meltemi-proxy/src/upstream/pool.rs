//! HTTP connections to upstreams, kept per worker, endpoint, protocol and TLS context.
//!
//! A lease is one request's right to a connection. HTTP/1 leases own theirs and bring it back when the response has been
//! read to its end; HTTP/2 leases share one until its streams are used up. A pool whose endpoint or TLS mode left the
//! configuration is retired: requests in flight finish, nothing new starts on it.
//!
//! | a request at `max_connections`, with no idle connection | gets |
//! |---|---|
//! | the pool has no connection | one, whatever the limit says: another host's idle connections are of no use to it |
//! | the pool has some | the next that comes back, in turn; a new one when one of them has ended |
//! | `max_pending_requests` wait already | an overflow (`UO`) |

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Request, Response};
use hyper::client::conn::http2;
use meltemi_proxy_core::quick::QuickMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::cluster::{ClusterStats, Slot};
use super::connect::{ConnectError, ConnectedGuard};
use super::connection::ConnectionFacts;
use super::dial::Dial;
use crate::http::body::RequestBody;
use crate::http::incoming::{Incoming, StreamError};
use crate::http1::{Client, Tunnel};

/// Streams opened on one HTTP/2 connection before another is made, when the peer allows more (our secure default).
pub(crate) const DEFAULT_MAX_STREAMS: usize = 100;
/// Wait for an HTTP/1 connection to become reusable after its response ended before its request did.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// What must agree for two requests to share a connection: everything that decides where the bytes go and who reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolKey {
    pub(crate) cluster: Arc<str>,
    pub(crate) address: SocketAddr,
    /// Fingerprint of the TLS context, 0 for plain text.
    pub(crate) tls: u64,
    pub(crate) protocol: PoolProtocol,
    pub(crate) source: Option<IpAddr>,
    /// Where the server name follows the request's authority.
    pub(crate) server_name: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum PoolProtocol {
    Http11,
    Http2,
}

impl Hash for PoolKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The address tells nearly all keys apart; equality looks at the rest.
        self.address.hash(state);
        state.write_u64(self.tls);
    }
}

/// Limits of a pool, from its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PoolLimits {
    pub(crate) idle_timeout: Duration,
    /// 0 for no limit.
    pub(crate) max_requests_per_connection: u32,
    pub(crate) max_streams: usize,
    /// Connections older than this take no new request (`max_connection_duration`).
    pub(crate) max_age: Option<Duration>,
}

impl PoolLimits {
    fn is_too_old(&self, made: Instant) -> bool {
        self.max_age.is_some_and(|max| made.elapsed() >= max)
    }
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(3600),
            max_requests_per_connection: 0,
            max_streams: DEFAULT_MAX_STREAMS,
            max_age: None,
        }
    }
}

/// All pools of a worker.
#[derive(Default)]
pub(crate) struct Pools {
    pools: Mutex<QuickMap<PoolKey, Arc<Pool>>>,
}

impl Pools {
    /// The pool of a key. One that was made with other limits is retired: they are new ones' from now on.
    pub(crate) fn get(&self, key: &PoolKey, limits: PoolLimits) -> Arc<Pool> {
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(key) {
            if pool.limits == limits {
                return pool.clone();
            }
            pool.retire();
        }
        let pool = Arc::new(Pool::new(limits));
        pools.insert(key.clone(), pool.clone());
        pool
    }

    /// Retires the pools that `live` no longer knows and closes connections that were idle too long.
    pub(crate) fn sweep(&self, live: impl Fn(&PoolKey) -> bool) {
        let mut pools = self.pools.lock();
        pools.retain(|key, pool| {
            let keep = live(key);
            if keep {
                pool.drop_idle();
            } else {
                pool.retire();
            }
            keep && !(pool.is_empty() && Arc::strong_count(pool) == 1)
        });
    }
}

/// The connections to one endpoint.
pub(crate) struct Pool {
    limits: PoolLimits,
    own: Mutex<Own>,
    shared: Mutex<Vec<Arc<SharedConnection>>>,
    /// Told of every HTTP/2 stream and connection that ends.
    pub(crate) freed: Arc<Notify>,
    pub(crate) dial: Dial,
    retired: AtomicBool,
}

/// The HTTP/1 connections, and who waits for one. No connection may end while this is locked: its place takes the lock.
#[derive(Default)]
struct Own {
    idle: VecDeque<Idle>,
    /// Nothing is idle while there are any.
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// Those that are open or being made.
    connections: usize,
}

impl Own {
    /// Gives the first that still waits its turn; gives it back if there is none.
    fn wake(&mut self, mut turn: Turn) -> Option<Turn> {
        while let Some(waiting) = self.waiting.pop_front() {
            match waiting.send(turn) {
                Ok(()) => return None,
                Err(gone) => turn = gone,
            }
        }
        Some(turn)
    }
}

/// What a request that waited gets.
pub(crate) enum Turn {
    Connection(OwnConnection),
    /// Something has changed: it may ask again.
    Ask,
    /// The attempt that all waited for failed.
    Failed(ConnectError),
}

/// What a request gets that found no idle connection.
pub(crate) enum Admission {
    Lease(Lease),
    /// It may make a connection.
    Connect(Slot, Place),
    Wait(Waiting),
}

/// A connection's place in its pool, from before it is made until it has ended.
pub(crate) struct Place {
    pool: Weak<Pool>,
    /// Why it was not made.
    pub(crate) failure: Option<ConnectError>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.left(self.failure.take());
        }
    }
}

/// A request in line.
pub(crate) struct Waiting {
    pool: Arc<Pool>,
    turn: oneshot::Receiver<Turn>,
}

impl Waiting {
    pub(crate) async fn turn(mut self) -> Turn {
        // A pool that is retired forgets who waits.
        (&mut self.turn).await.unwrap_or(Turn::Ask)
    }
}

impl Drop for Waiting {
    /// Passes on what came when nobody waited any longer.
    fn drop(&mut self) {
        self.turn.close();
        match self.turn.try_recv() {
            Ok(Turn::Connection(connection)) => self.pool.park(connection),
            Ok(Turn::Ask) => drop(self.pool.own.lock().wake(Turn::Ask)),
            Ok(Turn::Failed(_)) | Err(_) => {}
        }
    }
}

struct Idle {
    connection: OwnConnection,
    since: Instant,
}

/// An HTTP/1 connection.
pub(crate) struct OwnConnection {
    client: Client,
    facts: Arc<ConnectionFacts>,
    requests: u32,
    made: Instant,
    /// Dropped after the connection.
    _guard: (ConnectedGuard, Place),
}

/// An HTTP/2 connection.
pub(crate) struct SharedConnection {
    sender: http2::SendRequest<RequestBody>,
    facts: Arc<ConnectionFacts>,
    made: Instant,
    streams: AtomicUsize,
    idle_since: Mutex<Instant>,
    requests: AtomicUsize,
    /// The peer's SETTINGS_MAX_CONCURRENT_STREAMS, kept up to date by the connection's task.
    peer_max_streams: Arc<AtomicUsize>,
    freed: Arc<Notify>,
}

impl Pool {
    fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            own: Mutex::default(),
            shared: Mutex::default(),
            freed: Arc::default(),
            dial: Dial::default(),
            retired: AtomicBool::new(false),
        }
    }

    /// Takes the most recently used idle connection that is still open.
    pub(crate) fn take_idle(self: &Arc<Self>) -> Option<Lease> {
        let connection = self.pop_idle()?;
        Some(self.lease(connection))
    }

    fn pop_idle(&self) -> Option<OwnConnection> {
        let oldest = Instant::now().checked_sub(self.limits.idle_timeout);
        loop {
            let idle = self.own.lock().idle.pop_back()?;
            let expired = oldest.is_some_and(|oldest| idle.since < oldest);
            let is_too_old = self.limits.is_too_old(idle.connection.made);
            if !expired && !is_too_old && idle.connection.client.is_open() {
                return Some(idle.connection);
            }
        }
    }

    /// Leases a connection that was used before.
    pub(crate) fn lease(self: &Arc<Self>, connection: OwnConnection) -> Lease {
        Lease::Own(OwnLease {
            connection,
            pool: self.clone(),
            reused: true,
        })
    }

    /// Lets a request make a connection, or puts it in line (Envoy `ConnPoolImplBase::tryCreateNewConnection`). One that
    /// wants a `fresh` connection gets an idle one only if it can have no other.
    pub(crate) fn admit(
        self: &Arc<Self>,
        stats: &Arc<ClusterStats>,
        max_connections: u32,
        fresh: bool,
    ) -> Admission {
        if !fresh && let Some(lease) = self.take_idle() {
            return Admission::Lease(lease);
        }
        // To a retired pool nothing comes back.
        let is_first = self.own.lock().connections == 0 || self.retired.load(Ordering::Acquire);
        if let Some(slot) = Slot::for_connection(stats, max_connections, is_first) {
            self.own.lock().connections += 1;
            let place = Place {
                pool: Arc::downgrade(self),
                failure: None,
            };
            return Admission::Connect(slot, place);
        }
        if let Some(lease) = self.take_idle() {
            return Admission::Lease(lease);
        }
        let (sender, turn) = oneshot::channel();
        self.own.lock().waiting.push_back(sender);
        Admission::Wait(Waiting {
            pool: self.clone(),
            turn,
        })
    }

    /// A connection has ended, or was not made. If it was the only one, that is the answer to all who waited for it.
    fn left(&self, failure: Option<ConnectError>) {
        let mut own = self.own.lock();
        own.connections -= 1;
        match failure {
            Some(error) if own.connections == 0 => {
                while own.wake(Turn::Failed(error.clone())).is_none() {}
            }
            _ => drop(own.wake(Turn::Ask)),
        }
    }

    /// Takes a stream of an open HTTP/2 connection, if one has any left.
    pub(crate) fn take_stream(&self) -> Option<Lease> {
        let mut shared = self.shared.lock();
        shared.retain(|connection| {
            let is_done =
                connection.is_spent(self.limits) && connection.streams.load(Ordering::Relaxed) == 0;
            !is_done && !connection.sender.is_closed()
        });
        let connection = shared
            .iter()
            .find(|connection| connection.has_room(self.limits))?;
        connection.streams.fetch_add(1, Ordering::Relaxed);
        connection.requests.fetch_add(1, Ordering::Relaxed);
        Some(Lease::Stream(StreamLease {
            connection: connection.clone(),
            reused: true,
        }))
    }

    pub(crate) fn has_no_shared(&self) -> bool {
        self.shared.lock().is_empty()
    }

    /// Leases a connection just made.
    pub(crate) fn lease_new_own(
        self: &Arc<Self>,
        client: Client,
        facts: Arc<ConnectionFacts>,
        guard: (ConnectedGuard, Place),
    ) -> Lease {
        let connection = OwnConnection {
            client,
            facts,
            requests: 0,
            made: Instant::now(),
            _guard: guard,
        };
        Lease::Own(OwnLease {
            connection,
            pool: self.clone(),
            reused: false,
        })
    }

    /// Leases the first stream of a connection just made and shares the rest.
    pub(crate) fn lease_new_stream(
        &self,
        sender: http2::SendRequest<RequestBody>,
        facts: Arc<ConnectionFacts>,
        peer_max_streams: Arc<AtomicUsize>,
    ) -> Lease {
        let connection = Arc::new(SharedConnection {
            sender,
            facts,
            made: Instant::now(),
            streams: AtomicUsize::new(1),
            idle_since: Mutex::new(Instant::now()),
            requests: AtomicUsize::new(1),
            peer_max_streams,
            freed: self.freed.clone(),
        });
        if !self.retired.load(Ordering::Acquire) {
            self.shared.lock().push(connection.clone());
        }
        Lease::Stream(StreamLease {
            connection,
            reused: false,
        })
    }

    fn bring_back(self: &Arc<Self>, mut connection: OwnConnection) {
        connection.requests += 1;
        let used_up = self.limits.max_requests_per_connection != 0
            && connection.requests >= self.limits.max_requests_per_connection;
        if used_up || self.limits.is_too_old(connection.made) {
            return;
        }
        if connection.client.is_free() {
            self.park(connection);
        } else if connection.client.is_sending() {
            // The response ended before the request did.
            let pool = Arc::clone(self);
            tokio::spawn(async move {
                let settling = connection.client.settle();
                let settled = tokio::time::timeout(SETTLE_LIMIT, settling).await;
                if settled.is_ok() && connection.client.is_free() {
                    pool.park(connection);
                }
            });
        }
    }

    /// Hands a connection to the first that waits, or keeps it.
    fn park(&self, connection: OwnConnection) {
        let mut own = self.own.lock();
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        if let Some(Turn::Connection(connection)) = own.wake(Turn::Connection(connection)) {
            own.idle.push_back(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    fn drop_idle(&self) {
        let Some(oldest) = Instant::now().checked_sub(self.limits.idle_timeout) else {
            return;
        };
        let mut idle = std::mem::take(&mut self.own.lock().idle);
        idle.retain(|idle| idle.since >= oldest && idle.connection.client.is_open());
        self.own.lock().idle = idle;
        self.shared.lock().retain(|connection| {
            let is_idle = connection.streams.load(Ordering::Relaxed) == 0;
            let expired = is_idle && *connection.idle_since.lock() < oldest;
            !expired && !connection.sender.is_closed()
        });
    }

    fn retire(&self) {
        let mut own = self.own.lock();
        self.retired.store(true, Ordering::Release);
        let idle = std::mem::take(&mut own.idle);
        // Whoever waits asks again, and makes a connection.
        own.waiting.clear();
        drop(own);
        drop(idle);
        self.shared.lock().clear();
        self.freed.notify_one();
    }

    fn is_empty(&self) -> bool {
        self.own.lock().idle.is_empty() && self.shared.lock().is_empty()
    }
}

impl SharedConnection {
    fn has_room(&self, limits: PoolLimits) -> bool {
        let max = limits
            .max_streams
            .min(self.peer_max_streams.load(Ordering::Relaxed));
        !self.is_spent(limits) && self.streams.load(Ordering::Relaxed) < max.max(1)
    }

    /// Whether it takes no further request.
    fn is_spent(&self, limits: PoolLimits) -> bool {
        let used_up = limits.max_requests_per_connection != 0
            && self.requests.load(Ordering::Relaxed) >= limits.max_requests_per_connection as usize;
        used_up || limits.is_too_old(self.made)
    }
}

/// One request's hold on a connection. Dropped before [`Lease::finish`], an HTTP/1 connection is closed.
pub(crate) enum Lease {
    Own(OwnLease),
    Stream(StreamLease),
}

pub(crate) struct OwnLease {
    connection: OwnConnection,
    pool: Arc<Pool>,
    reused: bool,
}

pub(crate) struct StreamLease {
    connection: Arc<SharedConnection>,
    reused: bool,
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        if self.connection.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.connection.idle_since.lock() = Instant::now();
        }
        self.connection.freed.notify_one();
    }
}

/// A request that got no response.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) error: StreamError,
    /// Nothing of it was written.
    pub(crate) is_unsent: bool,
}

impl Lease {
    /// Whether the connection carried a request before: its end may then be the peer's idle timeout.
    pub(crate) fn is_reused(&self) -> bool {
        match self {
            Self::Own(lease) => lease.reused,
            Self::Stream(lease) => lease.reused,
        }
    }

    pub(crate) fn facts(&self) -> &Arc<ConnectionFacts> {
        match self {
            Self::Own(lease) => &lease.connection.facts,
            Self::Stream(lease) => &lease.connection.facts,
        }
    }

    /// Sends a request and waits for the response's head.
    pub(crate) async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        match self {
            Self::Own(lease) => match lease.connection.client.send(request).await {
                Ok(response) => Ok(response.map(Incoming::Http1)),
                Err(failed) => Err(SendError {
                    error: failed.error.into(),
                    is_unsent: failed.is_unsent,
                }),
            },
            Self::Stream(lease) => {
                let sender = &mut lease.connection.sender.clone();
                match sender.try_send_request(request).await {
                    Ok(response) => Ok(response.map(Incoming::Http2)),
                    Err(mut failed) => Err(SendError {
                        is_unsent: failed.take_message().is_some(),
                        error: failed.into_error().into(),
                    }),
                }
            }
        }
    }

    /// The connection behind a 101, which HTTP/1 alone has.
    pub(crate) fn take_tunnel(&mut self) -> Option<Tunnel> {
        match self {
            Self::Own(lease) => lease.connection.client.take_tunnel(),
            Self::Stream(_) => None,
        }
    }

    /// Gives the connection back after the response was read to its end.
    pub(crate) fn finish(self) {
        if let Self::Own(OwnLease {
            connection, pool, ..
        }) = self
        {
            pool.bring_back(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn changed_limits_make_another_pool() {
        let key = PoolKey {
            cluster: "c".into(),
            address: SocketAddr::from(([127, 0, 0, 1], 80)),
            tls: 0,
            protocol: PoolProtocol::Http11,
            source: None,
            server_name: None,
        };
        let pools = Pools::default();
        let old = pools.get(&key, PoolLimits::default());
        assert!(Arc::ptr_eq(&old, &pools.get(&key, PoolLimits::default())));
        let limits = PoolLimits {
            max_requests_per_connection: 1,
            ..PoolLimits::default()
        };
        let new = pools.get(&key, limits);
        assert!(!Arc::ptr_eq(&old, &new));
        assert!(old.retired.load(Ordering::Relaxed));
        assert!(Arc::ptr_eq(&new, &pools.get(&key, limits)));
    }

    fn refused() -> ConnectError {
        ConnectError {
            reason: meltemi_proxy_core::error::ResetReason::RemoteConnectionFailure,
            failure: None,
        }
    }

    #[tokio::test]
    async fn who_waits_learns_how_the_only_connection_ended() {
        let stats = Arc::<ClusterStats>::default();
        let pool = Arc::new(Pool::new(PoolLimits::default()));
        let place = || match pool.admit(&stats, 1, false) {
            Admission::Connect(slot, place) => (slot, place),
            _ => panic!("there is room"),
        };
        let waiting = || match pool.admit(&stats, 1, false) {
            Admission::Wait(waiting) => waiting,
            _ => panic!("there is no room"),
        };
        let connected = place();
        let (first, second) = (waiting(), waiting());
        drop(connected);
        assert!(matches!(first.turn().await, Turn::Ask));
        let mut failed = place();
        failed.1.failure = Some(refused());
        drop(failed);
        assert!(matches!(second.turn().await, Turn::Failed(_)));

        // One that left in the meantime passes its turn on.
        let connected = place();
        let (gone, third) = (waiting(), waiting());
        drop(connected);
        drop(gone);
        assert!(matches!(third.turn().await, Turn::Ask));
    }
}
