use k8s_openapi::api::core::v1::Pod;

/// The object that a pod belongs to, as telemetry and `ISTIO_META_OWNER` name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

impl Workload {
    pub fn new(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Finds the workload of a pod that a controller made: the Deployment behind a ReplicaSet, the CronJob behind a Job, else
    /// the controller itself, else the pod (Istio `pkg/kube/controllers`, `GetDeployMetaFromPod`).
    pub fn of_pod(pod: &Pod, namespace: &str) -> Self {
        let metadata = &pod.metadata;
        let controller = metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let Some(owner) = controller else {
            let name = metadata.name.clone().or_else(|| {
                Some(
                    metadata
                        .generate_name
                        .as_ref()?
                        .trim_end_matches('-')
                        .to_owned(),
                )
            });
            return Self::new("v1", "Pod", namespace, &name.unwrap_or_default());
        };
        let hash = metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("pod-template-hash"));
        let deployment = hash.and_then(|hash| {
            owner
                .name
                .strip_suffix(hash.as_str())
                .and_then(|name| name.strip_suffix('-'))
        });
        match (owner.kind.as_str(), deployment, cron_job(&owner.name)) {
            ("ReplicaSet", Some(name), _) => Self::new("apps/v1", "Deployment", namespace, name),
            ("Job", _, Some(name)) => Self::new("batch/v1", "CronJob", namespace, name),
            _ => Self::new(&owner.api_version, &owner.kind, namespace, &owner.name),
        }
    }

    /// `kubernetes://apis/apps/v1/namespaces/default/deployments/reviews-v1`.
    pub(crate) fn owner(&self) -> String {
        format!(
            "kubernetes://apis/{}/namespaces/{}/{}s/{}",
            self.api_version,
            self.namespace,
            self.kind.to_ascii_lowercase(),
            self.name
        )
    }
}

/// The CronJob of a Job named `<cron job>-<minutes since the epoch>`.
fn cron_job(job: &str) -> Option<&str> {
    let (name, minutes) = job.rsplit_once('-')?;
    let is_time = (8..=10).contains(&minutes.len()) && minutes.bytes().all(|c| c.is_ascii_digit());
    is_time.then_some(name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

    use super::*;

    #[test]
    fn finds_what_the_user_wrote() {
        let check = |kind: &str, name: &str, expected: &str| {
            let owner = OwnerReference {
                api_version: "apps/v1".into(),
                kind: kind.into(),
                name: name.into(),
                controller: Some(true),
                ..Default::default()
            };
            let pod = Pod {
                metadata: ObjectMeta {
                    name: Some("p".into()),
                    labels: Some([("pod-template-hash".to_owned(), "5d4c".to_owned())].into()),
                    owner_references: Some(vec![owner]),
                    ..Default::default()
                },
                ..Default::default()
            };
            assert_eq!(Workload::of_pod(&pod, "shop").owner(), expected);
        };
        let apps = |rest: &str| format!("kubernetes://apis/apps/v1/namespaces/shop/{rest}");
        check(
            "ReplicaSet",
            "reviews-v1-5d4c",
            &apps("deployments/reviews-v1"),
        );
        check("ReplicaSet", "by-hand", &apps("replicasets/by-hand"));
        check("StatefulSet", "db", &apps("statefulsets/db"));
        check(
            "Job",
            "report-28391040",
            "kubernetes://apis/batch/v1/namespaces/shop/cronjobs/report",
        );
        let alone = Workload::of_pod(&Pod::default(), "shop");
        assert_eq!(alone.owner(), "kubernetes://apis/v1/namespaces/shop/pods/");
    }
}
