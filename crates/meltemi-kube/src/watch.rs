//! Watches all kinds side by side.
//!
//! Each kind has a task: it asks which version is served, watches that, and begins again when the watch says that it is not
//! there any more. All of them feed one [`Ledger`].

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::api::{Api, DynamicObject};
use kube::core::ApiResource;
use kube::runtime::watcher::{self, Event};
use meltemi_api::{Change, Kind};
use meltemi_core::Diagnostic;
use meltemi_inject::annotation::{GATEWAY_TEMPLATE, TEMPLATES};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::events::{events, has_code};
use crate::ledger::Ledger;
use crate::resources::{Watched, json, served, watched};

/// What changed since the last one. The first says everything.
#[derive(Debug)]
pub struct Update {
    pub changes: Vec<Change>,
    /// The namespaces whose Secrets are among the objects by now.
    pub secrets_of: BTreeSet<String>,
    /// All problems of all objects as they are now.
    pub diagnostics: Vec<Diagnostic>,
    /// When the first of the changes came.
    pub noticed_at: Instant,
}

pub type Updates = mpsc::Receiver<Update>;

/// Updates that wait for the owner of the model; no more is read while it is full.
const UPDATE_QUEUE_LIMIT: usize = 16;
/// Events that wait to be taken.
const EVENT_QUEUE_LIMIT: usize = 256;
/// Events that come within this time of one are one update: a rollout changes many objects at once.
const QUIET: Duration = Duration::from_millis(5);
/// The longest that an event waits for others.
const PATIENCE: Duration = Duration::from_millis(50);
/// The most events of one update.
const BATCH_LIMIT: usize = 1024;
/// Between questions whether a kind is served.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(5);
/// Before we ask again for what we may not read: twice as long each time, up to the limit.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);
const REFUSAL_PAUSE_LIMIT: Duration = Duration::from_secs(60);

/// Watches everything that configuration depends on, until nobody receives the updates. The control plane's own ConfigMaps
/// are in `namespace`; Secrets are watched where gateways run, from the first pod of one on.
pub fn watch(client: &Client, namespace: &str) -> Updates {
    let (sender, updates) = mpsc::channel(UPDATE_QUEUE_LIMIT);
    let (event_sender, events) = mpsc::channel(EVENT_QUEUE_LIMIT);
    let client = client.clone();
    let begin = move |watched: &Watched| {
        let following = follow(client.clone(), watched.clone(), event_sender.clone());
        tokio::spawn(following);
    };
    let mut collector = Collector::new(events, sender, begin);
    for watched in watched(namespace) {
        collector.begin(watched);
    }
    tokio::spawn(collector.run());
    updates
}

enum News {
    /// The API server does not serve the kind: there are no objects of it.
    NotServed,
    /// The objects cannot be read, for now or because we may not: there are none, or still those that were read before.
    Unreadable,
    Event(Event<Value>),
}

type KindNews = (Watched, News);

/// Why a watch ended.
enum Ended {
    /// The version is not served any more.
    Gone,
    /// We may not read the objects.
    Forbidden,
}

/// Tells of one kind for as long as anybody listens.
async fn follow(client: Client, watched: Watched, sender: mpsc::Sender<KindNews>) {
    let kind = watched.kind;
    let (mut was_served, mut was_forbidden) = (true, false);
    let mut pause = REFUSAL_PAUSE;
    while !sender.is_closed() {
        match served(&client, kind).await {
            Ok(Some(resource)) => {
                was_served = true;
                match follow_version(&client, &watched, &resource, &sender).await {
                    Err(_nobody_listens) => return,
                    Ok(Ended::Gone) => {}
                    Ok(Ended::Forbidden) => {
                        if !std::mem::replace(&mut was_forbidden, true) {
                            let namespace = watched.namespace.as_deref().unwrap_or("all");
                            tracing::warn!(%kind, namespace, "the control plane may not read these objects: gateways there get no certificates");
                        }
                        let refused = sender.send((watched.clone(), News::Unreadable));
                        if refused.await.is_err() {
                            return;
                        }
                        pause = (pause * 2).min(REFUSAL_PAUSE_LIMIT);
                        tokio::time::sleep(pause).await;
                        continue;
                    }
                }
            }
            Ok(None) => {
                if std::mem::replace(&mut was_served, false) {
                    tracing::warn!(%kind, "the API server does not serve this kind: its CRD is not installed");
                }
                if sender
                    .send((watched.clone(), News::NotServed))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) => tracing::warn!(%kind, %error, "asking what is served, trying again"),
        }
        tokio::time::sleep(DISCOVERY_INTERVAL).await;
    }
}

/// Ends when the version is not served any more, and for Secrets when they may not be read: an installation may leave them
/// out, and the rest of the mesh does not wait for them. An error says that nobody listens.
async fn follow_version(
    client: &Client,
    watched: &Watched,
    resource: &ApiResource,
    sender: &mpsc::Sender<KindNews>,
) -> Result<Ended, Box<mpsc::error::SendError<KindNews>>> {
    let kind = watched.kind;
    let api = match watched.namespace.as_deref() {
        None => Api::all_with(client.clone(), resource),
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, resource),
    };
    let mut events = std::pin::pin!(events(api, watcher::Config::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                sender
                    .send((watched.clone(), News::Event(as_json(resource, event))))
                    .await
                    .map_err(Box::new)?;
            }
            Err(error) if has_code(&error, 404) => return Ok(Ended::Gone),
            Err(error) if kind == Kind::Secret && has_code(&error, 403) => {
                return Ok(Ended::Forbidden);
            }
            Err(error) => {
                tracing::warn!(%kind, %error, "watching, trying again");
                if kind == Kind::Secret {
                    let unreadable = sender.send((watched.clone(), News::Unreadable));
                    unreadable.await.map_err(Box::new)?;
                }
            }
        }
    }
    Ok(Ended::Gone)
}

fn as_json(resource: &ApiResource, event: Event<DynamicObject>) -> Event<Value> {
    match event {
        Event::Apply(object) => Event::Apply(json(resource, object)),
        Event::Delete(object) => Event::Delete(json(resource, object)),
        Event::Init => Event::Init,
        Event::InitApply(object) => Event::InitApply(json(resource, object)),
        Event::InitDone => Event::InitDone,
    }
}

struct Collector<Begin> {
    events: mpsc::Receiver<KindNews>,
    ledger: Ledger,
    /// What is to be listed whole before anything is told. Of Secrets a gateway is not to hear at a start that there are none;
    /// later nobody waits for them.
    unlisted: BTreeSet<Watched>,
    is_started: bool,
    /// Where gateways run or ran: their Secrets are watched.
    gateways_in: BTreeSet<String>,
    /// Those of them whose Secrets were listed.
    secrets_of: BTreeSet<String>,
    sender: mpsc::Sender<Update>,
    /// Begins a watch whose news come to `events`.
    begin: Begin,
}

impl<Begin: Fn(&Watched)> Collector<Begin> {
    fn new(events: mpsc::Receiver<KindNews>, sender: mpsc::Sender<Update>, begin: Begin) -> Self {
        Self {
            events,
            ledger: Ledger::default(),
            unlisted: BTreeSet::new(),
            is_started: false,
            gateways_in: BTreeSet::new(),
            secrets_of: BTreeSet::new(),
            sender,
            begin,
        }
    }

    fn begin(&mut self, watched: Watched) {
        (self.begin)(&watched);
        if !self.is_started {
            self.unlisted.insert(watched);
        }
    }

    async fn run(mut self) {
        let mut changes = Vec::new();
        let mut noticed_at = None;
        let mut secrets_told = 0;
        while let Some(news) = self.events.recv().await {
            let since = *noticed_at.get_or_insert_with(Instant::now);
            self.take(news, &mut changes);
            self.drain(&mut changes, Instant::now()).await;
            let has_news = self.ledger.take_news() || secrets_told < self.secrets_of.len();
            let has_news = has_news || !changes.is_empty() || !self.is_started;
            if !self.unlisted.is_empty() || !has_news {
                noticed_at = noticed_at.filter(|_| !changes.is_empty());
                continue;
            }
            (self.is_started, noticed_at) = (true, None);
            secrets_told = self.secrets_of.len();
            let update = Update {
                changes: std::mem::take(&mut changes),
                secrets_of: self.secrets_of.clone(),
                diagnostics: self.ledger.diagnostics(),
                noticed_at: since,
            };
            if self.sender.send(update).await.is_err() {
                return;
            }
        }
    }

    /// Takes what comes right behind an event.
    async fn drain(&mut self, changes: &mut Vec<Change>, since: Instant) {
        for _ in 0..BATCH_LIMIT {
            let next = match self.events.try_recv() {
                Ok(news) => Some(news),
                Err(_) if since.elapsed() >= PATIENCE => None,
                Err(_) => tokio::time::timeout(QUIET, self.events.recv())
                    .await
                    .ok()
                    .flatten(),
            };
            let Some(news) = next else { return };
            self.take(news, changes);
        }
    }

    fn take(&mut self, (watched, news): KindNews, changes: &mut Vec<Change>) {
        let is_whole =
            !matches!(news, News::Event(_)) || matches!(news, News::Event(Event::InitDone));
        match news {
            News::Event(event) => {
                self.note_gateway(&watched, &event);
                self.note_secrets(&watched, &event);
                self.ledger.take(&watched, event, changes);
            }
            News::NotServed => self.ledger.not_served(&watched, changes),
            // An API server that has just started may refuse what it granted before.
            News::Unreadable => {}
        }
        if is_whole {
            self.unlisted.remove(&watched);
        }
    }

    /// The first pod of a gateway in a namespace opens the namespace's Secrets.
    fn note_gateway(&mut self, watched: &Watched, event: &Event<Value>) {
        let (Event::Apply(pod) | Event::InitApply(pod)) = event else {
            return;
        };
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let is_news = watched.kind == Kind::Pod && !self.gateways_in.contains(namespace);
        if is_news && is_gateway(pod) {
            self.gateways_in.insert(namespace.to_owned());
            self.begin(Watched {
                kind: Kind::Secret,
                namespace: Some(namespace.into()),
            });
        }
    }

    fn note_secrets(&mut self, watched: &Watched, event: &Event<Value>) {
        if let (Kind::Secret, Some(namespace), Event::InitDone) =
            (watched.kind, &watched.namespace, event)
        {
            self.secrets_of.insert(namespace.to_string());
        }
    }
}

/// Injection has made, or will make, a gateway of it.
fn is_gateway(pod: &Value) -> bool {
    let template = pod["metadata"]["annotations"][TEMPLATES].as_str();
    template.is_some_and(|template| template.trim() == GATEWAY_TEMPLATE)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Json;
    use axum::body::Body;
    use axum::http::{StatusCode, Uri};
    use axum::response::{IntoResponse as _, Response};
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_that_may_not_be_read_are_not_waited_for_and_stay_as_they_were() {
        let secrets = Watched {
            kind: Kind::Secret,
            namespace: Some("edge".into()),
        };
        let (sender, _updates) = mpsc::channel(1);
        let (_event_sender, events) = mpsc::channel(1);
        let mut collector = Collector::new(events, sender, |_: &Watched| {});
        collector.begin(secrets.clone());
        let mut changes = Vec::new();
        let mut take = |news| collector.take((secrets.clone(), news), &mut changes);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "edge"}});
        take(News::Event(Event::Init));
        take(News::Event(Event::InitApply(secret)));
        take(News::Unreadable);
        assert!(collector.unlisted.is_empty());
        assert!(
            matches!(&changes[..], [Change::Upsert(_)]),
            "nothing went: {changes:?}"
        );
    }

    #[test]
    fn the_first_pod_of_a_gateway_opens_the_secrets_of_its_namespace() {
        let (sender, _updates) = mpsc::channel(1);
        let (_event_sender, events) = mpsc::channel(1);
        let begun = std::cell::RefCell::new(Vec::new());
        let begin = |watched: &Watched| begun.borrow_mut().push(watched.clone());
        let mut collector = Collector::new(events, sender, begin);
        let pods = Watched {
            kind: Kind::Pod,
            namespace: None,
        };
        let pod = |name: &str, namespace: &str, templates: &str| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace,
                "annotations": {"inject.istio.io/templates": templates}}})
        };
        for pod in [
            pod("app", "shop", "sidecar"),
            pod("a", "edge", "gateway"),
            pod("b", "edge", "gateway"),
            pod("c", "other", " gateway"),
        ] {
            collector.take(
                (pods.clone(), News::Event(Event::Apply(pod))),
                &mut Vec::new(),
            );
        }
        let secrets = |namespace: &str| Watched {
            kind: Kind::Secret,
            namespace: Some(namespace.into()),
        };
        assert_eq!(*begun.borrow(), [secrets("edge"), secrets("other")]);
        assert!(collector.unlisted.contains(&secrets("edge")));
        assert!(collector.secrets_of.is_empty());
        collector.take((secrets("other"), News::Unreadable), &mut Vec::new());
        collector.take(
            (secrets("edge"), News::Event(Event::InitDone)),
            &mut Vec::new(),
        );
        assert!(collector.unlisted.is_empty());
        assert_eq!(collector.secrets_of, ["edge".to_owned()].into());
        // Nobody waits for those of a gateway that comes later.
        collector.is_started = true;
        let late = News::Event(Event::Apply(pod("d", "late", "gateway")));
        collector.take((pods, late), &mut Vec::new());
        assert_eq!(begun.borrow().last(), Some(&secrets("late")));
        assert!(collector.unlisted.is_empty());
    }

    /// How the API server says that it has forgotten the version from which the watch is to go on.
    #[derive(Clone, Copy, Debug)]
    enum Gone {
        AsEvent,
        AsStatus,
    }

    fn status(code: u16, reason: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": reason, "code": code})
    }

    fn list(names: &[&str]) -> Value {
        let policy = |name: &&str| json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"mtls": {"mode": "STRICT"}}});
        let items: Vec<Value> = names.iter().map(policy).collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
    }

    /// An API server that serves one of Istio's kinds, whose first watch is too late: what went meanwhile shows in a new
    /// list alone. `lists` and `watches` were asked for before.
    fn answer(gone: Gone, uri: &Uri, lists: &AtomicUsize, watches: &AtomicUsize) -> Response {
        let is_watch = uri.query().unwrap_or_default().contains("watch=true");
        let is_policies = uri.path().ends_with("/peerauthentications");
        let endless =
            || Body::from_stream(futures_util::stream::pending::<Result<String, Infallible>>());
        match (is_policies, is_watch) {
            (true, true) if watches.fetch_add(1, Ordering::Relaxed) == 0 => match gone {
                Gone::AsEvent => {
                    Json(json!({"type": "ERROR", "object": status(410, "Expired")})).into_response()
                }
                Gone::AsStatus => (StatusCode::GONE, Json(status(410, "Gone"))).into_response(),
            },
            (_, true) => endless().into_response(),
            (true, false) if lists.fetch_add(1, Ordering::Relaxed) == 0 => {
                Json(list(&["a", "b"])).into_response()
            }
            (true, false) => Json(list(&["b"])).into_response(),
            (false, false) if uri.path() == "/apis/security.istio.io/v1" => {
                let kind = json!({"name": "peerauthentications", "singularName": "", "namespaced": true,
                    "kind": "PeerAuthentication", "verbs": []});
                let group = "security.istio.io/v1";
                Json(json!({"kind": "APIResourceList", "groupVersion": group, "resources": [kind]}))
                    .into_response()
            }
            (false, false) if uri.path().starts_with("/apis/") => {
                (StatusCode::NOT_FOUND, Json(status(404, "NotFound"))).into_response()
            }
            (false, false) => Json(list(&[])).into_response(),
        }
    }

    #[tokio::test]
    async fn a_watch_that_comes_too_late_lists_again() {
        for gone in [Gone::AsEvent, Gone::AsStatus] {
            let asked = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
            let server = axum::Router::new().fallback(move |uri: Uri| {
                let (lists, watches) = &*asked;
                std::future::ready(answer(gone, &uri, lists, watches))
            });
            let mut updates = watch(&Client::new(server, "default"), "istio-system");
            let mut told = Vec::new();
            let told_all = async {
                while told.len() < 3 {
                    let update = updates.recv().await.unwrap();
                    told.extend(update.changes.iter().map(|change| match change {
                        Change::Upsert(object) => format!("+{}", object.meta.name),
                        Change::Delete(key) => format!("-{}", key.name),
                    }));
                }
            };
            let in_time = tokio::time::timeout(Duration::from_secs(20), told_all).await;
            assert!(in_time.is_ok(), "{gone:?}: {told:?}");
            assert_eq!(
                told.last().map(String::as_str),
                Some("-a"),
                "{gone:?}: {told:?}"
            );
            assert!(told.contains(&"+b".to_owned()), "{gone:?}: {told:?}");
        }
    }
}
