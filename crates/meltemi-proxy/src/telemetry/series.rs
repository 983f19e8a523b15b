//! Istio's standard metrics: one series object per label set holds every number of it, so a request touches one handle.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Buckets of Istio's histograms: Envoy's defaults, for milliseconds and bytes alike.
const BUCKETS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10000.0,
    30000.0,
    60000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
/// Label sets kept; what comes after shares one series (`overflow`), so that no client can grow our memory.
const SERIES_LIMIT: usize = 20_000;

/// A counter that is read while it is written.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Of each bucket alone; the last is +Inf.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    /// In thousandths, because atomics hold no floating point.
    sum_thousandths: AtomicU64,
}

impl Histogram {
    /// Adds a value of `thousandths / 1000`.
    pub(crate) fn observe_thousandths(&self, thousandths: u64) {
        #[allow(
            clippy::cast_precision_loss,
            reason = "a bucket's border is no exact number of microseconds"
        )]
        let value = thousandths as f64 / 1000.0;
        let bucket = BUCKETS.partition_point(|border| *border < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_thousandths
            .fetch_add(thousandths, Ordering::Relaxed);
    }

    fn encode(&self, out: &mut String, name: &str, labels: &str) {
        let mut total = 0;
        for (i, bucket) in self.buckets.iter().enumerate() {
            total += bucket.load(Ordering::Relaxed);
            let result = match BUCKETS.get(i) {
                Some(border) => writeln!(out, "{name}_bucket{{{labels},le=\"{border}\"}} {total}"),
                None => writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {total}"),
            };
            debug_assert!(result.is_ok(), "a String takes every write");
        }
        let sum = self.sum_thousandths.load(Ordering::Relaxed);
        line(
            out,
            &format!("{name}_sum{{{labels}}} {}.{:03}", sum / 1000, sum % 1000),
        );
        line(out, &format!("{name}_count{{{labels}}} {total}"));
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

/// The numbers of HTTP requests with one label set.
#[derive(Debug, Default)]
pub(crate) struct HttpSeries {
    pub(crate) requests: Counter,
    pub(crate) duration: Histogram,
    pub(crate) request_bytes: Histogram,
    pub(crate) response_bytes: Histogram,
    pub(crate) request_messages: Counter,
    pub(crate) response_messages: Counter,
}

/// The numbers of TCP connections with one label set.
#[derive(Debug, Default)]
pub(crate) struct TcpSeries {
    pub(crate) opened: Counter,
    pub(crate) closed: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) received_bytes: Counter,
}

/// Series by rendered labels.
#[derive(Debug)]
pub(crate) struct Family<S>(Mutex<HashMap<Box<str>, Arc<S>>>);

impl<S> Default for Family<S> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<S: Default> Family<S> {
    pub(crate) fn get(&self, labels: &str) -> Arc<S> {
        let mut series = self.0.lock();
        if let Some(known) = series.get(labels) {
            return known.clone();
        }
        let labels = if series.len() < SERIES_LIMIT {
            labels
        } else {
            "overflow=\"true\""
        };
        series.entry(labels.into()).or_default().clone()
    }

    fn sorted(&self) -> Vec<(Box<str>, Arc<S>)> {
        let mut all: Vec<_> = self
            .0
            .lock()
            .iter()
            .map(|(labels, series)| (labels.clone(), series.clone()))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

impl Family<HttpSeries> {
    pub(crate) fn encode(&self, out: &mut String) {
        let all = self.sorted();
        encode_counters(
            out,
            &all,
            "istio_requests_total",
            |series| &series.requests,
            true,
        );
        for (name, histogram) in [
            (
                "istio_request_duration_milliseconds",
                (|s| &s.duration) as fn(&HttpSeries) -> &Histogram,
            ),
            ("istio_request_bytes", |s| &s.request_bytes),
            ("istio_response_bytes", |s| &s.response_bytes),
        ] {
            if !all.is_empty() {
                line(out, &format!("# TYPE {name} histogram"));
            }
            for (labels, series) in &all {
                histogram(series).encode(out, name, labels);
            }
        }
        encode_counters(
            out,
            &all,
            "istio_request_messages_total",
            |series| &series.request_messages,
            false,
        );
        encode_counters(
            out,
            &all,
            "istio_response_messages_total",
            |series| &series.response_messages,
            false,
        );
    }
}

impl Family<TcpSeries> {
    pub(crate) fn encode(&self, out: &mut String) {
        let all = self.sorted();
        encode_counters(
            out,
            &all,
            "istio_tcp_connections_opened_total",
            |series| &series.opened,
            true,
        );
        encode_counters(
            out,
            &all,
            "istio_tcp_connections_closed_total",
            |series| &series.closed,
            true,
        );
        encode_counters(
            out,
            &all,
            "istio_tcp_sent_bytes_total",
            |series| &series.sent_bytes,
            true,
        );
        encode_counters(
            out,
            &all,
            "istio_tcp_received_bytes_total",
            |series| &series.received_bytes,
            true,
        );
    }
}

fn encode_counters<S>(
    out: &mut String,
    all: &[(Box<str>, Arc<S>)],
    name: &str,
    counter: impl Fn(&S) -> &Counter,
    zeros: bool,
) {
    let mut typed = false;
    for (labels, series) in all {
        let value = counter(series).get();
        if value == 0 && !zeros {
            continue;
        }
        if !typed {
            line(out, &format!("# TYPE {name} counter"));
            typed = true;
        }
        line(out, &format!("{name}{{{labels}}} {value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodes_what_was_counted() {
        let family = Family::<HttpSeries>::default();
        let series = family.get("a=\"b\"");
        series.requests.add(2);
        series.duration.observe_thousandths(500);
        series.duration.observe_thousandths(7_250);
        let mut out = String::new();
        family.encode(&mut out);
        for expected in [
            "# TYPE istio_requests_total counter\nistio_requests_total{a=\"b\"} 2\n",
            "istio_request_duration_milliseconds_bucket{a=\"b\",le=\"0.5\"} 1\n",
            "istio_request_duration_milliseconds_bucket{a=\"b\",le=\"5\"} 1\n",
            "istio_request_duration_milliseconds_bucket{a=\"b\",le=\"10\"} 2\n",
            "istio_request_duration_milliseconds_bucket{a=\"b\",le=\"+Inf\"} 2\n",
            "istio_request_duration_milliseconds_sum{a=\"b\"} 7.750\n",
            "istio_request_duration_milliseconds_count{a=\"b\"} 2\n",
        ] {
            assert!(out.contains(expected), "{expected}\n{out}");
        }
        assert!(!out.contains("messages"));
    }

    #[test]
    fn label_sets_are_bounded() {
        let family = Family::<TcpSeries>::default();
        for i in 0..SERIES_LIMIT + 10 {
            family.get(&format!("n=\"{i}\"")).opened.add(1);
        }
        assert_eq!(family.0.lock().len(), SERIES_LIMIT + 1);
        assert_eq!(family.get("n=\"new\"").opened.get(), 10);
    }
}
