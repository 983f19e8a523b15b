//! A node: namespaces around a process that waits, control groups, folders, and the programs inside.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};

use crate::config::SYSCTLS;
use crate::paths::{NODE_FOLDERS, State};
use crate::plan::Node;
use crate::process;

/// Making namespaces and a dozen mounts.
const ENTER_LIMIT: Duration = Duration::from_secs(10);

/// Debian keeps iptables, nft and containerd's helpers outside of a user's PATH.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The namespaces of a node that runs.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// Of the node's first process, as the supervisor counts processes.
    pid: u32,
    /// Its end is the node's.
    pub(crate) keeper: Child,
}

impl Namespaces {
    /// Makes the node's folders and namespaces.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub(crate) async fn make(state: &State, node: Node, pause: &Path) -> Result<Self> {
        let name = node.name();
        make_folders(state, &name)?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--fork"]);
        // What the machine mounts later appears in the node, and nothing of the node on the machine.
        unshare.args(["--kill-child", "--mount-proc", "--propagation", "slave"]);
        unshare
            .args(["sh", "-c", &entry_script(state, &name, pause)])
            .env("PATH", PATH);
        let keeper = process::start(unshare, &state.log(&name))?;
        let outer = keeper.id().context("unshare has ended")?;
        let entered = entered(state, &name);
        process::until(&format!("namespaces of {name}"), ENTER_LIMIT, async || {
            fs::metadata(&entered)
                .map_err(|_| anyhow::anyhow!("{}", process::tail(&state.log(&name), 5)))?;
            Ok(())
        })
        .await?;
        let pid = process::only_child(outer)?;
        fs::write(state.node(&name).join("pid"), pid.to_string())
            .with_context(|| format!("cannot note the process of {name}"))?;
        Ok(Self { pid, keeper })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// A program inside of the node.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.pid.to_string()])
            .args(["-m", "-u", "-i", "-n", "-p", "--"])
            .arg(program)
            .env("PATH", PATH);
        command
    }
}

/// Exists as soon as the node's first process has made its mounts.
fn entered(state: &State, name: &str) -> PathBuf {
    state.node(name).join("entered")
}

fn sysctl_file(state: &State, name: &str, key: &str) -> PathBuf {
    state.node(name).join("sysctl").join(key.replace('/', "."))
}

fn make_folders(state: &State, name: &str) -> Result<()> {
    let make = |folder: PathBuf| {
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))
    };
    for folder in NODE_FOLDERS {
        make(state.node_folder(name, folder))?;
    }
    make(state.node(name).join("sysctl"))?;
    for (key, value) in SYSCTLS {
        let file = sysctl_file(state, name, key);
        fs::write(&file, format!("{value}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// What the node's first process does before it waits. Paths need no quotes: [`State::open`] has seen to that.
fn entry_script(state: &State, name: &str, pause: &Path) -> String {
    // Volumes that one process of the node mounts must appear in the pods of another.
    let mut script = "set -e\nmount --make-rshared /\n".to_owned();
    for folder in NODE_FOLDERS {
        let own = state.node_folder(name, folder);
        script += &format!("mount --bind {} {folder}\n", own.display());
    }
    for (key, _) in SYSCTLS {
        let own = sysctl_file(state, name, key);
        script += &format!(
            "test ! -e /proc/sys/{key} || mount --bind {} /proc/sys/{key}\n",
            own.display()
        );
    }
    script += &format!(
        "hostname {name}\necho 1 > /proc/sys/net/ipv4/ip_forward\ntouch {}\nexec {}\n",
        entered(state, name).display(),
        pause.display()
    );
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_gets_its_own_folders_and_settings_and_then_waits() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let state = State::open(folder.path()).unwrap();
        let script = entry_script(&state, "n1", Path::new("/x/pause"));
        assert!(script.contains("/nodes/n1/var-lib /var/lib\n"), "{script}");
        assert!(script.contains("/sysctl/kernel.panic /proc/sys/kernel/panic\n"));
        assert!(script.ends_with("exec /x/pause\n"));
    }
}
