//! What happened to a pod and its containers, as a kubelet tells it in Events.

use jiff::Timestamp;

use super::status::{CRASH_LOOP, ContainerRuntime, Role, State};

/// The oldest go first.
const LIMIT: usize = 64;
/// Who tells of what happens on a node, and of where a pod runs.
pub(crate) const KUBELET: &str = "kubelet";
pub(crate) const SCHEDULER: &str = "default-scheduler";

/// Something that happened to a pod, to a container of it, or to a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) is_warning: bool,
    /// Who tells it.
    pub(crate) from: &'static str,
    /// One word, as a kubelet's.
    pub(crate) reason: &'static str,
    /// The part of the object that it is about, such as `spec.containers{app}`; empty for all of it.
    pub(crate) field: String,
    pub(crate) message: String,
    pub(crate) count: u32,
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
}

/// Something to tell, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    is_warning: bool,
    from: &'static str,
    reason: &'static str,
    field: String,
    message: String,
}

impl Told {
    pub(crate) fn normal(from: &'static str, reason: &'static str, message: String) -> Self {
        Self {
            is_warning: false,
            from,
            reason,
            field: String::new(),
            message,
        }
    }

    pub(crate) fn warning(from: &'static str, reason: &'static str, message: String) -> Self {
        Self {
            is_warning: true,
            ..Self::normal(from, reason, message)
        }
    }

    fn about(mut self, container: &ContainerRuntime) -> Self {
        let list = match container.role {
            Role::Main => "containers",
            Role::Init | Role::Sidecar => "initContainers",
        };
        self.field = format!("spec.{list}{{{}}}", container.name);
        self
    }
}

/// Notes an event; the same again is counted.
pub(crate) fn note(events: &mut Vec<Event>, told: Told, now: Timestamp) {
    let same = |event: &&mut Event| {
        event.reason == told.reason && event.message == told.message && event.field == told.field
    };
    if let Some(event) = events.iter_mut().find(same) {
        event.count += 1;
        event.last = now;
        return;
    }
    if events.len() == LIMIT {
        events.remove(0);
    }
    events.push(Event {
        is_warning: told.is_warning,
        from: told.from,
        reason: told.reason,
        field: told.field,
        message: told.message,
        count: 1,
        first: now,
        last: now,
    });
}

/// What a kubelet tells of a change of a container, if anything.
pub(crate) fn of_change(before: &ContainerRuntime, after: &ContainerRuntime) -> Vec<Told> {
    let name = &after.name;
    let normal = |reason, message| Told::normal(KUBELET, reason, message).about(after);
    let warning = |reason, message| Told::warning(KUBELET, reason, message).about(after);
    if after.trouble != before.trouble && !after.trouble.is_empty() {
        let mut told = vec![warning("Unhealthy", after.trouble.clone())];
        if after.trouble.starts_with("Liveness") {
            let message = format!("Container {name} failed liveness probe, will be restarted");
            told.push(normal("Killing", message));
        }
        return told;
    }
    if after.state == before.state {
        return Vec::new();
    }
    let image = &after.image;
    match &after.state {
        State::Running { .. } => vec![
            normal(
                "Pulled",
                format!("Container image \"{image}\" already present on machine"),
            ),
            normal("Created", format!("Created container: {name}")),
            normal("Started", format!("Started container {name}")),
        ],
        // Its status tells how it ended, and what becomes of it is an event of its own.
        State::Ended(_) => Vec::new(),
        State::Waiting { reason, message } => match reason.as_str() {
            CRASH_LOOP => {
                let message = format!("Back-off restarting failed container {name}");
                vec![warning("BackOff", message)]
            }
            _ if message.is_empty() => Vec::new(),
            "ErrImagePull" => vec![
                warning(
                    "Failed",
                    format!("Failed to pull image \"{image}\": {message}"),
                ),
                warning("Failed", format!("Error: {reason}")),
            ],
            _ => vec![warning("Failed", format!("Error: {message}"))],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: State, trouble: &str) -> ContainerRuntime {
        ContainerRuntime {
            name: "c".to_owned(),
            image: "i".to_owned(),
            role: Role::Main,
            state,
            last: None,
            ready: false,
            started: false,
            restarts: 0,
            pid: None,
            trouble: trouble.to_owned(),
        }
    }

    #[test]
    fn changes_become_events_and_repetitions_are_counted() {
        let now = Timestamp::UNIX_EPOCH;
        let waiting = |reason: &str, message: &str| State::Waiting {
            reason: reason.to_owned(),
            message: message.to_owned(),
        };
        let running = || State::Running { since: now };
        let steps = [
            container(waiting("PodInitializing", ""), ""),
            container(waiting("ErrImagePull", "no such image"), ""),
            container(running(), ""),
            container(running(), "Readiness probe failed: refused"),
            container(running(), ""),
            container(running(), "Readiness probe failed: refused"),
            container(waiting(CRASH_LOOP, "back-off 10s"), ""),
            container(
                waiting("CreateContainerConfigError", "configmap \"m\" not found"),
                "",
            ),
        ];
        let mut events = Vec::new();
        for (before, after) in steps.iter().zip(steps.iter().skip(1)) {
            for told in of_change(before, after) {
                note(&mut events, told, now);
            }
        }
        let told: Vec<String> = events
            .iter()
            .map(|event| format!("{} x{} {}", event.reason, event.count, event.message))
            .collect();
        assert_eq!(
            told,
            [
                "Failed x1 Failed to pull image \"i\": no such image",
                "Failed x1 Error: ErrImagePull",
                "Pulled x1 Container image \"i\" already present on machine",
                "Created x1 Created container: c",
                "Started x1 Started container c",
                "Unhealthy x2 Readiness probe failed: refused",
                "BackOff x1 Back-off restarting failed container c",
                "Failed x1 Error: configmap \"m\" not found",
            ]
        );
        assert!(
            events
                .iter()
                .all(|event| event.field == "spec.containers{c}")
        );
    }

    #[test]
    fn a_failed_liveness_probe_kills() {
        let running = || State::Running {
            since: Timestamp::UNIX_EPOCH,
        };
        let told = of_change(
            &container(running(), ""),
            &container(running(), "Liveness probe failed: refused"),
        );
        let reasons: Vec<&str> = told.iter().map(|told| told.reason).collect();
        assert_eq!(reasons, ["Unhealthy", "Killing"]);
    }

    #[test]
    fn events_are_bounded() {
        let mut events = Vec::new();
        for n in 0..LIMIT + 5 {
            let told = Told::warning(KUBELET, "Unhealthy", format!("failure {n}"));
            note(&mut events, told, Timestamp::UNIX_EPOCH);
        }
        assert_eq!(events.len(), LIMIT);
        assert_eq!(events[0].message, "failure 5");
    }
}
