//! Injected delays in force (Envoy `HTTPFault.max_active_faults`).

use std::sync::atomic::{AtomicU32, Ordering};

/// How many faults are in force in this process.
#[derive(Debug, Default)]
pub(crate) struct ActiveFaults(AtomicU32);

impl ActiveFaults {
    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts a fault for as long as the guard lives.
    pub(crate) fn begin(&self) -> ActiveFault<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        ActiveFault(&self.0)
    }
}

#[derive(Debug)]
pub(crate) struct ActiveFault<'a>(&'a AtomicU32);

impl Drop for ActiveFault<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
