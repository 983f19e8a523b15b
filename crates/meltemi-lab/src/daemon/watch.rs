//! Files given with `-f`, applied again when they change.

use anyhow::{Context as _, Result};
use meltemi_core::Diagnostic;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::faults::{self, Faults};
use crate::cluster::Handle;
use crate::store::now;
use crate::wire::{Change, Fault, Report, Validation, Watch};

/// An editor's several writes are one change.
const SETTLE: Duration = Duration::from_millis(5);
/// Pending change notes; when it is full the files change faster than they are read, and all are read again.
const QUEUE: usize = 256;

#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    watched: Arc<Mutex<Watched>>,
    faults: Arc<Mutex<Faults>>,
    /// What came of each file that was read, so that it is missed when it goes.
    taken: Arc<Mutex<BTreeMap<PathBuf, Vec<Change>>>>,
    cluster: Handle,
}

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
        let watched = Watched {
            watcher,
            paths: BTreeMap::new(),
        };
        let watched = Self {
            watched: Arc::new(Mutex::new(watched)),
            faults: Arc::default(),
            taken: Arc::default(),
            cluster,
        };
        tokio::spawn(follow(watched.clone(), changes, lost));
        Ok(watched)
    }

    /// Watches from now on, and takes the files as they are now.
    pub(crate) async fn add(&self, watch: &Watch) -> Result<()> {
        self.register(watch)?;
        for file in watch.paths.iter().flat_map(|path| listed(path)) {
            self.take(&file).await;
        }
        Ok(())
    }

    fn register(&self, watch: &Watch) -> Result<()> {
        let mut watched = self.watched.lock();
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
        self.watched.lock().paths.keys().cloned().collect()
    }

    /// The files with errors or warnings. What was wrong between objects may have been mended elsewhere, so
    /// that broken files are judged again.
    pub(crate) async fn faults(&self) -> Vec<Fault> {
        let broken = self.faults.lock().list();
        for fault in broken {
            let Some((namespace, text)) = self.read(&fault.file) else {
                self.forget_if_gone(&fault.file).await;
                continue;
            };
            let name = fault.file.display().to_string();
            let judge = self
                .cluster
                .call(move |cluster| cluster.judge(&namespace, &name, &text, Validation::Warn));
            if let Some(report) = judge.await {
                self.note(&fault.file, faults::of_report(&report));
            }
        }
        self.faults.lock().list()
    }

    /// A file that is gone, and all its objects too, is nobody's concern any more.
    async fn forget_if_gone(&self, file: &Path) {
        let objects = self.taken.lock().get(file).cloned();
        let Some(objects) = objects.filter(|_| !file.exists()) else {
            return;
        };
        let left = self.cluster.call(move |cluster| cluster.has_any(&objects));
        if left.await == Some(false) {
            self.taken.lock().remove(file);
            self.note(file, Vec::new());
        }
    }

    fn note(&self, file: &Path, diagnostics: Vec<Diagnostic>) {
        self.faults.lock().note(file, diagnostics, now());
    }

    /// Every watched file there is.
    fn files(&self) -> BTreeSet<PathBuf> {
        let watched = self.watched.lock();
        watched.paths.keys().flat_map(|path| listed(path)).collect()
    }

    /// The namespace for a changed file, if it is watched.
    fn namespace(&self, file: &Path) -> Option<String> {
        let watched = self.watched.lock();
        let exact = watched.paths.get(file);
        exact
            .or_else(|| {
                file.parent()
                    .and_then(|folder| watched.paths.get(folder))
                    .filter(|_| is_manifest(file))
            })
            .cloned()
    }

    /// The namespace and text of a watched file; one that cannot be read is told.
    fn read(&self, file: &Path) -> Option<(String, String)> {
        let namespace = self.namespace(file)?;
        match fs::read_to_string(file) {
            Ok(text) => Some((namespace, text)),
            Err(error) => {
                // What it said stays, as after `kubectl apply`; a file that said nothing, such as an editor's, goes in silence.
                let is_named = self.watched.lock().paths.contains_key(file);
                let is_missed = self.taken.lock().contains_key(file);
                if is_named || is_missed || error.kind() != io::ErrorKind::NotFound {
                    self.note(file, vec![faults::of_failure(file, &error)]);
                } else {
                    self.note(file, Vec::new());
                }
                None
            }
        }
    }

    /// Applies a file as it is now.
    async fn take(&self, file: &Path) {
        let Some((namespace, text)) = self.read(file) else {
            return;
        };
        let name = file.display().to_string();
        let apply = self
            .cluster
            .call(move |cluster| cluster.apply(&namespace, &name, &text, Validation::Warn));
        if let Some(report) = apply.await {
            log(file, &report);
            self.note(file, faults::of_report(&report));
            if !report.results.is_empty() {
                self.taken.lock().insert(file.to_owned(), report.results);
            }
        }
    }
}

/// The files that a watched path stands for.
fn listed(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_not_a_folder) => vec![path.to_owned()],
    }
}

fn log(file: &Path, report: &Report) {
    let changes = report.results.iter();
    for change in changes.filter(|change| change.action != "unchanged") {
        tracing::info!("{}: {} {}", file.display(), change.object, change.action);
    }
    for diagnostic in &report.diagnostics {
        tracing::warn!("{diagnostic}");
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

/// A writer has finished, or the file went.
fn is_complete(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Remove(_)
    )
}

pub(super) fn is_manifest(file: &Path) -> bool {
    let hidden = file
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && file.extension().is_some_and(|extension| {
            extension == "yaml" || extension == "yml" || extension == "json"
        })
}

async fn follow(watcher: Watcher, mut changes: mpsc::Receiver<PathBuf>, lost: Arc<AtomicBool>) {
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
            watcher.take(&file).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::RenameMode;

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
