//! One attempt at an HTTP/2 connection at a time, shared by all requests that need it.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::connect::ConnectError;

/// Who waits for a connection, and how the last attempt failed.
#[derive(Default)]
pub(crate) struct Dial {
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    failure: Mutex<Option<(Instant, ConnectError)>>,
}

/// A request that waits for the dial, counted.
pub(crate) struct Waiting<'a> {
    dial: &'a Dial,
    since: Instant,
}

impl Dial {
    /// Joins those who wait, unless there are `limit` of them.
    pub(crate) fn join(&self, limit: u32) -> Option<Waiting<'_>> {
        let waiting = Waiting {
            dial: self,
            since: Instant::now(),
        };
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        (before < limit as usize).then_some(waiting)
    }

    pub(crate) fn failed(&self, error: &ConnectError) {
        *self.failure.lock() = Some((Instant::now(), error.clone()));
    }
}

impl Waiting<'_> {
    /// Waits for the turn to dial. An attempt that failed in the meantime was this request's, too.
    pub(crate) async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, ConnectError> {
        let turn = self.dial.turn.lock().await;
        match &*self.dial.failure.lock() {
            Some((at, error)) if *at > self.since => Err(error.clone()),
            _ => Ok(turn),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.dial.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meltemi_proxy_core::error::ResetReason;
    use std::time::Duration;

    fn refused() -> ConnectError {
        ConnectError {
            reason: ResetReason::RemoteConnectionFailure,
            failure: None,
        }
    }

    /// A host that does not answer costs each request one attempt's time, not the time of all before it.
    #[tokio::test(start_paused = true)]
    async fn a_failure_is_everybodys_who_waited_for_it() {
        let dial = Dial::default();
        let (first, second) = (dial.join(9).unwrap(), dial.join(9).unwrap());
        let turn = first.turn().await.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        dial.failed(&refused());
        drop(turn);
        assert!(second.turn().await.is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        let later = dial.join(9).unwrap();
        assert!(later.turn().await.is_ok());
    }

    #[tokio::test]
    async fn those_who_wait_are_bounded() {
        let dial = Dial::default();
        let waiting = dial.join(1);
        assert!(waiting.is_some() && dial.join(1).is_none());
        drop(waiting);
        assert!(dial.join(1).is_some());
    }
}
