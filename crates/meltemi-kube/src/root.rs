//! The authority's root where it is needed: ConfigMap `istio-ca-root-cert` in every namespace, which sidecars trust before
//! they have a certificate, and the webhook configurations, by which the API server trusts us.

mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, ObjectMeta, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::{Client, ResourceExt as _};
use tokio::time::MissedTickBehavior;

use crate::bounded;
use crate::events::events;

pub use webhook::Ours;

const NAME: &str = "istio-ca-root-cert";
const KEY: &str = "root-cert.pem";
/// Kubernetes' own namespaces hold no workloads of a mesh.
const SKIPPED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Owner of the fields that are applied.
const MANAGER: &str = "meltemi-control-plane";
/// Between looks at the file with the root.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks between two at what failed and at the webhooks.
const RETRY_LOOKS: u32 = 5;

/// Keeps the root where it is needed, for ever.
pub struct RootKeeper {
    client: Client,
    /// The file that the authority publishes its root in.
    file: PathBuf,
    ours: Ours,
    /// Empty before the authority has been opened.
    root: String,
    namespaces: BTreeSet<String>,
    /// What the ConfigMaps say, by namespace.
    given: BTreeMap<String, Option<String>>,
    /// Lists that have not been read to their end: until they are, nobody lacks anything.
    listing: BTreeSet<&'static str>,
    told: BTreeMap<String, String>,
}

const NAMESPACES: &str = "namespaces";
const MAPS: &str = "maps";

impl RootKeeper {
    /// Webhook configurations are looked after if they are `ours`.
    pub fn new(client: Client, file: &Path, ours: Ours) -> Self {
        Self {
            client,
            file: file.to_owned(),
            ours,
            root: String::new(),
            namespaces: BTreeSet::new(),
            given: BTreeMap::new(),
            listing: BTreeSet::from([NAMESPACES, MAPS]),
            told: BTreeMap::new(),
        }
    }

    pub async fn run(mut self) {
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(self.client.clone());
        let namespaces = events(namespaces, watcher::Config::default());
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let named = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let maps = events(maps, named);
        let mut namespaces = std::pin::pin!(namespaces);
        let mut maps = std::pin::pin!(maps);
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut count = 0_u32;
        loop {
            tokio::select! {
                Some(event) = namespaces.next() => match event {
                    Ok(event) => self.note_namespace(event),
                    Err(error) => tracing::warn!(%error, "watching namespaces, trying again"),
                },
                Some(event) = maps.next() => match event {
                    Ok(event) => self.note_map(event),
                    Err(error) => tracing::warn!(%error, "watching {NAME}, trying again"),
                },
                _ = looks.tick() => {
                    count = count.wrapping_add(1);
                    let is_new = self.read();
                    if is_new || count.is_multiple_of(RETRY_LOOKS) {
                        self.give_to_webhooks().await;
                    } else {
                        continue;
                    }
                }
            }
            self.give_to_namespaces().await;
        }
    }

    fn note_namespace<K: kube::Resource>(&mut self, event: Event<K>) {
        match event {
            Event::Apply(namespace) | Event::InitApply(namespace) => {
                let name = namespace.name_any();
                let is_ending = namespace.meta().deletion_timestamp.is_some();
                if is_ending || SKIPPED.contains(&name.as_str()) {
                    self.namespaces.remove(&name);
                } else {
                    self.namespaces.insert(name);
                }
            }
            Event::Delete(namespace) => drop(self.namespaces.remove(&namespace.name_any())),
            Event::Init => {
                self.listing.insert(NAMESPACES);
                self.namespaces.clear();
            }
            Event::InitDone => drop(self.listing.remove(NAMESPACES)),
        }
    }

    fn note_map(&mut self, event: Event<ConfigMap>) {
        let namespace = |map: &ConfigMap| map.namespace().unwrap_or_default();
        match event {
            Event::Apply(map) | Event::InitApply(map) => {
                let root = map.data.as_ref().and_then(|data| data.get(KEY)).cloned();
                self.given.insert(namespace(&map), root);
            }
            Event::Delete(map) => drop(self.given.remove(&namespace(&map))),
            Event::Init => {
                self.listing.insert(MAPS);
                self.given.clear();
            }
            Event::InitDone => drop(self.listing.remove(MAPS)),
        }
    }

    /// Reads the root; says whether it is another one.
    fn read(&mut self) -> bool {
        match std::fs::read_to_string(&self.file) {
            Ok(root) if root == self.root => false,
            Ok(root) => {
                self.root = root;
                true
            }
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    self.tell("the root", &error.to_string());
                }
                false
            }
        }
    }

    /// One that refuses does not keep it from the others.
    async fn give_to_namespaces(&mut self) {
        if self.root.is_empty() || !self.listing.is_empty() {
            return;
        }
        let wanting = lacking(&self.namespaces, &self.given, &self.root);
        for namespace in wanting {
            let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
            let map = config_map(&namespace, &self.root);
            let (parameters, patch) = (PatchParams::apply(MANAGER).force(), Patch::Apply(&map));
            match bounded(maps.patch(NAME, &parameters, &patch)).await {
                Ok(_) => {
                    self.told.remove(&namespace);
                    self.given.insert(namespace, Some(self.root.clone()));
                }
                // It is ending, or gone.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => self.tell(&namespace, &error.to_string()),
            }
        }
    }

    async fn give_to_webhooks(&mut self) {
        if self.root.is_empty() {
            return;
        }
        match webhook::believe(&self.client, &self.ours, &self.root).await {
            Ok(()) => drop(self.told.remove("webhooks")),
            Err(error) => self.tell("webhooks", &error.to_string()),
        }
    }

    /// Says once what is wrong.
    fn tell(&mut self, of: &str, error: &str) {
        if self.told.get(of).is_none_or(|told| told != error) {
            tracing::warn!(of, error, "giving the root away, trying again");
            self.told.insert(of.to_owned(), error.to_owned());
        }
    }
}

impl std::fmt::Debug for RootKeeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootKeeper")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// The namespaces without this root.
fn lacking(
    namespaces: &BTreeSet<String>,
    given: &BTreeMap<String, Option<String>>,
    root: &str,
) -> Vec<String> {
    let lacks = |namespace: &&String| {
        let given = given.get(*namespace).and_then(Option::as_deref);
        given != Some(root)
    };
    namespaces.iter().filter(lacks).cloned().collect()
}

fn config_map(namespace: &str, root: &str) -> ConfigMap {
    let label = ("istio.io/config".to_owned(), "true".to_owned());
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([label])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(KEY.to_owned(), root.to_owned())])),
        ..ConfigMap::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_without_the_root_get_it() {
        let namespaces = ["a", "b", "c", "d"].map(str::to_owned).into();
        let given = BTreeMap::from([
            ("a".to_owned(), Some("root".to_owned())),
            ("b".to_owned(), Some("old".to_owned())),
            ("c".to_owned(), None),
        ]);
        assert_eq!(lacking(&namespaces, &given, "root"), ["b", "c", "d"]);
    }
}
