//! Where a lab keeps its sockets and files.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// The folder of one lab, `$XDG_RUNTIME_DIR/meltemi/lab/NAME`; root without a session uses `/run`, others `/tmp`.
pub fn run_dir(name: &str) -> PathBuf {
    labs_dir().join(name)
}

/// The folder that holds the folders of all labs of this user.
pub fn labs_dir() -> PathBuf {
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        return PathBuf::from(runtime).join("meltemi/lab");
    }
    let uid = rustix::process::getuid();
    if uid.is_root() {
        PathBuf::from("/run/meltemi/lab")
    } else {
        // One level: /tmp's sticky bit keeps others from taking this folder away, but not one inside a folder of theirs.
        PathBuf::from(format!("/tmp/meltemi-{}", uid.as_raw()))
    }
}

/// Whether a folder is this user's alone: what lies in it was put there by nobody else.
pub(crate) fn is_private(folder: &Path) -> io::Result<bool> {
    let metadata = fs::symlink_metadata(folder)?;
    let own = metadata.uid() == rustix::process::geteuid().as_raw();
    Ok(metadata.is_dir() && own && metadata.mode() & 0o077 == 0)
}

/// Whether a lab may have that name: it becomes a folder and a part of socket paths.
pub fn is_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    !name.is_empty() && name.len() <= 40 && name.bytes().all(allowed)
}
