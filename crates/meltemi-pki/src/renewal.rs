use std::time::SystemTime;

/// How far jitter may move a renewal, as a share of the lifetime.
const JITTER_LIMIT: f64 = 0.01;

/// When to renew a certificate received at `received_at`: at half of the time it had left then, moved by `jitter`
/// times its lifetime, -1 % to +1 % (Istio's `SECRET_GRACE_PERIOD_RATIO` 0.5 and its jitter). Counted from receipt and
/// not from `notBefore`, which authorities set minutes back.
///
/// A certificate that has expired already is due at once.
pub fn renew_at(received_at: SystemTime, not_after: SystemTime, jitter: f64) -> SystemTime {
    let Ok(lifetime) = not_after.duration_since(received_at) else {
        return received_at;
    };
    let jitter = if jitter.is_finite() { jitter } else { 0.0 };
    received_at + lifetime.mul_f64(0.5 + jitter.clamp(-JITTER_LIMIT, JITTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn half_life_with_bounded_jitter() {
        let start = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let end = start + Duration::from_secs(1000);
        let due = |jitter| renew_at(start, end, jitter).duration_since(start).unwrap();
        assert_eq!(due(0.0), Duration::from_secs(500));
        assert_eq!(due(-0.01), Duration::from_secs(490));
        assert_eq!(due(0.01), Duration::from_secs(510));
        assert_eq!(due(7.0), Duration::from_secs(510));
        assert_eq!(due(f64::NAN), Duration::from_secs(500));
    }

    #[test]
    fn an_expired_certificate_is_due_at_once() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        assert_eq!(renew_at(now, UNIX_EPOCH, 0.0), now);
    }
}
