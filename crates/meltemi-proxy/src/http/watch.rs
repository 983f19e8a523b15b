//! What ends a connection from outside: drain, a replaced filter chain, time, its last exchange.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior};

use super::serve::HttpConnection;
use crate::drain::Phase;

/// How often a connection looks at itself, to notice that it was idle or lived for too long.
pub(super) const WATCH_INTERVAL: Duration = Duration::from_secs(15);

pub(super) enum Event {
    /// The connection is to end after its exchanges.
    Announced,
    CloseIdle,
}

type Next = Pin<Box<dyn Future<Output = (Watch, Event)> + Send>>;

/// The events of a connection. It is asked at every turn of the connection's task, many times per request, and looks only
/// when something woke it.
pub(super) struct Outside {
    connection: Arc<HttpConnection>,
    next: FuturesUnordered<Next>,
}

impl Outside {
    pub(super) fn new(connection: &Arc<HttpConnection>) -> Self {
        let outside = Self {
            connection: connection.clone(),
            next: FuturesUnordered::new(),
        };
        outside.push(Watch::new(connection));
        outside
    }

    fn push(&self, watch: Watch) {
        self.next
            .push(Box::pin(watch.next(self.connection.clone())));
    }

    /// Cancel-safe: what was begun stays.
    pub(super) async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll(cx)).await
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match ready!(self.next.poll_next_unpin(cx)) {
            Some((watch, event)) => {
                self.push(watch);
                Poll::Ready(event)
            }
            None => Poll::Pending,
        }
    }
}

/// Looks out for what ends a connection from outside: drain, a replaced filter chain, time.
struct Watch {
    phase: tokio::sync::watch::Receiver<Phase>,
    config: tokio::sync::watch::Receiver<u64>,
    tick: tokio::time::Interval,
    announced_at: Option<Instant>,
    started: Instant,
}

impl Watch {
    fn new(connection: &HttpConnection) -> Self {
        let shared = &connection.worker.shared;
        let mut tick = tokio::time::interval_at(Instant::now() + WATCH_INTERVAL, WATCH_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut phase = shared.drain.watch();
        phase.mark_changed();
        Self {
            phase,
            config: shared.store.watch(),
            tick,
            announced_at: None,
            started: Instant::now(),
        }
    }

    async fn next(mut self, connection: Arc<HttpConnection>) -> (Self, Event) {
        let connection = &connection;
        loop {
            tokio::select! {
                Ok(()) = self.phase.changed() => {}
                Ok(()) = self.config.changed() => {}
                // An exchange was the connection's last.
                () = connection.end.announced() => {
                    if self.announced_at.is_none() {
                        let event = self.announce(connection);
                        return (self, event);
                    }
                    continue;
                }
                _ = self.tick.tick() => {
                    if let Some(event) = self.look(connection) {
                        return (self, event);
                    }
                    continue;
                }
            }
            if let Some(event) = self.changed(connection) {
                return (self, event);
            }
        }
    }

    /// What a new phase or a new configuration means for the connection.
    fn changed(&mut self, connection: &HttpConnection) -> Option<Event> {
        let phase = *self.phase.borrow_and_update();
        self.config.mark_unchanged();
        let downstream = &connection.downstream;
        let store = &connection.worker.shared.store;
        match phase {
            Phase::Closing => {
                connection.end.announce();
                Some(Event::CloseIdle)
            }
            _ if self.announced_at.is_some() => None,
            Phase::Draining => Some(self.announce(connection)),
            Phase::Serving
                if store.is_in_force(&downstream.listener.name, downstream.chain_fingerprint) =>
            {
                None
            }
            Phase::Serving => Some(self.announce(connection)),
        }
    }

    fn announce(&mut self, connection: &HttpConnection) -> Event {
        connection.end.announce();
        self.announced_at.get_or_insert_with(Instant::now);
        Event::Announced
    }

    fn look(&mut self, connection: &HttpConnection) -> Option<Event> {
        if let Some(at) = self.announced_at
            && at.elapsed() >= connection.worker.shared.drain_time
        {
            return Some(Event::CloseIdle);
        }
        let too_old = connection
            .manager
            .max_connection_duration
            .is_some_and(|max| self.started.elapsed() >= max);
        if too_old && self.announced_at.is_none() {
            return Some(self.announce(connection));
        }
        let limit = connection.manager.idle_timeout?;
        let is_over = connection
            .activity
            .idle_time()
            .is_some_and(|time| time >= limit);
        is_over.then_some(Event::CloseIdle)
    }
}
