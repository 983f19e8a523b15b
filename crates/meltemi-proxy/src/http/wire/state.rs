//! What the guard of an HTTP/2 connection and its exchanges tell each other.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by the guard and the exchanges of one connection.
#[derive(Debug, Default)]
pub(crate) struct WireState {
    flooded: AtomicBool,
}

impl WireState {
    /// The peer used up a budget: the connection is to end.
    pub(crate) fn flooded(&self) {
        self.flooded.store(true, Ordering::Relaxed);
    }

    /// Whether the connection was ended because its peer used up a frame budget.
    pub(crate) fn was_flooded(&self) -> bool {
        self.flooded.load(Ordering::Relaxed)
    }
}
