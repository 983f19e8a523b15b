//! Runs one pod: network, volumes, init containers, containers with probes and restarts, and the end.
//!
//! ```text
//! network -> volumes -> init containers in order (a sidecar stays and only has to start) -> containers in order
//!         -> until all have ended or the pod is deleted -> all preStop hooks, containers stop, then sidecars in reverse
//!         -> network goes
//! ```

mod run;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::backoff::RestartPolicy;
use super::env::{References, hostname};
use super::events::{self, KUBELET, SCHEDULER, Told};
use super::logs::Logs;
use super::status::{ContainerRuntime, PodRuntime, Role, State};
use super::volumes::{self, Files, TokenError};
use crate::children::Children;
use crate::images::{Images, Programs};
use crate::network::{DNS_ADDRESS, NODE_ADDRESS, Node, PodNetwork};
use crate::tokens::{NODE_NAME, Tokens};

/// Kubernetes' default `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(30);
/// What is left to a sidecar when the containers have used the whole period up (the kubelet's `minimumGracePeriodInSeconds`).
const MINIMUM_GRACE: Duration = Duration::from_secs(2);
/// A projected token is renewed when this share of its life is over (Kubernetes).
const TOKEN_RENEWAL_SHARE: f64 = 0.8;

/// What all pods of a lab share.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) children: Arc<Children>,
    pub(crate) node: Node,
    pub(crate) directory: PathBuf,
    /// The directory that holds every lab's files, hidden from containers.
    pub(crate) hidden: PathBuf,
    pub(crate) programs: Programs,
    /// The program that sets Service addresses.
    pub(crate) nft: PathBuf,
    pub(crate) images: parking_lot::RwLock<Images>,
    pub(crate) single_id: bool,
    pub(crate) tokens: Tokens,
}

/// What may change under a running pod: its metadata, and the objects that its volumes show.
#[derive(Clone, Debug)]
pub(crate) struct Inputs {
    pub(crate) pod: Pod,
    pub(crate) references: References,
}

/// The supervisor's end of a pod.
#[derive(Debug)]
pub(crate) struct PodHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inputs: watch::Sender<Arc<Inputs>>,
    pub(crate) runtime: watch::Receiver<PodRuntime>,
    stop: watch::Sender<Option<Duration>>,
}

/// What a pod's tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) machine: Arc<Machine>,
    pub(crate) directory: PathBuf,
    address: Ipv4Addr,
    extra: Vec<(PathBuf, PathBuf)>,
    runtime: watch::Sender<PodRuntime>,
    inputs: watch::Receiver<Arc<Inputs>>,
    network: Mutex<Option<Arc<PodNetwork>>>,
    pub(crate) logs: Mutex<Logs>,
    /// Containers that must not start before a moment.
    holds: Mutex<BTreeMap<String, Instant>>,
    policy: RestartPolicy,
    grace: Duration,
}

/// A pod to start.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) machine: Arc<Machine>,
    pub(crate) address: Ipv4Addr,
    pub(crate) inputs: Inputs,
    pub(crate) extra: Vec<(PathBuf, PathBuf)>,
    /// Told the pod's key after every change of its runtime; one pending note is enough.
    pub(crate) changed: mpsc::Sender<String>,
    pub(crate) key: String,
}

impl PodHandle {
    pub(crate) fn start(start: Start) -> Self {
        let Start {
            machine,
            address,
            inputs,
            extra,
            changed,
            key,
        } = start;
        let spec = inputs.pod.spec.clone().unwrap_or_default();
        let uid = inputs.pod.metadata.uid.clone().unwrap_or_default();
        let (runtime_sender, runtime) = watch::channel(initial(&inputs.pod));
        let (inputs_sender, inputs) = watch::channel(Arc::new(inputs));
        let (stop, stopped) = watch::channel(None);
        let shared = Arc::new(Shared {
            directory: machine.directory.join("pods").join(&uid),
            machine,
            address,
            extra,
            runtime: runtime_sender,
            inputs,
            network: Mutex::new(None),
            logs: Mutex::new(Logs::default()),
            holds: Mutex::default(),
            policy: RestartPolicy::parse(spec.restart_policy.as_deref()),
            grace: spec
                .termination_grace_period_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map_or(GRACE, Duration::from_secs),
        });
        tokio::spawn(report(runtime.clone(), changed, key));
        tokio::spawn(Arc::clone(&shared).live(stopped));
        Self {
            shared,
            inputs: inputs_sender,
            runtime,
            stop,
        }
    }

    /// Ends the pod; `grace` replaces the spec's own period.
    pub(crate) fn stop(&self, grace: Option<Duration>) {
        let grace = grace.unwrap_or(self.shared.grace);
        self.stop.send_if_modified(|stop| {
            // A second, shorter request wins, as with `kubectl delete --now`.
            let shorter = stop.is_none_or(|before| grace < before);
            if shorter {
                *stop = Some(grace);
            }
            shorter
        });
    }

    /// Kills a container with SIGKILL and keeps it down for a while.
    pub(crate) fn kill(&self, container: &str, hold: Duration) -> Result<()> {
        let pid = self.shared.pid(container)?;
        self.shared
            .holds
            .lock()
            .insert(container.to_owned(), Instant::now() + hold);
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(pid),
            nix::sys::signal::Signal::SIGKILL,
        )?;
        Ok(())
    }

    pub(crate) fn network(&self) -> Option<Arc<PodNetwork>> {
        self.shared.network.lock().clone()
    }
}

/// Forwards every change to the supervisor, until the pod is gone.
async fn report(
    mut runtime: watch::Receiver<PodRuntime>,
    changed: mpsc::Sender<String>,
    key: String,
) {
    while runtime.changed().await.is_ok() {
        if changed.send(key.clone()).await.is_err() {
            return;
        }
    }
}

fn initial(pod: &Pod) -> PodRuntime {
    let spec = pod.spec.clone().unwrap_or_default();
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (container, if sidecar { Role::Sidecar } else { Role::Init })
    });
    let has_init = spec
        .init_containers
        .as_ref()
        .is_some_and(|list| !list.is_empty());
    let main = spec
        .containers
        .iter()
        .map(|container| (container, Role::Main));
    let containers = init.chain(main).map(|(container, role)| ContainerRuntime {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        role,
        state: State::Waiting {
            reason: if has_init {
                "PodInitializing"
            } else {
                "ContainerCreating"
            }
            .to_owned(),
            message: String::new(),
        },
        last: None,
        ready: false,
        started: false,
        restarts: 0,
        pid: None,
        trouble: String::new(),
    });
    let mut happened = Vec::new();
    events::note(&mut happened, scheduled(pod), Timestamp::now());
    PodRuntime {
        address: None,
        created: pod
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or_else(Timestamp::now, |time| time.0),
        containers: containers.collect(),
        initialized: false,
        gone: false,
        ready_since: None,
        events: happened,
    }
}

fn scheduled(pod: &Pod) -> Told {
    let of = |field: &Option<String>| field.clone().unwrap_or_default();
    let (namespace, name) = (of(&pod.metadata.namespace), of(&pod.metadata.name));
    let message = format!("Successfully assigned {namespace}/{name} to {NODE_NAME}");
    Told::normal(SCHEDULER, "Scheduled", message)
}

/// Waits until the pod or container is to stop; a vanished sender means so too.
async fn requested<T>(stop: &mut watch::Receiver<Option<T>>) {
    drop(stop.wait_for(Option::is_some).await);
}

async fn over(runtime: &mut watch::Receiver<PodRuntime>) {
    drop(runtime.wait_for(|runtime| runtime.gone).await);
}

/// That a container is to end, and how far its end may go.
#[derive(Clone, Copy, Debug)]
struct Ending {
    deadline: Instant,
    /// The preStop hook runs at once, SIGTERM waits for this: a sidecar outlives the containers that it serves.
    turn: bool,
}

/// One container's task, and how to end it.
struct Task {
    stop: watch::Sender<Option<Ending>>,
    done: tokio::task::JoinHandle<bool>,
    role: Role,
}

impl Shared {
    pub(crate) fn runtime(&self) -> PodRuntime {
        self.runtime.borrow().clone()
    }

    async fn live(self: Arc<Self>, mut stop: watch::Receiver<Option<Duration>>) {
        let mut tasks: Vec<Task> = Vec::new();
        tokio::select! {
            () = self.run_all(&mut tasks) => {}
            () = requested(&mut stop) => {}
        }
        let grace = Instant::now() + (*stop.borrow()).unwrap_or(self.grace);
        self.end(tasks, grace).await;
        let network = self.network.lock().take();
        if let Some(network) = network {
            let node = self.machine.node.clone();
            if let Err(error) = node.disconnect(&network).await {
                tracing::warn!("cannot take a link away: {error:#}");
            }
        }
        self.runtime.send_modify(|runtime| {
            runtime.gone = true;
            runtime.ready_since = None;
            runtime
                .containers
                .iter_mut()
                .for_each(|container| container.ready = false);
        });
    }

    /// From nothing to the end of every container; a pod that cannot be made waits to be deleted.
    async fn run_all(self: &Arc<Self>, tasks: &mut Vec<Task>) {
        match self.bring_up(tasks).await {
            Ok(true) => self.mains_end(tasks).await,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(pod = %self.directory.display(), "{error:#}");
                let message = format!("Failed to create pod sandbox: {error:#}");
                self.held_up("FailedCreatePodSandBox", message);
                std::future::pending().await
            }
        }
    }

    /// `false` when an init container failed for good.
    async fn bring_up(self: &Arc<Self>, tasks: &mut Vec<Task>) -> Result<bool> {
        let pod = self.inputs.borrow().pod.clone();
        let name = hostname(&pod);
        fs::create_dir_all(self.directory.join("etc"))?;
        let network = self.machine.node.connect(&name, self.address).await?;
        *self.network.lock() = Some(Arc::new(network));
        self.runtime
            .send_modify(|runtime| runtime.address = Some(self.address));
        self.write_etc(&pod, &name)?;
        let files = self.fill_volumes().await?;
        tokio::spawn(Arc::clone(self).keep_volumes(files));
        let spec = pod.spec.unwrap_or_default();
        let mut index = 0;
        for container in spec.init_containers.into_iter().flatten() {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            let role = if sidecar { Role::Sidecar } else { Role::Init };
            let (task, started) = self.launch(index, container, role);
            index += 1;
            if sidecar {
                tasks.push(task);
                // Never started means the pod is being stopped, which ends this future as well.
                drop(started.await);
            } else {
                tasks.push(task);
                let succeeded = match tasks.last_mut() {
                    Some(task) => (&mut task.done).await.unwrap_or(false),
                    None => false,
                };
                tasks.pop();
                if !succeeded {
                    return Ok(false);
                }
            }
        }
        self.runtime
            .send_modify(|runtime| runtime.initialized = true);
        for container in spec.containers {
            let (task, started) = self.launch(index, container, Role::Main);
            index += 1;
            tasks.push(task);
            drop(started.await);
        }
        Ok(true)
    }

    fn launch(
        self: &Arc<Self>,
        index: usize,
        container: Container,
        role: Role,
    ) -> (Task, oneshot::Receiver<()>) {
        let (stop, stopped) = watch::channel(None);
        let (sender, started) = oneshot::channel();
        let policy = match role {
            Role::Sidecar => RestartPolicy::Always,
            Role::Init if self.policy == RestartPolicy::Never => RestartPolicy::Never,
            Role::Init => RestartPolicy::OnFailure,
            Role::Main => self.policy,
        };
        let run = run::ContainerTask {
            pod: Arc::clone(self),
            index,
            container,
            role,
            policy,
            stop: stopped,
        };
        let done = tokio::spawn(run.supervise(sender));
        (Task { stop, done, role }, started)
    }

    async fn mains_end(&self, tasks: &mut [Task]) {
        for task in tasks.iter_mut().filter(|task| task.role == Role::Main) {
            // A panic in a container's task ends it like a failure.
            drop((&mut task.done).await);
        }
    }

    /// As a kubelet ends a pod: every preStop hook at once, SIGTERM for the containers, and only when they have ended for
    /// the sidecars, in reverse (Kubernetes, "Sidecar containers and Pod termination").
    async fn end(&self, tasks: Vec<Task>, deadline: Instant) {
        for task in &tasks {
            let turn = task.role != Role::Sidecar;
            task.stop.send_replace(Some(Ending { deadline, turn }));
        }
        let (sidecars, mains): (Vec<_>, Vec<_>) = tasks
            .into_iter()
            .partition(|task| task.role == Role::Sidecar);
        for task in mains.into_iter().filter(|task| !task.done.is_finished()) {
            drop(task.done.await);
        }
        for task in sidecars.into_iter().rev() {
            let deadline = deadline.max(Instant::now() + MINIMUM_GRACE);
            let turn = true;
            task.stop.send_replace(Some(Ending { deadline, turn }));
            if !task.done.is_finished() {
                drop(task.done.await);
            }
        }
    }

    /// Says what keeps every container from being made. Their reason stays a kubelet's, the event names what it is.
    fn held_up(&self, reason: &'static str, why: String) {
        self.runtime.send_modify(|runtime| {
            for container in &mut runtime.containers {
                if let State::Waiting { message, .. } = &mut container.state {
                    message.clone_from(&why);
                }
            }
            let event = Told::warning(KUBELET, reason, why);
            events::note(&mut runtime.events, event, Timestamp::now());
        });
    }

    /// Volumes are there: nothing is said of them any more.
    fn not_held_up(&self) {
        self.runtime.send_modify(|runtime| {
            for container in &mut runtime.containers {
                if let State::Waiting { message, .. } = &mut container.state {
                    message.clear();
                }
            }
        });
    }

    fn pid(&self, container: &str) -> Result<i32> {
        let runtime = self.runtime.borrow();
        let found = runtime
            .containers
            .iter()
            .find(|known| known.name == container);
        let found =
            found.with_context(|| format!("container {container} is not valid for this pod"))?;
        found
            .pid
            .with_context(|| format!("container {container} is not running"))
    }

    fn write_etc(&self, pod: &Pod, name: &str) -> io::Result<()> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let etc = self.directory.join("etc");
        let spec = pod.spec.clone().unwrap_or_default();
        let subdomain = spec
            .subdomain
            .map(|domain| format!("{name}.{domain}.{namespace}.svc.cluster.local\t"));
        let resolv = format!(
            "search {namespace}.svc.cluster.local svc.cluster.local cluster.local\nnameserver {DNS_ADDRESS}\noptions ndots:5\n"
        );
        fs::write(etc.join("resolv.conf"), resolv)?;
        fs::write(etc.join("hostname"), format!("{name}\n"))?;
        let own = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{}\t{}{name}\n",
            self.address,
            subdomain.unwrap_or_default()
        );
        let aliases = spec.host_aliases.into_iter().flatten().map(|alias| {
            format!(
                "{}\t{}\n",
                alias.ip,
                alias.hostnames.unwrap_or_default().join("\t")
            )
        });
        fs::write(etc.join("hosts"), own + &aliases.collect::<String>())
    }

    /// Waits until everything that volumes refer to is there.
    async fn fill_volumes(&self) -> Result<BTreeMap<String, Files>> {
        let mut inputs = self.inputs.clone();
        loop {
            let current = Arc::clone(&inputs.borrow_and_update());
            match self.volume_files(&current) {
                Ok(files) => {
                    self.write_volumes(&current.pod, &files, &BTreeMap::new())?;
                    self.not_held_up();
                    return Ok(files);
                }
                Err((volume, error)) => self.held_up(
                    "FailedMount",
                    format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}"),
                ),
            }
            inputs.changed().await?;
        }
    }

    /// Follows changed objects and renews tokens, as long as the pod lives.
    async fn keep_volumes(self: Arc<Self>, mut files: BTreeMap<String, Files>) {
        let mut inputs = self.inputs.clone();
        let mut runtime = self.runtime.subscribe();
        loop {
            let renewal = self.token_renewal(&inputs.borrow().pod);
            tokio::select! {
                () = over(&mut runtime) => return,
                changed = inputs.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(renewal) => {}
            }
            let current = Arc::clone(&inputs.borrow_and_update());
            // What has gone from the cluster stays as it was in the pod, as a kubelet leaves it.
            let Ok(now) = self.volume_files(&current) else {
                continue;
            };
            match self.write_volumes(&current.pod, &now, &files) {
                Ok(()) => files = now,
                Err(error) => tracing::warn!(%error, "cannot update volumes"),
            }
        }
    }

    fn token_renewal(&self, pod: &Pod) -> Duration {
        let volumes = pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten());
        let sources = volumes
            .filter_map(|volume| volume.projected.as_ref()?.sources.as_ref())
            .flatten();
        let seconds = sources
            .filter_map(|source| source.service_account_token.as_ref()?.expiration_seconds)
            .min();
        let seconds = seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .unwrap_or(3600);
        Duration::from_secs(seconds.max(60)).mul_f64(TOKEN_RENEWAL_SHARE)
    }

    fn volume_files(
        &self,
        inputs: &Inputs,
    ) -> Result<BTreeMap<String, Files>, (String, volumes::VolumeError)> {
        let token = |audience: &str, seconds: i64| -> Result<String, TokenError> {
            self.machine.tokens.issue(&inputs.pod, audience, seconds)
        };
        let mut all = BTreeMap::new();
        for volume in inputs
            .pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
        {
            let files = volumes::files(
                volume,
                &inputs.pod,
                NODE_ADDRESS,
                &inputs.references,
                &token,
            )
            .map_err(|error| (volume.name.clone(), error))?;
            all.extend(files.map(|files| (volume.name.clone(), files)));
        }
        Ok(all)
    }

    fn write_volumes(
        &self,
        pod: &Pod,
        files: &BTreeMap<String, Files>,
        before: &BTreeMap<String, Files>,
    ) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        for volume in pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
        {
            let directory = self.directory.join("volumes").join(&volume.name);
            fs::create_dir_all(&directory)?;
            match files.get(&volume.name) {
                Some(now) => volumes::write(
                    &directory,
                    now,
                    before.get(&volume.name).unwrap_or(&Files::new()),
                )?,
                None => fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?,
            }
        }
        Ok(())
    }
}
