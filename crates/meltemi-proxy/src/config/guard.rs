//! Refuses to be emptied by a control plane that came back without its state.
//!
//! | event | effect |
//! |---|---|
//! | a connection after the first | suspicion for [`SUSPICION`] |
//! | more than half of what is held of a type removed under suspicion | removals are refused (NACK), for [`PATIENCE`] |
//! | patience over, or an operator's word | removals are taken; the control plane is asked to say them again |
//!
//! The NACK is what `proxy-status` shows.

use std::time::Duration;

use tokio::time::Instant;

/// How long after a new connection removals are looked at.
const SUSPICION: Duration = Duration::from_secs(60);
/// How long removals are refused.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct RemovalGuard {
    connected_again: Option<Instant>,
    refusing_since: Option<Instant>,
    convinced: Option<Instant>,
}

impl RemovalGuard {
    /// There is a new connection, not the first.
    pub(crate) fn connected_again(&mut self, now: Instant) {
        // The connection that a refusal itself brought about is no news.
        if self.refusing_since.is_none() && !self.is_convinced(now) {
            self.connected_again = Some(now);
        }
    }

    /// Whether to refuse to remove `removed` of the `held` resources of a type.
    pub(crate) fn refuses(&mut self, held: usize, removed: usize, now: Instant) -> bool {
        if removed == 0 || self.is_convinced(now) {
            return false;
        }
        if self.refusing_since.is_some() {
            return true;
        }
        let is_suspicious = self
            .connected_again
            .is_some_and(|since| now < since + SUSPICION);
        if is_suspicious && removed * 2 > held {
            self.refusing_since = Some(now);
            return true;
        }
        false
    }

    /// When to stop refusing.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.refusing_since.map(|since| since + PATIENCE)
    }

    /// Takes removals for as long as suspicion would last. Whether anything had been refused.
    pub(crate) fn give_in(&mut self, now: Instant) -> bool {
        let was_refusing = self.refusing_since.take().is_some();
        if was_refusing {
            self.convinced = Some(now);
            self.connected_again = None;
        }
        was_refusing
    }

    fn is_convinced(&self, now: Instant) -> bool {
        self.convinced.is_some_and(|since| now < since + SUSPICION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_control_plane_is_believed_only_after_a_while() {
        let mut guard = RemovalGuard::default();
        let start = Instant::now();
        assert!(!guard.refuses(10, 10, start), "the first connection");
        guard.connected_again(start);
        assert!(!guard.refuses(10, 5, start), "half is not more than half");
        assert!(guard.refuses(10, 6, start));
        assert!(guard.refuses(10, 1, start), "now all removals");
        assert_eq!(guard.deadline(), Some(start + PATIENCE));
        let later = start + PATIENCE;
        assert!(guard.give_in(later));
        guard.connected_again(later);
        assert!(!guard.refuses(10, 10, later));
        // The next time that it was away it is looked at again.
        guard.connected_again(later + SUSPICION);
        assert!(guard.refuses(10, 10, later + SUSPICION));
    }

    #[test]
    fn deletions_by_a_control_plane_that_was_there_all_along_are_taken() {
        let mut guard = RemovalGuard::default();
        let start = Instant::now();
        guard.connected_again(start);
        assert!(!guard.refuses(10, 10, start + SUSPICION));
        assert!(!guard.give_in(start));
    }
}
