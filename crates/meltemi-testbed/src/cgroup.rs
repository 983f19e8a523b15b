//! Control groups of the nodes, in version 1 (one hierarchy per controller), version 2, or both beside each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::process;

/// Controllers that a kubelet wants to have (version 2; in version 1 every mounted one is there).
const CONTROLLERS: &str = "+cpu +cpuset +io +memory +pids";

/// The last processes of a group take a moment to be gone.
const REMOVE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hierarchy {
    V1 { mount: PathBuf, has_cpuset: bool },
    V2 { mount: PathBuf },
}

impl Hierarchy {
    fn mount(&self) -> &Path {
        match self {
            Self::V1 { mount, .. } | Self::V2 { mount } => mount,
        }
    }
}

/// Makes `/GROUP/NODE` wherever control groups are mounted, and returns the name as a kubelet's `cgroupRoot`.
///
/// # Errors
/// Control groups cannot be written here.
pub(crate) fn prepare(group: &str, node: &str) -> Result<String> {
    for hierarchy in mounted()? {
        let outer = hierarchy.mount().join(group);
        let inner = outer.join(node);
        make(&hierarchy, &outer)?;
        make(&hierarchy, &inner)?;
    }
    Ok(format!("/{group}/{node}"))
}

/// Removes a group and everything below it, once its processes are gone.
///
/// # Errors
/// A process is still in one of them.
pub(crate) async fn remove(group: &str) -> Result<()> {
    for hierarchy in mounted()? {
        let folder = hierarchy.mount().join(group);
        process::until("control groups become empty", REMOVE_LIMIT, async || {
            remove_tree(&folder)
        })
        .await?;
    }
    Ok(())
}

fn make(hierarchy: &Hierarchy, folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    match hierarchy {
        // A new cpuset is empty, and no process may enter an empty one (cpuset(7)).
        Hierarchy::V1 { has_cpuset, .. } if *has_cpuset => {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                inherit(folder, file)?;
            }
        }
        Hierarchy::V1 { .. } => {}
        Hierarchy::V2 { mount } => {
            let parent = folder.parent().unwrap_or(mount);
            for at in [parent, folder] {
                let control = at.join("cgroup.subtree_control");
                // A controller that is missing here is the kubelet's to complain about; one after the other, so that
                // it does not take the others with it.
                for controller in CONTROLLERS.split(' ') {
                    if fs::write(&control, controller).is_err() {
                        continue;
                    }
                }
            }
        }
    }
    Ok(())
}

fn inherit(folder: &Path, file: &str) -> Result<()> {
    let parent = folder.parent().context("a group without a parent")?;
    let value = fs::read_to_string(parent.join(file))
        .with_context(|| format!("cannot read {file} of {}", parent.display()))?;
    fs::write(folder.join(file), value.trim())
        .with_context(|| format!("cannot write {file} of {}", folder.display()))
}

/// The files of a group are the kernel's: only its folders are removed, inner ones first.
fn remove_tree(folder: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

fn mounted() -> Result<Vec<Hierarchy>> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    Ok(parse(&mounts))
}

/// Reads the lines of proc_mounts(5): device, mount point, type, options.
fn parse(mounts: &str) -> Vec<Hierarchy> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (mount, kind, options) = (
                words.nth(1)?,
                words.next()?,
                words.next().unwrap_or_default(),
            );
            let mount = PathBuf::from(mount);
            match kind {
                "cgroup" => Some(Hierarchy::V1 {
                    mount,
                    has_cpuset: options.split(',').any(|option| option == "cpuset"),
                }),
                "cgroup2" => Some(Hierarchy::V2 { mount }),
                _ => None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found() {
        let mounts = "\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
";
        let found = parse(mounts);
        assert_eq!(found.len(), 3);
        assert!(matches!(
            &found[0],
            Hierarchy::V1 {
                has_cpuset: true,
                ..
            }
        ));
        assert!(matches!(
            &found[1],
            Hierarchy::V1 {
                has_cpuset: false,
                ..
            }
        ));
        assert!(matches!(&found[2], Hierarchy::V2 { mount } if mount.ends_with("unified")));
    }
}
