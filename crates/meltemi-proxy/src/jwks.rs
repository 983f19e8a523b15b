//! Key sets that the proxy fetches itself (Envoy `RemoteJwks`): one copy for all workers, refreshed as it ages.
//!
//! | age of the copy | what a request gets |
//! |---|---|
//! | below `cache_duration` | the copy |
//! | below that and [`LAST_GOOD_LIMIT`] | the copy, while one request fetches the next |
//! | older, or there is none | it waits for a fetch, and is refused if that fails |
//!
//! A failed fetch is not tried again for [`FAILURE_PAUSE`]: requests with bad tokens must not become requests to the issuer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::{self, HeaderValue};
use http::{Request, Uri, Version};
use meltemi_proxy_core::jwt::{JWKS_LIMIT_BYTES, Jwks};
use meltemi_proxy_core::runtime::RemoteJwks;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::body::RequestBody;
use crate::upstream::PoolProtocol;
use crate::upstream::ask::{Question, Speech, ask};
use crate::worker::Worker;

/// How long keys outlive their time when new ones cannot be had.
const LAST_GOOD_LIMIT: Duration = Duration::from_secs(3600);
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Key sets that are kept; those of configurations that are gone make room.
const ENTRY_LIMIT: usize = 256;

/// The key sets of the process.
#[derive(Default)]
pub(crate) struct KeyCache(Mutex<HashMap<Arc<RemoteJwks>, Arc<Entry>>>);

#[derive(Default)]
struct Entry {
    copy: ArcSwapOption<Copy>,
    /// Who holds it fetches. The value: when a fetch last failed.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

struct Copy {
    keys: Arc<Jwks>,
    fetched: Instant,
}

impl Entry {
    fn copy_within(&self, limit: Duration) -> Option<Arc<Jwks>> {
        let copy = self.copy.load();
        let copy = copy.as_ref().filter(|copy| copy.fetched.elapsed() < limit);
        copy.map(|copy| copy.keys.clone())
    }
}

impl KeyCache {
    fn entry(&self, remote: &Arc<RemoteJwks>) -> Option<Arc<Entry>> {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.get(remote) {
            return Some(entry.clone());
        }
        if entries.len() >= ENTRY_LIMIT {
            entries.retain(|known, _| Arc::strong_count(known) > 1);
        }
        if entries.len() >= ENTRY_LIMIT {
            return None;
        }
        let entry = Arc::<Entry>::default();
        entries.insert(remote.clone(), entry.clone());
        Some(entry)
    }

    /// The keys, fetched if need be; `None` denies.
    pub(crate) async fn get(
        &self,
        worker: &Arc<Worker>,
        remote: &Arc<RemoteJwks>,
    ) -> Option<Arc<Jwks>> {
        let entry = self.entry(remote)?;
        if let Some(keys) = entry.copy_within(remote.cache_duration) {
            return Some(keys);
        }
        let last_good = entry.copy_within(remote.cache_duration + LAST_GOOD_LIMIT);
        if last_good.is_some() {
            drop(tokio::spawn(refresh(worker.clone(), remote.clone(), entry)));
            return last_good;
        }
        let mut failed = entry.turn.lock().await;
        if let Some(keys) = entry.copy_within(remote.cache_duration) {
            return Some(keys);
        }
        renew(worker, remote, &entry, &mut failed).await
    }
}

/// Fetches unless another request does.
async fn refresh(worker: Arc<Worker>, remote: Arc<RemoteJwks>, entry: Arc<Entry>) {
    if let Ok(mut failed) = entry.turn.try_lock()
        && entry.copy_within(remote.cache_duration).is_none()
    {
        renew(&worker, &remote, &entry, &mut failed).await;
    }
}

async fn renew(
    worker: &Arc<Worker>,
    remote: &RemoteJwks,
    entry: &Entry,
    failed: &mut Option<Instant>,
) -> Option<Arc<Jwks>> {
    if failed.is_some_and(|at| at.elapsed() < FAILURE_PAUSE) {
        return None;
    }
    let counters = &worker.shared.telemetry.counters;
    let fetching = Box::pin(fetch(worker, remote));
    let fetched = tokio::time::timeout(remote.timeout, fetching).await;
    match fetched.unwrap_or_else(|_| Err("took too long".to_owned())) {
        Ok(keys) => {
            counters.jwks_fetches.add(1);
            *failed = None;
            let keys = Arc::new(keys);
            let copy = Copy {
                keys: keys.clone(),
                fetched: Instant::now(),
            };
            entry.copy.store(Some(Arc::new(copy)));
            Some(keys)
        }
        Err(reason) => {
            counters.jwks_fetch_failures.add(1);
            *failed = Some(Instant::now());
            tracing::warn!(uri = %remote.uri, cluster = %remote.cluster, reason, "cannot fetch keys");
            None
        }
    }
}

/// Asks the cluster once. Redirects are answers like any other that is not 200: where keys come from is configured.
async fn fetch(worker: &Arc<Worker>, remote: &RemoteJwks) -> Result<Jwks, String> {
    let uri: Uri = remote.uri.parse().map_err(|_| "the URI is malformed")?;
    let question = Question {
        cluster: &remote.cluster,
        speech: Speech::OfTheCluster,
        server_name: uri.host().unwrap_or_default(),
        limit_bytes: JWKS_LIMIT_BYTES,
    };
    let answer = ask(worker, &question, |protocol| request(uri.clone(), protocol)).await?;
    if answer.status != http::StatusCode::OK {
        return Err(format!("the answer is {}", answer.status));
    }
    Jwks::parse(&answer.body).map_err(|error| error.to_string())
}

fn request(uri: Uri, protocol: PoolProtocol) -> Result<Request<RequestBody>, http::Error> {
    let accept = HeaderValue::from_static("application/json");
    let request = Request::get(uri.clone()).header(header::ACCEPT, accept);
    match protocol {
        PoolProtocol::Http2 => request.version(Version::HTTP_2).body(RequestBody::Empty),
        PoolProtocol::Http11 => {
            let host = uri.authority().map_or("", |authority| authority.as_str());
            let path = uri.path_and_query().map_or("/", |path| path.as_str());
            request
                .uri(path)
                .header(header::HOST, host)
                .body(RequestBody::Empty)
        }
    }
}
