//! Files given with `-f`, applied again when they change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
/// Pending change notes; when it is full the files change faster than they are read, and one note covers many changes.
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
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if is_complete(event.kind) {
                // Full: a note is pending, and all changed files are read then.
                event
                    .paths
                    .into_iter()
                    .for_each(|path| drop(sender.try_send(path)));
            }
        });
        let watcher = watcher.context("cannot watch files")?;
        let watched = Self(Arc::new(Mutex::new(Watched {
            watcher,
            paths: BTreeMap::new(),
        })));
        tokio::spawn(follow(watched.clone(), changes, cluster));
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

async fn follow(watcher: Watcher, mut changes: mpsc::Receiver<PathBuf>, cluster: Handle) {
    while let Some(first) = changes.recv().await {
        sleep(SETTLE).await;
        let mut files = std::collections::BTreeSet::from([first]);
        while let Ok(more) = changes.try_recv() {
            files.insert(more);
        }
        for file in files {
            let Some(namespace) = watcher.namespace(&file) else {
                continue;
            };
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
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
