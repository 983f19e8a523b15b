//! The owner of the indexes: applies changes and tells which parts of the mesh differ.

mod endpoints;
mod policies;
mod services;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Kind, Object, ObjectKey};
use meltemi_core::Hostname;
use meltemi_core::names::{CLUSTER_DOMAIN, label};

use crate::{
    ChangeSet, JwksSource, KeyFetching, MeshSnapshot, Part, Service, ServiceAlias, Workload,
};

/// Istio's name for the one cluster of a mesh.
const CLUSTER_ID: &str = "Kubernetes";

/// Builds [`MeshSnapshot`]s from a stream of changes. One task owns it.
///
/// An application costs what the changed objects touch; every other part is shared with the snapshot before.
#[derive(Debug)]
pub struct Mesh {
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    snapshot: MeshSnapshot,
    pub(crate) secrets_of: SecretsOf,
    /// The domain of Kubernetes services.
    domain: String,
    /// The objects that define a host; the first counts, and Service sorts before ServiceEntry.
    claims: BTreeMap<Hostname, BTreeSet<ObjectKey>>,
    /// The hosts each Service or ServiceEntry defines.
    hosts: BTreeMap<ObjectKey, Vec<Service>>,
    /// Services of type `ExternalName`, each with the host it names.
    aliases: BTreeMap<ObjectKey, (ServiceAlias, Hostname)>,
    workloads: BTreeMap<ObjectKey, Arc<Workload>>,
    /// EndpointSlices by the namespace and name of their Service.
    slices: BTreeMap<(String, String), BTreeSet<ObjectKey>>,
    /// The hosts whose endpoints point at a pod by name, whether or not it exists yet.
    pub(crate) pod_users: BTreeMap<ObjectKey, BTreeSet<Hostname>>,
    /// The same by host, to take back what its endpoints no longer point at.
    pub(crate) pods_used: BTreeMap<Hostname, BTreeSet<ObjectKey>>,
}

/// The namespaces whose Secrets are among the objects, if there are any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecretsOf {
    #[default]
    All,
    /// Only these could be read.
    Only(BTreeSet<String>),
    /// Nobody has looked: that there is none says nothing.
    Unseen,
}

impl Default for Mesh {
    fn default() -> Self {
        Self::new(MeshConfig::default())
    }
}

/// What one application has to look at again.
#[derive(Default)]
struct Dirty {
    services: BTreeSet<ObjectKey>,
    workloads: BTreeSet<ObjectKey>,
    endpoints: BTreeSet<Hostname>,
    destination_rules: BTreeSet<String>,
    peer_authentications: BTreeSet<String>,
    authorization_policies: BTreeSet<String>,
    request_authentications: BTreeSet<String>,
    virtual_services: bool,
    gateways: bool,
    sidecars: BTreeSet<String>,
    /// Secrets, by namespace and name.
    credentials: BTreeSet<(String, String)>,
    changes: ChangeSet,
}

impl Mesh {
    pub fn new(config: MeshConfig) -> Self {
        Self {
            objects: BTreeMap::new(),
            snapshot: MeshSnapshot {
                config: Arc::new(config),
                cluster_id: Arc::from(CLUSTER_ID),
                ..MeshSnapshot::default()
            },
            secrets_of: SecretsOf::All,
            domain: CLUSTER_DOMAIN.to_owned(),
            claims: BTreeMap::new(),
            hosts: BTreeMap::new(),
            aliases: BTreeMap::new(),
            workloads: BTreeMap::new(),
            slices: BTreeMap::new(),
            pod_users: BTreeMap::new(),
            pods_used: BTreeMap::new(),
        }
    }

    /// The name of the cluster that the objects are of; "Kubernetes" unless told.
    #[must_use]
    pub fn in_cluster(mut self, id: &str) -> Self {
        self.snapshot.cluster_id = Arc::from(id);
        self
    }

    /// Says whose Secrets are seen; only what is missing is judged by it.
    pub fn set_secrets_of(&mut self, secrets_of: SecretsOf) {
        self.secrets_of = secrets_of;
    }

    /// Who fetches the keys of tokens; the control plane unless told.
    #[must_use]
    pub fn with_key_fetching(mut self, by: KeyFetching) -> Self {
        self.snapshot.key_fetching = by;
        self
    }

    /// The current state, shared.
    pub fn snapshot(&self) -> Arc<MeshSnapshot> {
        Arc::new(self.snapshot.clone())
    }

    /// Every object applied so far, by kind, namespace and name.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    pub fn object(&self, key: &ObjectKey) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// The objects of one kind, in all namespaces.
    pub fn objects_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        self.objects
            .range(ObjectKey::new(kind, "", "")..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(_, object)| object)
    }

    /// Takes a new mesh configuration. Everything derived is derived again, for defaults reach into all of it.
    pub fn set_config(&mut self, config: MeshConfig) -> ChangeSet {
        if *self.snapshot.config == config {
            return ChangeSet::default();
        }
        self.snapshot.config = Arc::new(config);
        // Nodes concern the mesh by their pods, which are marked themselves.
        let keys = self.objects.keys().filter(|key| key.kind != Kind::Node);
        let keys: Vec<_> = keys.cloned().collect();
        let mut dirty = Dirty::default();
        dirty.changes.insert(Part::MeshConfig);
        for key in &keys {
            self.mark(key, &mut dirty);
        }
        self.refresh(dirty)
    }

    /// Takes the key set that is published there; `None` forgets it.
    pub fn set_keys(&mut self, source: &JwksSource, keys: Option<Arc<str>>) -> ChangeSet {
        if self.snapshot.keys.get(source) == keys.as_ref() {
            return ChangeSet::default();
        }
        let all = Arc::make_mut(&mut self.snapshot.keys);
        match keys {
            Some(keys) => all.insert(source.clone(), keys),
            None => all.remove(source),
        };
        ChangeSet::from_iter([Part::Keys(source.clone())])
    }

    /// Applies changes that belong together and answers which parts differ from before.
    pub fn apply(&mut self, changes: &[Change]) -> ChangeSet {
        let mut dirty = Dirty::default();
        for change in changes {
            self.record(change, &mut dirty);
        }
        self.refresh(dirty)
    }

    fn record(&mut self, change: &Change, dirty: &mut Dirty) {
        let key = change.key();
        self.unlink_slice(&key, dirty);
        let (before, after) = match change {
            Change::Upsert(object) => (
                self.objects.insert(key.clone(), Arc::clone(object)),
                Some(object),
            ),
            Change::Delete(_) => (self.objects.remove(&key), None),
        };
        self.link_slice(&key, dirty);
        if before.as_ref() != after {
            self.mark(&key, dirty);
        }
    }

    fn mark(&self, key: &ObjectKey, dirty: &mut Dirty) {
        match key.kind {
            Kind::Service | Kind::ServiceEntry => {
                dirty.services.insert(key.clone());
            }
            Kind::Pod | Kind::WorkloadEntry => {
                dirty.workloads.insert(key.clone());
            }
            Kind::Node => dirty.workloads.extend(self.pods_on(&key.name)),
            Kind::DestinationRule => {
                dirty.destination_rules.insert(key.namespace.clone());
            }
            Kind::VirtualService => dirty.virtual_services = true,
            Kind::Gateway => dirty.gateways = true,
            Kind::Sidecar => {
                dirty.sidecars.insert(key.namespace.clone());
            }
            Kind::Secret => {
                let id = (key.namespace.clone(), key.name.clone());
                dirty.credentials.insert(id);
            }
            Kind::PeerAuthentication => {
                dirty.peer_authentications.insert(key.namespace.clone());
            }
            Kind::AuthorizationPolicy => {
                dirty.authorization_policies.insert(key.namespace.clone());
            }
            Kind::RequestAuthentication => {
                dirty.request_authentications.insert(key.namespace.clone());
            }
            // Slices mark their service's endpoints when they are linked; the rest is not the model's.
            _ => {}
        }
    }

    fn slice_service(&self, key: &ObjectKey) -> Option<(String, String)> {
        if key.kind != Kind::EndpointSlice {
            return None;
        }
        let object = self.objects.get(key)?;
        let service = object.meta.labels.get(label::SERVICE_NAME)?;
        Some((key.namespace.clone(), service.to_owned()))
    }

    fn unlink_slice(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let Some(service) = self.slice_service(key) else {
            return;
        };
        dirty.endpoints.extend(self.service_host(&service));
        if let Some(slices) = self.slices.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices.remove(&service);
            }
        }
    }

    fn link_slice(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        if let Some(service) = self.slice_service(key) {
            dirty.endpoints.extend(self.service_host(&service));
            self.slices.entry(service).or_default().insert(key.clone());
        }
    }

    fn service_host(&self, (namespace, name): &(String, String)) -> Option<Hostname> {
        Hostname::new(&format!("{name}.{namespace}.svc.{}", self.domain)).ok()
    }

    fn refresh(&mut self, mut dirty: Dirty) -> ChangeSet {
        self.refresh_workloads(&mut dirty);
        self.refresh_services(&mut dirty);
        self.refresh_endpoints(&mut dirty);
        self.refresh_destination_rules(&mut dirty);
        self.refresh_virtual_services(&mut dirty);
        self.refresh_gateways(&mut dirty);
        self.refresh_sidecars(&mut dirty);
        self.refresh_credentials(&mut dirty);
        self.refresh_peer_authentications(&mut dirty);
        self.refresh_authorization_policies(&mut dirty);
        self.refresh_request_authentications(&mut dirty);
        dirty.changes
    }
}
