//! The pause between two connections.

use std::time::Duration;

use rand::Rng;

use crate::limits::{BACKOFF_MAX, BACKOFF_MIN};

/// Doubles from [`BACKOFF_MIN`] to [`BACKOFF_MAX`]; each pause is drawn from the upper half, so that a thousand
/// proxies do not return to a restarted control plane in the same instant.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: BACKOFF_MIN }
    }
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }

    pub(crate) fn pause(&mut self, random: &mut impl Rng) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(BACKOFF_MAX);
        random.random_range(longest / 2..=longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    #[test]
    fn doubles_up_to_the_bound_and_starts_over() {
        let mut random = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        let mut longest = BACKOFF_MIN;
        for _ in 0..12 {
            let pause = backoff.pause(&mut random);
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
            longest = (longest * 2).min(BACKOFF_MAX);
        }
        assert_eq!(longest, BACKOFF_MAX);
        backoff.reset();
        assert!(backoff.pause(&mut random) <= BACKOFF_MIN);
    }
}
