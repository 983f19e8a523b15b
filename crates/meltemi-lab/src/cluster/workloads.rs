//! The controllers of Deployments, ReplicaSets, StatefulSets and Jobs, over the pure decisions of [`crate::controller`].

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_api::k8s::with_volumes_of_claims;
use meltemi_api::{Kind, ObjectKey};
use serde_json::{Value, json};

use super::admission::{owner, pod_of};
use super::{Cluster, pod_key};
use crate::controller::{self, Replica, Rollout, Strategy, rollout, share, suffix, template_hash};
use crate::store::{Typed, now};

const POD_TEMPLATE_HASH: &str = "pod-template-hash";
const REVISION_HASH: &str = "controller-revision-hash";
/// Kubernetes' default `backoffLimit`.
const BACKOFF_LIMIT: i32 = 6;

impl Cluster {
    pub(super) fn deployments(&mut self) -> bool {
        let deployments = self.store.list::<Deployment>(Kind::Deployment);
        deployments
            .iter()
            .fold(false, |changed, (key, deployment)| {
                self.deployment(key, deployment) || changed
            })
    }

    fn deployment(&mut self, key: &ObjectKey, deployment: &Deployment) -> bool {
        let Some(spec) = &deployment.spec else {
            return false;
        };
        let desired = count(spec.replicas);
        let hash = template_hash(&spec.template);
        let current = ObjectKey::new(
            Kind::ReplicaSet,
            &key.namespace,
            &format!("{}-{hash}", key.name),
        );
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut changed = false;
        if self.store.get(&current).is_none() {
            let mut template = spec.template.clone();
            template
                .metadata
                .get_or_insert_default()
                .labels
                .get_or_insert_default()
                .insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
            let mut selector = spec.selector.clone();
            selector
                .match_labels
                .get_or_insert_default()
                .insert(POD_TEMPLATE_HASH.to_owned(), hash.clone());
            let set = json!({
                "metadata": {"labels": template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
                             "ownerReferences": [owner(key, uid)]},
                "spec": {"replicas": 0, "selector": selector, "template": template},
            });
            changed |= self.store.put(&current, &set);
        }
        let sets = self.owned(Kind::ReplicaSet, uid, |set: &ReplicaSet| &set.metadata);
        let mut members: Vec<(ObjectKey, bool, Arc<Pod>)> = Vec::new();
        for (set_key, set) in &sets {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            let pods = self.owned(Kind::Pod, uid, |pod: &Pod| &pod.metadata);
            members.extend(
                pods.into_iter()
                    .map(|(pod_key, pod)| (pod_key, *set_key == current, pod)),
            );
        }
        let active: Vec<&(ObjectKey, bool, Arc<Pod>)> = members
            .iter()
            .filter(|(_, _, pod)| is_active(pod))
            .collect();
        let replicas: Vec<Replica> = active
            .iter()
            .map(|(_, current, pod)| Replica {
                current: *current,
                ready: controller::is_ready(pod),
            })
            .collect();
        let plan = rollout(desired, strategy(deployment, desired), &replicas);
        changed |= self.follow(
            key,
            &current,
            plan,
            &active
                .iter()
                .map(|(key, ..)| key.clone())
                .collect::<Vec<_>>(),
        );
        for (set_key, _) in sets.iter().filter(|(set_key, set)| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            *set_key != current
                && !members
                    .iter()
                    .any(|(_, _, pod)| is_owned(&pod.metadata, uid))
        }) {
            self.store.remove(set_key);
            changed = true;
        }
        let ready = replicas.iter().filter(|replica| replica.ready).count();
        let updated = replicas.iter().filter(|replica| replica.current).count();
        let status = json!({
            "observedGeneration": deployment.metadata.generation,
            "replicas": replicas.len(), "readyReplicas": ready, "availableReplicas": ready, "updatedReplicas": updated,
            "unavailableReplicas": desired.saturating_sub(ready),
            "conditions": [
                {"type": "Available", "status": if ready >= desired { "True" } else { "False" }},
                {"type": "Progressing", "status": "True", "message": self.failures.get(key).map(|event| &event.message)},
            ],
        });
        self.set_status(key, status) || changed
    }

    /// Carries a step of a rollout out: deletes pods, and creates them from the template of `set`.
    fn follow(
        &mut self,
        key: &ObjectKey,
        set: &ObjectKey,
        plan: Rollout,
        active: &[ObjectKey],
    ) -> bool {
        let mut changed = false;
        for pod in plan.delete.iter().filter_map(|index| active.get(*index)) {
            changed |= self.mark_deleted(pod);
        }
        let Some(replica_set) = self.store.typed::<ReplicaSet>(set) else {
            return changed;
        };
        let spec = replica_set.spec.as_ref();
        let Some(template) = spec.and_then(|spec| spec.template.as_ref()) else {
            return changed;
        };
        let uid = replica_set.metadata.uid.as_deref().unwrap_or_default();
        for _ in 0..plan.create {
            let pod = ObjectKey::new(
                Kind::Pod,
                &set.namespace,
                &format!("{}-{}", set.name, suffix()),
            );
            changed |= self.create_for(key, &pod, pod_of(template, owner(set, uid), &[]));
        }
        changed
    }

    /// Creates a pod and remembers a failure with the object it is for.
    fn create_for(&mut self, owner: &ObjectKey, key: &ObjectKey, pod: Pod) -> bool {
        match self.create_pod(key, pod) {
            Ok(()) => {
                self.failures.remove(owner);
                true
            }
            Err(error) => {
                self.note_failure(owner, error);
                false
            }
        }
    }

    /// ReplicaSets: those of Deployments only get a status here; a user's own are kept at their size.
    pub(super) fn replica_sets(&mut self) -> bool {
        let sets = self.store.list::<ReplicaSet>(Kind::ReplicaSet);
        let mut changed = false;
        for (key, set) in sets {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            let pods = self.owned(Kind::Pod, uid, |pod: &Pod| &pod.metadata);
            let active: Vec<&(ObjectKey, Arc<Pod>)> =
                pods.iter().filter(|(_, pod)| is_active(pod)).collect();
            let ready = active
                .iter()
                .filter(|(_, pod)| controller::is_ready(pod))
                .count();
            if set
                .metadata
                .owner_references
                .as_ref()
                .is_none_or(Vec::is_empty)
            {
                let replicas: Vec<Replica> = active
                    .iter()
                    .map(|(_, pod)| Replica {
                        current: true,
                        ready: controller::is_ready(pod),
                    })
                    .collect();
                let desired = count(set.spec.as_ref().and_then(|spec| spec.replicas));
                let plan = rollout(desired, Strategy::Recreate, &replicas);
                let plan = Rollout {
                    create: desired.saturating_sub(active.len()),
                    ..plan
                };
                changed |= self.follow(
                    &key,
                    &key,
                    plan,
                    &active
                        .iter()
                        .map(|(key, _)| key.clone())
                        .collect::<Vec<_>>(),
                );
            } else {
                let size = active.len();
                changed |= self
                    .store
                    .edit(&key, |set| set["spec"]["replicas"] = json!(size));
            }
            changed |= self.set_status(&key, json!({"replicas": active.len(), "readyReplicas": ready, "availableReplicas": ready}));
        }
        changed
    }

    /// Ordinals in order, each ready before the next; updates from the highest down, one at a time.
    pub(super) fn stateful_sets(&mut self) -> bool {
        let sets = self.store.list::<StatefulSet>(Kind::StatefulSet);
        sets.iter().fold(false, |changed, (key, set)| {
            self.stateful_set(key, set) || changed
        })
    }

    fn stateful_set(&mut self, key: &ObjectKey, set: &StatefulSet) -> bool {
        let Some(spec) = &set.spec else { return false };
        let desired = count(spec.replicas);
        let template = with_volumes_of_claims(spec);
        let hash = template_hash(&template);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
        let pods = self.owned(Kind::Pod, uid, |pod: &Pod| &pod.metadata);
        let at = |ordinal: usize| {
            let name = format!("{}-{ordinal}", key.name);
            pods.iter().find(|(key, _)| key.name == name)
        };
        let mut changed = false;
        let mut all_ready = true;
        for ordinal in 0..desired {
            match at(ordinal) {
                Some((_, pod)) => all_ready &= is_active(pod) && controller::is_ready(pod),
                None if all_ready || parallel => {
                    let name = format!("{}-{ordinal}", key.name);
                    let index = ordinal.to_string();
                    let labels = [
                        (REVISION_HASH, hash.as_str()),
                        ("statefulset.kubernetes.io/pod-name", name.as_str()),
                        ("apps.kubernetes.io/pod-index", index.as_str()),
                    ];
                    let mut pod = pod_of(&template, owner(key, uid), &labels);
                    let pod_spec = pod.spec.get_or_insert_default();
                    pod_spec.hostname = Some(name.clone());
                    pod_spec.subdomain.clone_from(&spec.service_name);
                    changed |= self.create_for(
                        key,
                        &ObjectKey::new(Kind::Pod, &key.namespace, &name),
                        pod,
                    );
                    all_ready = false;
                }
                None => all_ready = false,
            }
        }
        let ordinal_of = |pod: &ObjectKey| {
            pod.name
                .rsplit('-')
                .next()
                .and_then(|text| text.parse::<usize>().ok())
        };
        let is_old = |pod: &Pod| {
            pod.metadata
                .labels
                .as_ref()
                .and_then(|labels| labels.get(REVISION_HASH))
                != Some(&hash)
        };
        let ending = pods.iter().any(|(_, pod)| !is_active(pod));
        for (pod_key, _) in pods
            .iter()
            .filter(|(pod, _)| ordinal_of(pod).is_none_or(|ordinal| ordinal >= desired))
        {
            changed |= self.mark_deleted(pod_key);
        }
        let mut old: Vec<&(ObjectKey, Arc<Pod>)> =
            pods.iter().filter(|(_, pod)| is_old(pod)).collect();
        old.sort_by_key(|(key, _)| std::cmp::Reverse(ordinal_of(key)));
        if let Some((pod_key, pod)) = old.first()
            && !ending
            && (all_ready || !controller::is_ready(pod))
        {
            changed |= self.mark_deleted(pod_key);
        }
        let active = pods.iter().filter(|(_, pod)| is_active(pod));
        let ready = active
            .clone()
            .filter(|(_, pod)| controller::is_ready(pod))
            .count();
        let updated = active.clone().filter(|(_, pod)| !is_old(pod)).count();
        let status = json!({
            "observedGeneration": set.metadata.generation, "replicas": active.count(), "readyReplicas": ready,
            "availableReplicas": ready, "currentReplicas": updated, "updatedReplicas": updated,
        });
        self.set_status(key, status) || changed
    }

    pub(super) fn jobs(&mut self) -> bool {
        let jobs = self.store.list::<Job>(Kind::Job);
        jobs.iter()
            .fold(false, |changed, (key, job)| self.job(key, job) || changed)
    }

    fn job(&mut self, key: &ObjectKey, job: &Job) -> bool {
        let Some(spec) = &job.spec else { return false };
        let status = job.status.clone().unwrap_or_default();
        if status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.status == "True")
        {
            return false;
        }
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        let pods = self.owned(Kind::Pod, uid, |pod: &Pod| &pod.metadata);
        let in_phase = |phase: &str| {
            pods.iter()
                .filter(|(_, pod)| phase_of(pod) == Some(phase))
                .count()
        };
        let (succeeded, failed) = (in_phase("Succeeded"), in_phase("Failed"));
        let active = pods.iter().filter(|(_, pod)| is_active(pod)).count();
        let completions = count(spec.completions);
        let over = failed > count(Some(spec.backoff_limit.unwrap_or(BACKOFF_LIMIT)));
        let mut conditions = Vec::new();
        let mut completed = Value::Null;
        let mut changed = false;
        if succeeded >= completions {
            conditions.push(json!({"type": "Complete", "status": "True"}));
            completed = json!(now());
        } else if over {
            let message = "Job has reached the specified backoff limit";
            conditions.push(json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": message}));
        } else {
            let room = count(spec.parallelism)
                .min(completions - succeeded)
                .saturating_sub(active);
            for _ in 0..room {
                let labels = [
                    ("job-name", key.name.as_str()),
                    ("batch.kubernetes.io/job-name", key.name.as_str()),
                    ("batch.kubernetes.io/controller-uid", uid),
                ];
                let name = format!("{}-{}", key.name, suffix());
                let pod = pod_of(&spec.template, owner(key, uid), &labels);
                changed |=
                    self.create_for(key, &ObjectKey::new(Kind::Pod, &key.namespace, &name), pod);
            }
        }
        let started = status
            .start_time
            .map_or_else(|| json!(now()), |time| json!(time));
        let status = json!({
            "active": active, "succeeded": succeeded, "failed": failed,
            "startTime": started, "completionTime": completed, "conditions": conditions,
        });
        self.set_status(key, status) || changed
    }

    /// What a controller made goes with the object it was made for.
    pub(super) fn orphans(&mut self) -> bool {
        let uids: std::collections::BTreeSet<&str> = self
            .store
            .all()
            .filter_map(|(_, object)| object.pointer("/metadata/uid")?.as_str())
            .collect();
        let orphans: Vec<ObjectKey> = self
            .store
            .all()
            .filter(|(_, object)| {
                let owners = object
                    .pointer("/metadata/ownerReferences")
                    .and_then(Value::as_array);
                let mut owners = owners
                    .into_iter()
                    .flatten()
                    .filter_map(|owner| owner.get("uid")?.as_str())
                    .peekable();
                owners.peek().is_some() && owners.all(|uid| !uids.contains(uid))
            })
            .map(|(key, _)| key.clone())
            .collect();
        let mut changed = false;
        for key in orphans {
            changed |= self.delete_object(&key, None);
        }
        changed
    }

    /// Deletes one object; a pod first ends, within the grace period if one is given.
    pub(crate) fn delete_object(&mut self, key: &ObjectKey, grace: Option<u64>) -> bool {
        self.failures.remove(key);
        if key.kind == Kind::Pod && self.pods.contains_key(&pod_key(key)) {
            return self.mark_deleted_within(key, grace);
        }
        self.store.remove(key).is_some()
    }

    fn owned<T: Typed>(
        &self,
        kind: Kind,
        uid: &str,
        metadata: fn(&T) -> &ObjectMeta,
    ) -> Vec<(ObjectKey, Arc<T>)> {
        let mut owned = self.store.list::<T>(kind);
        owned.retain(|(_, object)| is_owned(metadata(object), uid));
        owned
    }

    fn set_status(&mut self, key: &ObjectKey, status: Value) -> bool {
        self.store.edit(key, |object| {
            if let Some(object) = object.as_object_mut() {
                object.insert("status".to_owned(), status);
            }
        })
    }
}

fn strategy(deployment: &Deployment, desired: usize) -> Strategy {
    let given = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref());
    if given.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return Strategy::Recreate;
    }
    let rolling = given.and_then(|strategy| strategy.rolling_update.as_ref());
    let surge = share(
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        25,
        desired,
        true,
    );
    let unavailable = share(
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        25,
        desired,
        false,
    );
    // Both at zero would never move.
    Strategy::Rolling {
        surge: if surge + unavailable == 0 { 1 } else { surge },
        unavailable,
    }
}

fn count(value: Option<i32>) -> usize {
    value.map_or(1, |value| usize::try_from(value).unwrap_or_default())
}

fn is_owned(metadata: &ObjectMeta, uid: &str) -> bool {
    metadata
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid)
}

fn phase_of(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

/// Neither ending nor ended.
fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && !matches!(phase_of(pod), Some("Succeeded" | "Failed"))
}
