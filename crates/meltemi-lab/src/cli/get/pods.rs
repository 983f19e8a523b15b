//! The columns of pods, as kubectl's printer fills them (kubernetes `pkg/printers/internalversion`, `printPod`).

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{or, text};
use crate::cli::table::age;

fn items<'a>(pod: &'a Value, path: &str) -> impl DoubleEndedIterator<Item = &'a Value> + Clone {
    let list = pod.pointer(path).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default().iter()
}

fn init_statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    items(pod, "/status/initContainerStatuses")
}

fn main_statuses(pod: &Value) -> impl DoubleEndedIterator<Item = &Value> + Clone {
    items(pod, "/status/containerStatuses")
}

/// Init containers that stay beside the containers (restartPolicy Always).
fn is_sidecar(pod: &Value, name: &Value) -> bool {
    items(pod, "/spec/initContainers")
        .any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
}

fn sidecars(pod: &Value) -> impl Iterator<Item = &Value> {
    init_statuses(pod).filter(|status| is_sidecar(pod, &status["name"]))
}

/// kubectl counts containers and sidecars.
pub(super) fn ready(pod: &Value) -> String {
    let all = main_statuses(pod).chain(sidecars(pod));
    let ready = all.filter(|status| status["ready"] == true).count();
    let sidecars = items(pod, "/spec/initContainers")
        .filter(|container| container["restartPolicy"] == "Always")
        .count();
    let total = items(pod, "/spec/containers").count() + sidecars;
    format!("{ready}/{total}")
}

/// The restarts of what runs, or of what is still to be done before it, with the age of the last.
pub(super) fn restarts(pod: &Value) -> String {
    restarts_at(pod, Timestamp::now())
}

fn restarts_at(pod: &Value, now: Timestamp) -> String {
    let counted: Vec<&Value> = match initializing(pod) {
        Some(_) => init_statuses(pod).collect(),
        None => sidecars(pod).chain(main_statuses(pod)).collect(),
    };
    let count: u64 = counted
        .iter()
        .filter_map(|status| status["restartCount"].as_u64())
        .sum();
    let ends = counted.iter().filter_map(|status| {
        let end = text(status, "/lastState/terminated/finishedAt");
        end.parse::<Timestamp>().ok()
    });
    match ends.max() {
        Some(end) if count > 0 => {
            format!("{count} ({} ago)", age(now.as_second() - end.as_second()))
        }
        _ => count.to_string(),
    }
}

/// What of the init containers holds a pod up; `None` once they have done their part.
fn initializing(pod: &Value) -> Option<String> {
    let total = items(pod, "/spec/initContainers").count();
    for (done, status) in init_statuses(pod).enumerate() {
        let state = &status["state"];
        let is_started = is_sidecar(pod, &status["name"]) && status["started"] == true;
        if state["terminated"]["exitCode"] == 0 || is_started {
            continue;
        }
        let reason = ended(state).or_else(|| waits(state).filter(|why| why != "PodInitializing"));
        return Some(reason.map_or_else(
            || format!("Init:{done}/{total}"),
            |reason| format!("Init:{reason}"),
        ));
    }
    None
}

/// The STATUS column: what holds the pod up, else the phase.
pub(super) fn status(pod: &Value) -> String {
    let phase = or(text(pod, "/status/phase"), "Pending");
    let is_over = phase == "Succeeded" || phase == "Failed";
    if !pod["metadata"]["deletionTimestamp"].is_null() && !is_over {
        return "Terminating".to_owned();
    }
    if let Some(init) = initializing(pod) {
        return init;
    }
    // The first container that has something to say is heard.
    let of_container = |status: &Value| waits(&status["state"]).or_else(|| ended(&status["state"]));
    let reason = main_statuses(pod).find_map(of_container);
    let runs = |status: &Value| status["ready"] == true && !status["state"]["running"].is_null();
    match reason {
        Some(reason) if reason == "Completed" && main_statuses(pod).any(runs) => {
            let is_ready = items(pod, "/status/conditions")
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            if is_ready { "Running" } else { "NotReady" }.to_owned()
        }
        Some(reason) => reason,
        None => phase,
    }
}

fn waits(state: &Value) -> Option<String> {
    let reason = text(state, "/waiting/reason");
    (!reason.is_empty()).then_some(reason)
}

fn ended(state: &Value) -> Option<String> {
    let ended = state.get("terminated")?;
    let reason = text(ended, "/reason");
    Some(match ended["signal"].as_i64() {
        _ if !reason.is_empty() => reason,
        Some(signal) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", ended["exitCode"]),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(init: Value, container: Value) -> Value {
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "initContainers": [{"name": "init"}, {"name": "istio-proxy", "restartPolicy": "Always"}],
                "containers": [{"name": "app"}],
            },
            "status": {"phase": "Running", "initContainerStatuses": init, "containerStatuses": [container]},
        })
    }

    fn done() -> Value {
        json!({"name": "init", "ready": true, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}})
    }

    fn sidecar() -> Value {
        json!({"name": "istio-proxy", "ready": true, "started": true, "restartCount": 2, "state": {"running": {}}})
    }

    fn waiting(name: &str, reason: &str) -> Value {
        json!({"name": name, "ready": false, "state": {"waiting": {"reason": reason}}})
    }

    fn check(pod: &Value, expected: [&str; 3]) {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(
            [ready(pod), status(pod), restarts_at(pod, now)],
            expected,
            "{pod}"
        );
    }

    #[test]
    fn pods_show_what_kubectl_shows() {
        let app =
            json!({"name": "app", "ready": true, "restartCount": 1, "state": {"running": {}}});
        let running = pod(json!([done(), sidecar()]), app);
        check(&running, ["2/2", "Running", "3"]);

        let ended = json!({"terminated": {"exitCode": 3, "finishedAt": "2026-01-01T00:00:30Z"}});
        let mut crashing = waiting("app", "CrashLoopBackOff");
        crashing["restartCount"] = json!(4);
        crashing["lastState"] = ended.clone();
        let broken = pod(json!([done(), sidecar()]), crashing);
        check(&broken, ["1/2", "CrashLoopBackOff", "6 (30s ago)"]);

        let terminated = json!({"name": "app", "ready": false, "state": ended});
        let killed = pod(json!([done(), sidecar()]), terminated);
        check(&killed, ["1/2", "ExitCode:3", "2"]);
    }

    #[test]
    fn pods_that_have_not_begun_say_what_holds_them_up() {
        let app = || waiting("app", "PodInitializing");
        let held = |init: Value| {
            pod(
                json!([init, waiting("istio-proxy", "PodInitializing")]),
                app(),
            )
        };
        let running = json!({"name": "init", "state": {"running": {}}});
        check(&held(running), ["0/2", "Init:0/2", "0"]);
        // A volume that is not there holds up every container.
        check(
            &held(waiting("init", "PodInitializing")),
            ["0/2", "Init:0/2", "0"],
        );
        check(
            &held(waiting("init", "CrashLoopBackOff")),
            ["0/2", "Init:CrashLoopBackOff", "0"],
        );
        check(
            &held(waiting("init", "ErrImagePull")),
            ["0/2", "Init:ErrImagePull", "0"],
        );
        let failed =
            json!({"name": "init", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
        check(&held(failed), ["0/2", "Init:Error", "0"]);
        let unready = json!([done(), waiting("istio-proxy", "PodInitializing")]);
        check(&pod(unready, app()), ["0/2", "Init:1/2", "0"]);

        let mut plain =
            json!({"spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Pending"}});
        plain["status"]["containerStatuses"] = json!([waiting("app", "ContainerCreating")]);
        check(&plain, ["0/1", "ContainerCreating", "0"]);
        plain["status"]["containerStatuses"] =
            json!([waiting("app", "CreateContainerConfigError")]);
        check(&plain, ["0/1", "CreateContainerConfigError", "0"]);
        plain["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        check(&plain, ["0/1", "Terminating", "0"]);
    }
}
