//! Configuration from folders of files, live.
//!
//! ```text
//! inotify -> hints -> (quiet for a moment) -> Files: read what changed, parse, diff -> SourceUpdate
//! ```
//! A thread of its own does the reading, because file systems block.

mod files;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use meltemi_api::Change;
use meltemi_api::istio::MeshConfig;
use meltemi_core::Diagnostic;
use meltemi_model::SecretsOf;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use watch::{SourceError, spawn};

/// What to read.
#[derive(Clone, Debug, Default)]
pub(crate) struct SourceOptions {
    pub(crate) directories: Vec<PathBuf>,
    /// A file with a MeshConfig; without one, the ConfigMap counts.
    pub(crate) mesh_config: Option<PathBuf>,
}

/// What changed since the last one. The first says everything.
#[derive(Debug)]
pub struct SourceUpdate {
    pub changes: Vec<Change>,
    /// The mesh configuration of the file, when it changed and is sound.
    pub mesh_config: Option<MeshConfig>,
    /// Whose Secrets are among the objects by now.
    pub secrets_of: SecretsOf,
    /// All problems of all files, or objects, as they are now.
    pub diagnostics: Arc<Vec<Diagnostic>>,
    /// When the first of the changes was noticed.
    pub noticed_at: Instant,
}

/// Updates that wait for the owner of the model; the source stops reading when it is full.
const UPDATE_QUEUE_LIMIT: usize = 16;

pub(crate) fn channel() -> (mpsc::Sender<SourceUpdate>, mpsc::Receiver<SourceUpdate>) {
    mpsc::channel(UPDATE_QUEUE_LIMIT)
}

#[cfg(test)]
mod tests;
