use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// File modes: for keys, and for what everybody may read.
pub(crate) const PRIVATE: u32 = 0o600;
pub(crate) const PUBLIC: u32 = 0o644;

/// Why an authority's state cannot be used. It is never replaced silently: a new root would cut off every workload.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged: {reason}; restore it from a backup, or remove {} to start anew (what the old key signed is \
         then no longer believed)",
        path.display(),
        remove.display()
    )]
    Damaged {
        path: PathBuf,
        reason: String,
        /// What to remove for a new start.
        remove: PathBuf,
    },
    #[error("making a key")]
    Key(#[from] meltemi_pki::KeyError),
    #[error("making a root certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("making a token key")]
    Token(#[from] jsonwebtoken::errors::Error),
}

impl StateError {
    /// One of several files that belong together in a directory.
    pub(crate) fn damaged_part(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            reason: reason.into(),
            remove: path.parent().unwrap_or(path).to_owned(),
        }
    }

    /// A file that stands alone.
    pub(crate) fn damaged_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            reason: reason.into(),
            remove: path.to_owned(),
        }
    }
}

/// An error with its causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The content of a file, or nothing when it does not exist.
pub(crate) fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("reading", path)(error)),
    }
}

/// Replaces a file in one step: it has the old content or the new, even after a crash.
pub(crate) fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), StateError> {
    let temporary = sibling(path);
    write_new(&temporary, content, mode)?;
    fs::rename(&temporary, path).map_err(failed("renaming", path))?;
    sync_parent(path)
}

/// Makes a directory with files that appears complete or not at all. A non-empty directory of that name stays.
pub(crate) fn create_directory(
    path: &Path,
    files: &[(&str, &[u8], u32)],
) -> Result<(), StateError> {
    let temporary = sibling(path);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&temporary)
        .map_err(failed("creating", &temporary))?;
    for (name, content, mode) in files {
        write_new(&temporary.join(name), content, *mode)?;
    }
    sync(&temporary)?;
    match fs::rename(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            // Another process was faster; its state counts.
            fs::remove_dir_all(&temporary).map_err(failed("removing", &temporary))
        }
        Err(error) => Err(failed("renaming", path)(error)),
        Ok(()) => sync_parent(path),
    }
}

/// Whether the directory is absent or empty.
pub(crate) fn is_vacant(path: &Path) -> Result<bool, StateError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("reading", path)(error)),
    }
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> Result<(), StateError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(failed("creating", path))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .map_err(failed("writing", path))
}

fn sync(path: &Path) -> Result<(), StateError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(failed("syncing", path))
}

fn sync_parent(path: &Path) -> Result<(), StateError> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync(parent),
        _ => sync(Path::new(".")),
    }
}

/// A name next to `path` that no other process or attempt uses.
fn sibling(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", hex::encode(rand::random::<[u8; 8]>())));
    path.with_file_name(name)
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StateError + 'a {
    move |source| StateError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
