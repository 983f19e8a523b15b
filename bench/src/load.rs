//! The load generator: lanes that each carry one request at a time, driven at a fixed rate or as fast as they go.

pub(crate) mod bytes;
mod lane;
mod pace;
mod tally;
pub(crate) mod tls;

use std::rc::Rc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

pub(crate) use lane::{Kind, Lane, Target, open, until_answered};
use pace::Queue;
use tally::Tally;
pub(crate) use tally::{Outcome, to_f64};

use crate::rig::Usage;

/// How the lanes are driven.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Drive {
    /// Open loop: requests are due at even intervals whatever became of earlier ones, and latency counts from then. So
    /// a proxy that stalls is charged for every request that should have been sent meanwhile.
    Rate(u32),
    /// Closed loop: each lane sends its next request when the last is answered.
    Saturate,
}

/// When to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// Drives the lanes through one window. `usage` reads what the proxies have used.
///
/// # Errors
/// A proxy has ended.
pub(crate) async fn run(
    lanes: Vec<Lane>,
    drive: Drive,
    window: Window,
    usage: &dyn Fn() -> anyhow::Result<Usage>,
) -> anyhow::Result<Outcome> {
    let tally = Rc::new(Tally::new()?);
    let queue = Rc::new(Queue::default());
    let mut tasks = JoinSet::new();
    for lane in lanes {
        let tally = tally.clone();
        match drive {
            Drive::Rate(_) => tasks.spawn_local(paced(lane, queue.clone(), tally)),
            Drive::Saturate => tasks.spawn_local(saturated(lane, tally)),
        };
    }
    if let Drive::Rate(per_second) = drive {
        let tally = tally.clone();
        tasks.spawn_local(async move {
            if pace::pace(per_second, &queue, &tally).await.is_err() {
                tally.error();
            }
        });
    }
    tokio::time::sleep(window.warm_up).await;
    let (before, start) = (usage()?, Instant::now());
    tally.begin();
    tokio::time::sleep(window.length).await;
    let (after, end) = (usage()?, Instant::now());
    tally.end();
    tasks.abort_all();
    let spent = Usage {
        cpu: after.cpu.saturating_sub(before.cpu),
        resident_bytes: after.resident_bytes,
    };
    Ok(tally.outcome(end - start, spent))
}

async fn paced(mut lane: Lane, queue: Rc<Queue>, tally: Rc<Tally>) {
    loop {
        let due = queue.pop().await;
        match lane.call().await {
            Ok(()) => tally.answered(due),
            Err(error) => return tally.failed(&error),
        }
    }
}

async fn saturated(mut lane: Lane, tally: Rc<Tally>) {
    loop {
        let start = Instant::now();
        match lane.call().await {
            Ok(()) => tally.answered(start),
            Err(error) => return tally.failed(&error),
        }
    }
}
