//! Timers that cost nothing while bytes flow.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Fires when nothing happened for a while. Progress only notes the time; the timer is moved when it fires.
pub(crate) struct IdleTimer {
    limit: Duration,
    last: Instant,
    /// Made when there is something to wait for: most responses are there at once.
    timer: Option<Pin<Box<Sleep>>>,
}

impl IdleTimer {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            last: Instant::now(),
            timer: None,
        }
    }

    pub(crate) fn touch(&mut self) {
        self.last = Instant::now();
    }

    /// Whether the limit has passed since the last progress; else wakes the task when it would have.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.last + self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
        while timer.as_mut().poll(cx).is_ready() {
            if due <= Instant::now() {
                return true;
            }
            timer.as_mut().reset(due);
        }
        false
    }
}
