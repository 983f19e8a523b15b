//! Even pacing by a kernel timer: tokio's own has a resolution of one millisecond, which is the interval of 1,000 requests
//! per second.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::tally::Tally;

/// Requests that are due and unsent at most: one second's worth of the highest rate. What is beyond counts as failed.
const LIMIT: usize = 5_000;
/// The shortest time to arm the timer for; zero would disarm it.
const SOON: Duration = Duration::from_micros(1);

/// Times at which requests are due, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    due: RefCell<VecDeque<Instant>>,
    filled: Notify,
}

impl Queue {
    pub(super) async fn pop(&self) -> Instant {
        loop {
            let next = self.due.borrow_mut().pop_front();
            match next {
                Some(due) => return due,
                None => self.filled.notified().await,
            }
        }
    }

    /// Whether there was room.
    fn push(&self, due: Instant) -> bool {
        let mut queue = self.due.borrow_mut();
        let has_room = queue.len() < LIMIT;
        if has_room {
            queue.push_back(due);
            self.filled.notify_one();
        }
        has_room
    }
}

/// Fills the queue until it is dropped.
pub(super) async fn pace(per_second: u32, queue: &Queue, tally: &Tally) -> anyhow::Result<()> {
    let interval = Duration::from_secs(1) / per_second;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
    // A second descriptor of the same timer: one to arm it, one to wait for it.
    let waiting = timer.as_fd().try_clone_to_owned()?;
    #[allow(
        deprecated,
        reason = "sound for a descriptor that is owned; the new form is unsafe"
    )]
    let expired = AsyncFd::with_interest(waiting, Interest::READABLE)?;
    let mut due = Instant::now() + interval;
    loop {
        let wait = due.saturating_duration_since(Instant::now()).max(SOON);
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        timer.set(expiration, TimerSetTimeFlags::empty())?;
        expired.readable().await?.clear_ready();
        let now = Instant::now();
        while due <= now {
            if !queue.push(due) {
                tally.error();
            }
            due += interval;
        }
    }
}
