//! Where a lab keeps its sockets and files.

use std::path::PathBuf;

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
        PathBuf::from(format!("/tmp/meltemi-{}/lab", uid.as_raw()))
    }
}

/// Whether a lab may have that name: it becomes a folder and a part of socket paths.
pub fn is_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
    !name.is_empty() && name.len() <= 40 && name.bytes().all(allowed)
}
