//! The folder that holds a cluster.
//!
//! ```text
//!  lock            held by the supervisor for as long as it lives
//!  supervisor.pid  as the machine counts processes
//!  supervisor.log  which processes have ended
//!  admin.kubeconfig  for people and tests: through the relay on the machine's loopback
//!  kubectl/        what kubectl remembers of the cluster
//!  pki/            authority, certificates, the kubeconfigs of the parts
//!  etc/            configuration files; etc/NODE/ for a node's own
//!  etcd/           the data
//!  logs/           one file for each process
//!  nodes/NODE/     what the node has in place of the machine's /run, /var/lib and /var/log
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A path of a Unix socket has at most 107 bytes (unix(7)); below the folder, the longest here takes this many.
const SOCKET_BELOW: usize = "/nodes/n20/run/containerd/containerd.sock.ttrpc".len();
const SOCKET_PATH_LIMIT: usize = 107;

/// What a node sees of its own instead of the machine's; the cluster's folder must not be hidden by that.
pub(crate) const NODE_FOLDERS: [&str; 3] = ["/run", "/var/lib", "/var/log"];

/// A cluster's folder.
#[derive(Clone, Debug)]
pub struct State {
    root: PathBuf,
}

impl State {
    /// Makes the folder, for its owner alone, unless it is there.
    ///
    /// # Errors
    /// The folder cannot be made, or cannot hold a cluster.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let root = fs::canonicalize(folder)
            .with_context(|| format!("cannot resolve {}", folder.display()))?;
        check(&root)?;
        Ok(Self { root })
    }

    /// The folder, if there is one.
    ///
    /// # Errors
    /// It cannot hold a cluster.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        Self::open(folder).map(Some)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file for kubectl.
    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("admin.kubeconfig")
    }

    /// What kubectl remembers of this cluster.
    pub fn kubectl_cache(&self) -> PathBuf {
        self.root.join("kubectl")
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn supervisor_pid(&self) -> PathBuf {
        self.root.join("supervisor.pid")
    }

    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{process}.log"))
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub(crate) fn etc(&self) -> PathBuf {
        self.root.join("etc")
    }

    pub(crate) fn node_etc(&self, node: &str) -> PathBuf {
        self.etc().join(node)
    }

    pub(crate) fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    pub(crate) fn node(&self, node: &str) -> PathBuf {
        self.root.join("nodes").join(node)
    }

    /// The node's own folder in place of one of [`NODE_FOLDERS`].
    pub(crate) fn node_folder(&self, node: &str, machine: &str) -> PathBuf {
        self.node(node)
            .join(machine.trim_start_matches('/').replace('/', "-"))
    }

    /// The node's containerd, as reached from outside of the node.
    pub(crate) fn containerd_socket(&self, node: &str) -> PathBuf {
        self.node_folder(node, "/run")
            .join("containerd/containerd.sock")
    }

    /// The nodes that have a folder.
    ///
    /// # Errors
    /// No cluster has been here.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let folder = self.root.join("nodes");
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        let mut names: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes what an earlier cluster has left, but for what the starter of this one has made.
    pub(crate) fn wipe(&self) -> Result<()> {
        for folder in ["pki", "etc", "etcd", "kubectl", "logs", "nodes"] {
            ignore_missing(fs::remove_dir_all(self.root.join(folder)))
                .with_context(|| format!("cannot remove {folder} of an earlier cluster"))?;
        }
        ignore_missing(fs::remove_file(self.kubeconfig())).context("cannot remove a kubeconfig")
    }

    /// Removes everything that a cluster makes, and the folder unless it holds anything else.
    pub(crate) fn remove(&self) -> Result<()> {
        self.wipe()?;
        for file in ["lock", "supervisor.pid", "supervisor.log"] {
            ignore_missing(fs::remove_file(self.root.join(file)))
                .with_context(|| format!("cannot remove {file}"))?;
        }
        // Refused for a folder that somebody has put other files into, which is as it should be.
        fs::remove_dir(&self.root).ok();
        Ok(())
    }

    /// The name of the cluster's control group: clusters of other folders run beside it.
    pub(crate) fn cgroup(&self) -> String {
        let hash = twox_hash::XxHash3_64::oneshot(self.root.as_os_str().as_encoded_bytes());
        format!("meltemi-kube-{hash:016x}")
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn check(root: &Path) -> Result<()> {
    let length = root.as_os_str().len();
    let limit = SOCKET_PATH_LIMIT - SOCKET_BELOW;
    ensure!(
        length <= limit,
        "{} is too long for the sockets below it: {length} bytes of {limit}",
        root.display()
    );
    for hidden in NODE_FOLDERS {
        ensure!(
            !root.starts_with(hidden),
            "{} is hidden from the nodes, which have a {hidden} of their own",
            root.display()
        );
    }
    let text = root.to_str().context("the folder's path is not UTF-8")?;
    // The path stands in scripts, YAML and TOML, and is not quoted there.
    ensure!(
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)),
        "{text} has characters besides letters, digits and / . _ -"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_cannot_hold_a_cluster_is_refused() {
        let refused = |path: &str| check(Path::new(path)).unwrap_err().to_string();
        assert!(refused("/var/lib/x").contains("hidden from the nodes"));
        assert!(refused(&format!("/{}", "x".repeat(80))).contains("too long"));
        assert!(refused("/tmp/a b").contains("characters"));
        assert!(check(Path::new("/root/.cache/meltemi/kube")).is_ok());
    }
}
