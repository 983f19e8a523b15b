//! One attempt at an HTTP/2 connection at a time, shared by all requests that need it.

use parking_lot::Mutex;
use tokio::time::Instant;

use super::connect::ConnectError;

/// Whose turn it is to connect, and how the last attempt failed.
#[derive(Default)]
pub(crate) struct Dial {
    turn: tokio::sync::Mutex<()>,
    failure: Mutex<Option<(Instant, ConnectError)>>,
}

/// A request that waits for the dial.
pub(crate) struct Waiting<'a> {
    dial: &'a Dial,
    since: Instant,
}

impl Dial {
    /// Joins those who wait. That there are not too many is the caller's to see to.
    pub(crate) fn join(&self) -> Waiting<'_> {
        Waiting {
            dial: self,
            since: Instant::now(),
        }
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
        let (first, second) = (dial.join(), dial.join());
        let turn = first.turn().await.unwrap();
        tokio::time::advance(Duration::from_secs(10)).await;
        dial.failed(&refused());
        drop(turn);
        assert!(second.turn().await.is_err());
        tokio::time::advance(Duration::from_secs(1)).await;
        let later = dial.join();
        assert!(later.turn().await.is_ok());
    }
}
