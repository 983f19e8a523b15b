//! What happened to a pod's containers, as a kubelet would tell it in Events.

use jiff::Timestamp;

use super::status::{ContainerRuntime, State};
use crate::wire::Event;

/// The oldest go first.
const LIMIT: usize = 64;

/// Notes what a change of a container tells, if anything; the same again is counted.
pub(crate) fn note(
    events: &mut Vec<Event>,
    before: &ContainerRuntime,
    after: &ContainerRuntime,
    now: Timestamp,
) {
    let Some((is_warning, reason, message)) = of_change(before, after) else {
        return;
    };
    let message = format!("{}: {message}", after.name);
    let same = |event: &&mut Event| event.reason == reason && event.message == message;
    if let Some(event) = events.iter_mut().find(same) {
        event.count += 1;
        event.last = now.to_string();
        return;
    }
    if events.len() == LIMIT {
        events.remove(0);
    }
    events.push(Event {
        is_warning,
        reason: reason.to_owned(),
        message,
        count: 1,
        first: now.to_string(),
        last: now.to_string(),
    });
}

/// Whether it is a warning, a kubelet's word for it, and what it says.
fn of_change(
    before: &ContainerRuntime,
    after: &ContainerRuntime,
) -> Option<(bool, &'static str, String)> {
    if after.trouble != before.trouble && !after.trouble.is_empty() {
        return Some((true, "Unhealthy", after.trouble.clone()));
    }
    if after.state == before.state {
        return None;
    }
    match &after.state {
        State::Running { .. } => Some((false, "Started", "started".to_owned())),
        State::Ended(ended) if ended.code != 0 => {
            Some((true, "Died", format!("exited with {}", ended.code)))
        }
        State::Ended(_) => Some((false, "Completed", "exited with 0".to_owned())),
        State::Waiting { reason, message } => match reason.as_str() {
            "CrashLoopBackOff" => Some((true, "BackOff", "restarting after a pause".to_owned())),
            _ if message.is_empty() => None,
            "ContainerCreating" => Some((true, "FailedMount", message.clone())),
            _ => Some((true, "Failed", message.clone())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::status::Role;

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
            container(waiting("CrashLoopBackOff", "back-off 10s"), ""),
        ];
        let mut events = Vec::new();
        for (before, after) in steps.iter().zip(steps.iter().skip(1)) {
            note(&mut events, before, after, now);
        }
        let told: Vec<String> = events
            .iter()
            .map(|event| format!("{} x{} {}", event.reason, event.count, event.message))
            .collect();
        assert_eq!(
            told,
            [
                "Failed x1 c: no such image",
                "Started x1 c: started",
                "Unhealthy x2 c: Readiness probe failed: refused",
                "BackOff x1 c: restarting after a pause",
            ]
        );
    }

    #[test]
    fn events_are_bounded() {
        let now = Timestamp::UNIX_EPOCH;
        let mut events = Vec::new();
        let before = container(State::Running { since: now }, "");
        for n in 0..LIMIT + 5 {
            let after = container(State::Running { since: now }, &format!("failure {n}"));
            note(&mut events, &before, &after, now);
        }
        assert_eq!(events.len(), LIMIT);
        assert_eq!(events[0].message, "c: failure 5");
    }
}
