use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecurityContext, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::names::{ISTIOD, PROXY_UID, label, port};

use super::access::{pull_secrets, texts};
use super::{labels, metadata, selector};
use crate::Values;
use crate::values::Text;

const STATE: &str = "/var/lib/meltemi";

pub(super) fn deployment(values: &Values) -> Deployment {
    let pilot = &values.pilot;
    let mut metadata = metadata(values, ISTIOD);
    if let Some(labels) = &mut metadata.labels {
        labels.extend(texts(&pilot.deployment_labels));
    }
    let amount = |text: &Text| {
        let number = text.as_str().parse().map(IntOrString::Int);
        number.unwrap_or_else(|_| IntOrString::String(text.to_string()))
    };
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            // The autoscaler's to decide, if there is one: applying again must not undo it.
            replicas: (!pilot.autoscale_enabled).then_some(pilot.replica_count),
            selector: LabelSelector {
                match_labels: Some(selector(values)),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(amount(&pilot.rolling_max_surge)),
                    max_unavailable: Some(amount(&pilot.rolling_max_unavailable)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(pod_metadata(values)),
                spec: Some(pod(values)),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

fn pod_metadata(values: &Values) -> ObjectMeta {
    let mut labels = labels(values);
    labels.extend(texts(&values.pilot.pod_labels));
    // What injects the others cannot wait for itself.
    labels.insert(label::SIDECAR_INJECT.to_owned(), "false".to_owned());
    let scrape = [
        ("prometheus.io/port", port::MONITORING.to_string()),
        ("prometheus.io/scrape", "true".to_owned()),
        ("sidecar.istio.io/inject", "false".to_owned()),
    ];
    let mut annotations: BTreeMap<String, String> = scrape
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    annotations.extend(texts(&values.pilot.pod_annotations));
    ObjectMeta {
        labels: Some(labels),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

fn pod(values: &Values) -> PodSpec {
    let (global, pilot) = (&values.global, &values.pilot);
    let user = i64::from(PROXY_UID);
    let secrets = &global.image_pull_secrets;
    // Istio's own values say `affinity: {}`.
    let affinity = pilot.affinity.clone();
    let affinity = affinity.filter(|affinity| *affinity != Affinity::default());
    PodSpec {
        service_account_name: Some(values.named(ISTIOD)),
        priority_class_name: (!global.priority_class_name.is_empty())
            .then(|| global.priority_class_name.clone()),
        image_pull_secrets: (!secrets.is_empty()).then(|| pull_secrets(secrets)),
        node_selector: (!pilot.node_selector.is_empty()).then(|| pilot.node_selector.clone()),
        tolerations: (!pilot.tolerations.is_empty()).then(|| pilot.tolerations.clone()),
        affinity: Some(affinity.unwrap_or_else(|| apart(values))),
        security_context: Some(PodSecurityContext {
            fs_group: Some(user),
            run_as_group: Some(user),
            run_as_non_root: Some(true),
            run_as_user: Some(user),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                ..SeccompProfile::default()
            }),
            ..PodSecurityContext::default()
        }),
        containers: vec![container(values)],
        volumes: Some(vec![Volume {
            name: "state".to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        }]),
        ..PodSpec::default()
    }
}

/// Replicas on different nodes, where there are several.
fn apart(values: &Values) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        label_selector: Some(LabelSelector {
                            match_labels: Some(selector(values)),
                            ..LabelSelector::default()
                        }),
                        topology_key: "kubernetes.io/hostname".to_owned(),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// Its name is Istio's: `kubectl logs -c discovery`.
fn container(values: &Values) -> Container {
    let (global, pilot) = (&values.global, &values.pilot);
    let mut args = vec![
        "control-plane".to_owned(),
        "--kubernetes".to_owned(),
        "--state-dir".to_owned(),
        STATE.to_owned(),
        format!("--log_output_level={}", global.logging.level),
    ];
    if global.log_as_json {
        args.push("--log_as_json".to_owned());
    }
    let ports = [
        ("https-dns", port::XDS_TLS),
        ("http-monitoring", port::MONITORING),
        ("https-webhook", port::WEBHOOK),
    ];
    Container {
        name: "discovery".to_owned(),
        image: Some(values.image(&pilot.image, &pilot.hub, &pilot.tag)),
        image_pull_policy: (!global.image_pull_policy.is_empty())
            .then(|| global.image_pull_policy.clone()),
        args: Some(args),
        env: Some(environment(values)),
        ports: Some(
            ports
                .into_iter()
                .map(|(name, port)| ContainerPort {
                    name: Some(name.to_owned()),
                    container_port: port.into(),
                    protocol: Some("TCP".to_owned()),
                    ..ContainerPort::default()
                })
                .collect(),
        ),
        readiness_probe: Some(Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/ready".to_owned()),
                port: IntOrString::Int(port::MONITORING.into()),
                ..HTTPGetAction::default()
            }),
            initial_delay_seconds: Some(1),
            period_seconds: Some(3),
            timeout_seconds: Some(5),
            ..Probe::default()
        }),
        resources: Some(pilot.resources.requirements()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            read_only_root_filesystem: Some(true),
            run_as_non_root: Some(true),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(vec![VolumeMount {
            name: "state".to_owned(),
            mount_path: STATE.to_owned(),
            ..VolumeMount::default()
        }]),
        ..Container::default()
    }
}

fn environment(values: &Values) -> Vec<EnvVar> {
    let of_pod = [
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ];
    let of_pod = of_pod.into_iter().map(|(name, field)| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: field.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
    let cluster = values.global.multi_cluster.cluster_name.as_str();
    let mut plain = BTreeMap::from([
        ("CLUSTER_ID".to_owned(), cluster.to_owned()),
        ("REVISION".to_owned(), values.revision().to_owned()),
    ]);
    plain.extend(texts(&values.pilot.env));
    let plain = plain.into_iter().map(|(name, value)| EnvVar {
        name,
        value: Some(value),
        ..EnvVar::default()
    });
    of_pod.chain(plain).collect()
}
