//! The last steps before a container's program: namespaces, root, identity, capabilities.
//!
//! Runs in a fresh process of this program that has no threads, so that all of it is ordinary code instead of code
//! between fork and exec. The supervisor writes an [`Entrance`] and starts this program's hidden command with its path.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, chdir, pivot_root, setgroups, setresgid, setresuid, setsid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::rootfs::{self, HostTree, Link, Mount, Source, Step};
use crate::sys;

/// Everything that a process needs to become a container's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entrance {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: PathBuf,
    /// `None` where only one id is mapped: the process keeps it.
    pub(crate) ids: Option<Ids>,
    /// Capabilities that the process may hold, as bits.
    pub(crate) capabilities: u64,
    /// Files of the network and UTS namespaces to join.
    pub(crate) namespaces: Vec<PathBuf>,
    pub(crate) root: Root,
    /// Standard input is a terminal that becomes the process's own, for job control and `/dev/tty`.
    pub(crate) terminal: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ids {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// A supplementary group (`fsGroup`).
    pub(crate) extra_gid: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Root {
    /// A new root, built at an empty directory.
    Build {
        at: PathBuf,
        mounts: Vec<Mount>,
        links: Vec<Link>,
    },
    /// The root of a running container: the file of its mount namespace.
    Join(PathBuf),
}

/// The first argument by which this program knows that it is to become a container.
pub(crate) const ENTER: &str = "__lab-enter";
/// Likewise for a further process of a running container.
pub(crate) const EXEC: &str = "__lab-exec";

/// Starts a container. Its standard input must be a pipe: it is closed by success and written to by failure, and the
/// container's program reads from /dev/null.
pub(crate) fn command(entrance: &Path) -> Command {
    own_program(ENTER, entrance)
}

/// Starts a further process of a container; the description is read and removed by it.
pub(crate) fn exec_command(directory: &Path, entrance: &Entrance) -> io::Result<Command> {
    let file = directory.join(format!("exec-{:016x}.json", rand::random::<u64>()));
    fs::write(&file, serde_json::to_vec(entrance)?)?;
    Ok(own_program(EXEC, &file))
}

fn own_program(role: &str, file: &Path) -> Command {
    // By this link the program is found even when a new build has replaced its file.
    let mut command = Command::new("/proc/self/exe");
    command.arg0("meltemi").arg(role).arg(file).env_clear();
    command
}

/// Becomes a container's first process.
pub(crate) fn enter(file: &Path) -> ExitCode {
    match progress_pipe() {
        Ok(mut progress) => {
            let Err(error) = become_entrance(file);
            // The supervisor reads this; when it is gone, so is the lab.
            drop(write!(progress, "{error:#}"));
        }
        Err(error) => drop(writeln!(io::stderr(), "{error:#}")),
    }
    ExitCode::from(128)
}

/// Becomes a further process of a container. Failures are told as a shell does: 126, with the reason on standard error.
pub(crate) fn exec(file: &Path) -> ExitCode {
    let Err(error) = become_entrance(file);
    drop(writeln!(io::stderr(), "error: {error:#}"));
    ExitCode::from(126)
}

/// Takes the pipe from standard input, closed on exec, and puts /dev/null there.
fn progress_pipe() -> Result<File> {
    let pipe = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(File::from(pipe))
}

/// Becomes the program described by the file; returns only on failure.
fn become_entrance(file: &Path) -> Result<std::convert::Infallible> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let entrance: Entrance =
        serde_json::from_slice(&text).context("cannot read the container's description")?;
    if matches!(entrance.root, Root::Join(_)) {
        fs::remove_file(file)?;
    }
    // Its own session, so that signals meant for the supervisor's terminal do not reach it. Fails if it has one already.
    setsid().ok();
    if entrance.terminal {
        rustix::process::ioctl_tiocsctty(io::stdin()).context("cannot take the terminal")?;
    }
    let mut namespaces = Vec::new();
    for path in &entrance.namespaces {
        namespaces
            .push(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    }
    for namespace in namespaces {
        setns(namespace, CloneFlags::empty()).context("cannot join a namespace of the pod")?;
    }
    match &entrance.root {
        Root::Build { at, mounts, links } => build_root(at, mounts, links)?,
        Root::Join(path) => {
            let namespace = File::open(path).context("the container is not running")?;
            setns(namespace, CloneFlags::CLONE_NEWNS)
                .context("cannot join the container's mounts")?;
        }
    }
    chdir(&entrance.cwd).with_context(|| format!("workingDir {}", entrance.cwd.display()))?;
    become_user(&entrance)?;
    let [program, arguments @ ..] = entrance.argv.as_slice() else {
        anyhow::bail!("no command")
    };
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(entrance.env.iter().cloned())
        .exec();
    Err(error).with_context(|| format!("cannot run {program:?}"))
}

fn build_root(at: &Path, mounts: &[Mount], links: &[Link]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    mount_tmpfs(at, 0o755)?;
    let mounts: Vec<Mount> = mounts
        .iter()
        .map(|mount| Mount {
            target: rootfs::resolve(&HostTree, &mount.target),
            ..mount.clone()
        })
        .collect();
    for step in rootfs::skeleton(&HostTree, &mounts, links) {
        build(at, &step)?;
    }
    sys::make_read_only(at).context("cannot make the root read-only")?;
    let mut mounts = mounts;
    mounts.sort_by_key(|mount| mount.target.components().count());
    for mount in &mounts {
        place(at, mount).with_context(|| format!("cannot mount at {}", mount.target.display()))?;
    }
    chdir(at)?;
    // The old root lands on the new one and is taken away (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".").context("cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the old root")?;
    chdir("/")?;
    Ok(())
}

fn build(root: &Path, step: &Step) -> Result<()> {
    let context = || format!("cannot build {step:?}");
    match step {
        Step::Directory(path) => fs::create_dir(inside(root, path)).with_context(context),
        Step::File(path) => File::create(inside(root, path))
            .map(drop)
            .with_context(context),
        Step::Link(link) => symlink(&link.to, inside(root, &link.path)).with_context(context),
        Step::Bind(path) => bind(path, &inside(root, path)).with_context(context),
    }
}

fn place(root: &Path, mount: &Mount) -> Result<()> {
    let target = inside(root, &mount.target);
    match &mount.source {
        Source::Directory(source) => {
            ensure_directory(&target)?;
            bind(source, &target)?;
        }
        Source::File(source) => {
            if !target.exists() {
                File::create(&target)?;
            }
            bind(source, &target)?;
        }
        Source::Tmpfs { mode } => {
            ensure_directory(&target)?;
            mount_tmpfs(&target, *mode)?;
        }
    }
    if mount.read_only {
        sys::make_read_only(&target)?;
    }
    Ok(())
}

fn ensure_directory(path: &Path) -> Result<()> {
    if !path.is_dir() {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn mount_tmpfs(at: &Path, mode: u32) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // A quarter of a gigabyte bounds what one container can put into memory this way.
    let options = format!("mode={mode:o},size=256m");
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        flags,
        Some(options.as_str()),
    )
    .context("cannot mount a tmpfs")
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    let none = None::<&str>;
    mount(
        Some(source),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )
    .with_context(|| format!("cannot bind {}", source.display()))
}

fn inside(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// Takes on the ids and gives up every capability that was not asked for (capabilities(7)).
fn become_user(entrance: &Entrance) -> Result<()> {
    let kept = CapabilitySet::from_bits_truncate(entrance.capabilities);
    for capability in CapabilitySet::all()
        .iter()
        .filter(|capability| !kept.contains(*capability))
    {
        // Unknown to older kernels: then there is nothing to drop.
        rustix::thread::remove_capability_from_bounding_set(capability).ok();
    }
    if let Some(ids) = entrance.ids {
        rustix::thread::set_keep_capabilities(true)?;
        let groups: Vec<Gid> = ids.extra_gid.into_iter().map(Gid::from_raw).collect();
        setgroups(&groups).context("cannot set groups")?;
        let (uid, gid) = (Uid::from_raw(ids.uid), Gid::from_raw(ids.gid));
        setresgid(gid, gid, gid).context("cannot set the group")?;
        setresuid(uid, uid, uid).context("cannot set the user")?;
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: kept,
    };
    rustix::thread::set_capabilities(None, sets).context("cannot drop capabilities")?;
    rustix::thread::set_no_new_privs(true).context("cannot set no_new_privs")?;
    Ok(())
}
