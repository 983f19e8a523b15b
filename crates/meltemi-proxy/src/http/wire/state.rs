//! What the guard of a connection and its exchanges tell each other.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use meltemi_proxy_core::error::ErrorKind;
use parking_lot::Mutex;

/// Why a request of the connection is refused by how it stood on the wire. It is the last one.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    /// Of the request, counted from one.
    pub(crate) request: u64,
    pub(crate) kind: ErrorKind,
    /// The head was good: it is the body that is not.
    pub(crate) in_body: bool,
}

/// What follows a request that asked for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It was none that anyone grants: the next request.
    Http,
    /// Bytes that are not ours to read.
    Tunnel,
}

#[derive(Debug, Default)]
struct Hold {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

/// Shared by the guard and the exchanges of one connection.
#[derive(Debug, Default)]
pub(crate) struct WireState {
    refusal: OnceLock<Refusal>,
    is_held: AtomicBool,
    hold: Mutex<Hold>,
    flooded: AtomicBool,
}

impl WireState {
    /// Why the request with this number is refused, if it is.
    pub(crate) fn refusal(&self, request: u64) -> Option<&Refusal> {
        self.refusal
            .get()
            .filter(|refusal| refusal.request == request)
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        // Only one is ever made: nothing is read after it.
        let _first = self.refusal.set(refusal);
    }

    pub(super) fn hold(&self) {
        *self.hold.lock() = Hold::default();
        self.is_held.store(true, Ordering::Release);
    }

    /// The answer to the request that asked for a tunnel, when it is known.
    pub(super) fn answer(&self, cx: &Context<'_>) -> Option<Answer> {
        let mut hold = self.hold.lock();
        if hold.answer.is_none() {
            hold.waker = Some(cx.waker().clone());
        }
        hold.answer
    }

    /// Says what follows the request that is being answered. Until this is said nothing behind a request that asked for a
    /// tunnel is passed on; for other requests it does nothing.
    pub(crate) fn resolve(&self, answer: Answer) {
        if !self.is_held.swap(false, Ordering::AcqRel) {
            return;
        }
        let waker = {
            let mut hold = self.hold.lock();
            hold.answer = Some(answer);
            hold.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The peer used up a budget: the connection is to end.
    pub(crate) fn flooded(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was ended because its peer used up a frame budget.
    pub(crate) fn was_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }
}
