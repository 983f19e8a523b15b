//! What users ask of the cluster.

use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Service};
use meltemi_api::{Kind, ObjectKey, Scope};
use meltemi_core::Diagnostic;
use meltemi_core::names::{ISTIO_SYSTEM, ISTIOD};
use meltemi_inject::annotation;
use serde_json::{Value, json};

use super::{Cluster, pod_key};
use crate::controller;
use crate::network::PodNetwork;
use crate::pod::worker::Shared;
use crate::store::display;
use crate::wire::{Change, Kill, Mark, MarkField, Progress, Report, Restart, Scale};

/// What was asked about is not there, in kubectl's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotFound {
    #[error("the lab has no resource type {0:?}")]
    Kind(String),
    #[error("{0} not found")]
    Object(String),
    #[error("{0} has no running pod")]
    NoPod(String),
    #[error("{0}")]
    Failed(String),
}

/// A running pod that a command is about.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) shared: Arc<Shared>,
    pub(crate) network: Option<Arc<PodNetwork>>,
    pub(crate) container: String,
}

pub(crate) fn kind(name: &str) -> Result<Kind, NotFound> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.split('.').next().unwrap_or_default();
    let short = match bare {
        "po" => "pod",
        "svc" => "service",
        "deploy" => "deployment",
        "rs" => "replicaset",
        "sts" => "statefulset",
        "ns" => "namespace",
        "cm" => "configmap",
        "sa" => "serviceaccount",
        "vs" => "virtualservice",
        "gw" => "gateway",
        "dr" => "destinationrule",
        "pa" => "peerauthentication",
        "se" => "serviceentry",
        "we" => "workloadentry",
        other => other,
    };
    let matches = |kind: &&Kind| {
        let known = kind.as_str().to_ascii_lowercase();
        known == short
            || format!("{known}s") == short
            || format!("{known}es") == short
            || known.replace('y', "ies") == short
    };
    Kind::ALL
        .iter()
        .find(matches)
        .copied()
        .ok_or_else(|| NotFound::Kind(name.to_owned()))
}

impl Cluster {
    /// Deletes what the documents of one file name; a grace period counts for pods.
    pub(crate) fn delete(
        &mut self,
        namespace: &str,
        file: &str,
        text: &str,
        grace: Option<u64>,
    ) -> Report {
        let parsed = meltemi_api::parse(file, text, namespace);
        let mut report = Report {
            diagnostics: parsed.diagnostics,
            ..Report::default()
        };
        let keys: Vec<ObjectKey> = parsed
            .objects
            .iter()
            .map(|object| object.key())
            .chain(parsed.rejected)
            .collect();
        for key in keys {
            match self.delete_one(&key, grace) {
                Ok(change) => report.results.push(change),
                Err(error) => {
                    report.diagnostics.push(
                        Diagnostic::error("MEL0502", error.to_string()).object(key.reference()),
                    );
                    report.rejected += 1;
                }
            }
        }
        report
    }

    pub(crate) fn delete_one(
        &mut self,
        key: &ObjectKey,
        grace: Option<u64>,
    ) -> Result<Change, NotFound> {
        if self.store.get(key).is_none() {
            return Err(NotFound::Object(display(key)));
        }
        if key.kind == Kind::Namespace {
            let inside: Vec<ObjectKey> = self
                .store
                .all()
                .filter(|(other, _)| other.namespace == key.name)
                .map(|(other, _)| other.clone())
                .collect();
            for object in inside {
                self.delete_object(&object, grace);
            }
        }
        self.delete_object(key, grace);
        Ok(change(key, "deleted"))
    }

    pub(crate) fn mark(&mut self, mark: &Mark) -> Result<Report, NotFound> {
        let kind = kind(&mark.kind)?;
        let namespace = if kind.scope() == Scope::Cluster {
            ""
        } else {
            &mark.namespace
        };
        let key = ObjectKey::new(kind, namespace, &mark.name);
        if self.store.get(&key).is_none() {
            return Err(NotFound::Object(display(&key)));
        }
        let changed = self.store.edit(&key, |object| {
            let present = &mut object["metadata"][mark.field.as_str()];
            for (name, value) in &mark.values {
                match value {
                    Some(value) => present[name] = json!(value),
                    None => drop(present.as_object_mut().and_then(|all| all.remove(name))),
                }
            }
        });
        let removed = mark.values.values().all(Option::is_none);
        let action = match (mark.field, changed, removed) {
            (MarkField::Labels, false, _) => "not labeled",
            (MarkField::Labels, true, true) => "unlabeled",
            (MarkField::Labels, true, false) => "labeled",
            (MarkField::Annotations, ..) => "annotated",
        };
        Ok(Report {
            results: vec![change(&key, action)],
            ..Report::default()
        })
    }

    /// As `kubectl rollout restart`: an annotation of the template makes it another template.
    pub(crate) fn restart(&mut self, restart: &Restart) -> Result<Report, NotFound> {
        let kind = kind(&restart.kind)?;
        let key = ObjectKey::new(kind, &restart.namespace, &restart.name);
        if !matches!(kind, Kind::Deployment | Kind::StatefulSet) {
            return Err(NotFound::Failed(format!(
                "{} restarting is not supported",
                display(&key)
            )));
        }
        let stamp = jiff::Timestamp::now().to_string();
        let changed = self.store.edit(&key, |object| {
            object["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = json!(stamp);
        });
        if !changed {
            return Err(NotFound::Object(display(&key)));
        }
        Ok(Report {
            results: vec![change(&key, "restarted")],
            ..Report::default()
        })
    }

    pub(crate) fn scale(&mut self, scale: &Scale) -> Result<Report, NotFound> {
        let kind = kind(&scale.kind)?;
        let key = ObjectKey::new(kind, &scale.namespace, &scale.name);
        if !matches!(
            kind,
            Kind::Deployment | Kind::StatefulSet | Kind::ReplicaSet
        ) {
            return Err(NotFound::Failed(format!("{} has no scale", display(&key))));
        }
        if self.store.get(&key).is_none() {
            return Err(NotFound::Object(display(&key)));
        }
        self.store.edit(&key, |object| {
            object["spec"]["replicas"] = json!(scale.replicas);
        });
        Ok(Report {
            results: vec![change(&key, "scaled")],
            ..Report::default()
        })
    }

    pub(crate) fn objects(&self, kind: Kind, namespace: Option<&str>) -> Vec<Value> {
        let in_namespace =
            |key: &ObjectKey| namespace.is_none_or(|namespace| key.namespace == namespace);
        self.store
            .of_kind(kind)
            .filter(|(key, _)| in_namespace(key))
            .map(|(_, object)| object.clone())
            .collect()
    }

    pub(crate) fn progress(&self) -> Progress {
        let mut progress = Progress {
            revision: self.store.revision(),
            ..Progress::default()
        };
        for (key, pod) in self.store.list::<Pod>(Kind::Pod) {
            if is_over(&pod) {
                continue;
            }
            progress.pods_total += 1;
            if controller::is_ready(&pod) {
                progress.pods_ready += 1;
            } else {
                progress
                    .waiting
                    .push(format!("{}: {}", pod_key(&key), self.why_not_ready(&key)));
            }
        }
        for kind in [Kind::Deployment, Kind::StatefulSet] {
            for (key, object) in self.store.of_kind(kind) {
                let number = |path: &str| object.pointer(path).and_then(Value::as_u64);
                let desired = number("/spec/replicas").unwrap_or(1);
                let updated = number("/status/updatedReplicas").unwrap_or(0);
                let (all, ready) = (
                    number("/status/replicas").unwrap_or(0),
                    number("/status/readyReplicas").unwrap_or(0),
                );
                if updated < desired || all != desired || ready < desired {
                    progress.waiting.push(format!(
                        "{}/{}: {updated} of {desired} updated, {ready} ready",
                        key.namespace,
                        display(key)
                    ));
                }
            }
        }
        let jobs = self.store.of_kind(Kind::Job);
        progress.waiting.extend(jobs.filter_map(|(key, job)| {
            let message = failure_of(job)?;
            Some(format!("{}/{}: {message}", key.namespace, display(key)))
        }));
        progress.waiting.extend(
            self.failures()
                .map(|(key, error)| format!("{}/{}: {error}", key.namespace, display(key))),
        );
        progress.ready = progress.waiting.is_empty();
        progress
    }

    /// Whether a file of the control plane's folder is the lab's own.
    pub(crate) fn wrote(&self, file: &Path) -> bool {
        let name = file.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| self.mirror.wrote(name))
    }

    /// Whether any of the objects that were changed once is still there.
    pub(crate) fn has_any(&self, changes: &[Change]) -> bool {
        let key = |change: &Change| {
            let (resource, name) = change.object.split_once('/')?;
            Some(ObjectKey::new(
                kind(resource).ok()?,
                &change.namespace,
                name,
            ))
        };
        let mut keys = changes.iter().filter_map(key);
        keys.any(|key| self.store.get(&key).is_some())
    }

    fn why_not_ready(&self, key: &ObjectKey) -> String {
        use crate::pod::status::State;
        let Some(handle) = self.pods.get(&pod_key(key)) else {
            return "Pending".to_owned();
        };
        let runtime = handle.runtime.borrow();
        let Some(container) = runtime.containers.iter().find(|container| {
            !container.ready && !matches!(&container.state, State::Ended(ended) if ended.code == 0)
        }) else {
            return runtime.phase().to_owned();
        };
        container.why_not_ready()
    }

    pub(crate) fn control_plane(&self) -> Option<(&String, &crate::pod::worker::PodHandle)> {
        let prefix = format!("{ISTIO_SYSTEM}/{ISTIOD}-");
        self.pods
            .iter()
            .find(|(name, handle)| name.starts_with(&prefix) && !handle.runtime.borrow().gone)
    }

    /// Finds the pod that `POD`, `pod/POD`, `deploy/NAME`, `svc/NAME` and so on mean, and a container of it.
    pub(crate) fn target(
        &self,
        namespace: &str,
        target: &str,
        container: Option<&str>,
    ) -> Result<Target, NotFound> {
        let (kind_name, name) = target.split_once('/').unwrap_or(("pod", target));
        let kind = kind(kind_name)?;
        let key = ObjectKey::new(kind, namespace, name);
        let object = self
            .store
            .get(&key)
            .ok_or_else(|| NotFound::Object(display(&key)))?;
        let pod = match kind {
            Kind::Pod => key.clone(),
            _ => self
                .pod_behind(&key, object)
                .ok_or_else(|| NotFound::NoPod(display(&key)))?,
        };
        let handle = self
            .pods
            .get(&pod_key(&pod))
            .ok_or_else(|| NotFound::NoPod(display(&key)))?;
        let pod = self.store.typed::<Pod>(&pod).unwrap_or_default();
        let annotation = |name| pod.metadata.annotations.as_ref()?.get(name).cloned();
        let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
        if let Some(container) = container {
            let init = pod
                .spec
                .iter()
                .flat_map(|spec| spec.init_containers.iter().flatten());
            if !containers
                .clone()
                .chain(init)
                .any(|known| known.name == container)
            {
                return Err(NotFound::Failed(format!(
                    "container {container} is not valid for {}",
                    display(&key)
                )));
            }
        }
        let chosen = container
            .map(str::to_owned)
            .or_else(|| annotation(annotation::DEFAULT_CONTAINER))
            .or_else(|| containers.map(|container| container.name.clone()).next())
            .unwrap_or_default();
        Ok(Target {
            shared: Arc::clone(&handle.shared),
            network: handle.network(),
            container: chosen,
        })
    }

    /// The names of a target's containers, those that run first before the others.
    pub(crate) fn containers(
        &self,
        namespace: &str,
        target: &str,
    ) -> Result<Vec<String>, NotFound> {
        let target = self.target(namespace, target, None)?;
        let runtime = target.shared.runtime();
        Ok(runtime.containers.into_iter().map(|one| one.name).collect())
    }

    /// A ready pod, else any, that an owner or Service stands for.
    fn pod_behind(&self, key: &ObjectKey, object: &Value) -> Option<ObjectKey> {
        let selector = if key.kind == Kind::Service {
            "/spec/selector"
        } else {
            "/spec/selector/matchLabels"
        };
        let mut labels = object
            .pointer(selector)
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        if key.kind == Kind::Job {
            labels.insert("job-name".to_owned(), json!(key.name));
        }
        if labels.is_empty() {
            return None;
        }
        let mut chosen = self.store.list::<Pod>(Kind::Pod);
        chosen.retain(|(pod_key, pod)| {
            let label = |name| pod.metadata.labels.as_ref()?.get(name).map(String::as_str);
            pod_key.namespace == key.namespace
                && pod.metadata.deletion_timestamp.is_none()
                && labels
                    .iter()
                    .all(|(name, value)| label(name) == value.as_str())
        });
        chosen.sort_by_key(|(_, pod)| !controller::is_ready(pod));
        chosen.into_iter().next().map(|(key, _)| key)
    }

    pub(crate) fn kill(&self, kill: &Kill) -> Result<(), NotFound> {
        let failed = |error: anyhow::Error| NotFound::Failed(format!("{error:#}"));
        let hold = Duration::from_millis(kill.down_millis);
        if kill.target == "control-plane" {
            let (_, handle) = self
                .control_plane()
                .ok_or_else(|| NotFound::NoPod("control-plane".to_owned()))?;
            return handle.kill("discovery", hold).map_err(failed);
        }
        let target = self.target(&kill.namespace, &kill.target, kill.container.as_deref())?;
        let handle = self
            .pods
            .values()
            .find(|handle| Arc::ptr_eq(&handle.shared, &target.shared));
        let handle = handle.ok_or_else(|| NotFound::NoPod(kill.target.clone()))?;
        handle.kill(&target.container, hold).map_err(failed)
    }

    /// Where `[KIND/]NAME[.NAMESPACE]` and a port of it lead. As kubectl's port-forward: into a pod, on its loopback, past its
    /// sidecar; only a Service whose endpoints are no pods is called from the node.
    pub(crate) fn forward_target(
        &self,
        namespace: &str,
        target: &str,
        port: u16,
    ) -> Result<Forward, NotFound> {
        let (kind, name) = match target.split_once('/') {
            Some((kind_name, name)) => (Some(kind(kind_name)?), name),
            None => (None, target),
        };
        let (name, namespace) = match name.split_once('.') {
            Some((bare, other)) => (bare, other.split('.').next().unwrap_or(other)),
            None => (name, namespace),
        };
        let key = ObjectKey::new(kind.unwrap_or(Kind::Service), namespace, name);
        let service = self.store.typed::<Service>(&key);
        match service.filter(|_| key.kind == Kind::Service) {
            Some(service) => self.forward_to_service(&key, &service, port),
            None if kind == Some(Kind::Service) => Err(NotFound::Object(display(&key))),
            None => {
                let kind = kind.map_or("pod", |kind| kind.as_str());
                let found = self.target(namespace, &format!("{kind}/{name}"), None)?;
                let network = found
                    .network
                    .ok_or_else(|| NotFound::NoPod(display(&key)))?;
                Ok(Forward::Pod(network, port))
            }
        }
    }

    fn forward_to_service(
        &self,
        key: &ObjectKey,
        service: &Service,
        port: u16,
    ) -> Result<Forward, NotFound> {
        let spec = service.spec.clone().unwrap_or_default();
        let mut ports = spec.ports.iter().flatten();
        let index = ports.position(|own| own.port == i32::from(port));
        let index = index.ok_or_else(|| {
            let message = format!("{} does not have a service port {port}", display(key));
            NotFound::Failed(message)
        })?;
        let object = self.store.get(key).cloned().unwrap_or_default();
        let Some(pod_name) = self.pod_behind(key, &object) else {
            let address = spec.cluster_ip.and_then(|address| address.parse().ok());
            let from_node = |address| Forward::Node(SocketAddrV4::new(address, port));
            // A selector that selects nothing is no way either.
            let address = address.filter(|_| spec.selector.is_none_or(|labels| labels.is_empty()));
            return address
                .map(from_node)
                .ok_or_else(|| NotFound::NoPod(display(key)));
        };
        let no_pod = || NotFound::NoPod(display(key));
        let pod = self.store.typed::<Pod>(&pod_name).ok_or_else(no_pod)?;
        let backends = controller::backends(service, &[pod]).unwrap_or_default();
        let target = backends
            .first()
            .and_then(|backend| *backend.ports.get(index)?);
        let handle = self.pods.get(&pod_key(&pod_name)).ok_or_else(no_pod)?;
        let network = handle.network().ok_or_else(no_pod)?;
        Ok(Forward::Pod(network, target.ok_or_else(no_pod)?))
    }
}

/// A pod that nobody waits for: it has done its work or goes away. Of a Job's attempts the Job itself tells what came of
/// them (Kubernetes, "Pod backoff failure policy").
fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let mut owners = pod.metadata.owner_references.iter().flatten();
    pod.metadata.deletion_timestamp.is_some()
        || phase == Some("Succeeded")
        || phase == Some("Failed") && owners.any(|owner| owner.kind == "Job")
}

/// Why a Job has failed for good.
fn failure_of(job: &Value) -> Option<String> {
    let conditions = job.pointer("/status/conditions")?.as_array()?;
    let failed = conditions
        .iter()
        .find(|condition| condition["type"] == "Failed" && condition["status"] == "True")?;
    let message = failed["message"].as_str().unwrap_or("the Job failed");
    Some(message.to_owned())
}

/// Where a forwarded connection goes.
#[derive(Clone, Debug)]
pub(crate) enum Forward {
    /// A port on the loopback of a pod.
    Pod(Arc<PodNetwork>, u16),
    /// An address, from the node.
    Node(SocketAddrV4),
}

pub(super) fn change(key: &ObjectKey, action: &str) -> Change {
    Change {
        object: display(key),
        namespace: key.namespace.clone(),
        action: action.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_attempt_of_a_job_is_not_waited_for() {
        let over = |phase: &str, owner: &str| {
            let owners = json!([{"apiVersion": "v1", "kind": owner, "name": "o", "uid": "u"}]);
            let pod = json!({"metadata": {"ownerReferences": owners}, "status": {"phase": phase}});
            is_over(&serde_json::from_value(pod).unwrap())
        };
        assert!(over("Failed", "Job") && over("Succeeded", "Job"));
        assert!(!over("Running", "Job") && !over("Failed", "ReplicaSet"));
    }

    #[test]
    fn a_job_is_told_when_it_has_failed_for_good() {
        let job = |conditions: Value| json!({"status": {"failed": 1, "conditions": conditions}});
        assert_eq!(failure_of(&job(json!([]))), None);
        let condition = json!([{"type": "Failed", "status": "True", "message": "backoff limit"}]);
        assert_eq!(
            failure_of(&job(condition)).as_deref(),
            Some("backoff limit")
        );
    }

    #[test]
    fn kinds_by_every_usual_name() {
        for (name, expected) in [
            ("po", Kind::Pod),
            ("pods", Kind::Pod),
            ("deployments.apps", Kind::Deployment),
            ("VirtualService", Kind::VirtualService),
            ("serviceentries", Kind::ServiceEntry),
            ("endpointslices", Kind::EndpointSlice),
        ] {
            assert_eq!(kind(name), Ok(expected), "{name}");
        }
        assert!(kind("gadgets").is_err());
    }
}
