//! Counters under istiod's names, which dashboards and alerts contain.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use meltemi_process::Metrics;
use meltemi_proto::type_url;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;

/// Istio's buckets, with finer ones below: a push takes milliseconds here.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

/// Clones count together.
#[derive(Clone, Debug)]
pub(crate) struct PushMetrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connected: Gauge,
    pushes: Family<TypeLabel, Counter>,
    triggers: Family<TypeLabel, Counter>,
    rejects: Counter,
    /// Under `pilot_xds_<type>_reject`.
    rejects_by_type: [(&'static str, Gauge); 5],
    refused: Counter,
    convergence: Histogram,
    push_time: Histogram,
    services: Gauge,
    virtual_services: Gauge,
    diagnostics: Family<SeverityLabel, Gauge>,
    held: Gauge,
    started: Gauge<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeverityLabel {
    severity: String,
}

impl PushMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let histogram = || Histogram::new(SECONDS);
        let inner = Inner {
            connected: Gauge::default(),
            pushes: Family::default(),
            triggers: Family::default(),
            rejects: Counter::default(),
            rejects_by_type: ["cds", "eds", "lds", "rds", "vhds"]
                .map(|name| (name, Gauge::default())),
            refused: Counter::default(),
            convergence: histogram(),
            push_time: histogram(),
            services: Gauge::default(),
            virtual_services: Gauge::default(),
            diagnostics: Family::default(),
            held: Gauge::default(),
            started: Gauge::default(),
        };
        inner.register(metrics);
        Self(Arc::new(inner))
    }

    pub(crate) fn sent(&self, type_url: &str) {
        let r#type = short_name(type_url);
        self.0.pushes.get_or_create(&TypeLabel { r#type }).inc();
    }

    pub(crate) fn rejected(&self, type_url: &str) {
        self.0.rejects.inc();
        let of_type = self.0.rejects_by_type.iter();
        for (_, gauge) in of_type.filter(|(name, _)| *name == short_name(type_url)) {
            gauge.inc();
        }
    }

    /// A stream was denied.
    pub(crate) fn refused(&self) {
        self.0.refused.inc();
    }

    pub(crate) fn converged(&self, after: Duration) {
        self.0.convergence.observe(after.as_secs_f64());
    }

    /// A round of generation for all proxies.
    pub(crate) fn pushed(&self, trigger: &'static str, took: Duration) {
        self.0
            .triggers
            .get_or_create(&TypeLabel { r#type: trigger })
            .inc();
        self.0.push_time.observe(took.as_secs_f64());
    }

    pub(crate) fn set_connected(&self, proxies: usize) {
        self.0.connected.set(gauge(proxies));
    }

    pub(crate) fn set_services(&self, services: usize, virtual_services: usize) {
        self.0.services.set(gauge(services));
        self.0.virtual_services.set(gauge(virtual_services));
    }

    /// The configuration is not served, for it seems to be lost.
    pub(crate) fn set_held(&self, is_held: bool) {
        self.0.held.set(is_held.into());
    }

    pub(crate) fn set_diagnostics(&self, severity: &str, count: usize) {
        let severity = severity.to_owned();
        self.0
            .diagnostics
            .get_or_create(&SeverityLabel { severity })
            .set(gauge(count));
    }
}

impl Inner {
    fn register(&self, metrics: &Metrics) {
        let now = std::time::SystemTime::now();
        let since_1970 = now
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        self.started.set(since_1970.as_secs_f64());
        let version = vec![("version", meltemi_process::VERSION)];
        let component = vec![("component", "pilot"), ("tag", meltemi_process::VERSION)];
        metrics.register(|registry| {
            registry.register("pilot_xds", "Connected proxies", self.connected.clone());
            registry.register(
                "pilot_xds_pushes",
                "Responses sent, by type",
                self.pushes.clone(),
            );
            registry.register(
                "pilot_push_triggers",
                "Rounds of generation, by cause",
                self.triggers.clone(),
            );
            registry.register(
                "pilot_total_xds_rejects",
                "Responses that a proxy rejected",
                self.rejects.clone(),
            );
            for (name, gauge) in &self.rejects_by_type {
                registry.register(
                    format!("pilot_xds_{name}_reject"),
                    "Responses of this type that a proxy rejected",
                    gauge.clone(),
                );
            }
            registry.register(
                "pilot_total_xds_refused",
                "Streams that were denied",
                self.refused.clone(),
            );
            registry.register(
                "pilot_proxy_convergence_time",
                "Seconds from noticing a change until a proxy has accepted all of it",
                self.convergence.clone(),
            );
            registry.register(
                "pilot_xds_push_time",
                "Seconds that a round of generation for all proxies takes",
                self.push_time.clone(),
            );
            registry.register("pilot_services", "Services known", self.services.clone());
            registry.register(
                "pilot_virt_services",
                "VirtualServices known",
                self.virtual_services.clone(),
            );
            registry.register(
                "meltemi_config_diagnostics",
                "Problems in the configuration as it is now",
                self.diagnostics.clone(),
            );
            registry.register(
                "meltemi_config_held",
                "Whether the configuration is not served because it has lost all Services and Pods",
                self.held.clone(),
            );
            registry.register(
                "process_start_time_seconds",
                "When the process started, in seconds since 1970",
                self.started.clone(),
            );
            registry.register(
                "pilot",
                "The version of the control plane",
                Info::new(version),
            );
            registry.register(
                "istio_build",
                "The version of this component",
                component_gauge(component),
            );
        });
    }
}

fn component_gauge(
    labels: Vec<(&'static str, &'static str)>,
) -> Family<Vec<(&'static str, &'static str)>, Gauge> {
    let family = Family::<Vec<(&'static str, &'static str)>, Gauge>::default();
    family.get_or_create(&labels).set(1);
    family
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Istio's short name of a type.
pub(crate) fn short_name(type_url: &str) -> &'static str {
    match type_url {
        type_url::CLUSTER => "cds",
        type_url::ENDPOINT => "eds",
        type_url::LISTENER => "lds",
        type_url::ROUTE => "rds",
        type_url::VIRTUAL_HOST => "vhds",
        type_url::SECRET => "sds",
        type_url::EXTENSION_CONFIG => "ecds",
        _ => "other",
    }
}
