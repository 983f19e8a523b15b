//! Configuration that is asked for when it is first used: listeners by original destination, virtual hosts by authority.
//!
//! ```text
//! data path: answered? ── yes ─► use it            control thread: wishes ─► subscriptions ─► answers
//!              └─ no ─► wish, wait at most WAIT_LIMIT ─► refused      └─ idle for IDLE_LIMIT: unsubscribed, forgotten
//! ```
//! "Does not exist" is an answer too. A first use that gets none is refused, not let through: what is not known yet may
//! be a service that takes nothing but mutual TLS.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use meltemi_proto::type_url;
use meltemi_proxy_core::listener_table::ListenerTable;
use meltemi_proxy_core::runtime::{Listener, RouteConfiguration, VirtualHost};
use meltemi_proxy_core::virtual_host;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long a first use waits for an answer: Envoy's default for clusters on demand (`OnDemandCds.timeout`).
pub(crate) const WAIT_LIMIT: Duration = Duration::from_secs(5);
/// Wishes that wait for the control thread; what comes beyond is refused at once.
const QUEUE_LIMIT: usize = 256;
/// Wishes that may be granted at once, and how many more each second: one workload's strange Host headers must not
/// keep the control plane busy.
const BURST: u32 = 256;
const PER_SECOND: u32 = 64;

/// Something that the data path lacks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// By resource name.
    Listener(String),
    /// `<route configuration>/<authority>`.
    Host(String),
}

impl Wish {
    pub(crate) fn type_url(&self) -> &'static str {
        match self {
            Self::Listener(_) => type_url::LISTENER,
            Self::Host(_) => type_url::VIRTUAL_HOST,
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Listener(name) | Self::Host(name) => name,
        }
    }
}

/// When something was last used, and by how many it is being used.
#[derive(Debug)]
pub(crate) struct Usage {
    last_second: AtomicU64,
    active: AtomicU32,
}

impl Usage {
    pub(crate) fn new(now: u64) -> Arc<Self> {
        Arc::new(Self {
            last_second: AtomicU64::new(now),
            active: AtomicU32::new(0),
        })
    }

    pub(crate) fn last_second(&self) -> u64 {
        self.last_second.load(Ordering::Relaxed)
    }

    pub(crate) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) > 0
    }

    fn touch(&self, now: u64) {
        // Read first: a store would take the cache line from the other workers at every request.
        if self.last_second() != now {
            self.last_second.store(now, Ordering::Relaxed);
        }
    }
}

/// Keeps what is in use from being forgotten.
#[derive(Debug)]
pub(crate) struct Hold(Arc<Usage>);

impl Hold {
    fn new(usage: &Arc<Usage>) -> Self {
        usage.active.fetch_add(1, Ordering::Relaxed);
        Self(usage.clone())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is known of the things that were asked for. Immutable; replaced whole.
#[derive(Default)]
pub(crate) struct Answers {
    /// Listeners that are in force, or do not exist.
    pub(crate) listeners: HashMap<Box<str>, Arc<Usage>>,
    /// Virtual hosts by route configuration and authority; `None` does not exist.
    pub(crate) hosts: HashMap<Box<str>, HashMap<Box<str>, AnsweredHost>>,
}

pub(crate) struct AnsweredHost {
    pub(crate) host: Option<Arc<VirtualHost>>,
    pub(crate) usage: Arc<Usage>,
}

/// No answer: the control plane is away, too slow, or too much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unanswered;

/// Where the data path and the control thread meet.
pub(crate) struct Demand {
    answers: ArcSwap<Answers>,
    changed: watch::Sender<()>,
    wishes: Mutex<BTreeSet<Wish>>,
    wake: Notify,
    started: Instant,
    /// Seconds since the start, kept by the control thread so that requests need not ask the clock.
    second: AtomicU64,
    pub(crate) counts: Counts,
}

/// For metrics.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) waits: AtomicU64,
    pub(crate) waited_micros: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) entries: AtomicU64,
    pub(crate) evicted: AtomicU64,
    pub(crate) expired: AtomicU64,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            answers: ArcSwap::default(),
            changed: watch::Sender::new(()),
            wishes: Mutex::default(),
            wake: Notify::new(),
            started: Instant::now(),
            second: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }
}

impl Demand {
    /// The listener of an original destination, `None` where none exists, held while the connection lasts.
    ///
    /// # Errors
    /// No answer came in time.
    pub(crate) async fn listener(
        &self,
        table: &ArcSwap<ListenerTable>,
        destination: SocketAddr,
    ) -> Result<(Option<Arc<Listener>>, Vec<Hold>), Unanswered> {
        let names = listener_names(destination);
        let find = || self.find_listener(&table.load(), destination, &names);
        let wishes = || names.iter().cloned().map(Wish::Listener).collect();
        self.answer(find, wishes).await
    }

    fn find_listener(
        &self,
        table: &ListenerTable,
        destination: SocketAddr,
        names: &[String],
    ) -> Option<(Option<Arc<Listener>>, Vec<Hold>)> {
        let answers = self.answers.load();
        let found = table.find(destination);
        let mut holds = Vec::new();
        // Names in order of precedence: those after the one that is held do not matter.
        for name in names {
            let usage = answers.listeners.get(name.as_str())?;
            usage.touch(self.second());
            holds.push(Hold::new(usage));
            if let Some(listener) = found.filter(|listener| *listener.name == **name) {
                return Some((Some(listener.clone()), holds));
            }
        }
        Some((None, holds))
    }

    /// The virtual host of an authority.
    ///
    /// # Errors
    /// No answer came in time.
    pub(crate) async fn host(
        &self,
        config: &RouteConfiguration,
        authority: &str,
    ) -> Result<Option<Arc<VirtualHost>>, Unanswered> {
        let authority = virtual_host::asked_as(config, authority);
        let find = || self.find_host(&config.name, &authority);
        let wish = || vec![Wish::Host(format!("{}/{authority}", config.name))];
        self.answer(find, wish).await
    }

    fn find_host(&self, routes: &str, authority: &str) -> Option<Option<Arc<VirtualHost>>> {
        let answers = self.answers.load();
        let found = answers.hosts.get(routes)?.get(authority)?;
        found.usage.touch(self.second());
        Some(found.host.clone())
    }

    async fn answer<T>(
        &self,
        find: impl Fn() -> Option<T>,
        wishes: impl Fn() -> Vec<Wish>,
    ) -> Result<T, Unanswered> {
        if let Some(found) = find() {
            return Ok(found);
        }
        let mut changed = self.changed.subscribe();
        let started = Instant::now();
        self.counts.waits.fetch_add(1, Ordering::Relaxed);
        // Again: the answer may have come between the first look and the subscription to changes.
        let mut found = find();
        if found.is_none() {
            self.wish(wishes())?;
        }
        let deadline = started + WAIT_LIMIT;
        while found.is_none() {
            let waited = tokio::time::timeout_at(deadline, changed.changed()).await;
            if !matches!(waited, Ok(Ok(()))) {
                self.counts.timeouts.fetch_add(1, Ordering::Relaxed);
                return Err(Unanswered);
            }
            found = find();
        }
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.counts
            .waited_micros
            .fetch_add(micros, Ordering::Relaxed);
        found.ok_or(Unanswered)
    }

    fn wish(&self, wishes: Vec<Wish>) -> Result<(), Unanswered> {
        let mut queue = self.wishes.lock();
        if queue.len() + wishes.len() > QUEUE_LIMIT {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Unanswered);
        }
        queue.extend(wishes);
        self.wake.notify_one();
        Ok(())
    }

    /// The next wishes, at the rate that is allowed; none when only [`Self::wake`] was called. Cancel safe.
    pub(crate) async fn wishes(&self, allowance: &mut Allowance) -> Vec<Wish> {
        if self.wishes.lock().is_empty() {
            self.wake.notified().await;
        }
        let wanted = self.wishes.lock().len();
        if wanted == 0 {
            return Vec::new();
        }
        let granted = allowance.wait(wanted).await;
        let mut queue = self.wishes.lock();
        let taken: Vec<Wish> = queue.iter().take(granted).cloned().collect();
        for wish in &taken {
            queue.remove(wish);
        }
        allowance.spend(taken.len());
        taken
    }

    /// Has the control thread look again at what waits for something.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Puts answers in force and lets those who wait look again.
    pub(crate) fn publish(&self, answers: Answers) {
        self.answers.store(Arc::new(answers));
        self.changed.send_replace(());
    }

    /// The second that uses are noted with.
    pub(crate) fn second(&self) -> u64 {
        self.second.load(Ordering::Relaxed)
    }

    /// Reads the clock.
    pub(crate) fn tick(&self) {
        let now = self.started.elapsed().as_secs();
        self.second.store(now, Ordering::Relaxed);
    }
}

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Allowance {
    tokens: u32,
    filled: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            tokens: BURST,
            filled: Instant::now(),
        }
    }
}

impl Allowance {
    /// Waits until something is allowed; answers how much, `wanted` at most.
    async fn wait(&mut self, wanted: usize) -> usize {
        loop {
            self.fill();
            if self.tokens > 0 {
                return wanted.min(self.tokens as usize);
            }
            tokio::time::sleep(Duration::from_secs(1) / PER_SECOND).await;
        }
    }

    fn fill(&mut self) {
        let earned = self.filled.elapsed().as_millis() * u128::from(PER_SECOND) / 1000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.tokens = self.tokens.saturating_add(earned).min(BURST);
            self.filled = Instant::now();
        }
    }

    fn spend(&mut self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_sub(count);
    }
}

/// The listeners that may take a connection, the first that exists counts: of the address, of all IPv4 addresses.
fn listener_names(destination: SocketAddr) -> Vec<String> {
    let (ip, port) = (destination.ip().to_canonical(), destination.port());
    let mut names = vec![format!("{ip}_{port}")];
    match ip {
        IpAddr::V4(_) => names.push(format!("0.0.0.0_{port}")),
        // The wildcard of IPv6 is a listener of its own.
        IpAddr::V6(_) => names.push(format!("::_{port}")),
    }
    names
}

#[cfg(test)]
mod tests;
