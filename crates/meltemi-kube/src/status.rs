//! Writes what the control plane knows of users' objects into their `status`, where `kubectl wait` finds it.
//!
//! ```text
//! Standings --changed--> (a moment) --> Status of each, compared with what it says --> patch, a bounded number at once
//! ```
//! One replica writes, the holder of the Lease. A changed verdict is written at once; that there are more proxies of those that
//! agree anyway is written once in a while.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use meltemi_api::Kind;
use meltemi_api::status::{Standing, Status};
use meltemi_core::ObjectRef;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::bounded;
use crate::lease::Leadership;
use crate::resources::served;

/// The Lease of who writes.
pub const LEASE: &str = "istio-status-leader";
/// Owner of the fields that are applied.
const MANAGER: &str = "meltemi-status";
/// Changes that come within this time of one are written together.
const QUIET: Duration = Duration::from_millis(50);
/// The least time between two looks.
const INTERVAL: Duration = Duration::from_millis(200);
/// Between two writes of what is no news: how many proxies there are.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);
/// Between looks without a change, for what could not be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Patches on their way at once.
const PATCH_LIMIT: usize = 8;
/// Objects of one answer to a list.
const PAGE: u32 = 500;

/// Where the standing of users' objects is told.
pub trait Standings: Send {
    /// Returns when something may have changed since the last call.
    fn changed(&mut self) -> impl Future<Output = ()> + Send;
    /// As it is now; `None` at the end. The proxies of all are counted, or of those alone of which there is news.
    fn read(&mut self, all: bool) -> impl Future<Output = Option<Vec<Standing>>> + Send;
}

/// Keeps the status of users' objects true until the standings end.
#[allow(missing_debug_implementations, reason = "a client has none")]
pub struct StatusWriter {
    client: Client,
    leads: watch::Receiver<bool>,
    served: BTreeMap<Kind, ApiResource>,
    /// What the objects say.
    written: BTreeMap<ObjectRef, Status>,
    /// When all proxies were counted last.
    counted_at: Option<Instant>,
}

impl StatusWriter {
    /// Writes while the Lease [`LEASE`] is held.
    pub fn new(client: Client, leadership: &Leadership) -> Self {
        Self {
            leads: leadership.held(),
            client,
            served: BTreeMap::new(),
            written: BTreeMap::new(),
            counted_at: None,
        }
    }

    pub async fn run(mut self, mut standings: impl Standings) {
        loop {
            if self.leads.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            self.read_written().await;
            while *self.leads.borrow() {
                let counts = self
                    .counted_at
                    .is_none_or(|at| at.elapsed() >= COUNT_INTERVAL);
                let Some(now) = standings.read(counts).await else {
                    return;
                };
                if counts {
                    self.counted_at = Some(Instant::now());
                }
                self.write(now, counts).await;
                tokio::time::sleep(INTERVAL).await;
                tokio::select! {
                    () = standings.changed() => tokio::time::sleep(QUIET).await,
                    () = tokio::time::sleep(RETRY_INTERVAL) => {}
                    _ = self.leads.changed() => {}
                }
            }
        }
    }

    /// Reads what the objects say, so that nothing is written twice and times of transition stay.
    async fn read_written(&mut self) {
        self.written.clear();
        self.counted_at = None;
        let kinds = Kind::ALL.iter().copied().filter(|kind| kind.is_istio());
        for kind in kinds {
            if let Err(error) = self.read_kind(kind).await {
                tracing::warn!(%kind, %error, "reading the status of objects");
            }
        }
    }

    async fn read_kind(&mut self, kind: Kind) -> kube::Result<()> {
        let Some(resource) = served(&self.client, kind).await? else {
            return Ok(());
        };
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource);
        self.served.insert(kind, resource);
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = bounded(api.list(&params)).await?;
            for object in page.items {
                let namespace = object.metadata.namespace.unwrap_or_default();
                let name = object.metadata.name.unwrap_or_default();
                let status = object.data.get("status").cloned().unwrap_or_default();
                let status = serde_json::from_value(status).unwrap_or_default();
                let object = ObjectRef::new(kind.as_str(), &namespace, &name);
                self.written.insert(object, status);
            }
            match page.metadata.continue_ {
                Some(next) if !next.is_empty() => params = params.continue_token(&next),
                _ => return Ok(()),
            }
        }
    }

    async fn write(&mut self, standings: Vec<Standing>, counts: bool) {
        let now = Timestamp::now();
        let none = Status::default();
        let mut due = Vec::new();
        let mut known = BTreeMap::new();
        for standing in &standings {
            let before = self.written.remove(&standing.object);
            let status = Status::new(standing, before.as_ref().unwrap_or(&none), now);
            let is_due = status.is_news(before.as_ref().unwrap_or(&none))
                || (counts && before.as_ref() != Some(&status));
            if is_due {
                due.push((standing.object.clone(), status));
            }
            known.insert(standing.object.clone(), before.unwrap_or_default());
        }
        // What is gone has no status.
        self.written = known;
        let mut patches = Vec::new();
        for (object, status) in due {
            match self.api(&object).await {
                Ok(Some(api)) => patches.push(patch(api, object, status)),
                Ok(None) => {}
                Err(error) => tracing::debug!(%object, %error, "asking where an object is served"),
            }
        }
        let mut patched = stream::iter(patches).buffer_unordered(PATCH_LIMIT);
        while let Some((object, written)) = patched.next().await {
            match written {
                Ok(status) => drop(self.written.insert(object, status)),
                // It went, which its watch will tell.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    tracing::warn!(%object, %error, "writing the status of an object, trying again")
                }
            }
        }
    }

    /// The version of the API that an object is reached in.
    async fn api(
        &mut self,
        object: &ObjectRef,
    ) -> kube::Result<Option<(String, Api<DynamicObject>)>> {
        let mut kinds = Kind::ALL.iter().copied();
        let Some(kind) = kinds.find(|kind| kind.is_istio() && kind.as_str() == object.kind) else {
            return Ok(None);
        };
        if !self.served.contains_key(&kind)
            && let Some(resource) = served(&self.client, kind).await?
        {
            self.served.insert(kind, resource);
        }
        let resource = self.served.get(&kind);
        let api = |resource: &ApiResource| {
            let api = Api::namespaced_with(self.client.clone(), &object.namespace, resource);
            (resource.api_version.clone(), api)
        };
        Ok(resource.map(api))
    }
}

async fn patch(
    (version, api): (String, Api<DynamicObject>),
    object: ObjectRef,
    status: Status,
) -> (ObjectRef, kube::Result<Status>) {
    let body = json!({
        "apiVersion": version,
        "kind": object.kind,
        "metadata": { "name": object.name },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    let patched = bounded(api.patch_status(&object.name, &params, &Patch::Apply(body))).await;
    (object, patched.map(|_| status))
}
