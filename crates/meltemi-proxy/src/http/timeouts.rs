//! Timers that cost nothing while bytes flow.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Fires when nothing happened for a while. Progress only notes the time; the timer is moved when it fires.
pub(crate) struct IdleTimer {
    limit: Duration,
    last: Instant,
    timer: Pin<Box<Sleep>>,
}

impl IdleTimer {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: Instant::now(),
            timer: Box::pin(sleep(limit)),
        }
    }

    pub(crate) fn touch(&mut self) {
        self.last = Instant::now();
    }

    /// Whether the limit has passed since the last progress; else wakes the task when it would have.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        while let Poll::Ready(()) = self.timer.as_mut().poll(cx) {
            let due = self.last + self.limit;
            if due <= Instant::now() {
                return true;
            }
            self.timer.as_mut().reset(due);
        }
        false
    }
}
