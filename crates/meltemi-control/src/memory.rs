//! A configuration that was lost is not one that is empty.
//!
//! | Services or Pods now | at an earlier start | what proxies get |
//! |---|---|---|
//! | some | - | this |
//! | none | none | nothing, which is right |
//! | none | some | no answer, until objects are back or [`PATIENCE`] is over |
//!
//! A proxy that is told of nothing drops its routes, and with the last PeerAuthentication STRICT ends; one that gets no
//! answer serves on with what it has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meltemi_api::{Change, Kind};
use tokio::sync::watch;

/// How long an empty configuration that was not empty before is held back. Whoever emptied it on purpose waits so long
/// once, or says so (`--accept-empty-config`).
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// In the state directory: there were Services or Pods.
const MARKER: &str = "had-objects";

/// Remembers across starts that there were Services or Pods.
#[derive(Debug)]
pub(crate) struct Memory {
    marker: PathBuf,
    seen: watch::Sender<bool>,
}

impl Memory {
    pub(crate) fn new(state_dir: &Path) -> Self {
        Self {
            marker: state_dir.join(MARKER),
            seen: watch::Sender::new(false),
        }
    }

    /// Whether the objects of an earlier start are missing from what this one reads first.
    pub(crate) fn misses(&self, first: &[Change]) -> bool {
        !first.iter().any(is_telling) && self.marker.exists()
    }

    /// There are objects. A marker that cannot be written costs the next start its caution, and nothing now.
    pub(crate) fn note(&self) {
        if *self.seen.borrow() {
            return;
        }
        if let Err(error) = std::fs::write(&self.marker, "") {
            let path = self.marker.display();
            tracing::warn!(%path, %error, "a lost configuration would not be noticed at the next start");
        }
        self.seen.send_replace(true);
    }

    /// That there is nothing has been accepted: the next start need not wonder.
    pub(crate) fn forget(&self) {
        if let Err(error) = std::fs::remove_file(&self.marker) {
            let path = self.marker.display();
            tracing::warn!(%path, %error, "the next start will ask again whether the configuration was lost");
        }
    }

    /// Waits until there are objects. Cancel safe.
    pub(crate) async fn noted(&self) {
        let mut seen = self.seen.subscribe();
        seen.wait_for(|seen| *seen)
            .await
            .expect("self holds the sender");
    }
}

/// A mesh without any of these does not exist, whatever else is configured.
pub(crate) const TELLING: [Kind; 2] = [Kind::Service, Kind::Pod];

fn is_telling(change: &Change) -> bool {
    matches!(change, Change::Upsert(object) if TELLING.contains(&object.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_missed_until_it_is_accepted() {
        let directory = tempfile::tempdir().unwrap();
        let start = || Memory::new(directory.path());
        assert!(!start().misses(&[]));
        start().note();
        assert!(start().misses(&[]));
        start().forget();
        assert!(!start().misses(&[]));
    }
}
