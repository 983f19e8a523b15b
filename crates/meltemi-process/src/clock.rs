//! Waiting for a time of day.

use std::time::{Duration, SystemTime};

/// How late a wait may notice that the clock jumped.
const STEP: Duration = Duration::from_secs(60);

/// Waits for `wait`, or until the wall clock shows `due`, whichever comes first.
///
/// Timers stand still while the machine is suspended, certificates go on expiring: so the sleep is cut into steps, and
/// the wall clock is looked at after each.
pub async fn wait_until_due(wait: Duration, due: SystemTime) {
    wait_with(wait, due, SystemTime::now).await;
}

async fn wait_with(wait: Duration, due: SystemTime, now: impl Fn() -> SystemTime) {
    let mut rest = wait;
    while !rest.is_zero() {
        let step = rest.min(STEP);
        tokio::time::sleep(step).await;
        rest -= step;
        if now() >= due {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(start_paused = true)]
    async fn a_suspended_machine_is_noticed_within_a_step() {
        let (begin, started) = (SystemTime::UNIX_EPOCH, Instant::now());
        let looks = Cell::new(0);
        // After the first step the machine sleeps over the night.
        let now = || {
            looks.set(looks.get() + 1);
            let night = if looks.get() > 1 {
                HOUR * 14
            } else {
                Duration::ZERO
            };
            begin + started.elapsed() + night
        };
        wait_with(HOUR * 12, begin + HOUR * 12, now).await;
        assert_eq!(started.elapsed(), STEP * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_set_back_does_not_lengthen_the_wait() {
        let started = Instant::now();
        wait_with(HOUR, SystemTime::UNIX_EPOCH + HOUR, || {
            SystemTime::UNIX_EPOCH
        })
        .await;
        assert_eq!(started.elapsed(), HOUR);
    }
}
