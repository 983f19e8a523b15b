//! A network of this process alone, with nothing in it but loopback.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::LinkUnspec;

/// Moves the process into a new network. To be called before there is a second thread: namespaces belong to threads.
///
/// # Errors
/// The machine lets the user make no namespaces.
pub fn enter() -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || unshare(CloneFlags::CLONE_NEWNET).is_err() {
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
            .context("cannot make a network namespace: run as root, or allow user namespaces")?;
        std::fs::write("/proc/self/setgroups", "deny")
            .context("cannot prepare the user namespace")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))
            .context("cannot map the user")?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
            .context("cannot map the group")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime
        .block_on(loopback_up())
        .context("cannot bring loopback up")
}

async fn loopback_up() -> Result<()> {
    let (connection, netlink, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let mut links = netlink.link().get().match_name("lo".to_owned()).execute();
    let link = links.try_next().await?.context("there is no loopback")?;
    let up = LinkUnspec::new_with_index(link.header.index).up().build();
    netlink.link().set(up).execute().await?;
    Ok(())
}
