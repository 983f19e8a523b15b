//! The time limits of a call: which of them ends the wait for a response, and what it is then called.
//!
//! A limit that is not set costs nothing: without any no timer is made.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::timeout::RequestTimeouts;
use tokio::time::{Instant, sleep_until};

use super::body::BodyProgress;

/// Why an attempt was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expiry {
    /// The time of the whole call is over.
    Call(ErrorKind),
    /// The time of this attempt is; another may follow.
    Attempt,
}

/// The limits of a call and when they began to count.
#[derive(Clone)]
pub(crate) struct Bounds {
    timeouts: RequestTimeouts,
    /// Envoy `request_timeout`: until the request has been received; a response that begins before ends it.
    request: Option<Duration>,
    started: Instant,
    /// `None` is a request without a body.
    progress: Option<Arc<BodyProgress>>,
}

impl Bounds {
    pub(crate) fn new(
        timeouts: RequestTimeouts,
        request: Option<Duration>,
        progress: Option<Arc<BodyProgress>>,
    ) -> Self {
        Self {
            timeouts,
            request,
            started: Instant::now(),
            progress,
        }
    }

    pub(crate) fn stream_idle(&self) -> Option<Duration> {
        self.timeouts.stream_idle
    }

    /// When the request had been received.
    fn ended_at(&self) -> Option<Instant> {
        match &self.progress {
            None => Some(self.started),
            Some(progress) => progress.ended_at(),
        }
    }

    fn received(&self) -> u64 {
        self.progress
            .as_ref()
            .map_or(0, |progress| progress.bytes())
    }

    /// When the call must have ended: its longest duration, and the route's timeout from the end of the request on.
    pub(crate) fn end(&self) -> Option<(Instant, ErrorKind)> {
        let duration = self.timeouts.max_stream_duration.map(|limit| {
            let kind = ErrorKind::MaxStreamDuration {
                request_complete: self.ended_at().is_some(),
            };
            (self.started + limit, kind)
        });
        let route = self.timeouts.route.zip(self.ended_at());
        let route = route.map(|(limit, ended)| (ended + limit, ErrorKind::RouteTimeout));
        earliest([duration, route])
    }

    /// Whether the end of the request sets a limit that is not there yet.
    pub(crate) fn waits_for_request(&self) -> bool {
        self.timeouts.route.is_some() && self.ended_at().is_none()
    }

    /// The limit that ends an attempt first.
    fn next(&self, attempt: Instant, active: Instant) -> Option<(Instant, Expiry)> {
        let is_receiving = self.ended_at().is_none();
        let request = self.request.filter(|_| is_receiving);
        let request = request.map(|limit| (self.started + limit, ErrorKind::RequestTimeout));
        let idle = self.timeouts.stream_idle.map(|limit| {
            (
                active + limit,
                ErrorKind::StreamIdleTimeout {
                    request_complete: !is_receiving,
                },
            )
        });
        let call =
            earliest([self.end(), request, idle]).map(|(due, kind)| (due, Expiry::Call(kind)));
        // Envoy arms it when the request has been received.
        let per_try = self.timeouts.per_try.zip(self.ended_at());
        let per_try = per_try.map(|(limit, ended)| attempt.max(ended) + limit);
        let per_try_idle = self.timeouts.per_try_idle.map(|limit| active + limit);
        let tried = [per_try, per_try_idle].into_iter().flatten().min();
        earliest([call, tried.map(|due| (due, Expiry::Attempt))])
    }

    fn has_any(&self) -> bool {
        self.request.is_some() || self.timeouts != RequestTimeouts::default()
    }

    /// Waits for the answer to an attempt for as long as the limits allow.
    pub(crate) async fn wait<F: Future>(
        &self,
        mut attempt: Pin<&mut F>,
    ) -> Result<F::Output, Expiry> {
        if !self.has_any() {
            return Ok(attempt.await);
        }
        let started = Instant::now();
        let (mut active, mut received) = (started, self.received());
        loop {
            let next = self.next(started, active);
            let due = async {
                match &next {
                    Some((due, _)) => sleep_until(*due).await,
                    None => std::future::pending().await,
                }
            };
            let ended = async {
                match &self.progress {
                    Some(progress) if progress.ended_at().is_none() => progress.ended().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                output = attempt.as_mut() => return Ok(output),
                () = ended => active = Instant::now(),
                () = due => {
                    let now = self.received();
                    // Bytes of the request are no silence.
                    if now == received
                        && let Some((_, expiry)) = next
                    {
                        return Err(expiry);
                    }
                    (active, received) = (Instant::now(), now);
                    if let Some((due, expiry)) = self.next(started, active)
                        && due <= Instant::now()
                    {
                        return Err(expiry);
                    }
                }
            }
        }
    }

    /// Sleeps between two attempts, unless the call ends in the meantime.
    pub(crate) async fn pause(&self, pause: Duration) -> Result<(), ErrorKind> {
        let until = Instant::now() + pause;
        match self.end() {
            Some((due, kind)) if due <= until => {
                sleep_until(due).await;
                Err(kind)
            }
            _ => {
                sleep_until(until).await;
                Ok(())
            }
        }
    }
}

fn earliest<T, const N: usize>(limits: [Option<(Instant, T)>; N]) -> Option<(Instant, T)> {
    limits.into_iter().flatten().min_by_key(|(due, _)| *due)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    async fn outcome(bounds: &Bounds) -> (Result<(), Expiry>, u64) {
        let started = Instant::now();
        let outcome = bounds.wait(pin!(std::future::pending())).await;
        (outcome, started.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_limit_ends_the_wait() {
        let all = RequestTimeouts {
            route: seconds(9),
            per_try: seconds(5),
            per_try_idle: seconds(4),
            stream_idle: seconds(3),
            max_stream_duration: seconds(2),
        };
        let bounds = |timeouts| Bounds::new(timeouts, seconds(1), None);
        let duration = ErrorKind::MaxStreamDuration {
            request_complete: true,
        };
        assert_eq!(
            outcome(&bounds(all)).await,
            (Err(Expiry::Call(duration)), 2)
        );
        let next = RequestTimeouts {
            max_stream_duration: None,
            ..all
        };
        let idle = ErrorKind::StreamIdleTimeout {
            request_complete: true,
        };
        assert_eq!(outcome(&bounds(next)).await, (Err(Expiry::Call(idle)), 3));
        let next = RequestTimeouts {
            stream_idle: None,
            ..next
        };
        assert_eq!(outcome(&bounds(next)).await, (Err(Expiry::Attempt), 4));
        let next = RequestTimeouts {
            per_try_idle: None,
            ..next
        };
        assert_eq!(outcome(&bounds(next)).await, (Err(Expiry::Attempt), 5));
        let next = RequestTimeouts {
            per_try: None,
            ..next
        };
        assert_eq!(
            outcome(&bounds(next)).await,
            (Err(Expiry::Call(ErrorKind::RouteTimeout)), 9)
        );
    }

    /// Envoy: the route's timeout counts from the end of the request, `request_timeout` up to it.
    #[tokio::test(start_paused = true)]
    async fn what_counts_from_the_end_of_the_request() {
        let progress = Arc::new(BodyProgress::default());
        let timeouts = RequestTimeouts {
            route: seconds(5),
            ..RequestTimeouts::default()
        };
        let late = progress.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(20)).await;
            late.end();
        });
        let bounds = Bounds::new(timeouts, None, Some(progress.clone()));
        assert!(bounds.waits_for_request() && bounds.end().is_none());
        assert_eq!(
            outcome(&bounds).await,
            (Err(Expiry::Call(ErrorKind::RouteTimeout)), 25)
        );
        let receiving = Bounds::new(timeouts, seconds(7), Some(Arc::default()));
        assert_eq!(
            outcome(&receiving).await,
            (Err(Expiry::Call(ErrorKind::RequestTimeout)), 7)
        );
        let received = Bounds::new(RequestTimeouts::default(), seconds(7), Some(progress));
        let quick = pin!(tokio::time::sleep(Duration::from_secs(60)));
        let quick = received.wait(quick).await;
        assert_eq!(quick, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_still_coming_is_not_idle() {
        let progress = Arc::new(BodyProgress::default());
        let timeouts = RequestTimeouts {
            stream_idle: seconds(3),
            ..RequestTimeouts::default()
        };
        let slow = progress.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(2)).await;
                slow.read(1);
            }
        });
        let bounds = Bounds::new(timeouts, None, Some(progress));
        let (outcome, after) = outcome(&bounds).await;
        assert_eq!(
            outcome,
            Err(Expiry::Call(ErrorKind::StreamIdleTimeout {
                request_complete: false
            }))
        );
        assert!((10..=16).contains(&after), "{after}");
    }
}
