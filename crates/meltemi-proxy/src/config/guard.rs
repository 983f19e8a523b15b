//! Refuses to be emptied by a control plane that came back without its state.
//!
//! | event | effect |
//! |---|---|
//! | a connection after the first | suspicion for [`SUSPICION`]; what was refused before is judged anew |
//! | more than half of what is held of a type removed under suspicion, or a standing resource | the update is refused whole (NACK), and all that touch what is held after it, for [`PATIENCE`] |
//! | a standing listener changed under suspicion | the change waits for [`SETTLE`], so that what else comes can be judged |
//! | patience over, or an operator's word | everything is taken; the control plane is asked to say it again |
//!
//! The NACK is what `proxy-status` shows.
//!
//! Resources that a control plane sends whatever the mesh holds (standing ones) count neither as held nor as removed:
//! they are all that is left of a small configuration whose services are gone. And what a control plane without its
//! store says of them is as wrong as its removals: a workload that was STRICT is PERMISSIVE where no policy is known.

use std::time::Duration;

use tokio::time::Instant;

/// How long after a new connection removals are looked at.
const SUSPICION: Duration = Duration::from_secs(60);
/// How long updates are refused.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a change of a standing listener waits for the rest of what a returned control plane says. The rest of a push
/// follows its listeners at once: removals of clusters wait for nothing but their acknowledgement.
const SETTLE: Duration = Duration::from_secs(2);

/// What an update would do to what is held of its type, standing resources apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Loss {
    pub(crate) held: usize,
    pub(crate) removed: usize,
    /// A standing resource is removed.
    pub(crate) removes_standing: bool,
    /// Something that is held, standing or not, is changed or removed.
    pub(crate) touches_held: bool,
}

#[derive(Debug, Default)]
pub(crate) struct RemovalGuard {
    connected_again: Option<Instant>,
    refusing_since: Option<Instant>,
    convinced: Option<Instant>,
}

impl RemovalGuard {
    /// There is a new connection, not the first. It may be that of a control plane that has found its store again.
    pub(crate) fn connected_again(&mut self, now: Instant) {
        // The connection that taking everything brought about is no news.
        if !self.is_convinced(now) {
            self.connected_again = Some(now);
            self.refusing_since = None;
        }
    }

    /// Whether to refuse an update, whole.
    pub(crate) fn refuses(&mut self, loss: Loss, now: Instant) -> bool {
        if !loss.touches_held || self.is_convinced(now) {
            return false;
        }
        if self.refusing_since.is_some() {
            return true;
        }
        let is_loss = loss.removed * 2 > loss.held || loss.removes_standing;
        if self.is_suspicious(now) && is_loss {
            self.refusing_since = Some(now);
            return true;
        }
        false
    }

    /// Until when a change of a standing listener that comes now has to wait, if it has to.
    pub(crate) fn settles_at(&self, now: Instant) -> Option<Instant> {
        (self.is_suspicious(now) && !self.is_convinced(now)).then(|| now + SETTLE)
    }

    /// When to stop refusing.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.refusing_since.map(|since| since + PATIENCE)
    }

    /// Takes everything for as long as suspicion would last. Whether anything had been refused.
    pub(crate) fn give_in(&mut self, now: Instant) -> bool {
        let was_refusing = self.refusing_since.take().is_some();
        if was_refusing {
            self.convinced = Some(now);
            self.connected_again = None;
        }
        was_refusing
    }

    fn is_suspicious(&self, now: Instant) -> bool {
        self.connected_again
            .is_some_and(|since| now < since + SUSPICION)
    }

    fn is_convinced(&self, now: Instant) -> bool {
        self.convinced.is_some_and(|since| now < since + SUSPICION)
    }
}

/// Until when changes that wait are kept if the control plane says nothing of their type on a new connection.
pub(crate) const UNSAID_LIMIT: Duration = PATIENCE;

#[cfg(test)]
mod tests {
    use super::*;

    fn removes(removed: usize, held: usize) -> Loss {
        Loss {
            held,
            removed,
            removes_standing: false,
            touches_held: removed > 0,
        }
    }

    #[test]
    fn an_empty_control_plane_is_believed_only_after_a_while() {
        let mut guard = RemovalGuard::default();
        let start = Instant::now();
        assert!(
            !guard.refuses(removes(10, 10), start),
            "the first connection"
        );
        guard.connected_again(start);
        assert!(
            !guard.refuses(removes(5, 10), start),
            "half is not more than half"
        );
        assert!(guard.refuses(removes(6, 10), start));
        let changes = Loss {
            touches_held: true,
            ..removes(0, 10)
        };
        assert!(guard.refuses(changes, start), "now whatever is held stays");
        assert!(!guard.refuses(removes(0, 10), start), "what is new is new");
        assert_eq!(guard.deadline(), Some(start + PATIENCE));
        let later = start + PATIENCE;
        assert!(guard.give_in(later));
        guard.connected_again(later);
        assert!(!guard.refuses(removes(10, 10), later));
        assert_eq!(guard.settles_at(later), None);
        // The next time that it was away it is looked at again.
        guard.connected_again(later + SUSPICION);
        assert!(guard.refuses(removes(10, 10), later + SUSPICION));
    }

    #[test]
    fn deletions_by_a_control_plane_that_was_there_all_along_are_taken() {
        let mut guard = RemovalGuard::default();
        let start = Instant::now();
        guard.connected_again(start);
        assert!(!guard.refuses(removes(10, 10), start + SUSPICION));
        assert!(!guard.give_in(start));
    }

    #[test]
    fn a_control_plane_that_found_its_store_again_is_judged_anew() {
        let mut guard = RemovalGuard::default();
        let start = Instant::now();
        guard.connected_again(start);
        assert!(guard.refuses(removes(10, 10), start));
        let later = start + Duration::from_secs(5);
        guard.connected_again(later);
        assert_eq!(guard.deadline(), None);
        assert!(!guard.refuses(removes(1, 10), later));
        assert!(guard.refuses(removes(9, 10), later));
    }

    #[test]
    fn what_stands_is_not_removed_under_suspicion() {
        let mut guard = RemovalGuard::default();
        let start = Instant::now();
        guard.connected_again(start);
        let loss = Loss {
            removes_standing: true,
            touches_held: true,
            ..removes(0, 10)
        };
        assert!(guard.refuses(loss, start));
    }
}
