//! Fetches the keys that check tokens (RequestAuthentication `jwksUri`, or the issuer's discovery), and keeps them fresh.
//!
//! | state of a key set | until | proxies get |
//! |---|---|---|
//! | never fetched | a fetch succeeds; tried again after 1 s, 2 s, ... [`RETRY_LIMIT`] | a key that nobody has: every token is refused |
//! | fetched | the refresh interval is over | the keys |
//! | not refreshed | a fetch succeeds, or the keys are as old as [`LAST_GOOD_LIMIT`] | the last good keys |
//!
//! One task owns it. What it learns goes to the hub as a command; what it knows is read from the [`Board`].

mod address;
mod fetch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use meltemi_api::{Kind, Resource};
use meltemi_core::{Diagnostic, FieldPath};
use meltemi_model::{JwksSource, Mesh};
use meltemi_process::Metrics;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio::task::{self, JoinError, JoinSet};
use tokio::time::Instant;

use crate::Options;
use crate::hub::Command;
use address::AddressPolicy;
use fetch::{Client, FetchError};

/// The longest wait after a failure.
const RETRY_LIMIT: Duration = Duration::from_secs(60);
/// How long keys are believed in that could not be renewed.
const LAST_GOOD_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Fetches at a time.
const FETCH_LIMIT: usize = 8;
/// Of these, to one host: one that hangs must not hold up the others.
const HOST_FETCH_LIMIT: usize = 2;
/// Key sets that are looked after; objects may name more.
const SOURCE_LIMIT: usize = 1000;
/// The longest that a fetch may take, whatever a rule says.
const FETCH_TIME_LIMIT: Duration = Duration::from_secs(30);
/// How long serving waits for keys at the start.
const FIRST_LIMIT: Duration = Duration::from_secs(5);

/// Where keys are wanted from, and how long a fetch may take.
pub(crate) type Wanted = BTreeMap<JwksSource, Duration>;

/// What is known of each key set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Mutex<BTreeMap<JwksSource, State>>>);

#[derive(Clone, Debug)]
pub(crate) struct State {
    /// When the last good keys came.
    pub(crate) fetched: Option<Instant>,
    pub(crate) failure: Option<Arc<str>>,
    failures: u32,
    next: Instant,
    is_running: bool,
    host: Arc<str>,
}

impl State {
    fn new(source: &JwksSource) -> Self {
        Self {
            fetched: None,
            failure: None,
            failures: 0,
            next: Instant::now(),
            is_running: false,
            host: fetch::host(source).into(),
        }
    }

    /// Gives up keys that are too old; whether there were some.
    fn expire(&mut self, now: Instant) -> bool {
        let is_old = |at: &mut Instant| now.duration_since(*at) >= LAST_GOOD_LIMIT;
        let was_good = self.fetched.take_if(is_old).is_some();
        if was_good && self.failure.is_none() {
            self.failure = Some("the last good keys are too old".into());
        }
        was_good
    }
}

impl Board {
    pub(crate) fn states(&self) -> BTreeMap<JwksSource, State> {
        self.0.lock().clone()
    }

    /// What is wrong, at the rules that it is wrong for.
    pub(crate) fn diagnostics(&self, mesh: &Mesh) -> Vec<Diagnostic> {
        let states = self.0.lock();
        let mut found = Vec::new();
        if states.values().all(|state| state.failure.is_none()) {
            return found;
        }
        for object in mesh.objects_of(Kind::RequestAuthentication) {
            let Resource::RequestAuthentication(policy) = &object.resource else {
                continue;
            };
            for (index, rule) in policy.jwt_rules.iter().enumerate() {
                let source = JwksSource::of(rule);
                let state = source.as_ref().and_then(|source| states.get(source));
                let Some((state, failure)) =
                    state.and_then(|state| Some((state, state.failure.as_ref()?)))
                else {
                    continue;
                };
                let at = FieldPath::new("spec").field("jwtRules").index(index);
                let field = match source {
                    Some(JwksSource::Url(_)) => at.field("jwksUri"),
                    _ => at.field("issuer"),
                };
                let location = object.locate(&field);
                let diagnostic = problem(state, failure)
                    .object(object.reference())
                    .field(field);
                found.push(match location {
                    Some(location) => diagnostic.at(location),
                    None => diagnostic,
                });
            }
        }
        found
    }
}

fn problem(state: &State, failure: &str) -> Diagnostic {
    let remedy = "make the keys reachable for the control plane, or write them into jwks";
    match state.fetched {
        Some(_) => Diagnostic::warning(
            "MEL0302",
            format!("the keys cannot be renewed, the last good ones are used: {failure}"),
        ),
        None => Diagnostic::error(
            "MEL0301",
            format!("there are no keys, every token of the issuer is refused: {failure}"),
        ),
    }
    .hint(remedy)
}

/// What the owner of the mesh is told.
pub(crate) struct Fetched {
    pub(crate) source: JwksSource,
    pub(crate) news: News,
}

pub(crate) enum News {
    Keys(Arc<str>),
    /// What was known is not to be believed any more.
    Gone,
    /// Nothing but the failure is new.
    Failed,
}

#[derive(Clone, Debug, Default)]
struct Counters {
    successes: Counter,
    failures: Counter,
}

/// Looks after the keys.
pub(crate) struct Keeper {
    client: Client,
    refresh: Duration,
    board: Board,
    counters: Counters,
    running: JoinSet<Result<Arc<str>, FetchError>>,
    /// What runs, and the host that is asked.
    fetching: HashMap<task::Id, (JwksSource, Arc<str>)>,
}

impl Keeper {
    pub(crate) fn new(options: &Options, metrics: &Metrics) -> Self {
        let policy = AddressPolicy {
            blocked: options.jwks_blocked_cidrs.clone(),
            allowed: options.jwks_allowed_cidrs.clone(),
        };
        let counters = Counters::default();
        metrics.register(|registry| {
            registry.register(
                "pilot_jwks_resolver_network_fetch_success",
                "Key sets fetched",
                counters.successes.clone(),
            );
            registry.register(
                "pilot_jwks_resolver_network_fetch_fail",
                "Key sets that could not be fetched",
                counters.failures.clone(),
            );
        });
        Self {
            client: Client::new(options.jwks_ca_file.as_deref(), policy),
            // Keys that can be had must not expire between two fetches.
            refresh: options.jwks_refresh.min(LAST_GOOD_LIMIT / 2),
            board: Board::default(),
            counters,
            running: JoinSet::new(),
            fetching: HashMap::new(),
        }
    }

    pub(crate) fn board(&self) -> Board {
        self.board.clone()
    }

    /// Tries once to get what is wanted at the start: a control plane that starts again must not take keys away from proxies
    /// that have them.
    pub(crate) async fn first(&mut self, wanted: &Wanted) -> Vec<Fetched> {
        let deadline = Instant::now() + FIRST_LIMIT;
        let mut found = Vec::new();
        loop {
            self.start(wanted);
            let done = tokio::time::timeout_at(deadline, self.running.join_next_with_id()).await;
            let Ok(Some(done)) = done else { return found };
            found.extend(self.finish(done));
        }
    }

    /// Runs for ever; without anybody who wants keys there is nothing to do any more.
    pub(crate) async fn run(
        mut self,
        wanted: watch::Receiver<Wanted>,
        commands: mpsc::Sender<Command>,
    ) {
        self.serve(wanted, commands).await;
        std::future::pending().await
    }

    async fn serve(
        &mut self,
        mut wanted: watch::Receiver<Wanted>,
        commands: mpsc::Sender<Command>,
    ) {
        loop {
            let now = wanted.borrow_and_update().clone();
            let mut news = self.forget(&now);
            news.extend(self.expire());
            self.start(&now);
            // What is gone is told at once.
            if news.is_empty() {
                let next = self.next(&now);
                tokio::select! {
                    changed = wanted.changed() => if changed.is_err() { return },
                    Some(done) = self.running.join_next_with_id() => news.extend(self.finish(done)),
                    () = tokio::time::sleep_until(next) => {}
                }
            }
            if !news.is_empty() && commands.send(Command::Keys(news)).await.is_err() {
                return;
            }
        }
    }

    /// Starts what is due and may run, the longest due first.
    fn start(&mut self, wanted: &Wanted) {
        let board = self.board.clone();
        let mut states = board.0.lock();
        let mut due = Vec::new();
        for (source, timeout) in wanted.iter().take(SOURCE_LIMIT) {
            let state = states
                .entry(source.clone())
                .or_insert_with(|| State::new(source));
            if !state.is_running && state.next <= Instant::now() {
                due.push((state.next, source, *timeout));
            }
        }
        due.sort_by_key(|(since, ..)| *since);
        for (_, source, timeout) in due {
            if self.running.len() >= FETCH_LIMIT {
                return;
            }
            let Some(state) = states.get_mut(source) else {
                continue;
            };
            if self.is_busy(&state.host) {
                continue;
            }
            state.is_running = true;
            let timeout = timeout.min(FETCH_TIME_LIMIT);
            let (client, wanted) = (self.client.clone(), source.clone());
            let task = self.running.spawn(async move {
                let fetching = tokio::time::timeout(timeout, client.keys(&wanted)).await;
                fetching.unwrap_or(Err(FetchError::Timeout(timeout)))
            });
            let fetch = (source.clone(), Arc::clone(&state.host));
            self.fetching.insert(task.id(), fetch);
        }
    }

    /// Whether a host is asked for as much as it may be.
    fn is_busy(&self, host: &str) -> bool {
        let hosts = self.fetching.values().map(|(_, host)| host);
        hosts.filter(|other| ***other == *host).count() >= HOST_FETCH_LIMIT
    }

    /// When something is due that could be started then, or keys are too old.
    fn next(&self, wanted: &Wanted) -> Instant {
        let states = self.board.0.lock();
        let old = states.values().filter_map(|state| state.fetched);
        let old = old.map(|at| at + LAST_GOOD_LIMIT);
        let far = old.fold(Instant::now() + self.refresh, Instant::min);
        if self.running.len() >= FETCH_LIMIT {
            return far;
        }
        // The end of a fetch wakes those that wait for its host.
        let looked_after = wanted.keys().take(SOURCE_LIMIT);
        looked_after
            .filter_map(|source| states.get(source))
            .filter(|state| !state.is_running && !self.is_busy(&state.host))
            .map(|state| state.next)
            .fold(far, Instant::min)
    }

    /// Gives up keys that are too old, whether or not somebody tries to renew them.
    fn expire(&self) -> Vec<Fetched> {
        let now = Instant::now();
        let mut states = self.board.0.lock();
        let old = states.iter_mut().filter_map(|(source, state)| {
            state.expire(now).then(|| Fetched {
                source: source.clone(),
                news: News::Gone,
            })
        });
        old.collect()
    }

    /// Takes a task's end; one that was broken off has failed.
    fn finish(
        &mut self,
        done: Result<(task::Id, Result<Arc<str>, FetchError>), JoinError>,
    ) -> Option<Fetched> {
        let (id, result) = done.unwrap_or_else(|error| (error.id(), Err(FetchError::Broken)));
        let (source, _) = self.fetching.remove(&id)?;
        self.note(source, result)
    }

    /// Takes the outcome of a fetch; what the mesh has to be told of it.
    fn note(&self, source: JwksSource, result: Result<Arc<str>, FetchError>) -> Option<Fetched> {
        let mut states = self.board.0.lock();
        // Nobody wants it any more.
        let state = states.get_mut(&source)?;
        state.is_running = false;
        let now = Instant::now();
        let news = match result {
            Ok(keys) => {
                self.counters.successes.inc();
                state.fetched = Some(now);
                state.failure = None;
                state.failures = 0;
                state.next = now + self.refresh;
                News::Keys(keys)
            }
            Err(error) => {
                self.counters.failures.inc();
                tracing::warn!(source = %fetch::shown_source(&source), %error, "cannot fetch keys");
                state.failure = Some(error.to_string().into());
                let wait = Duration::from_secs(1 << state.failures.min(6));
                state.failures = state.failures.saturating_add(1);
                state.next = now + wait.min(RETRY_LIMIT);
                match state.expire(now) {
                    true => News::Gone,
                    false => News::Failed,
                }
            }
        };
        Some(Fetched { source, news })
    }

    /// Forgets what is not wanted any more.
    fn forget(&self, wanted: &Wanted) -> Vec<Fetched> {
        let mut gone = Vec::new();
        self.board.0.lock().retain(|source, _| {
            let is_wanted = wanted.contains_key(source);
            if !is_wanted {
                let source = source.clone();
                let news = News::Gone;
                gone.push(Fetched { source, news });
            }
            is_wanted
        });
        gone
    }
}

#[cfg(test)]
pub(crate) mod tests;
