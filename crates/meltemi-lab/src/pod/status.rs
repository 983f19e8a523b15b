//! What the worker knows of a pod, and the `status` that Kubernetes would show for it (pure).

use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::events::Event;
use crate::network::NODE_ADDRESS;

/// The reason of a container that waits for its next run.
pub(crate) const CRASH_LOOP: &str = "CrashLoopBackOff";

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodRuntime {
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) created: Timestamp,
    /// Init containers first, in the order of the spec.
    pub(crate) containers: Vec<ContainerRuntime>,
    /// Every init container has done its part.
    pub(crate) initialized: bool,
    /// The worker has ended; no process of the pod is left.
    pub(crate) gone: bool,
    pub(crate) ready_since: Option<Timestamp>,
    /// What happened, the oldest first; bounded.
    pub(crate) events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ContainerRuntime {
    pub(crate) name: String,
    pub(crate) image: String,
    pub(crate) role: Role,
    pub(crate) state: State,
    pub(crate) last: Option<Ended>,
    pub(crate) ready: bool,
    pub(crate) started: bool,
    pub(crate) restarts: u32,
    pub(crate) pid: Option<i32>,
    /// Why the last probe or hook failed; empty since one succeeded.
    pub(crate) trouble: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    Main,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Waiting { reason: String, message: String },
    Running { since: Timestamp },
    Ended(Ended),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

impl ContainerRuntime {
    /// The restart count of the run that is next: a kubelet counts restarts that have begun, not ends.
    pub(crate) fn next_restarts(&self) -> u32 {
        self.restarts + u32::from(self.last.is_some())
    }

    /// A run begins.
    pub(crate) fn begins(&mut self, pid: i32, since: Timestamp) {
        self.restarts = self.next_restarts();
        self.state = State::Running { since };
        self.pid = Some(pid);
    }

    pub(crate) fn ends(&mut self, ended: Ended) {
        self.state = State::Ended(ended);
        (self.ready, self.started, self.pid) = (false, false, None);
    }

    /// A run that ended is followed by another one after a pause, which may be none.
    pub(crate) fn will_restart(&mut self, pause: Duration) {
        if let State::Ended(ended) = &self.state {
            self.last = Some(ended.clone());
        }
        if !pause.is_zero() {
            let (seconds, name) = (pause.as_secs(), &self.name);
            self.state = State::Waiting {
                reason: CRASH_LOOP.to_owned(),
                message: format!("back-off {seconds}s restarting failed container={name}"),
            };
        }
    }

    /// Why the container is not ready, for a person: its state, how it ended last, and what its probes say.
    pub(crate) fn why_not_ready(&self) -> String {
        let name = &self.name;
        let mut parts = match &self.state {
            State::Waiting { reason, message } => vec![reason.clone(), message.clone()],
            State::Running { .. } => vec!["running, not ready".to_owned()],
            State::Ended(ended) => vec![format!("exited with {}", ended.code)],
        };
        if let (State::Waiting { .. }, Some(last)) = (&self.state, &self.last) {
            parts.push(format!("it exited with {} before", last.code));
        }
        parts.push(self.trouble.clone());
        parts.retain(|part| !part.is_empty());
        format!("{name}: {}", parts.join(": "))
    }
}

impl PodRuntime {
    pub(crate) fn is_ready(&self) -> bool {
        self.initialized
            && self
                .containers
                .iter()
                .filter(|container| container.role != Role::Init)
                .all(|container| container.ready)
    }

    /// Kubernetes, "Pod phase".
    pub(crate) fn phase(&self) -> &'static str {
        let mains: Vec<&State> = self
            .containers
            .iter()
            .filter(|c| c.role == Role::Main)
            .map(|container| &container.state)
            .collect();
        let failed_init = self.containers.iter().any(|container| {
            container.role == Role::Init
                && matches!(&container.state, State::Ended(ended) if ended.code != 0)
        });
        if self.gone && failed_init {
            return "Failed";
        }
        if !self.initialized
            || mains
                .iter()
                .all(|state| matches!(state, State::Waiting { .. }))
                && self.never_ran()
        {
            return "Pending";
        }
        let ended: Vec<&Ended> = mains
            .iter()
            .filter_map(|s| {
                if let State::Ended(e) = s {
                    Some(e)
                } else {
                    None
                }
            })
            .collect();
        if !self.gone || ended.len() < mains.len() {
            return "Running";
        }
        if ended.iter().all(|ended| ended.code == 0) {
            "Succeeded"
        } else {
            "Failed"
        }
    }

    fn never_ran(&self) -> bool {
        self.containers
            .iter()
            .filter(|container| container.role == Role::Main)
            .all(|container| container.last.is_none())
    }

    pub(crate) fn status(&self) -> PodStatus {
        let phase = self.phase();
        let done = phase == "Succeeded";
        let ready = self.is_ready() && !done;
        let condition = |kind: &str, holds: bool, since: Option<Timestamp>| PodCondition {
            type_: kind.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            reason: match (holds, kind, done) {
                (false, "Ready" | "ContainersReady", true) => Some("PodCompleted".to_owned()),
                (false, "Ready" | "ContainersReady", false) => {
                    Some("ContainersNotReady".to_owned())
                }
                _ => None,
            },
            last_transition_time: since.map(Time),
            ..PodCondition::default()
        };
        let address = self.address.map(|address| address.to_string());
        let statuses = |init: bool| -> Vec<ContainerStatus> {
            self.containers
                .iter()
                .filter(|c| (c.role != Role::Main) == init)
                .map(ContainerRuntime::status)
                .collect()
        };
        let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
        PodStatus {
            phase: Some(phase.to_owned()),
            conditions: Some(vec![
                condition("PodScheduled", true, Some(self.created)),
                condition("Initialized", self.initialized, Some(self.created)),
                condition("ContainersReady", ready, self.ready_since),
                condition("Ready", ready, self.ready_since),
            ]),
            host_ip: Some(NODE_ADDRESS.to_string()),
            host_ips: Some(vec![HostIP {
                ip: NODE_ADDRESS.to_string(),
            }]),
            pod_ips: address.clone().map(|ip| vec![PodIP { ip }]),
            pod_ip: address,
            start_time: Some(Time(self.created)),
            init_container_statuses: some(statuses(true)),
            container_statuses: some(statuses(false)),
            qos_class: Some("BestEffort".to_owned()),
            ..PodStatus::default()
        }
    }
}

impl ContainerRuntime {
    fn status(&self) -> ContainerStatus {
        let last = self.last.as_ref().map(|ended| ContainerState {
            terminated: Some(ended.state()),
            ..ContainerState::default()
        });
        let state = match &self.state {
            State::Waiting { reason, message } => ContainerState {
                waiting: Some(ContainerStateWaiting {
                    reason: Some(reason.clone()),
                    message: (!message.is_empty()).then(|| message.clone()),
                }),
                ..ContainerState::default()
            },
            State::Running { since } => ContainerState {
                running: Some(ContainerStateRunning {
                    started_at: Some(Time(*since)),
                }),
                ..ContainerState::default()
            },
            State::Ended(ended) => ContainerState {
                terminated: Some(ended.state()),
                ..ContainerState::default()
            },
        };
        ContainerStatus {
            name: self.name.clone(),
            image: self.image.clone(),
            image_id: String::new(),
            container_id: self.pid.map(|pid| format!("meltemi://{pid}")),
            ready: self.ready
                || self.role == Role::Init
                    && matches!(&self.state, State::Ended(ended) if ended.code == 0),
            started: Some(self.started),
            restart_count: i32::try_from(self.restarts).unwrap_or(i32::MAX),
            state: Some(state),
            last_state: last,
            ..ContainerStatus::default()
        }
    }
}

impl Ended {
    fn state(&self) -> ContainerStateTerminated {
        ContainerStateTerminated {
            exit_code: self.code,
            signal: self.signal,
            reason: Some(self.reason.clone()),
            message: (!self.message.is_empty()).then(|| self.message.clone()),
            started_at: Some(Time(self.from)),
            finished_at: Some(Time(self.until)),
            container_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(role: Role, state: State, ready: bool) -> ContainerRuntime {
        let (name, image) = ("c".to_owned(), "i".to_owned());
        ContainerRuntime {
            name,
            image,
            role,
            state,
            last: None,
            ready,
            started: ready,
            restarts: 0,
            pid: None,
            trouble: String::new(),
        }
    }

    fn ended(code: i32) -> State {
        let (from, until) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH);
        State::Ended(Ended {
            code,
            signal: None,
            reason: String::new(),
            message: String::new(),
            from,
            until,
        })
    }

    fn check(
        containers: Vec<ContainerRuntime>,
        initialized: bool,
        gone: bool,
        phase: &str,
        ready: bool,
    ) {
        let runtime = PodRuntime {
            address: None,
            created: Timestamp::UNIX_EPOCH,
            containers,
            initialized,
            gone,
            ready_since: None,
            events: Vec::new(),
        };
        assert_eq!((runtime.phase(), runtime.is_ready()), (phase, ready));
    }

    #[test]
    fn restarts_are_counted_when_they_begin() {
        let State::Ended(end) = ended(3) else {
            panic!("an end")
        };
        let created = State::Waiting {
            reason: "ContainerCreating".to_owned(),
            message: String::new(),
        };
        let mut container = container(Role::Main, created, false);
        container.begins(1, Timestamp::UNIX_EPOCH);
        assert_eq!(container.restarts, 0);
        // The first restart comes at once, the second after a pause.
        container.ends(end.clone());
        container.will_restart(Duration::ZERO);
        assert_eq!((container.restarts, container.next_restarts()), (0, 1));
        container.begins(2, Timestamp::UNIX_EPOCH);
        assert_eq!(container.restarts, 1);
        container.ends(end);
        container.will_restart(Duration::from_secs(10));
        let status = container.status();
        let waiting = status.state.and_then(|state| state.waiting).unwrap();
        assert_eq!(
            (waiting.reason.as_deref(), status.restart_count),
            (Some(CRASH_LOOP), 1)
        );
        container.begins(3, Timestamp::UNIX_EPOCH);
        assert_eq!(container.restarts, 2);
    }

    #[test]
    fn phases() {
        let running = || State::Running {
            since: Timestamp::UNIX_EPOCH,
        };
        let waiting = || State::Waiting {
            reason: "PodInitializing".into(),
            message: String::new(),
        };
        check(
            vec![container(Role::Main, waiting(), false)],
            false,
            false,
            "Pending",
            false,
        );
        check(
            vec![container(Role::Main, waiting(), false)],
            true,
            false,
            "Pending",
            false,
        );
        check(
            vec![container(Role::Main, running(), true)],
            true,
            false,
            "Running",
            true,
        );
        let sidecar = || container(Role::Sidecar, running(), false);
        check(
            vec![sidecar(), container(Role::Main, running(), true)],
            true,
            false,
            "Running",
            false,
        );
        check(
            vec![container(Role::Main, ended(0), false)],
            true,
            true,
            "Succeeded",
            false,
        );
        check(
            vec![container(Role::Main, ended(1), false)],
            true,
            true,
            "Failed",
            false,
        );
        check(
            vec![
                container(Role::Init, ended(1), false),
                container(Role::Main, waiting(), false),
            ],
            false,
            true,
            "Failed",
            false,
        );
    }

    #[test]
    fn a_container_that_is_not_ready_says_all_that_is_known() {
        let check = |state: State, last: Option<i32>, trouble: &str, expected: &str| {
            let at = Timestamp::UNIX_EPOCH;
            let container = ContainerRuntime {
                last: last.map(|code| Ended {
                    code,
                    signal: None,
                    reason: "Error".to_owned(),
                    message: String::new(),
                    from: at,
                    until: at,
                }),
                trouble: trouble.to_owned(),
                ..container(Role::Main, state, false)
            };
            assert_eq!(container.why_not_ready(), expected);
        };
        let waiting = |message: &str| State::Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: message.to_owned(),
        };
        check(
            waiting("back-off 10s"),
            Some(3),
            "Liveness probe failed: refused",
            "c: CrashLoopBackOff: back-off 10s: it exited with 3 before: Liveness probe failed: refused",
        );
        let since = Timestamp::UNIX_EPOCH;
        check(
            State::Running { since },
            None,
            "Readiness probe failed: refused",
            "c: running, not ready: Readiness probe failed: refused",
        );
        check(
            State::Running { since },
            Some(1),
            "",
            "c: running, not ready",
        );
    }
}
