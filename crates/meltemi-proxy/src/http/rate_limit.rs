//! Token buckets of local rate limits, one per configuration.

use std::collections::HashMap;
use std::sync::Arc;

use meltemi_proxy_core::runtime::{LocalRateLimit, TokenBucket};
use parking_lot::Mutex;
use tokio::time::Instant;

/// Buckets after which those of configurations that are gone are looked for.
const PRUNE_AT: usize = 64;

/// The buckets of the process, shared by its workers as Envoy's are, or those of one connection. A bucket lives as long as
/// its configuration does: forgetting one would fill it.
#[derive(Debug, Default)]
pub(crate) struct RateLimits(Mutex<HashMap<usize, Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Keeps the address that is the key from being used again.
    config: Arc<LocalRateLimit>,
    tokens: u32,
    filled: Instant,
}

impl RateLimits {
    /// Takes a token; false when there is none.
    pub(crate) fn admit(&self, config: &Arc<LocalRateLimit>) -> bool {
        let Some(settings) = &config.bucket else {
            return true;
        };
        let mut buckets = self.0.lock();
        let key = Arc::as_ptr(config) as usize;
        if buckets.len() >= PRUNE_AT && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| Arc::strong_count(&bucket.config) > 1);
        }
        let bucket = buckets.entry(key).or_insert_with(|| Bucket {
            config: config.clone(),
            tokens: settings.max_tokens,
            filled: Instant::now(),
        });
        bucket.fill(settings, Instant::now());
        let admitted = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        admitted
    }
}

impl Bucket {
    fn fill(&mut self, settings: &TokenBucket, now: Instant) {
        let interval = settings.fill_interval.as_nanos().max(1);
        let fills = now.duration_since(self.filled).as_nanos() / interval;
        if fills == 0 {
            return;
        }
        let fills = u32::try_from(fills).unwrap_or(u32::MAX);
        self.filled += settings.fill_interval.saturating_mul(fills);
        let added = settings.tokens_per_fill.saturating_mul(fills);
        self.tokens = self.tokens.saturating_add(added).min(settings.max_tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn fills_at_its_interval_up_to_its_size() {
        let settings = TokenBucket {
            max_tokens: 2,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(1),
        };
        let mut bucket = Bucket {
            config: Arc::new(limit(settings)),
            tokens: 0,
            filled: Instant::now(),
        };
        bucket.fill(&settings, Instant::now());
        assert_eq!(bucket.tokens, 0);
        bucket.fill(&settings, Instant::now() + Duration::from_millis(1500));
        assert_eq!(bucket.tokens, 1);
        bucket.fill(&settings, Instant::now() + Duration::from_secs(60));
        assert_eq!(bucket.tokens, 2);
    }

    fn limit(bucket: TokenBucket) -> LocalRateLimit {
        LocalRateLimit {
            stat_prefix: "x".into(),
            status: http::StatusCode::TOO_MANY_REQUESTS,
            bucket: Some(bucket),
            enabled: meltemi_proxy_core::runtime::Fraction::ALWAYS,
            enforced: meltemi_proxy_core::runtime::Fraction::ALWAYS,
            response_headers: Default::default(),
            rate_limited_as_resource_exhausted: false,
            per_downstream_connection: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn admits_as_many_as_there_are_tokens() {
        let limits = RateLimits::default();
        let settings = TokenBucket {
            max_tokens: 2,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(60),
        };
        let config = Arc::new(limit(settings));
        let admitted: Vec<bool> = (0..3).map(|_| limits.admit(&config)).collect();
        assert_eq!(admitted, [true, true, false]);
    }

    /// Configurations come and go; those in force keep what they have left.
    #[tokio::test(start_paused = true)]
    async fn an_empty_bucket_is_not_forgotten() {
        let limits = RateLimits::default();
        let settings = TokenBucket {
            max_tokens: 1,
            tokens_per_fill: 1,
            fill_interval: Duration::from_secs(60),
        };
        let kept = Arc::new(limit(settings));
        assert!(limits.admit(&kept));
        for _ in 0..5000 {
            assert!(limits.admit(&Arc::new(limit(settings))));
        }
        assert!(!limits.admit(&kept));
        assert!(limits.0.lock().len() <= PRUNE_AT);
    }
}
