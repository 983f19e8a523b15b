use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec, MetricSpec,
    MetricTarget, ResourceMetricSource,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::names::ISTIOD;

use super::{metadata, selector};
use crate::Values;

pub(super) fn autoscaler(values: &Values) -> HorizontalPodAutoscaler {
    let pilot = &values.pilot;
    let cpu = MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(ResourceMetricSource {
            name: "cpu".to_owned(),
            target: MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(pilot.cpu.target_average_utilization),
                ..MetricTarget::default()
            },
        }),
        ..MetricSpec::default()
    };
    HorizontalPodAutoscaler {
        metadata: metadata(values, ISTIOD),
        spec: HorizontalPodAutoscalerSpec {
            min_replicas: Some(pilot.autoscale_min),
            max_replicas: pilot.autoscale_max,
            metrics: Some(vec![cpu]),
            scale_target_ref: CrossVersionObjectReference {
                api_version: Some("apps/v1".to_owned()),
                kind: "Deployment".to_owned(),
                name: values.named(ISTIOD),
            },
            ..HorizontalPodAutoscalerSpec::default()
        },
        ..HorizontalPodAutoscaler::default()
    }
}

/// Differs from Istio: one may go at a time, where Istio says that one must stay. A single replica, the default, would
/// otherwise keep its node from ever being drained.
pub(super) fn disruption_budget(values: &Values) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(values, ISTIOD),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(values)),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
