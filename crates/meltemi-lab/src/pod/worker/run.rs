//! One container: start, watch, restart, stop.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, fchown};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{Ending, Shared, requested};
use crate::children::{Child, Exit};
use crate::enter::{self, Entrance, Root};
use crate::network::NODE_ADDRESS;
use crate::pod::backoff::{Backoff, RestartPolicy};
use crate::pod::container::{self, ContainerError, Surroundings};
use crate::pod::events;
use crate::pod::probe::{Action, Check, ProbeError};
use crate::pod::status::{ContainerRuntime, Ended, Role, State};

/// How long a restart waits after a start that failed.
const RETRY: Duration = Duration::from_secs(2);
/// How often a container that is not ready yet is asked. A kubelet waits for the probe's period; but a lab is waited for.
const EAGER: Duration = Duration::from_millis(200);

pub(super) struct ContainerTask {
    pub(super) pod: Arc<Shared>,
    pub(super) index: usize,
    pub(super) container: Container,
    pub(super) role: Role,
    pub(super) policy: RestartPolicy,
    pub(super) stop: watch::Receiver<Option<Ending>>,
}

/// A started process of the container.
struct Run {
    child: Child,
    mounts: MountNamespace,
    since: Instant,
    began: Timestamp,
}

impl ContainerTask {
    /// Runs until the container has ended for good. `true` if it succeeded.
    pub(super) async fn supervise(mut self, started: oneshot::Sender<()>) -> bool {
        let mut started = Some(started);
        let mut backoff = Backoff::default();
        loop {
            if !self.may_start().await {
                return false;
            }
            let run = match self.start().await {
                Ok(run) => run,
                Err((reason, error)) => {
                    self.waiting(reason, &format!("{error:#}"));
                    // A container that cannot start does not hold up the next one (Kubernetes).
                    if self.role == Role::Main {
                        announce(&mut started);
                    }
                    if !self.pause(RETRY).await {
                        return false;
                    }
                    continue;
                }
            };
            let (since, began) = (run.since, run.began);
            let (exit, reason) = self.watch(run, &mut started).await;
            let ended = ended(exit, reason, began);
            let stopping = self.stop.borrow().is_some();
            self.update(|container| container.ends(ended));
            if stopping || !self.policy.restarts(exit.code) {
                return exit.code == 0;
            }
            let delay = backoff.after(since.elapsed());
            self.update(|container| container.will_restart(delay));
            if !self.pause(delay).await {
                return false;
            }
        }
    }

    /// Waits out a hold. `false` when the pod is stopping.
    async fn may_start(&mut self) -> bool {
        let hold = self.pod.holds.lock().remove(&self.container.name);
        match hold {
            Some(until) => {
                self.pause(until.saturating_duration_since(Instant::now()))
                    .await
            }
            None => self.stop.borrow().is_none(),
        }
    }

    async fn pause(&mut self, duration: Duration) -> bool {
        tokio::select! {
            () = sleep(duration) => true,
            () = requested(&mut self.stop) => false,
        }
    }

    async fn start(&self) -> Result<Run, (&'static str, anyhow::Error)> {
        let entrance = self
            .entrance()
            .map_err(|error| (error.reason(), error.into()))?;
        let restarts = self.read(ContainerRuntime::next_restarts);
        let failed = |error: anyhow::Error| ("RunContainerError", error);
        let (output, writer) = io::pipe().map_err(|error| failed(error.into()))?;
        let logs = self.pod.directory.join("logs");
        let started = self
            .pod
            .logs
            .lock()
            .start(&logs, &self.container.name, restarts, output);
        started.map_err(|error| failed(error.into()))?;
        let (progress, ready) = io::pipe().map_err(|error| failed(error.into()))?;
        let child = self.spawn(&entrance, ready, writer).map_err(failed)?;
        let pid = child.pid;
        let began = Timestamp::now();
        // The process writes why it could not become the container, or closes the pipe by becoming it.
        let failure = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            { progress }.read_to_string(&mut text).map(|_| text)
        });
        let failure = failure
            .await
            .map_err(|error| failed(error.into()))?
            .map_err(|error| failed(error.into()))?;
        if !failure.is_empty() {
            drop(child.exit.await);
            return Err(("RunContainerError", anyhow::anyhow!(failure)));
        }
        let mounts = MountNamespace::of(pid);
        self.update(|container| {
            container.begins(pid, began);
            container.started = self.container.startup_probe.is_none();
            container.ready = container.started && self.container.readiness_probe.is_none();
        });
        Ok(Run {
            child,
            mounts,
            since: Instant::now(),
            began,
        })
    }

    fn entrance(&self) -> Result<Entrance, ContainerError> {
        let machine = &self.pod.machine;
        let inputs = Arc::clone(&self.pod.inputs.borrow());
        let mut pod = inputs.pod.clone();
        pod.status.get_or_insert_default().pod_ip = Some(self.pod.address.to_string());
        let namespaces = self
            .pod
            .network
            .lock()
            .as_ref()
            .map(|network| network.paths().to_vec());
        let images = machine.images.read();
        let around = Surroundings {
            images: &images,
            programs: &machine.programs,
            single_id: machine.single_id,
            namespaces: namespaces.unwrap_or_default(),
            pod_directory: &self.pod.directory,
            root: self.pod.directory.join("roots").join(&self.container.name),
            extra: &self.pod.extra,
            hidden: &machine.hidden,
        };
        container::entrance(
            &pod,
            &self.container,
            NODE_ADDRESS,
            &inputs.references,
            &around,
        )
    }

    fn spawn(
        &self,
        entrance: &Entrance,
        ready: io::PipeWriter,
        output: io::PipeWriter,
    ) -> Result<Child> {
        if let Root::Build { at, mounts, .. } = &entrance.root {
            fs::create_dir_all(at)?;
            for directory in container::wanted_directories(mounts, &self.pod.directory) {
                crate::pod::volumes::make_directory(directory)
                    .with_context(|| format!("cannot make {}", directory.display()))?;
            }
        }
        let file = self
            .pod
            .directory
            .join(format!("{}.json", self.container.name));
        fs::write(&file, serde_json::to_vec(entrance)?)?;
        if let Some(ids) = entrance.ids {
            // As a container runtime does: programs without root open /dev/stdout, too.
            fchown(&output, Some(ids.uid.into()), Some(ids.gid.into()))?;
        }
        let mut command = enter::command(&file);
        command
            .stdin(OwnedFd::from(ready))
            .stdout(output.try_clone()?)
            .stderr(output);
        self.pod
            .machine
            .children
            .spawn(&mut command)
            .context("cannot start a process")
    }

    /// Waits for the end of a run; probes, hooks and a stop act on it meanwhile.
    async fn watch(
        &mut self,
        run: Run,
        started: &mut Option<oneshot::Sender<()>>,
    ) -> (Exit, &'static str) {
        let Run {
            child: Child { pid, mut exit },
            mounts,
            ..
        } = run;
        let mut stop = self.stop.clone();
        let (outcome, reason) = tokio::select! {
            ended = &mut exit => (Some(ended), "Error"),
            () = self.tend(pid, started) => (None, "Error"),
            () = requested(&mut stop) => (None, "Error"),
        };
        let exit = match outcome {
            Some(exit) => exit,
            None => self.terminate(pid, &mut exit).await,
        };
        // As the end of a container's first process ends its pid namespace.
        mounts.kill_all_but(pid);
        (
            exit.unwrap_or(Exit {
                code: 137,
                signal: Some(9),
            }),
            reason,
        )
    }

    /// postStart, startup probe, then liveness and readiness. Returns when the container must be killed.
    async fn tend(&self, pid: i32, started: &mut Option<oneshot::Sender<()>>) {
        let lifecycle = self.container.lifecycle.as_ref();
        if let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref())
            && let Err(error) = self.hook(hook, pid).await
        {
            tracing::info!(container = %self.container.name, "postStart failed: {error:#}");
            self.in_trouble(format!("postStart failed: {error:#}"));
            return;
        }
        // A sidecar lets the next container start once its startup probe passed; others at once.
        let mut announce = || announce(started);
        if self.role != Role::Sidecar {
            announce();
        }
        if !self.startup(pid).await {
            return;
        }
        announce();
        let (liveness, readiness) = (
            self.container.liveness_probe.as_ref(),
            self.container.readiness_probe.as_ref(),
        );
        self.update(|container| {
            container.started = true;
            container.ready = readiness.is_none();
        });
        tokio::select! {
            () = self.fails(liveness, pid) => {}
            () = self.readiness(pid) => {}
        }
    }

    async fn startup(&self, pid: i32) -> bool {
        let Some(check) = self.check(self.container.startup_probe.as_ref()) else {
            return true;
        };
        sleep(check.delay).await;
        let deadline = Instant::now() + check.period * check.failures;
        loop {
            match self.probe(&check, pid).await {
                Ok(()) => {
                    self.in_trouble(String::new());
                    return true;
                }
                Err(error) => self.in_trouble(format!("Startup probe failed: {error}")),
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(check.period.min(EAGER)).await;
        }
    }

    /// Returns once the probe has failed often enough; never without a probe.
    async fn fails(&self, probe: Option<&k8s_openapi::api::core::v1::Probe>, pid: i32) {
        let Some(check) = self.check(probe) else {
            return std::future::pending().await;
        };
        sleep(check.delay).await;
        let mut failures = 0;
        loop {
            let Err(error) = self.probe(&check, pid).await else {
                failures = 0;
                sleep(check.period).await;
                continue;
            };
            failures += 1;
            if failures >= check.failures {
                tracing::info!(container = %self.container.name, "liveness probe failed, the container is restarted");
                self.in_trouble(format!("Liveness probe failed: {error}"));
                return;
            }
            sleep(check.period).await;
        }
    }

    /// Keeps `ready` up to date; never returns.
    async fn readiness(&self, pid: i32) {
        let Some(check) = self.check(self.container.readiness_probe.as_ref()) else {
            return std::future::pending().await;
        };
        sleep(check.delay).await;
        let (mut successes, mut failures) = (0, 0);
        loop {
            let probed = self.probe(&check, pid).await;
            let healthy = probed.is_ok();
            self.in_trouble(probed.err().map_or_else(String::new, |error| {
                format!("Readiness probe failed: {error}")
            }));
            (successes, failures) = if healthy {
                (successes + 1, 0)
            } else {
                (0, failures + 1)
            };
            let was = self.read(|container| container.ready);
            let ready = if was {
                failures < check.failures
            } else {
                successes >= check.successes
            };
            if ready != was {
                self.update(|container| container.ready = ready);
            }
            sleep(if ready {
                check.period
            } else {
                check.period.min(EAGER)
            })
            .await;
        }
    }

    /// Notes why the last probe or hook failed, if it did; the same again is no news.
    fn in_trouble(&self, trouble: String) {
        if self.read(|container| container.trouble != trouble) {
            self.update(|container| container.trouble = trouble);
        }
    }

    fn check(&self, probe: Option<&k8s_openapi::api::core::v1::Probe>) -> Option<Check> {
        match Check::new(probe?, &self.container, self.pod.address) {
            Ok(check) => Some(check),
            Err(error) => {
                tracing::warn!(container = %self.container.name, "a probe is not run: {error}");
                None
            }
        }
    }

    async fn probe(&self, check: &Check, pid: i32) -> Result<(), ProbeError> {
        let attempt = async {
            match &check.action {
                Action::Exec(command) => self.exec(command, pid).await,
                action => action.over_network().await,
            }
        };
        timeout(check.timeout, attempt)
            .await
            .unwrap_or(Err(ProbeError::Timeout))
    }

    async fn hook(
        &self,
        handler: &k8s_openapi::api::core::v1::LifecycleHandler,
        pid: i32,
    ) -> Result<(), ProbeError> {
        match Action::hook(handler, &self.container, self.pod.address)? {
            Action::Exec(command) => self.exec(&command, pid).await,
            action => action.over_network().await,
        }
    }

    async fn exec(&self, command: &[String], pid: i32) -> Result<(), ProbeError> {
        let entrance = self
            .pod
            .exec_entrance(&self.container.name, pid, command.to_vec(), false);
        let entrance = entrance.map_err(|error| ProbeError::Connect(io::Error::other(error)))?;
        let null = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map(Stdio::from)
        };
        let mut process = enter::exec_command(&self.pod.directory, &entrance)?;
        process.stdin(null()?).stdout(null()?).stderr(null()?);
        let child = self.pod.machine.children.spawn(&mut process)?;
        let guard = KillOnDrop(child.pid);
        let exit = child.exit.await.map_err(io::Error::other)?;
        std::mem::forget(guard);
        if exit.code == 0 {
            Ok(())
        } else {
            Err(ProbeError::Exit(exit.code))
        }
    }

    /// preStop, the container's turn, SIGTERM, and SIGKILL when the grace is over (Kubernetes, "Termination of Pods").
    async fn terminate(
        &mut self,
        pid: i32,
        exit: &mut oneshot::Receiver<Exit>,
    ) -> Result<Exit, oneshot::error::RecvError> {
        // A container that failed its probes ends alone, with the pod's own grace.
        let ending = (*self.stop.borrow()).unwrap_or_else(|| Ending {
            deadline: Instant::now() + self.pod.grace,
            turn: true,
        });
        let mut stop = self.stop.clone();
        let before = async {
            self.pre_stop(pid, ending.deadline).await;
            if !ending.turn {
                drop(stop.wait_for(|now| now.is_none_or(|now| now.turn)).await);
            }
        };
        tokio::select! {
            ended = &mut *exit => return ended,
            () = before => {}
        }
        send(pid, Signal::SIGTERM);
        let deadline = (*self.stop.borrow()).map_or(ending.deadline, |now| now.deadline);
        match timeout_at(deadline, &mut *exit).await {
            Ok(ended) => ended,
            Err(_) => {
                send(pid, Signal::SIGKILL);
                exit.await
            }
        }
    }

    async fn pre_stop(&self, pid: i32, deadline: Instant) {
        let lifecycle = self.container.lifecycle.as_ref();
        let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else {
            return;
        };
        if let Ok(Err(error)) = timeout_at(deadline, self.hook(hook, pid)).await {
            tracing::info!(container = %self.container.name, "preStop failed: {error}");
        }
    }

    fn waiting(&self, reason: &str, message: &str) {
        self.update(|container| {
            container.state = State::Waiting {
                reason: reason.to_owned(),
                message: message.to_owned(),
            };
            (container.ready, container.started) = (false, false);
        });
    }

    fn read<T>(&self, look: impl FnOnce(&ContainerRuntime) -> T) -> T {
        look(&self.pod.runtime.borrow().containers[self.index])
    }

    fn update(&self, change: impl FnOnce(&mut ContainerRuntime)) {
        self.pod.runtime.send_modify(|runtime| {
            let was_ready = runtime.is_ready();
            if let Some(container) = runtime.containers.get_mut(self.index) {
                let before = container.clone();
                change(container);
                for event in events::of_change(&before, container) {
                    events::note(&mut runtime.events, event, Timestamp::now());
                }
            }
            if runtime.is_ready() != was_ready {
                runtime.ready_since = Some(Timestamp::now());
            }
        });
    }
}

impl Shared {
    /// Describes a further process in a running container: same identity, namespaces and environment.
    pub(crate) fn exec_entrance(
        &self,
        container: &str,
        pid: i32,
        argv: Vec<String>,
        terminal: bool,
    ) -> Result<Entrance> {
        let file = self.directory.join(format!("{container}.json"));
        let text = fs::read(&file).context("the container is not running")?;
        let mut entrance: Entrance = serde_json::from_slice(&text)?;
        entrance.argv = argv;
        entrance.terminal = terminal;
        if terminal {
            // As a container runtime has it (CRI).
            entrance.env.push(("TERM".to_owned(), "xterm".to_owned()));
        }
        entrance.root = Root::Join(format!("/proc/{pid}/ns/mnt").into());
        Ok(entrance)
    }

    /// The process of a container that runs.
    pub(crate) fn running(&self, container: &str) -> Result<i32> {
        self.pid(container)
    }
}

/// Ends an exec'd process whose waiter gave up.
struct KillOnDrop(i32);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        send(self.0, Signal::SIGKILL);
    }
}

/// Lets the next container start, once.
fn announce(started: &mut Option<oneshot::Sender<()>>) {
    if let Some(sender) = started.take() {
        // Whoever waited has gone when the pod is stopping.
        sender.send(()).ok();
    }
}

fn ended(exit: Exit, reason: &str, from: Timestamp) -> Ended {
    let reason = if exit.code == 0 { "Completed" } else { reason };
    let (code, signal) = (exit.code, exit.signal);
    Ended {
        code,
        signal,
        reason: reason.to_owned(),
        message: String::new(),
        from,
        until: Timestamp::now(),
    }
}

fn send(pid: i32, signal: Signal) {
    // It may have ended by itself a moment ago.
    kill(Pid::from_raw(pid), signal).ok();
}

/// A container's mount namespace; every process in it belongs to the container. Held open, so that its number is not
/// given to another container's meanwhile.
struct MountNamespace(Option<File>);

impl MountNamespace {
    fn of(pid: i32) -> Self {
        // A program that has ended already has nothing left to be found.
        Self(File::open(format!("/proc/{pid}/ns/mnt")).ok())
    }

    /// Kills what the container's first process left behind.
    fn kill_all_but(&self, leader: i32) {
        let number =
            |metadata: io::Result<fs::Metadata>| metadata.ok().map(|metadata| metadata.ino());
        let Some(held) = self.0.as_ref().and_then(|file| number(file.metadata())) else {
            return;
        };
        if number(fs::metadata("/proc/self/ns/mnt")).is_none_or(|own| own == held) {
            return;
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if pid != leader && number(fs::metadata(entry.path().join("ns/mnt"))) == Some(held) {
                send(pid, Signal::SIGKILL);
            }
        }
    }
}
