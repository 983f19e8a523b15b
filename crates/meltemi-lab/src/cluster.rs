//! The lab's cluster: objects, the controllers that act on them, and the pods that run.
//!
//! One task owns all of it. Whatever happens - a command, a pod that changed, a file - it runs to completion and then
//! reconciles: controllers until nothing moves, then what others see (endpoints, addresses, names, the control plane's
//! files), and only then the pods that must go. So a pod has left every list before it is told to stop.

mod admission;
mod analysis;
mod apply;
pub(crate) mod commands;
mod events;
mod mirror;
mod publish;
mod workloads;

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use meltemi_api::istio::MeshConfig;
use meltemi_api::{Kind, ObjectKey};
use meltemi_core::names::{CA_ROOT_CONFIG_MAP, ISTIO_SYSTEM, ISTIOD};
use meltemi_inject::InjectionSettings;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::dns::Zone;
use crate::pod::env::References;
use crate::pod::events::Event;
use crate::pod::worker::{Inputs, Machine, PodHandle, Start};
use crate::store::{Store, now};

pub(crate) use commands::NotFound;
pub(crate) use events::EVENT;
use mirror::Mirror;

/// Controllers that have not settled after this many rounds are left for the next event.
const ROUNDS: usize = 32;
/// After how long a publication that failed is tried again.
const PUBLISH_RETRY: Duration = Duration::from_secs(1);
/// Pending commands and changes; more wait for their turn.
const QUEUE: usize = 1024;

/// How a lab is set up.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    /// The token key's public half, as the control plane sees it is under `state_dir`.
    pub(crate) control_plane: Vec<String>,
    pub(crate) mesh_config: String,
    pub(crate) workload_cert_ttl: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) machine: Arc<Machine>,
    pub(crate) settings: Settings,
    pub(crate) store: Store,
    pub(crate) pods: BTreeMap<String, PodHandle>,
    pub(crate) zone: Arc<ArcSwap<Zone>>,
    injection: InjectionSettings,
    mesh_text: String,
    /// Why a controller could not make what it should, by the object it acts for.
    failures: BTreeMap<ObjectKey, Event>,
    addresses: Addresses,
    mirror: Mirror,
    vips: String,
    changed: mpsc::Sender<String>,
    /// Something of the last publication failed: it is tried again.
    unpublished: bool,
    /// The revision of the objects as everybody sees them.
    published: watch::Sender<u64>,
}

type Completion = Box<dyn FnOnce() + Send>;
type Work = Box<dyn FnOnce(&mut Cluster) -> Completion + Send>;

/// Asks the cluster's task to do something.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    work: mpsc::Sender<Work>,
    revision: watch::Receiver<u64>,
}

impl Handle {
    /// Runs `work` and answers after everything that follows from it has been published. `None` when the lab is ending.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cluster) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let work: Work = Box::new(move |cluster| {
            let value = work(cluster);
            // Nobody waits any more: the work is done all the same.
            Box::new(move || drop(sender.send(value)))
        });
        self.work.send(work).await.ok()?;
        answer.await.ok()
    }

    /// Waits until the published objects are newer than `revision`. `None` when the lab is ending.
    pub(crate) async fn changed_since(&self, revision: u64) -> Option<u64> {
        let mut published = self.revision.clone();
        let newer = published.wait_for(|now| *now > revision).await;
        newer.ok().map(|now| *now)
    }
}

impl Cluster {
    /// Starts the cluster's task. It goes on as long as there is a handle; its end is the end of the lab.
    pub(crate) fn start(
        machine: Arc<Machine>,
        settings: Settings,
        zone: Arc<ArcSwap<Zone>>,
    ) -> (Handle, JoinHandle<()>) {
        let (changed, changes) = mpsc::channel(QUEUE);
        let (sender, work) = mpsc::channel(QUEUE);
        let (published, revision) = watch::channel(0);
        let mirror = Mirror::new(settings.config_dir.clone());
        let injection = injection(&MeshConfig::default(), &machine, &settings);
        let mut cluster = Self {
            machine,
            settings,
            store: Store::default(),
            pods: BTreeMap::new(),
            zone,
            injection,
            mesh_text: String::new(),
            failures: BTreeMap::new(),
            addresses: Addresses::default(),
            mirror,
            vips: String::new(),
            changed,
            unpublished: false,
            published,
        };
        cluster.seed();
        let task = tokio::spawn(cluster.run(work, changes));
        let handle = Handle {
            work: sender,
            revision,
        };
        (handle, task)
    }

    async fn run(mut self, mut work: mpsc::Receiver<Work>, mut changes: mpsc::Receiver<String>) {
        self.reconcile().await;
        loop {
            let mut completions: Vec<Completion> = Vec::new();
            let before = self.store.revision();
            let mut pods_changed = false;
            let mut retry = false;
            tokio::select! {
                Some(work) = work.recv() => completions.push(work(&mut self)),
                Some(key) = changes.recv() => {
                    self.pod_changed(&key);
                    pods_changed = true;
                }
                () = tokio::time::sleep(PUBLISH_RETRY), if self.unpublished => retry = true,
                else => return,
            }
            // What has come meanwhile shares one reconciliation.
            while let Ok(key) = changes.try_recv() {
                self.pod_changed(&key);
                pods_changed = true;
            }
            while let Ok(more) = work.try_recv() {
                completions.push(more(&mut self));
            }
            // Questions change nothing and wait for nobody.
            if pods_changed || retry || self.store.revision() != before {
                self.reconcile().await;
                self.published.send_replace(self.store.revision());
            }
            completions.into_iter().for_each(|complete| complete());
        }
    }

    async fn reconcile(&mut self) {
        loop {
            for _ in 0..ROUNDS {
                if !self.control() {
                    break;
                }
            }
            self.publish().await;
            self.run_pods();
            if !self.collect() {
                return;
            }
        }
    }

    /// One round of all controllers; says whether anything changed.
    fn control(&mut self) -> bool {
        let rounds: [fn(&mut Self) -> bool; 6] = [
            Self::namespaces,
            Self::deployments,
            Self::replica_sets,
            Self::stateful_sets,
            Self::jobs,
            Self::orphans,
        ];
        self.read_mesh_config();
        let mut changed = false;
        for round in rounds {
            changed |= round(self);
        }
        changed
    }

    /// What every cluster has, and the control plane.
    fn seed(&mut self) {
        for namespace in ["default", "kube-system", ISTIO_SYSTEM] {
            let key = ObjectKey::new(Kind::Namespace, "", namespace);
            self.store.put(&key, &json!({"metadata": {"labels": {"kubernetes.io/metadata.name": namespace}}, "status": {"phase": "Active"}}));
        }
        let mesh = ObjectKey::new(Kind::ConfigMap, ISTIO_SYSTEM, "istio");
        let text = self.settings.mesh_config.clone();
        self.store.put(
            &mesh,
            &json!({"metadata": {}, "data": {"mesh": text, "meshNetworks": "networks: {}"}}),
        );
        let account = ObjectKey::new(Kind::ServiceAccount, ISTIO_SYSTEM, ISTIOD);
        self.store
            .put(&account, &json!({"metadata": {"labels": {"app": ISTIOD}}}));
        let ports = [
            ("grpc-xds", 15010, 15010),
            ("https-dns", 15012, 15012),
            ("https-webhook", 443, 15017),
            ("http-monitoring", 15014, 15014),
        ];
        let ports: Vec<_> = ports
            .iter()
            .map(|(name, port, target)| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"}))
            .collect();
        let labels = json!({"app": ISTIOD, "istio": "pilot"});
        let service = ObjectKey::new(Kind::Service, ISTIO_SYSTEM, ISTIOD);
        let address = self.service_address();
        self.store.put(&service, &json!({
            "metadata": {"labels": labels},
            "spec": {"type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "selector": labels, "ports": ports}
        }));
        let deployment = ObjectKey::new(Kind::Deployment, ISTIO_SYSTEM, ISTIOD);
        self.store.put(&deployment, &json!({
            "metadata": {"labels": labels},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "strategy": {"type": "Recreate"}, "template": {
                "metadata": {"labels": {"app": ISTIOD, "istio": "pilot", "sidecar.istio.io/inject": "false"}},
                "spec": {"serviceAccountName": ISTIOD, "terminationGracePeriodSeconds": 3, "containers": [{
                    "name": "discovery",
                    "image": CONTROL_PLANE_IMAGE,
                    "args": self.settings.control_plane,
                    "ports": [{"containerPort": 15012}, {"containerPort": 15014}],
                    "readinessProbe": {"httpGet": {"path": "/ready", "port": 15014}, "periodSeconds": 1}
                }]}
            }}
        }));
    }

    /// Follows the ConfigMap that the control plane reads too, so that both sides of a pod agree.
    fn read_mesh_config(&mut self) {
        let key = ObjectKey::new(Kind::ConfigMap, ISTIO_SYSTEM, "istio");
        let map = self.store.typed::<ConfigMap>(&key);
        let text = map
            .and_then(|map| map.data.as_ref()?.get("mesh").cloned())
            .unwrap_or_default();
        if text == self.mesh_text {
            return;
        }
        let (mesh, diagnostics) = meltemi_api::parse_message("ConfigMap istio-system/istio", &text);
        for diagnostic in diagnostics {
            tracing::warn!("{diagnostic}");
        }
        self.mesh_text = text;
        // A broken one keeps the last good settings.
        if let Some(mesh) = mesh {
            self.injection = injection(&mesh, &self.machine, &self.settings);
        }
    }

    /// Every namespace has a service account and the mesh's root certificate.
    fn namespaces(&mut self) -> bool {
        let root = fs::read_to_string(self.settings.state_dir.join("root-cert.pem")).ok();
        let names: Vec<String> = self
            .store
            .of_kind(Kind::Namespace)
            .map(|(key, _)| key.name.clone())
            .collect();
        let mut changed = false;
        for namespace in names {
            let account = ObjectKey::new(Kind::ServiceAccount, &namespace, "default");
            if self.store.get(&account).is_none() {
                changed |= self.store.put(&account, &json!({"metadata": {}}));
            }
            if let Some(root) = &root {
                let key = ObjectKey::new(Kind::ConfigMap, &namespace, CA_ROOT_CONFIG_MAP);
                let map = json!({"metadata": {"labels": {"istio.io/config": "true"}}, "data": {"root-cert.pem": root}});
                changed |= self.store.put(&key, &map);
            }
        }
        changed
    }

    /// Starts pods that have no worker, tells the others what changed, and stops what was deleted.
    fn run_pods(&mut self) {
        let pods = self.store.list::<Pod>(Kind::Pod);
        let references = self.references();
        let nothing = References::default();
        for (key, pod) in pods {
            let name = pod_key(&key);
            let metadata = &pod.metadata;
            let deleted = metadata.deletion_timestamp.is_some();
            let grace = metadata
                .deletion_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok());
            let references = references.get(&key.namespace).unwrap_or(&nothing);
            let inputs = || Inputs {
                pod: Pod {
                    status: None,
                    ..Pod::clone(&pod)
                },
                references: references.clone(),
            };
            match self.pods.get(&name) {
                Some(handle) if deleted => handle.stop(grace.map(Duration::from_secs)),
                Some(handle) => drop(handle.inputs.send_if_modified(|before| {
                    let differs = before.pod.metadata.labels != metadata.labels
                        || before.pod.metadata.annotations != metadata.annotations
                        || before.references != *references;
                    if differs {
                        *before = Arc::new(inputs());
                    }
                    differs
                })),
                None if deleted => drop(self.store.remove(&key)),
                None => self.start_pod(&key, name, inputs()),
            }
        }
    }

    fn start_pod(&mut self, key: &ObjectKey, name: String, inputs: Inputs) {
        let labels = inputs.pod.metadata.labels.as_ref();
        let is_control_plane = key.namespace == ISTIO_SYSTEM
            && labels
                .and_then(|labels| labels.get("app"))
                .is_some_and(|app| app == ISTIOD);
        let extra = if is_control_plane {
            vec![
                (
                    PathBuf::from(CONTROL_PLANE_CONFIG),
                    self.settings.config_dir.clone(),
                ),
                (
                    PathBuf::from(CONTROL_PLANE_STATE),
                    self.settings.state_dir.clone(),
                ),
            ]
        } else {
            Vec::new()
        };
        let start = Start {
            machine: Arc::clone(&self.machine),
            address: self.addresses.pod(),
            inputs,
            extra,
            changed: self.changed.clone(),
            key: name.clone(),
        };
        self.pods.insert(name, PodHandle::start(start));
    }

    fn references(&self) -> BTreeMap<String, References> {
        let mut all: BTreeMap<String, References> = BTreeMap::new();
        for (key, map) in self.store.list::<ConfigMap>(Kind::ConfigMap) {
            all.entry(key.namespace)
                .or_default()
                .config_maps
                .insert(key.name, map);
        }
        for (key, secret) in self.store.list::<Secret>(Kind::Secret) {
            all.entry(key.namespace)
                .or_default()
                .secrets
                .insert(key.name, secret);
        }
        all
    }

    fn pod_changed(&mut self, name: &str) {
        let Some(handle) = self.pods.get(name) else {
            return;
        };
        let status = handle.runtime.borrow().status();
        let Ok(status) = serde_json::to_value(status) else {
            return;
        };
        self.store.edit(&object_key(name), |pod| {
            if let Some(pod) = pod.as_object_mut() {
                pod.insert("status".to_owned(), status);
            }
        });
    }

    /// Forgets deleted pods of which nothing is left; says whether there were any.
    fn collect(&mut self) -> bool {
        let gone: Vec<String> = self
            .pods
            .iter()
            .filter(|(name, handle)| {
                let deleted = self.store.get(&object_key(name)).is_none_or(is_deleted);
                deleted && handle.runtime.borrow().gone
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in &gone {
            if let Some(handle) = self.pods.remove(name) {
                let directory = handle.shared.directory.clone();
                tokio::task::spawn_blocking(move || {
                    if let Err(error) = fs::remove_dir_all(&directory) {
                        tracing::debug!(%error, directory = %directory.display(), "cannot remove a pod's files");
                    }
                });
            }
            self.store.remove(&object_key(name));
        }
        !gone.is_empty()
    }

    pub(crate) fn mark_deleted(&mut self, key: &ObjectKey) -> bool {
        self.mark_deleted_within(key, None)
    }

    /// Lets a pod end; a given grace period replaces its own.
    pub(crate) fn mark_deleted_within(&mut self, key: &ObjectKey, grace: Option<u64>) -> bool {
        self.store.edit(key, |object| {
            if let Some(metadata) = object
                .get_mut("metadata")
                .and_then(serde_json::Value::as_object_mut)
            {
                metadata
                    .entry("deletionTimestamp")
                    .or_insert_with(|| now().into());
                if let Some(seconds) = grace {
                    metadata.insert("deletionGracePeriodSeconds".to_owned(), seconds.into());
                }
            }
        })
    }

    pub(crate) fn service_address(&mut self) -> String {
        let taken: Vec<String> = self
            .store
            .of_kind(Kind::Service)
            .filter_map(|(_, service)| {
                Some(service.pointer("/spec/clusterIP")?.as_str()?.to_owned())
            })
            .collect();
        self.addresses.service(&taken).to_string()
    }
}

/// What the injector is told: the mesh's part, and what only the lab knows.
fn injection(mesh: &MeshConfig, machine: &Machine, settings: &Settings) -> InjectionSettings {
    let mut injection = InjectionSettings::of_mesh(mesh);
    injection.native_sidecars = true;
    injection.proxy_mark = machine.single_id.then_some(meltemi_core::names::PROXY_MARK);
    let ttl = settings.workload_cert_ttl.as_ref();
    let ttl = ttl.map(|ttl| ("SECRET_TTL".to_owned(), ttl.clone()));
    injection.proxy_env.extend(ttl);
    injection
}

/// The image of the control plane's pod: this program.
pub(crate) const CONTROL_PLANE_IMAGE: &str = "meltemi/pilot";
pub(crate) const CONTROL_PLANE_CONFIG: &str = "/etc/meltemi/config";
pub(crate) const CONTROL_PLANE_STATE: &str = "/var/lib/meltemi";

pub(crate) fn pod_key(key: &ObjectKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

pub(crate) fn object_key(pod: &str) -> ObjectKey {
    let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
    ObjectKey::new(Kind::Pod, namespace, name)
}

pub(crate) fn is_deleted(object: &serde_json::Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some()
}

/// Hands out addresses; one is used again only after all others.
#[derive(Debug, Default)]
struct Addresses {
    pods: u16,
    services: u16,
}

impl Addresses {
    fn pod(&mut self) -> Ipv4Addr {
        // 10.244.0.0 and .1 are the network and the node; wraps after 65,000 pods, long after the first has gone.
        self.pods = if self.pods >= u16::MAX - 1 {
            2
        } else {
            self.pods.max(1) + 1
        };
        let [high, low] = self.pods.to_be_bytes();
        Ipv4Addr::new(10, 244, high, low)
    }

    fn service(&mut self, taken: &[String]) -> Ipv4Addr {
        loop {
            // Above the range that Kubernetes keeps for fixed addresses, such as that of DNS.
            self.services = if self.services >= u16::MAX - 1 {
                256
            } else {
                self.services.max(255) + 1
            };
            let [high, low] = self.services.to_be_bytes();
            let address = Ipv4Addr::new(10, 96, high, low);
            if !taken.contains(&address.to_string()) {
                return address;
            }
        }
    }
}
