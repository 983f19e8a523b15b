//! Sidecar injection: what must become of a pod so that it takes part in the mesh. Pure.
//!
//! ```text
//! namespace + pod --decide--> Skip(reason)
//!                    |
//!                  Inject --inject--> strip what an earlier injection added
//!                                     -> read annotations (every bad one is a Diagnostic; then the pod is denied)
//!                                     -> rewrite probes and Prometheus annotations
//!                                     -> template containers, overlaid by what the user declared under their names
//!                                     -> volumes, labels, annotations, and the status that the next injection strips by
//! ```
//! The webhook, `kube-inject` and the lab share this code, so that a pod is the same wherever it starts. This crate knows
//! no Kubernetes client, files, environment or clock.

mod chart;
mod decision;
mod document;
mod env;
mod options;
mod overlay;
mod pod;
mod probes;
mod prometheus;
mod quantity;
mod settings;
mod status;
mod template;
mod volumes;
mod workload;

pub use chart::{take_inject_config, take_values};
pub use decision::{Decision, PodContext, SkipReason, decide};
pub use document::{Outcome, Report, inject_document};
pub use pod::{Injection, Rejection, inject, inject_template, uninject};
pub use settings::{InjectionPolicy, InjectionSettings, ProxyResources};
pub use workload::Workload;

/// Names of annotations that this crate reads or writes (Istio reference, "Resource Annotations").
pub mod annotation {
    pub const STATUS: &str = "sidecar.istio.io/status";
    pub const OVERRIDES: &str = "proxy.istio.io/overrides";
    pub const PROXY_CONFIG: &str = "proxy.istio.io/config";
    pub const REVISION: &str = "istio.io/rev";
    pub const TEMPLATES: &str = "inject.istio.io/templates";
    /// What [`TEMPLATES`] says of a gateway.
    pub const GATEWAY_TEMPLATE: &str = "gateway";
    pub const MERGE_METRICS: &str = "prometheus.istio.io/merge-metrics";
    pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
    pub const DEFAULT_LOGS_CONTAINER: &str = "kubectl.kubernetes.io/default-logs-container";
}
