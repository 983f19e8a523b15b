//! Outlier detection by consecutive errors (Envoy `OutlierDetection`): counts per host, and the decision to eject.

use std::time::Duration;

use meltemi_proxy_core::runtime::OutlierDetection;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How an upstream request ended, as outlier detection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    /// No answer: connection failure, reset or timeout.
    LocalOrigin,
}

/// One host's record.
#[derive(Debug, Default)]
pub(crate) struct Outlier(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    consecutive_5xx: u32,
    consecutive_gateway: u32,
    consecutive_local: u32,
    ejected_until: Option<Instant>,
    ejections: u32,
}

impl Outlier {
    pub(crate) fn is_ejected(&self) -> bool {
        self.0.lock().ejected_until.is_some()
    }

    /// Counts an outcome and says whether the host is to be ejected now. `random_percent` is uniform in 0..100.
    pub(crate) fn observe(
        &self,
        settings: &OutlierDetection,
        outcome: Outcome,
        random_percent: u32,
    ) -> bool {
        let mut state = self.0.lock();
        let (server_error, gateway_error, local) = match outcome {
            Outcome::Status(status) => (status >= 500, (502..=504).contains(&status), false),
            // Without the split a local failure counts as the 503 that the client sees.
            Outcome::LocalOrigin if settings.split_external_local_origin_errors => {
                (false, false, true)
            }
            Outcome::LocalOrigin => (true, true, false),
        };
        if local {
            state.consecutive_local += 1;
        } else {
            state.consecutive_local = 0;
            state.consecutive_5xx = if server_error {
                state.consecutive_5xx + 1
            } else {
                0
            };
            state.consecutive_gateway = if gateway_error {
                state.consecutive_gateway + 1
            } else {
                0
            };
        }
        if state.ejected_until.is_some() {
            return false;
        }
        let due = |count: u32, limit: u32, enforcing: u32| {
            limit != 0 && count >= limit && random_percent < enforcing
        };
        due(
            state.consecutive_5xx,
            settings.consecutive_5xx,
            settings.enforcing_consecutive_5xx_percent,
        ) || due(
            state.consecutive_gateway,
            settings.consecutive_gateway_failure,
            settings.enforcing_consecutive_gateway_failure_percent,
        ) || due(
            state.consecutive_local,
            settings.consecutive_local_origin_failure,
            settings.enforcing_consecutive_local_origin_failure_percent,
        )
    }

    /// Ejects for the base time times the number of ejections, at most the maximum.
    pub(crate) fn eject(&self, settings: &OutlierDetection, now: Instant) -> Duration {
        let mut state = self.0.lock();
        state.ejections += 1;
        let time = settings
            .base_ejection_time
            .saturating_mul(state.ejections)
            .min(settings.max_ejection_time);
        state.ejected_until = Some(now + time);
        state.consecutive_5xx = 0;
        state.consecutive_gateway = 0;
        state.consecutive_local = 0;
        time
    }

    /// Takes a host back whose time is over; true if it was this call that did.
    pub(crate) fn readmit(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        let over = state.ejected_until.is_some_and(|until| until <= now);
        if over {
            state.ejected_until = None;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> OutlierDetection {
        OutlierDetection {
            consecutive_5xx: 3,
            consecutive_gateway_failure: 0,
            consecutive_local_origin_failure: 2,
            split_external_local_origin_errors: true,
            enforcing_consecutive_5xx_percent: 100,
            enforcing_consecutive_gateway_failure_percent: 0,
            enforcing_consecutive_local_origin_failure_percent: 100,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(50),
            max_ejection_percent: 10,
        }
    }

    #[test]
    fn only_errors_in_a_row_count() {
        let outlier = Outlier::default();
        let observe = |outcome| outlier.observe(&settings(), outcome, 0);
        assert!(!observe(Outcome::Status(500)));
        assert!(!observe(Outcome::Status(503)));
        assert!(!observe(Outcome::Status(200)));
        assert!(!observe(Outcome::Status(500)));
        assert!(!observe(Outcome::Status(500)));
        assert!(observe(Outcome::Status(500)));
    }

    #[test]
    fn local_failures_count_apart_when_split() {
        let outlier = Outlier::default();
        assert!(!outlier.observe(&settings(), Outcome::LocalOrigin, 0));
        assert!(outlier.observe(&settings(), Outcome::LocalOrigin, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn ejection_grows_to_its_bound() {
        let outlier = Outlier::default();
        let now = Instant::now();
        assert_eq!(outlier.eject(&settings(), now), Duration::from_secs(30));
        assert!(outlier.is_ejected() && !outlier.readmit(now));
        assert!(outlier.readmit(now + Duration::from_secs(30)));
        assert!(!outlier.is_ejected());
        assert_eq!(outlier.eject(&settings(), now), Duration::from_secs(50));
    }
}
