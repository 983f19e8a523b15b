//! What the load generator counted.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::Options;
use super::connection::Answer;

/// The longest latency that is told apart: one minute, in microseconds.
const LATENCY_LIMIT_MICROS: u64 = 60_000_000;
/// Distinct values counted per field; more are counted together.
const DISTINCT_LIMIT: usize = 256;

type Counts = BTreeMap<String, u64>;

pub(super) struct Summary {
    sent: u64,
    ok: u64,
    by_status: Counts,
    errors: Counts,
    by_header: Counts,
    by_json: Counts,
    latency: Histogram<u64>,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            sent: 0,
            ok: 0,
            by_status: Counts::new(),
            errors: Counts::new(),
            by_header: Counts::new(),
            by_json: Counts::new(),
            latency: Histogram::new_with_max(LATENCY_LIMIT_MICROS, 3)
                .expect("three digits up to a minute are valid bounds"),
        }
    }
}

impl Summary {
    pub(super) fn answered(&mut self, answer: &Answer, latency: Duration, options: &Options) {
        self.sent += 1;
        self.ok += u64::from(answer.status.is_success());
        count(&mut self.by_status, answer.status.as_str().to_owned());
        self.latency
            .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if let Some(name) = &options.count_header {
            let value = answer
                .headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            count(&mut self.by_header, value.unwrap_or_default());
        }
        if let Some(field) = &options.count_json {
            let body = serde_json::from_slice::<Value>(&answer.body).unwrap_or_default();
            count(
                &mut self.by_json,
                body[field]
                    .as_str()
                    .map_or_else(|| body[field].to_string(), str::to_owned),
            );
        }
    }

    pub(super) fn failed(&mut self, kind: String) {
        self.sent += 1;
        count(&mut self.errors, kind);
    }

    /// The last answered message belonged to a stream that failed.
    pub(super) fn spoiled(&mut self, kind: String) {
        self.ok = self.ok.saturating_sub(1);
        count(&mut self.errors, kind);
    }

    pub(super) fn merge(&mut self, other: Self) {
        self.sent += other.sent;
        self.ok += other.ok;
        let pairs = [
            (&mut self.by_status, other.by_status),
            (&mut self.errors, other.errors),
            (&mut self.by_header, other.by_header),
            (&mut self.by_json, other.by_json),
        ];
        for (into, from) in pairs {
            for (key, number) in from {
                *into.entry(key).or_default() += number;
            }
        }
        self.latency
            .add(other.latency)
            .expect("both histograms have the same bounds");
    }

    pub(super) fn into_json(self, took: Duration) -> Value {
        let at = |quantile: f64| self.latency.value_at_quantile(quantile);
        json!({
            "sent": self.sent,
            "ok": self.ok,
            "by_status": self.by_status,
            "errors": self.errors,
            "by_header": self.by_header,
            "by_json": self.by_json,
            "seconds": took.as_secs_f64(),
            "latency_us": {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p999": at(0.999), "max": self.latency.max()},
        })
    }
}

fn count(counts: &mut Counts, key: String) {
    let key = if counts.len() >= DISTINCT_LIMIT && !counts.contains_key(&key) {
        "(others)".to_owned()
    } else {
        key
    };
    *counts.entry(key).or_default() += 1;
}
