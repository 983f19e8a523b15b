//! The Kubernetes types that the mesh reads, from `k8s-openapi`.

pub use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
pub use k8s_openapi::api::batch::v1::Job;
pub use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, Pod, Secret, Service, ServiceAccount,
};
pub use k8s_openapi::api::discovery::v1::EndpointSlice;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use k8s_openapi::api::apps::v1::StatefulSetSpec;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodTemplateSpec, Volume};

/// A StatefulSet's pod template with a volume in the place of each claim, as its controller adds them; an `emptyDir` stands
/// for the storage. A claim hides the template's own volume of the same name (Kubernetes, "StatefulSet API").
pub fn with_volumes_of_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    for claim in spec.volume_claim_templates.iter().flatten() {
        let volume = Volume {
            name: claim.metadata.name.clone().unwrap_or_default(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        };
        let pod = template.spec.get_or_insert_default();
        let volumes = pod.volumes.get_or_insert_default();
        volumes.retain(|own| own.name != volume.name);
        volumes.push(volume);
    }
    template
}
