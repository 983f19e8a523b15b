//! The metrics registry and its text formats.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::Registry;

pub use prometheus_client;

/// Content type of [`Metrics::openmetrics_text`].
pub const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of [`Metrics::prometheus_text`].
pub const PROMETHEUS_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of the process. Families are cloned handles: hot paths never touch the registry.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers metrics; each part of a program does so once, when it starts.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.0.lock())
    }

    /// Everything in OpenMetrics 1.0.
    pub fn openmetrics_text(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0.lock())
            .expect("writing to a String cannot fail");
        text
    }

    /// Everything in Prometheus' own text format, which is what tools that read Envoy's and Istio's metrics expect.
    pub fn prometheus_text(&self) -> String {
        openmetrics_to_prometheus(&self.openmetrics_text())
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The formats differ in headers only: a counter's `TYPE` names the sample (`x_total`), there is no `UNIT` and no
/// `EOF`, and the types `info` and `unknown` are spelled differently.
fn openmetrics_to_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            write_header(&mut out, name, kind, help.take());
        } else if !line.starts_with("# ") {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

fn write_header(out: &mut String, name: &str, kind: &str, help: Option<(&str, &str)>) {
    let (suffix, kind) = match kind {
        "counter" => ("_total", "counter"),
        "info" => ("_info", "gauge"),
        "unknown" => ("", "untyped"),
        other => ("", other),
    };
    if let Some((_, help)) = help {
        out.push_str(&format!("# HELP {name}{suffix} {help}\n"));
    }
    out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    #[test]
    fn counters_are_typed_by_their_sample_name() {
        let metrics = Metrics::new();
        let pushes = Counter::<u64>::default();
        let connected = Gauge::<i64>::default();
        metrics.register(|registry| {
            registry.register("pilot_xds_pushes", "Pushes", pushes.clone());
            registry.register("pilot_xds", "Connected proxies", connected.clone());
        });
        pushes.inc();
        connected.set(2);
        let expected = "# HELP pilot_xds_pushes_total Pushes.\n# TYPE pilot_xds_pushes_total counter\n\
                        pilot_xds_pushes_total 1\n# HELP pilot_xds Connected proxies.\n\
                        # TYPE pilot_xds gauge\npilot_xds 2\n";
        assert_eq!(metrics.prometheus_text(), expected);
        assert!(metrics.openmetrics_text().ends_with("# EOF\n"));
    }
}
