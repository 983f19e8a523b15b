//! What a container sees as its file system, decided without touching it.
//!
//! The new root is a tmpfs with the host's directories bound into it, read-only. A directory that must hold a mount
//! point which the host lacks is *expanded*: made anew, with each of its entries bound (or its symlink copied), and the
//! mount point beside them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Something mounted at a path of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) target: PathBuf,
    pub(crate) source: Source,
    pub(crate) read_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Source {
    /// A directory of the host, with what is mounted below it.
    Directory(PathBuf),
    /// A file of the host.
    File(PathBuf),
    /// An empty file system of the container's own.
    Tmpfs { mode: u32 },
}

/// A symbolic link that the container has and the host has not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) path: PathBuf,
    pub(crate) to: PathBuf,
}

/// What a path of the host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Absent,
    Directory,
    Symlink(PathBuf),
    /// A file, socket or device.
    File,
}

/// The host's file system, as far as planning needs it.
pub(crate) trait Tree {
    fn entry(&self, path: &Path) -> Entry;
    /// Names in a directory; empty when it cannot be read.
    fn names(&self, directory: &Path) -> Vec<PathBuf>;
}

/// One step of building the root; paths are the container's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Directory(PathBuf),
    File(PathBuf),
    Link(Link),
    Bind(PathBuf),
}

/// Resolves the symlinks of a mount path's parents, so that `/var/run/x` meets `/run/x`. The last part stays as written:
/// a mount replaces a link, it does not follow it.
pub(crate) fn resolve(tree: &dyn Tree, path: &Path) -> PathBuf {
    let mut resolved = PathBuf::from("/");
    let mut rest: Vec<_> = parts(path).rev().collect();
    // Bounds loops of links, as the kernel does (path_resolution(7)).
    let mut links = 0;
    while let Some(part) = rest.pop() {
        if part == "." {
            continue;
        }
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        match tree.entry(&next) {
            Entry::Symlink(to) if !rest.is_empty() && links < 40 => {
                links += 1;
                if to.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                rest.extend(parts(&to).rev());
            }
            _ => resolved = next,
        }
    }
    resolved
}

fn parts(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components()
        .map(|part| part.as_os_str().to_owned())
        .filter(|part| part != "/")
}

/// Plans the skeleton for a root with the given mount points and links.
pub(crate) fn skeleton(tree: &dyn Tree, mounts: &[Mount], links: &[Link]) -> Vec<Step> {
    let targets: Vec<&Path> = mounts.iter().map(|mount| mount.target.as_path()).collect();
    // A mount point inside another mount is made there, not in the skeleton.
    let inside = |path: &Path| {
        targets
            .iter()
            .any(|other| *other != path && path.starts_with(other))
    };
    let points: Vec<&Mount> = mounts
        .iter()
        .filter(|mount| !inside(&mount.target))
        .collect();
    let links: Vec<&Link> = links.iter().filter(|link| !inside(&link.path)).collect();
    let mut plan = Plan {
        tree,
        points,
        links,
        steps: Vec::new(),
    };
    plan.expand(Path::new("/"));
    plan.steps
}

struct Plan<'a> {
    tree: &'a dyn Tree,
    points: Vec<&'a Mount>,
    links: Vec<&'a Link>,
    steps: Vec<Step>,
}

impl Plan<'_> {
    /// Everything that must exist at or below `path`.
    fn wanted_below(&self, path: &Path) -> impl Iterator<Item = &Path> {
        let points = self.points.iter().map(|mount| mount.target.as_path());
        points
            .chain(self.links.iter().map(|link| link.path.as_path()))
            .filter(move |wanted| wanted.starts_with(path))
    }

    fn expand(&mut self, directory: &Path) {
        let mut names: BTreeSet<PathBuf> = self.tree.names(directory).into_iter().collect();
        let depth = directory.components().count();
        names.extend(self.wanted_below(directory).filter_map(|path| {
            path.components()
                .nth(depth)
                .map(|part| PathBuf::from(part.as_os_str()))
        }));
        for name in names {
            self.place(&directory.join(name));
        }
    }

    fn place(&mut self, path: &Path) {
        if let Some(mount) = self.points.iter().find(|mount| mount.target == path) {
            let step = match mount.source {
                Source::File(_) => Step::File(path.to_owned()),
                Source::Directory(_) | Source::Tmpfs { .. } => Step::Directory(path.to_owned()),
            };
            self.steps.push(step);
        } else if let Some(link) = self.links.iter().find(|link| link.path == path) {
            self.steps.push(Step::Link((*link).clone()));
        } else if self
            .wanted_below(path)
            .any(|wanted| !self.mountable(wanted))
        {
            self.steps.push(Step::Directory(path.to_owned()));
            self.expand(path);
        } else {
            self.bind(path);
        }
    }

    fn bind(&mut self, path: &Path) {
        let path = path.to_owned();
        match self.tree.entry(&path) {
            Entry::Absent => {}
            Entry::Symlink(to) => self.steps.push(Step::Link(Link { path, to })),
            Entry::Directory => self
                .steps
                .extend([Step::Directory(path.clone()), Step::Bind(path)]),
            Entry::File => self
                .steps
                .extend([Step::File(path.clone()), Step::Bind(path)]),
        }
    }

    /// Whether the host's own entry can serve as the mount point.
    fn mountable(&self, path: &Path) -> bool {
        let Some(mount) = self.points.iter().find(|mount| mount.target == path) else {
            return false;
        };
        match mount.source {
            Source::File(_) => self.tree.entry(path) == Entry::File,
            Source::Directory(_) | Source::Tmpfs { .. } => {
                self.tree.entry(path) == Entry::Directory
            }
        }
    }
}

/// The file system of this process.
#[derive(Debug)]
pub(crate) struct HostTree;

impl Tree for HostTree {
    fn entry(&self, path: &Path) -> Entry {
        let Ok(metadata) = path.symlink_metadata() else {
            return Entry::Absent;
        };
        if metadata.is_dir() {
            Entry::Directory
        } else if metadata.is_symlink() {
            path.read_link().map_or(Entry::Absent, Entry::Symlink)
        } else {
            Entry::File
        }
    }

    fn names(&self, directory: &Path) -> Vec<PathBuf> {
        let Ok(entries) = directory.read_dir() else {
            return Vec::new();
        };
        entries
            .flatten()
            .map(|entry| PathBuf::from(entry.file_name()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(&'static [(&'static str, &'static str)]);

    impl Tree for Fake {
        fn entry(&self, path: &Path) -> Entry {
            match self.0.iter().find(|(name, _)| Path::new(name) == path) {
                None => Entry::Absent,
                Some((_, "d")) => Entry::Directory,
                Some((_, "f")) => Entry::File,
                Some((_, to)) => Entry::Symlink(PathBuf::from(to)),
            }
        }

        fn names(&self, directory: &Path) -> Vec<PathBuf> {
            let children = self.0.iter().map(|(name, _)| Path::new(name));
            children
                .filter(|p| p.parent() == Some(directory))
                .map(|p| PathBuf::from(p.file_name().unwrap()))
                .collect()
        }
    }

    const HOST: Fake = Fake(&[
        ("/bin", "usr/bin"),
        ("/etc", "d"),
        ("/etc/hosts", "f"),
        ("/etc/passwd", "f"),
        ("/run", "d"),
        ("/usr", "d"),
        ("/usr/bin", "d"),
        ("/var", "d"),
        ("/var/run", "/run"),
    ]);

    fn mount(target: &str, source: Source) -> Mount {
        Mount {
            target: resolve(&HOST, Path::new(target)),
            source,
            read_only: true,
        }
    }

    fn steps(mounts: &[Mount], links: &[Link]) -> Vec<String> {
        let show = |step| match step {
            Step::Directory(path) => format!("dir {}", path.display()),
            Step::File(path) => format!("file {}", path.display()),
            Step::Link(link) => format!("link {} -> {}", link.path.display(), link.to.display()),
            Step::Bind(path) => format!("bind {}", path.display()),
        };
        skeleton(&HOST, mounts, links)
            .into_iter()
            .map(show)
            .collect()
    }

    #[test]
    fn a_mount_point_that_the_host_has_needs_no_expansion() {
        let mounts = [mount("/etc/hosts", Source::File("/x".into()))];
        assert_eq!(
            steps(&mounts, &[]),
            [
                "link /bin -> usr/bin",
                "dir /etc",
                "bind /etc",
                "dir /run",
                "bind /run",
                "dir /usr",
                "bind /usr",
                "dir /var",
                "bind /var"
            ]
        );
    }

    #[test]
    fn a_missing_mount_point_expands_its_parents() {
        let mounts = [
            mount("/etc/istio/pod", Source::Directory("/x".into())),
            mount("/etc/resolv.conf", Source::File("/y".into())),
            mount("/data", Source::Tmpfs { mode: 0o777 }),
            mount("/data/inner", Source::Directory("/z".into())),
        ];
        let all = steps(&mounts, &[]);
        assert_eq!(
            all[1..9],
            [
                "dir /data",
                "dir /etc",
                "file /etc/hosts",
                "bind /etc/hosts",
                "dir /etc/istio",
                "dir /etc/istio/pod",
                "file /etc/passwd",
                "bind /etc/passwd",
                "file /etc/resolv.conf"
            ][..8]
        );
        assert!(
            !all.iter().any(|step| step.contains("/data/inner")),
            "{all:?}"
        );
    }

    #[test]
    fn links_are_made_beside_what_is_there() {
        let link = Link {
            path: "/usr/local/bin/pilot-agent".into(),
            to: "/.meltemi/bin/meltemi-proxy".into(),
        };
        let all = steps(&[], &[link]);
        assert!(
            all.contains(
                &"link /usr/local/bin/pilot-agent -> /.meltemi/bin/meltemi-proxy".to_owned()
            ),
            "{all:?}"
        );
        assert!(all.contains(&"bind /usr/bin".to_owned()), "{all:?}");
    }

    #[test]
    fn parents_that_are_links_are_followed() {
        assert_eq!(
            resolve(&HOST, Path::new("/var/run/secrets/tokens")),
            Path::new("/run/secrets/tokens")
        );
        assert_eq!(resolve(&HOST, Path::new("/bin")), Path::new("/bin"));
        assert_eq!(resolve(&HOST, Path::new("/bin/../x")), Path::new("/usr/x"));
    }
}
