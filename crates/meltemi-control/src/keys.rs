//! Fetches the keys that check tokens (RequestAuthentication `jwksUri`, or the issuer's discovery), and keeps them fresh.
//!
//! | state of a key set | until | proxies get |
//! |---|---|---|
//! | never fetched | a fetch succeeds; tried again after 1 s, 2 s, ... [`RETRY_LIMIT`] | a key that nobody has: every token is refused |
//! | fetched | the refresh interval is over | the keys |
//! | refresh failed | a fetch succeeds, or the keys are older than [`LAST_GOOD_LIMIT`] | the last good keys |
//!
//! One task owns it. What it learns goes to the hub as a command; what it knows is read from the [`Board`].

mod address;
mod fetch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meltemi_api::{Kind, Resource};
use meltemi_core::{Diagnostic, FieldPath};
use meltemi_model::{JwksSource, Mesh};
use meltemi_process::Metrics;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
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
}

impl State {
    fn new() -> Self {
        Self {
            fetched: None,
            failure: None,
            failures: 0,
            next: Instant::now(),
            is_running: false,
        }
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
    running: JoinSet<(JwksSource, Result<Arc<str>, FetchError>)>,
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
            refresh: options.jwks_refresh,
            board: Board::default(),
            counters,
            running: JoinSet::new(),
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
            let done = tokio::time::timeout_at(deadline, self.running.join_next()).await;
            let Ok(Some(done)) = done else { return found };
            let done = done.ok().map(|(source, result)| self.note(source, result));
            found.extend(done.flatten());
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
            self.start(&now);
            let next = self.next();
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                Some(done) = self.running.join_next() => {
                    // One that was broken off is tried again, as it was never noted.
                    let done = done.ok().map(|(source, result)| self.note(source, result));
                    news.extend(done.flatten());
                }
                () = tokio::time::sleep_until(next) => {}
            }
            if !news.is_empty() && commands.send(Command::Keys(news)).await.is_err() {
                return;
            }
        }
    }

    /// Starts what is due and may run.
    fn start(&mut self, wanted: &Wanted) {
        let mut states = self.board.0.lock();
        for (source, timeout) in wanted.iter().take(SOURCE_LIMIT) {
            let state = states.entry(source.clone()).or_insert_with(State::new);
            let is_due = !state.is_running && state.next <= Instant::now();
            if !is_due || self.running.len() >= FETCH_LIMIT {
                continue;
            }
            state.is_running = true;
            let timeout = (*timeout).min(FETCH_TIME_LIMIT);
            let (client, source) = (self.client.clone(), source.clone());
            self.running.spawn(async move {
                let fetching = tokio::time::timeout(timeout, client.keys(&source)).await;
                let result = fetching.unwrap_or(Err(FetchError::Timeout(timeout)));
                (source, result)
            });
        }
    }

    /// When something is due that could be started then.
    fn next(&self) -> Instant {
        let far = Instant::now() + self.refresh;
        if self.running.len() >= FETCH_LIMIT {
            return far;
        }
        let states = self.board.0.lock();
        let waiting = states.values().filter(|state| !state.is_running);
        waiting.map(|state| state.next).min().unwrap_or(far)
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
                tracing::warn!(%source, %error, "cannot fetch keys");
                state.failure = Some(error.to_string().into());
                let wait = Duration::from_secs(1 << state.failures.min(6));
                state.failures = state.failures.saturating_add(1);
                state.next = now + wait.min(RETRY_LIMIT);
                let is_old = |at: &Instant| now.duration_since(*at) > LAST_GOOD_LIMIT;
                match state.fetched.take_if(|at| is_old(at)) {
                    Some(_) => News::Gone,
                    None => News::Failed,
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
