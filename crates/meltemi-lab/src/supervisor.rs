//! The lab's supervisor: PID 1 of its namespaces, owner of everything in them.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use nix::mount::{MsFlags, mount};
use parking_lot::RwLock;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::children::Children;
use crate::cluster::{
    self, CONTROL_PLANE_CONFIG, CONTROL_PLANE_IMAGE, CONTROL_PLANE_STATE, Cluster,
};
use crate::daemon::{self, Daemon, Watcher};
use crate::dns;
use crate::images::{Images, Programs};
use crate::launch::Supervise;
use crate::machine_pids::MachinePids;
use crate::network::{DNS_ADDRESS, Node};
use crate::pod::worker::Machine;
use crate::tokens::{ISSUER, Tokens};

/// The file under the state folder with the key that tokens are verified by.
const TOKEN_KEYS: &str = "token-keys.json";

/// How long the last answer may take to leave.
const ANSWER: std::time::Duration = std::time::Duration::from_millis(50);

/// Runs a lab in the namespaces that the caller made, until it is told to end. Standard input is a pipe whose other end
/// the outer process holds: when that process is gone, so is the lab.
pub(crate) fn run(options: &Supervise) -> Result<()> {
    let pids = MachinePids::open()?;
    own_proc()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let result = runtime.block_on(supervise(options, pids));
    runtime.shutdown_background();
    if let Ok(End::Asked) = result {
        // The outer process removes the folder when nothing of the lab is left.
        return Ok(());
    }
    if let Err(error) = fs::remove_dir_all(&options.run_dir) {
        tracing::debug!(%error, "cannot remove the lab's files");
    }
    result.map(drop)
}

/// Why a lab ends.
enum End {
    Asked,
    /// The outer process is gone.
    Orphaned,
}

/// Makes mounts private and shows the processes of this pid namespace.
fn own_proc() -> Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none)
        .context("cannot mount /proc for the lab's processes")
}

async fn supervise(options: &Supervise, pids: MachinePids) -> Result<End> {
    let directory = &options.run_dir;
    let (config_dir, state_dir) = (directory.join("config"), directory.join("state"));
    for folder in [&config_dir, &state_dir, &directory.join("pods")] {
        fs::create_dir_all(folder)?;
    }
    let children = Children::start()?;
    let node = Node::set_up()
        .await
        .context("cannot set up the lab's network")?;
    let zone = Arc::new(ArcSwap::default());
    dns::serve(SocketAddr::new(DNS_ADDRESS.into(), 53), Arc::clone(&zone))
        .await
        .context("cannot serve DNS")?;
    let programs = Programs {
        beside: parent(&options.program),
    };
    let nft = programs.find("nft");
    let nft = nft.context("the program `nft` was not found: install the package nftables")?;
    let machine = Machine {
        nft,
        children,
        node,
        directory: directory.clone(),
        hidden: parent(directory),
        programs,
        images: RwLock::new(images(options)?),
        single_id: options.single_id,
        tokens: Tokens::load(
            &directory.join("token-key.pem"),
            &state_dir.join(TOKEN_KEYS),
        )?,
    };
    let settings = cluster::Settings {
        config_dir: config_dir.clone(),
        state_dir: state_dir.clone(),
        control_plane: control_plane(options),
        mesh_config: mesh_config(options.mesh_config.as_deref())?,
        workload_cert_ttl: options.workload_cert_ttl.clone(),
    };
    let (cluster, task) = Cluster::start(Arc::new(machine), settings, zone);
    let (down, mut ending) = watch::channel(false);
    let daemon = Daemon {
        name: options.name.clone(),
        watcher: Watcher::start(cluster.clone())?,
        cluster,
        pids,
        rootless: options.single_id,
        config_dir,
        state_dir,
        started: Instant::now(),
        down,
    };
    daemon::serve(Arc::new(daemon), directory)?;
    announce("ready");
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(End::Asked),
        () = orphaned() => Ok(End::Orphaned),
        ended = task => {
            ended.context("the cluster's task failed")?;
            anyhow::bail!("the cluster's task ended")
        }
        _ = ending.wait_for(|down| *down) => {
            // The answer to the request that ends the lab leaves first.
            tokio::time::sleep(ANSWER).await;
            Ok(End::Asked)
        }
    }
}

/// Tells the process that waits for the start how it went.
pub(crate) fn announce(line: &str) {
    // It may have given up waiting.
    writeln!(io::stdout(), "{line}").ok();
}

/// Waits for the end of standard input.
async fn orphaned() {
    let ended = tokio::task::spawn_blocking(|| io::stdin().read(&mut [0]));
    drop(ended.await);
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new("/")).to_owned()
}

fn images(options: &Supervise) -> Result<Images> {
    let mut images = Images::default();
    images.add(crate::images::Image {
        image: CONTROL_PLANE_IMAGE.to_owned(),
        command: vec![options.program.display().to_string()],
        user: Some(0),
        ..crate::images::Image::default()
    });
    if let Some(file) = &options.images {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        images
            .extend(&text)
            .with_context(|| file.display().to_string())?;
    }
    Ok(images)
}

fn control_plane(options: &Supervise) -> Vec<String> {
    let keys = format!("{CONTROL_PLANE_STATE}/{TOKEN_KEYS}");
    let names =
        "istiod.istio-system.svc,istiod.istio-system.svc.cluster.local,istiod.istio-system,istiod";
    let mut arguments: Vec<String> = [
        "control-plane",
        "--config-dir",
        CONTROL_PLANE_CONFIG,
        "--state-dir",
        CONTROL_PLANE_STATE,
        "--token-issuer-key",
        &keys,
        "--token-issuer",
        ISSUER,
        "--dns-names",
        names,
    ]
    .map(str::to_owned)
    .to_vec();
    if let Some(ttl) = &options.workload_cert_ttl {
        arguments.extend(["--workload-cert-ttl".to_owned(), ttl.clone()]);
    }
    arguments
}

fn mesh_config(file: Option<&Path>) -> Result<String> {
    match file {
        Some(file) => {
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        }
        None => Ok(format!(
            "rootNamespace: {}\ntrustDomain: cluster.local\n",
            meltemi_core::names::ISTIO_SYSTEM
        )),
    }
}
