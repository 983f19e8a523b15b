//! What the lanes of one window saw.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::rig::Usage;

/// Longest latency that is told apart.
const LONGEST: Duration = Duration::from_secs(60);
const DIGITS: u8 = 3;

/// The result of a window.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// What the first lane that broke had to say.
    pub(crate) first_failure: Option<String>,
    pub(crate) elapsed: Duration,
    /// In nanoseconds.
    pub(crate) latency: Histogram<u64>,
    pub(crate) spent: Usage,
}

impl Outcome {
    pub(crate) fn cpu_per_1000(&self) -> f64 {
        self.spent.cpu.as_secs_f64() * 1000.0 / to_f64(self.requests.max(1))
    }

    pub(crate) fn per_second(&self) -> f64 {
        to_f64(self.requests) / self.elapsed.as_secs_f64()
    }

    /// In microseconds.
    pub(crate) fn quantile(&self, quantile: f64) -> f64 {
        to_f64(self.latency.value_at_quantile(quantile)) / 1000.0
    }
}

/// Counters of this program stay far below 2^52.
#[allow(clippy::cast_precision_loss, reason = "exact below 2^52")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

pub(super) struct Tally {
    open: Cell<bool>,
    requests: Cell<u64>,
    errors: Cell<u64>,
    latency: RefCell<Histogram<u64>>,
    first_failure: RefCell<Option<String>>,
}

impl Tally {
    pub(super) fn new() -> anyhow::Result<Self> {
        let highest = u64::try_from(LONGEST.as_nanos())?;
        Ok(Self {
            open: Cell::new(false),
            requests: Cell::new(0),
            errors: Cell::new(0),
            latency: RefCell::new(Histogram::new_with_max(highest, DIGITS)?),
            first_failure: RefCell::default(),
        })
    }

    pub(super) fn begin(&self) {
        self.open.set(true);
    }

    pub(super) fn end(&self) {
        self.open.set(false);
    }

    /// A request was answered that was due, or sent, at `since`.
    pub(super) fn answered(&self, since: Instant) {
        if self.open.get() {
            self.requests.set(self.requests.get() + 1);
            let nanoseconds = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.latency.borrow_mut().saturating_record(nanoseconds);
        }
    }

    /// Errors count outside the window too: every proxy has to answer everything.
    pub(super) fn error(&self) {
        self.errors.set(self.errors.get() + 1);
    }

    /// A lane has broken.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.error();
        self.first_failure
            .borrow_mut()
            .get_or_insert_with(|| format!("{error:#}"));
    }

    pub(super) fn outcome(&self, elapsed: Duration, spent: Usage) -> Outcome {
        Outcome {
            requests: self.requests.get(),
            errors: self.errors.get(),
            first_failure: self.first_failure.borrow().clone(),
            elapsed,
            latency: self.latency.borrow().clone(),
            spent,
        }
    }
}
