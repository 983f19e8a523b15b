//! When to look: at once after a writer has finished, and every few seconds in case a notice was missed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use meltemi_model::SecretsOf;
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::files::{Files, Outcome, Reason, is_configuration};
use super::{SourceOptions, SourceUpdate};

/// After a notice, more are awaited until none came for this long,
const QUIET: Duration = Duration::from_millis(3);
/// but the first of them waits no longer than this.
const DEBOUNCE_LIMIT: Duration = Duration::from_millis(50);
/// A look at everything, whatever was noticed.
const ROUTINE: Duration = Duration::from_secs(3);
/// Notices that wait; when more come, everything is looked at.
const HINT_LIMIT: usize = 1024;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("watching {path}")]
    Watch {
        path: PathBuf,
        #[source]
        source: notify::Error,
    },
    #[error("finding {path}")]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("starting the thread that reads configuration")]
    Thread(#[source] io::Error),
}

/// Reads the configuration and keeps reading until nobody receives. The first update is sent even if it says nothing.
///
/// # Errors
/// A directory cannot be watched, such as one that does not exist.
pub(crate) fn spawn(
    options: SourceOptions,
    updates: mpsc::Sender<SourceUpdate>,
) -> Result<JoinHandle<()>, SourceError> {
    let options = absolute(options)?;
    let (hints, receiver) = sync_channel(HINT_LIMIT);
    let overflow = Arc::new(AtomicBool::new(false));
    let watcher = watch(&options, hints, Arc::clone(&overflow))?;
    let source = Source {
        files: Files::new(options),
        hints: receiver,
        overflow,
        updates,
        _watcher: watcher,
    };
    std::thread::Builder::new()
        .name("config".to_owned())
        .spawn(move || source.run())
        .map_err(SourceError::Thread)
}

/// Notices name files by absolute paths, so a scan must too.
fn absolute(options: SourceOptions) -> Result<SourceOptions, SourceError> {
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).map_err(|source| SourceError::Path { path, source })
    };
    Ok(SourceOptions {
        directories: options
            .directories
            .into_iter()
            .map(absolute)
            .collect::<Result<_, _>>()?,
        mesh_config: options.mesh_config.map(absolute).transpose()?,
    })
}

fn watch(
    options: &SourceOptions,
    hints: SyncSender<Hint>,
    overflow: Arc<AtomicBool>,
) -> Result<RecommendedWatcher, SourceError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SourceError::Watch { path, source }
    };
    let mut watcher = notify::recommended_watcher(move |event| {
        let Some(hint) = hint(event) else { return };
        if let Err(TrySendError::Full(_)) = hints.try_send(hint) {
            overflow.store(true, Ordering::Release);
        }
    })
    .map_err(failed(Path::new("")))?;
    for directory in &options.directories {
        watcher
            .watch(directory, RecursiveMode::Recursive)
            .map_err(failed(directory))?;
    }
    // The file may be replaced by renaming: its folder tells, the file does not.
    if let Some(folder) = options.mesh_config.as_deref().and_then(Path::parent) {
        watcher
            .watch(folder, RecursiveMode::NonRecursive)
            .map_err(failed(folder))?;
    }
    Ok(watcher)
}

#[derive(Debug, PartialEq, Eq)]
enum Hint {
    Files(Vec<PathBuf>),
    Everything,
}

/// What a notice means. Writing alone means nothing yet: the writer's close will tell.
fn hint(event: notify::Result<Event>) -> Option<Hint> {
    let Ok(event) = event else {
        return Some(Hint::Everything);
    };
    if event.need_rescan() {
        return Some(Hint::Everything);
    }
    let finished = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Name(_))
        | EventKind::Remove(_) => true,
        // A new regular file is still empty; links and folders are complete.
        EventKind::Create(CreateKind::File) => event.paths.iter().any(|path| is_link(path)),
        EventKind::Create(_) => true,
        EventKind::Modify(ModifyKind::Metadata(_)) => true,
        _ => false,
    };
    if !finished {
        return None;
    }
    let is_hidden_file = |path: &PathBuf| {
        event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write))
            && !is_configuration(path)
    };
    if event.paths.iter().all(is_hidden_file) {
        // An atomic writer's temporary file; its rename will tell.
        return None;
    }
    let files: Vec<PathBuf> = event
        .paths
        .iter()
        .filter(|path| is_configuration(path))
        .cloned()
        .collect();
    if files.is_empty() {
        // A folder, or a link on the way to files.
        Some(Hint::Everything)
    } else {
        Some(Hint::Files(files))
    }
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_symlink() || metadata.len() > 0)
}

struct Source {
    files: Files,
    hints: Receiver<Hint>,
    overflow: Arc<AtomicBool>,
    updates: mpsc::Sender<SourceUpdate>,
    _watcher: RecommendedWatcher,
}

impl Source {
    fn run(mut self) {
        let noticed_at = Instant::now();
        let none = BTreeSet::new();
        let first = self.files.scan(Reason::Finished, &none, SystemTime::now());
        let mut is_received = self.send(first, noticed_at);
        while is_received && !self.updates.is_closed() {
            let (outcome, noticed_at) = match self.hints.recv_timeout(ROUTINE) {
                Ok(hint) => {
                    let noticed_at = Instant::now();
                    (self.look(hint, noticed_at), noticed_at)
                }
                Err(RecvTimeoutError::Timeout) => {
                    let noticed_at = Instant::now();
                    let outcome = self.files.scan(Reason::Routine, &none, SystemTime::now());
                    (outcome, noticed_at)
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            is_received = outcome.is_empty() || self.send(outcome, noticed_at);
        }
    }

    /// Joins the notices that come close together, and looks at what they name.
    fn look(&mut self, first: Hint, noticed_at: Instant) -> Outcome {
        let mut paths = BTreeSet::new();
        let mut everything = false;
        let mut next = Some(first);
        while let Some(hint) = next {
            match hint {
                Hint::Files(more) => paths.extend(more),
                Hint::Everything => everything = true,
            }
            let left = DEBOUNCE_LIMIT.saturating_sub(noticed_at.elapsed());
            next = self.hints.recv_timeout(QUIET.min(left)).ok();
        }
        let now = SystemTime::now();
        if everything || self.overflow.swap(false, Ordering::AcqRel) {
            self.files.scan(Reason::Finished, &paths, now)
        } else {
            self.files.look_at(&paths, now)
        }
    }

    fn send(&self, outcome: Outcome, noticed_at: Instant) -> bool {
        let update = SourceUpdate {
            changes: outcome.changes,
            mesh_config: outcome.mesh_config,
            secrets_of: SecretsOf::All,
            diagnostics: Arc::new(self.files.diagnostics()),
            noticed_at,
        };
        self.updates.blocking_send(update).is_ok()
    }
}
