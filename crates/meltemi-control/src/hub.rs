//! The task that owns the model and the connected proxies.
//!
//! Changes that wait together are applied together; then each proxy is brought up to date, which costs only what it has
//! that was made from a changed part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Kind, Object, ObjectKey, Resource};
use meltemi_core::names::{ISTIOD, label};
use meltemi_core::{Diagnostic, FieldPath, Severity, TrustDomain};
use meltemi_model::{ChangeSet, KeyFetching, Mesh, MeshSnapshot, Part};
use meltemi_xds::{Connection, Snapshot};
use meltemi_xdsgen::{Kind as ResourceKind, ProxyState, Shelf};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::keys::{Board, Fetched, News, Wanted};
use crate::memory::{Memory, TELLING};
use crate::metrics::PushMetrics;
use crate::node::ProxyNode;
use crate::replicas::Replica;
use crate::source::SourceUpdate;
use crate::standing::{Answer, Known, Pushed};
use crate::status::{Recorder, SharedStatus, TypeStatus};

/// Commands that wait for the hub.
pub(crate) const COMMAND_LIMIT: usize = 1024;

pub(crate) enum Command {
    Connect {
        node: Box<ProxyNode>,
        reply: oneshot::Sender<Connection>,
    },
    Proxies(oneshot::Sender<Vec<ProxyReport>>),
    /// The proxy named `pod.namespace`, and the mesh it was generated from.
    Proxy(String, oneshot::Sender<Option<ProxyDetail>>),
    Diagnostics(oneshot::Sender<Vec<Diagnostic>>),
    /// What came of fetching keys.
    Keys(Vec<Fetched>),
    Standings {
        /// Count the proxies of every object.
        all: bool,
        reply: oneshot::Sender<Known>,
    },
}

/// One connected proxy and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct ProxyReport {
    pub(crate) node: ProxyNode,
    pub(crate) types: BTreeMap<String, TypeStatus>,
}

#[derive(Clone, Debug)]
pub(crate) struct ProxyDetail {
    pub(crate) node: ProxyNode,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) mesh: Arc<MeshSnapshot>,
}

struct Proxy {
    node: ProxyNode,
    state: ProxyState,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    status: SharedStatus,
    /// The order of subscriptions that the snapshots answer; none for a proxy that gets the full set.
    answered: Option<u64>,
}

pub(crate) struct Hub {
    mesh: Mesh,
    current: Arc<MeshSnapshot>,
    proxies: Vec<Proxy>,
    /// What the proxies share.
    shelf: Shelf,
    pushes: u64,
    metrics: PushMetrics,
    memory: Arc<Memory>,
    departures: Arc<Notify>,
    demands: Arc<Notify>,
    pushed: Pushed,
    /// Told when the standing of an object may have changed.
    standing: Arc<Notify>,
    source_diagnostics: Arc<Vec<Diagnostic>>,
    /// Where keys are to be fetched from.
    wanted_keys: watch::Sender<Wanted>,
    keys: Board,
    /// What is wrong between the objects, until one changes.
    analysed: Option<Vec<Diagnostic>>,
    config: ConfigSource,
    /// This replica's pod.
    own: Option<ObjectKey>,
}

/// Which mesh configuration counts, and what is wrong with it.
#[derive(Debug)]
struct ConfigSource {
    /// The ConfigMap; none if a file was given.
    map: Option<ObjectKey>,
    /// Certificates are signed for this one, whatever the configuration says later.
    trust_domain: TrustDomain,
    diagnostics: Vec<Diagnostic>,
}

impl Hub {
    pub(crate) fn new(
        mesh: Mesh,
        own: Option<ObjectKey>,
        trust_domain: TrustDomain,
        mesh_map: Option<ObjectKey>,
        first: SourceUpdate,
        metrics: PushMetrics,
        memory: Arc<Memory>,
    ) -> Self {
        let mut hub = Self {
            current: mesh.snapshot(),
            mesh,
            proxies: Vec::new(),
            shelf: Shelf::default(),
            pushes: 0,
            metrics,
            memory,
            departures: Arc::default(),
            demands: Arc::default(),
            pushed: Pushed::default(),
            standing: Arc::default(),
            source_diagnostics: Arc::default(),
            wanted_keys: watch::Sender::default(),
            keys: Board::default(),
            analysed: None,
            config: ConfigSource {
                map: mesh_map,
                trust_domain,
                diagnostics: Vec::new(),
            },
            own,
        };
        hub.set_config(MeshConfig::default());
        hub.apply(vec![first]);
        hub
    }

    /// Follows where keys are to be fetched from; `keys` says what came of it.
    pub(crate) fn follow_keys(&mut self, keys: Board) -> watch::Receiver<Wanted> {
        self.keys = keys;
        self.wanted_keys.subscribe()
    }

    /// Takes keys, and what else is known of them.
    pub(crate) fn take_keys(&mut self, all: Vec<Fetched>) {
        let started = Instant::now();
        let mut changes = ChangeSet::default();
        for Fetched { source, news } in all {
            changes.merge(&match news {
                News::Keys(keys) => self.mesh.set_keys(&source, Some(keys)),
                News::Gone => self.mesh.set_keys(&source, None),
                News::Failed => ChangeSet::default(),
            });
        }
        self.standing.notify_one();
        if changes.is_empty() {
            return;
        }
        self.current = self.mesh.snapshot();
        self.push(&changes, started);
        self.metrics.pushed("keys", started.elapsed());
    }

    /// Is told when the standing of an object may have changed.
    pub(crate) fn standing(&self) -> Arc<Notify> {
        Arc::clone(&self.standing)
    }

    pub(crate) async fn run(
        mut self,
        mut updates: mpsc::Receiver<SourceUpdate>,
        mut commands: mpsc::Receiver<Command>,
    ) {
        let departures = Arc::clone(&self.departures);
        let demands = Arc::clone(&self.demands);
        loop {
            tokio::select! {
                update = updates.recv() => {
                    let Some(update) = update else { return };
                    let mut all = vec![update];
                    while let Ok(update) = updates.try_recv() {
                        all.push(update);
                    }
                    self.apply(all);
                }
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    self.execute(command);
                }
                () = departures.notified() => self.sweep(),
                () = demands.notified() => self.answer(),
            }
        }
    }

    fn apply(&mut self, updates: Vec<SourceUpdate>) {
        let started = Instant::now();
        let noticed_at = updates.iter().map(|update| update.noticed_at).min();
        let mut changes = ChangeSet::default();
        for update in updates {
            if let Some(config) = self.config.choose(&update) {
                changes.merge(&self.set_config(config));
            }
            self.mesh.set_secrets_of(update.secrets_of);
            self.date(&update.changes);
            changes.merge(&self.mesh.apply(&update.changes));
            self.take_diagnostics(update.diagnostics);
        }
        self.analysed = None;
        self.standing.notify_one();
        if changes.is_empty() {
            return;
        }
        let mut telling = TELLING.into_iter();
        if telling.any(|kind| self.mesh.objects_of(kind).next().is_some()) {
            self.memory.note();
        }
        self.current = self.mesh.snapshot();
        self.want_keys(&changes);
        self.push(&changes, noticed_at.unwrap_or(started));
        self.metrics.pushed("config", started.elapsed());
        self.metrics.set_services(
            self.current.services().count(),
            self.mesh.objects_of(Kind::VirtualService).count(),
        );
    }

    fn want_keys(&self, changes: &ChangeSet) {
        // A new service may be where proxies fetch keys themselves.
        let is_about_tokens = |part: &Part| {
            matches!(part, Part::RequestAuthentication(_))
                || self.current.key_fetching() == KeyFetching::Hybrid
                    && matches!(part, Part::Service(_))
        };
        if changes.iter().any(is_about_tokens) {
            let wanted = self.current.key_sources();
            self.wanted_keys.send_if_modified(|known| {
                let is_new = *known != wanted;
                *known = wanted;
                is_new
            });
        }
    }

    /// Remembers which push brings the objects of users that differ from before.
    fn date(&mut self, changes: &[Change]) {
        for change in changes {
            let key = change.key();
            match change {
                _ if !key.kind.is_istio() => {}
                Change::Upsert(object) if self.mesh.object(&key) == Some(object) => {}
                Change::Upsert(_) => self.pushed.note(key, self.pushes + 1),
                Change::Delete(_) => self.pushed.forget(&key),
            }
        }
    }

    fn set_config(&mut self, mut config: MeshConfig) -> ChangeSet {
        config.trust_domain = self.config.trust_domain.as_str().to_owned();
        config.keep_sound(self.current.config());
        self.mesh.set_config(config)
    }

    fn push(&mut self, changes: &ChangeSet, noticed_at: Instant) {
        self.pushes += 1;
        let version = self.pushes.to_string();
        let mut round = self.shelf.round(&self.current, changes);
        for proxy in &mut self.proxies {
            let report = proxy.state.update(&mut round);
            if report.changed > 0 || report.removed > 0 {
                proxy.status.lock().published(self.pushes, noticed_at);
                proxy.publish(&version);
            }
        }
    }

    /// Looks for what proxies have asked for since.
    fn answer(&mut self) {
        let started = Instant::now();
        let version = self.pushes.to_string();
        let mut round = self.shelf.round(&self.current, &ChangeSet::default());
        for proxy in &mut self.proxies {
            let taken = proxy.status.lock().take_asked();
            let Some((asked, order)) = taken else {
                continue;
            };
            proxy.state.want(&asked, &mut round);
            proxy.answered = Some(order);
            proxy.publish(&version);
        }
        self.metrics.pushed("demand", started.elapsed());
    }

    fn take_diagnostics(&mut self, diagnostics: Arc<Vec<Diagnostic>>) {
        for diagnostic in diagnostics.iter() {
            if !self.source_diagnostics.contains(diagnostic) {
                log(diagnostic);
            }
        }
        self.source_diagnostics = diagnostics;
        for severity in [Severity::Error, Severity::Warning, Severity::Info] {
            let all = self.source_diagnostics.iter();
            let count = all
                .filter(|diagnostic| diagnostic.severity == severity)
                .count();
            self.metrics.set_diagnostics(&severity.to_string(), count);
        }
    }

    /// A caller that no longer waits for its answer needs none.
    fn execute(&mut self, command: Command) {
        match command {
            Command::Connect { node, reply } => {
                let connection = self.connect(*node);
                drop(reply.send(connection));
            }
            Command::Proxies(reply) => drop(reply.send(self.reports())),
            Command::Proxy(name, reply) => drop(reply.send(self.detail(&name))),
            Command::Keys(all) => self.take_keys(all),
            Command::Diagnostics(reply) => drop(reply.send(self.diagnostics())),
            Command::Standings { all, reply } => drop(reply.send(self.standings(all))),
        }
    }

    fn connect(&mut self, node: ProxyNode) -> Connection {
        let started = Instant::now();
        self.sweep();
        let mut round = self.shelf.round(&self.current, &ChangeSet::default());
        let state = ProxyState::new(node.view.clone(), &mut round);
        let version = self.pushes.to_string();
        let on_demand = node.view.on_demand;
        let (snapshots, receiver) = watch::channel(None);
        let status = SharedStatus::default();
        let recorder = Recorder {
            proxy: node.name.clone(),
            status: Arc::clone(&status),
            metrics: self.metrics.clone(),
            departures: Arc::clone(&self.departures),
            demands: on_demand.then(|| Arc::clone(&self.demands)),
            standing: Arc::clone(&self.standing),
        };
        tracing::info!(proxy = node.name, version = node.version, "proxy connected");
        let proxy = Proxy {
            node,
            state,
            snapshots,
            status,
            answered: on_demand.then_some(0),
        };
        proxy.publish(&version);
        self.proxies.push(proxy);
        self.metrics.set_connected(self.proxies.len());
        self.metrics.pushed("proxy", started.elapsed());
        Connection {
            snapshots: receiver,
            status: Box::new(recorder),
        }
    }

    /// Forgets the proxies whose streams have ended.
    fn sweep(&mut self) {
        self.proxies.retain(|proxy| {
            let is_gone = proxy.status.lock().is_gone;
            if is_gone {
                tracing::info!(proxy = proxy.node.name, "proxy disconnected");
            }
            !is_gone
        });
        self.standing.notify_one();
        self.metrics.set_connected(self.proxies.len());
    }

    fn reports(&self) -> Vec<ProxyReport> {
        let mut reports: Vec<ProxyReport> = self
            .proxies
            .iter()
            .map(|proxy| ProxyReport {
                node: proxy.node.clone(),
                types: proxy.status.lock().types.clone(),
            })
            .collect();
        reports.sort_by(|a, b| a.node.name.cmp(&b.node.name));
        reports
    }

    /// The latest stream of a proxy that has several, as after a reconnection.
    fn detail(&self, name: &str) -> Option<ProxyDetail> {
        let proxy = self
            .proxies
            .iter()
            .rev()
            .find(|proxy| proxy.node.name == name)?;
        Some(ProxyDetail {
            node: proxy.node.clone(),
            snapshot: proxy.snapshots.borrow().clone()?,
            mesh: Arc::clone(&self.current),
        })
    }

    fn standings(&mut self, all: bool) -> Known {
        let diagnostics = self.diagnostics();
        let answers = self.proxies.iter().map(|proxy| Answer {
            name: &proxy.node.name,
            origins: Box::new(|| Box::new(proxy.state.origins())),
            refusal: proxy.status.lock().refusal().map(str::to_owned),
            has: Box::new(|push| proxy.status.lock().has(push)),
        });
        let standings = self
            .pushed
            .standings(&self.mesh, all, answers, &diagnostics);
        Known {
            standings,
            replicas: self.replicas(),
        }
    }

    /// The pods of the control plane beside this one.
    fn replicas(&self) -> BTreeSet<Replica> {
        // One that does not know its own name is alone.
        let Some(own) = &self.own else {
            return BTreeSet::new();
        };
        let others = self.current.workloads().filter(|workload| {
            workload.namespace == own.namespace
                && workload.labels.get(label::APP) == Some(ISTIOD)
                && workload.is_pod()
                && workload.ready
                && workload.name != own.name
        });
        others
            .filter_map(|workload| Replica::of(workload))
            .collect()
    }

    /// What is wrong, looked for once for each state of the mesh.
    fn diagnostics(&mut self) -> Vec<Diagnostic> {
        let analysed = self
            .analysed
            .get_or_insert_with(|| meltemi_model::analyze(&self.mesh));
        let mut all = self.source_diagnostics.as_ref().clone();
        all.extend(self.config.diagnostics.iter().cloned());
        all.extend(analysed.iter().cloned());
        all.extend(self.keys.diagnostics(&self.mesh));
        all
    }
}

impl Proxy {
    fn publish(&self, version: &str) {
        let generated = self.state.generated();
        let kinds = ResourceKind::ALL.into_iter();
        let mut snapshot = kinds.fold(Snapshot::new(version), |snapshot, kind| {
            snapshot.with_type(kind.type_url(), Arc::clone(generated.of(kind)))
        });
        if let Some(order) = self.answered {
            snapshot = snapshot.answering(order);
        }
        self.snapshots.send_replace(Some(Arc::new(snapshot)));
    }
}

impl ConfigSource {
    /// The configuration that an update brings, if it brings one.
    fn choose(&mut self, update: &SourceUpdate) -> Option<MeshConfig> {
        let config = if let Some(map) = &self.map {
            let change = update.changes.iter().find(|change| change.key() == *map)?;
            self.read(change)?
        } else {
            let config = update.mesh_config.clone()?;
            self.diagnostics.clear();
            config
        };
        self.note_trust_domain(&config);
        Some(config)
    }

    /// A broken ConfigMap keeps the last good configuration; a deleted one gives the defaults.
    fn read(&mut self, change: &Change) -> Option<MeshConfig> {
        let Change::Upsert(object) = change else {
            self.diagnostics.clear();
            return Some(MeshConfig::default());
        };
        let (config, diagnostics) = from_config_map(object);
        self.diagnostics = diagnostics
            .into_iter()
            .map(|diagnostic| of_object(diagnostic, object))
            .collect();
        self.diagnostics.iter().for_each(log);
        config
    }

    fn note_trust_domain(&mut self, config: &MeshConfig) {
        if config.trust_domain != self.trust_domain.as_str()
            && config.trust_domain != MeshConfig::default().trust_domain
        {
            let message = format!(
                "the trust domain is \"{}\" until the control plane is started again",
                self.trust_domain
            );
            let field = FieldPath::new("trustDomain");
            self.diagnostics
                .push(Diagnostic::warning("MEL0011", message).field(field));
        }
    }
}

/// A problem of the text in a ConfigMap as one of the object, at its place in the object's file.
fn of_object(mut diagnostic: Diagnostic, object: &Object) -> Diagnostic {
    let text = FieldPath::new("data.mesh");
    if let (Some(source), Some(inside)) = (&object.source, &diagnostic.location) {
        let location = source.locate_inside(&text, inside.line, inside.column);
        diagnostic.location = Some(location);
    }
    diagnostic.object(object.reference())
}

/// The MeshConfig in the key `mesh` of a ConfigMap.
pub(crate) fn from_config_map(object: &Object) -> (Option<MeshConfig>, Vec<Diagnostic>) {
    let Resource::ConfigMap(map) = &object.resource else {
        return (None, Vec::new());
    };
    let mesh = map.data.as_ref().and_then(|data| data.get("mesh"));
    let name = format!("{}, key mesh", object.reference());
    meltemi_api::parse_message(&name, mesh.map_or("", String::as_str))
}

fn log(diagnostic: &Diagnostic) {
    match diagnostic.severity {
        Severity::Error => tracing::error!(target: "config", "{diagnostic}"),
        Severity::Warning => tracing::warn!(target: "config", "{diagnostic}"),
        Severity::Info => tracing::info!(target: "config", "{diagnostic}"),
    }
}
