//! Files given with `-f`, applied again when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result};
use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cluster::Handle;
use crate::wire::Watch;

/// An editor's several writes are one change.
const SETTLE: Duration = Duration::from_millis(5);
/// Pending change notes; when it is full the files change faster than they are read, and all are read again.
const QUEUE: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Watcher(Arc<Mutex<Watched>>);

#[derive(Debug)]
struct Watched {
    watcher: RecommendedWatcher,
    /// The namespace that each path's objects without one go to.
    paths: BTreeMap<PathBuf, String>,
}

impl Watcher {
    pub(crate) fn start(cluster: Handle) -> Result<Self> {
        let (sender, changes) = mpsc::channel(QUEUE);
        let lost = Arc::new(AtomicBool::new(false));
        let note = Notes {
            sender,
            lost: Arc::clone(&lost),
        };
        let watcher = notify::recommended_watcher(move |event| note.take(event));
        let watcher = watcher.context("cannot watch files")?;
        let watched = Self(Arc::new(Mutex::new(Watched {
            watcher,
            paths: BTreeMap::new(),
        })));
        tokio::spawn(follow(watched.clone(), changes, lost, cluster));
        Ok(watched)
    }

    pub(crate) fn add(&self, watch: &Watch) -> Result<()> {
        let mut watched = self.0.lock();
        for path in &watch.paths {
            // A file is replaced by rename, so its folder is what must be watched.
            let folder = if path.is_dir() {
                path
            } else {
                path.parent().unwrap_or(path)
            };
            watched
                .watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch {}", folder.display()))?;
            watched.paths.insert(path.clone(), watch.namespace.clone());
        }
        Ok(())
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().paths.keys().cloned().collect()
    }

    /// Every watched file there is.
    fn files(&self) -> BTreeSet<PathBuf> {
        let watched = self.0.lock();
        let listed = |path: &PathBuf| -> Vec<PathBuf> {
            match fs::read_dir(path) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(_) => vec![path.clone()],
            }
        };
        watched.paths.keys().flat_map(listed).collect()
    }

    /// The namespace for a changed file, if it is watched.
    fn namespace(&self, file: &Path) -> Option<String> {
        let watched = self.0.lock();
        let exact = watched.paths.get(file);
        exact
            .or_else(|| {
                file.parent()
                    .and_then(|folder| watched.paths.get(folder))
                    .filter(|_| is_manifest(file))
            })
            .cloned()
    }
}

/// The watcher's end of the queue of changed files.
struct Notes {
    sender: mpsc::Sender<PathBuf>,
    /// Changes were not noted: everything that is watched is read again.
    lost: Arc<AtomicBool>,
}

impl Notes {
    fn take(&self, event: notify::Result<Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.lose(),
            Ok(event) if is_complete(event.kind) => {
                for path in event.paths {
                    if self.sender.try_send(path).is_err() {
                        self.lose();
                    }
                }
            }
            Ok(_) => {}
            Err(_) => self.lose(),
        }
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::Release);
        // An empty path wakes the reader; where the queue is full it is awake.
        self.sender.try_send(PathBuf::new()).ok();
    }
}

fn is_complete(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
    )
}

fn is_manifest(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && file.extension().is_some_and(|extension| {
            extension == "yaml" || extension == "yml" || extension == "json"
        })
}

async fn follow(
    watcher: Watcher,
    mut changes: mpsc::Receiver<PathBuf>,
    lost: Arc<AtomicBool>,
    cluster: Handle,
) {
    while let Some(first) = changes.recv().await {
        sleep(SETTLE).await;
        let mut files = BTreeSet::from([first]);
        while let Ok(more) = changes.try_recv() {
            files.insert(more);
        }
        if lost.swap(false, Ordering::AcqRel) {
            files = watcher.files();
        }
        for file in files {
            let Some(namespace) = watcher.namespace(&file) else {
                continue;
            };
            let text = match fs::read_to_string(&file) {
                Ok(text) => text,
                // Gone: what it said stays, as after `kubectl apply`.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot read {}", file.display());
                    continue;
                }
            };
            let name = file.display().to_string();
            let report = cluster
                .call(move |cluster| cluster.apply(&namespace, &name, &text))
                .await;
            let Some(report) = report else { return };
            for change in report
                .results
                .iter()
                .filter(|change| change.action != "unchanged")
            {
                tracing::info!("{}: {} {}", file.display(), change.object, change.action);
            }
            for diagnostic in report.diagnostics {
                tracing::warn!("{diagnostic}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_finds_no_room_is_not_forgotten() {
        let (sender, mut changes) = mpsc::channel(1);
        let lost = Arc::new(AtomicBool::new(false));
        let notes = Notes {
            sender,
            lost: Arc::clone(&lost),
        };
        let renamed = |file: &str| {
            let kind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
            Ok(Event::new(kind).add_path(file.into()))
        };
        notes.take(renamed("a.yaml"));
        assert!(!lost.load(Ordering::Acquire));
        notes.take(renamed("b.yaml"));
        assert!(lost.swap(false, Ordering::AcqRel), "b.yaml found no room");
        assert_eq!(changes.try_recv().unwrap(), Path::new("a.yaml"));
        notes.take(Err(notify::Error::generic("overflow")));
        assert!(lost.load(Ordering::Acquire) && changes.try_recv().is_ok());
    }
}
