//! The files as they were last read, and what a new look at them changes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Object, ObjectKey};
use meltemi_core::{Diagnostic, SourceLocation};

use super::SourceOptions;

/// A larger file is not read.
const FILE_LIMIT_BYTES: u64 = 16 << 20;
/// Folders below a configured one are read to this depth.
const DEPTH_LIMIT: usize = 8;
/// A file found changed by a routine look, not by its writer's close, is left until it has been still for this long.
const SETTLING: Duration = Duration::from_millis(200);
/// A file changed this recently may change again within one tick of the clock that stamps it (and a new file may get
/// the number of the one it replaces), so its stamp proves nothing yet.
const STAMP_TICK: Duration = Duration::from_millis(50);
/// The namespace of objects that name none, as kubectl's.
const DEFAULT_NAMESPACE: &str = "default";

/// Why a look is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The writer of this very file has just finished: it is read whatever its time stamps say, which have no more than
    /// the kernel's tick.
    Noticed,
    /// The writers have finished: a rename, the first start.
    Finished,
    /// Time has passed; a file may be half written.
    Routine,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) changes: Vec<Change>,
    pub(super) mesh_config: Option<MeshConfig>,
    pub(super) diagnostics_changed: bool,
}

impl Outcome {
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.mesh_config.is_none() && !self.diagnostics_changed
    }
}

/// What one file defines. A broken object keeps its last sound version, an unreadable file everything.
#[derive(Debug, Default)]
struct FileState {
    stamp: Option<Stamp>,
    text_hash: Option<u64>,
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    diagnostics: Vec<Diagnostic>,
}

/// Tells whether a file must be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug)]
pub(super) struct Files {
    options: SourceOptions,
    files: BTreeMap<PathBuf, FileState>,
    /// The files that define an object; the first in path order counts.
    definers: BTreeMap<ObjectKey, BTreeSet<PathBuf>>,
    /// What was told of each object last.
    told: BTreeMap<ObjectKey, Arc<Object>>,
    mesh_stamp: Option<Stamp>,
    mesh_diagnostics: Vec<Diagnostic>,
    directory_diagnostics: Vec<Diagnostic>,
}

impl Files {
    pub(super) fn new(options: SourceOptions) -> Self {
        Self {
            options,
            files: BTreeMap::new(),
            definers: BTreeMap::new(),
            told: BTreeMap::new(),
            mesh_stamp: None,
            mesh_diagnostics: Vec::new(),
            directory_diagnostics: Vec::new(),
        }
    }

    /// Looks at everything; at the files in `noticed` whatever their stamps say.
    pub(super) fn scan(
        &mut self,
        reason: Reason,
        noticed: &BTreeSet<PathBuf>,
        now: SystemTime,
    ) -> Outcome {
        let mut listing = Listing::default();
        for directory in &self.options.directories {
            listing.add(directory, 0);
        }
        let mut paths = listing.files;
        if !listing.unreadable.is_empty() {
            // What cannot be listed is not gone.
            let unreadable = &listing.unreadable;
            let kept = self
                .files
                .keys()
                .filter(|path| unreadable.iter().any(|folder| path.starts_with(folder)));
            paths.extend(kept.cloned());
        }
        let gone: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|path| !paths.contains(*path))
            .cloned()
            .collect();
        let directories_changed = self.directory_diagnostics != listing.diagnostics;
        self.directory_diagnostics = listing.diagnostics;
        let look = |path: PathBuf| {
            let reason = if noticed.contains(&path) {
                Reason::Noticed
            } else {
                reason
            };
            (path, reason)
        };
        let mut outcome = self.look(paths.into_iter().chain(gone).map(look), now);
        outcome.diagnostics_changed |= directories_changed;
        self.look_at_mesh_config(&mut outcome);
        outcome
    }

    /// Looks at files whose writers have finished, or that were removed.
    pub(super) fn look_at(&mut self, paths: &BTreeSet<PathBuf>, now: SystemTime) -> Outcome {
        let (mesh, paths): (Vec<PathBuf>, Vec<PathBuf>) = paths
            .iter()
            .cloned()
            .partition(|path| Some(path) == self.options.mesh_config.as_ref());
        let mine: Vec<PathBuf> = paths
            .into_iter()
            .filter(|path| self.is_mine(path))
            .collect();
        let noticed = mine.into_iter().map(|path| (path, Reason::Noticed));
        let mut outcome = self.look(noticed, now);
        if !mesh.is_empty() {
            self.look_at_mesh_config(&mut outcome);
        }
        outcome
    }

    /// Whether a scan would find the file: watches tell of hidden folders too, where writers prepare theirs.
    fn is_mine(&self, path: &Path) -> bool {
        let is_below = |directory: &PathBuf| {
            path.strip_prefix(directory).is_ok_and(|rest| {
                rest.components().count() <= DEPTH_LIMIT + 1
                    && !rest.iter().any(|part| is_hidden(Path::new(part)))
            })
        };
        is_configuration(path) && self.options.directories.iter().any(is_below)
    }

    /// All problems as they are now.
    pub(super) fn diagnostics(&self) -> Vec<Diagnostic> {
        let mut all = self.directory_diagnostics.clone();
        all.extend(self.mesh_diagnostics.iter().cloned());
        for state in self.files.values() {
            all.extend(state.diagnostics.iter().cloned());
        }
        for (key, paths) in &self.definers {
            all.extend(duplicate_definition(key, paths));
        }
        all
    }

    fn look(&mut self, paths: impl Iterator<Item = (PathBuf, Reason)>, now: SystemTime) -> Outcome {
        let mut touched = BTreeSet::new();
        let mut diagnostics_changed = false;
        for (path, reason) in paths {
            diagnostics_changed |= self.look_at_file(&path, reason, now, &mut touched);
        }
        Outcome {
            changes: self.tell(touched),
            mesh_config: None,
            diagnostics_changed,
        }
    }

    /// Answers whether the file's diagnostics changed; the objects it touches are added to `touched`.
    fn look_at_file(
        &mut self,
        path: &Path,
        reason: Reason,
        now: SystemTime,
        touched: &mut BTreeSet<ObjectKey>,
    ) -> bool {
        let known = self.files.get(path).and_then(|state| state.stamp);
        let found = read(path, known, reason, now);
        match found {
            Ok(Found::Unchanged) => false,
            Ok(Found::Gone) => self.forget(path, touched),
            Ok(Found::Text { text, stamp }) => self.reread(path, &text, stamp, touched),
            Err(error) => {
                let state = self.files.entry(path.to_owned()).or_default();
                let diagnostics = vec![unreadable(path, &error)];
                (state.stamp, state.text_hash) = (None, None);
                let changed = state.diagnostics != diagnostics;
                state.diagnostics = diagnostics;
                changed
            }
        }
    }

    fn forget(&mut self, path: &Path, touched: &mut BTreeSet<ObjectKey>) -> bool {
        let Some(state) = self.files.remove(path) else {
            return false;
        };
        for key in state.objects.into_keys() {
            self.undefine(path, &key);
            touched.insert(key);
        }
        !state.diagnostics.is_empty()
    }

    fn reread(
        &mut self,
        path: &Path,
        text: &str,
        stamp: Option<Stamp>,
        touched: &mut BTreeSet<ObjectKey>,
    ) -> bool {
        let state = self.files.entry(path.to_owned()).or_default();
        state.stamp = stamp;
        if state.text_hash.replace(hash(text)) == Some(hash(text)) {
            return false;
        }
        let parsed = meltemi_api::parse(&path.to_string_lossy(), text, DEFAULT_NAMESPACE);
        // Diagnostics carry places, which any edit may move.
        let diagnostics_changed = state.diagnostics != parsed.diagnostics;
        state.diagnostics = parsed.diagnostics;

        let mut before = std::mem::take(&mut state.objects);
        for object in parsed.objects {
            let key = object.key();
            before.remove(&key);
            touched.insert(key.clone());
            state.objects.insert(key, object);
        }
        // Last good: of a broken object, and of anything while a part of the file cannot be read.
        let rejected: BTreeSet<ObjectKey> = parsed.rejected.into_iter().collect();
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = before
            .into_iter()
            .partition(|(key, _)| parsed.is_partial || rejected.contains(key));
        state.objects.extend(kept);
        for stand_in in parsed.stand_ins {
            let key = stand_in.key();
            if let Entry::Vacant(vacant) = state.objects.entry(key.clone()) {
                vacant.insert(stand_in);
                touched.insert(key);
            }
        }
        let defined: Vec<ObjectKey> = state.objects.keys().cloned().collect();
        for key in defined {
            self.definers
                .entry(key)
                .or_default()
                .insert(path.to_owned());
        }
        for key in gone.into_keys() {
            self.undefine(path, &key);
            touched.insert(key);
        }
        diagnostics_changed
    }

    fn undefine(&mut self, path: &Path, key: &ObjectKey) {
        if let Some(paths) = self.definers.get_mut(key) {
            paths.remove(path);
            if paths.is_empty() {
                self.definers.remove(key);
            }
        }
    }

    /// The changes for objects that may differ from what was told.
    fn tell(&mut self, touched: BTreeSet<ObjectKey>) -> Vec<Change> {
        let mut changes = Vec::new();
        for key in touched {
            let first = self.definers.get(&key).and_then(BTreeSet::first);
            let object = first
                .and_then(|path| self.files.get(path))
                .and_then(|state| state.objects.get(&key));
            match object {
                // Told even when equal: its place in the file may have moved. Whoever receives it compares.
                Some(object) => {
                    self.told.insert(key, Arc::clone(object));
                    changes.push(Change::Upsert(Arc::clone(object)));
                }
                None if self.told.remove(&key).is_some() => changes.push(Change::Delete(key)),
                None => {}
            }
        }
        changes
    }

    fn look_at_mesh_config(&mut self, outcome: &mut Outcome) {
        let Some(path) = self.options.mesh_config.clone() else {
            return;
        };
        let diagnostics = match read(&path, self.mesh_stamp, Reason::Finished, SystemTime::now()) {
            Ok(Found::Unchanged) => return,
            Ok(Found::Gone) => {
                self.mesh_stamp = None;
                vec![unreadable(&path, &io::Error::from(io::ErrorKind::NotFound))]
            }
            Ok(Found::Text { text, stamp }) => {
                self.mesh_stamp = stamp;
                let name = path.to_string_lossy();
                let (config, diagnostics) = meltemi_api::parse_message(&name, &text);
                outcome.mesh_config = config;
                diagnostics
            }
            Err(error) => {
                self.mesh_stamp = None;
                vec![unreadable(&path, &error)]
            }
        };
        outcome.diagnostics_changed |= self.mesh_diagnostics != diagnostics;
        self.mesh_diagnostics = diagnostics;
    }
}

enum Found {
    Unchanged,
    Gone,
    Text {
        text: String,
        /// Absent while it proves nothing.
        stamp: Option<Stamp>,
    },
}

fn read(path: &Path, known: Option<Stamp>, reason: Reason, now: SystemTime) -> io::Result<Found> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Gone),
        Err(error) => return Err(error),
    };
    let stamp = Stamp::from(&metadata);
    if known == Some(stamp) && reason != Reason::Noticed {
        return Ok(Found::Unchanged);
    }
    let modified = metadata.modified()?;
    let is_still_for = |time| now.duration_since(modified).is_ok_and(|age| age >= time);
    if reason == Reason::Routine && !is_still_for(SETTLING) {
        return Ok(Found::Unchanged);
    }
    let stamp = is_still_for(STAMP_TICK).then_some(stamp);
    if !metadata.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    if metadata.len() > FILE_LIMIT_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {FILE_LIMIT_BYTES} bytes"),
        ));
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Found::Text { text, stamp }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Gone),
        Err(error) => Err(error),
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error("MEL0007", format!("cannot be read: {error}"))
        .hint("what was read from it before stays in force")
        .at(SourceLocation {
            file: path.to_string_lossy().into_owned(),
            line: 1,
            column: 1,
            snippet: String::new(),
        })
}

fn duplicate_definition(key: &ObjectKey, paths: &BTreeSet<PathBuf>) -> Vec<Diagnostic> {
    let Some(first) = paths.first() else {
        return Vec::new();
    };
    paths
        .iter()
        .skip(1)
        .map(|path| {
            let message = format!("defined in {} already, which counts", first.display());
            Diagnostic::error("MEL0010", message)
                .object(key.reference())
                .hint("keep one of the two definitions")
                .at(SourceLocation {
                    file: path.to_string_lossy().into_owned(),
                    line: 1,
                    column: 1,
                    snippet: String::new(),
                })
        })
        .collect()
}

/// Whether a file is one of configuration: `*.yaml`, `*.yml` or `*.json`, and not hidden, as editors' and atomic
/// writers' temporary files are.
pub(super) fn is_configuration(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml" | "json")) && !is_hidden(path)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[derive(Default)]
struct Listing {
    files: BTreeSet<PathBuf>,
    unreadable: Vec<PathBuf>,
    diagnostics: Vec<Diagnostic>,
}

impl Listing {
    fn add(&mut self, directory: &Path, depth: usize) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.unreadable.push(directory.to_owned());
                self.diagnostics.push(unreadable(directory, &error));
                return;
            }
        };
        for entry in entries {
            match entry {
                Ok(entry) => self.add_entry(&entry, depth),
                Err(error) => {
                    self.unreadable.push(directory.to_owned());
                    self.diagnostics.push(unreadable(directory, &error));
                }
            }
        }
    }

    /// Symbolic links are followed to files, as mounted ConfigMaps have them, and not to folders.
    fn add_entry(&mut self, entry: &fs::DirEntry, depth: usize) {
        let path = entry.path();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !is_hidden(&path) && depth < DEPTH_LIMIT {
            self.add(&path, depth + 1);
        } else if !is_folder && is_configuration(&path) {
            self.files.insert(path);
        }
    }
}

#[cfg(test)]
mod tests;
