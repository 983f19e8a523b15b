//! Starting, watching and ending a lab.

mod progress;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstream::eprintln;
use anyhow::Context;
use clap::Args;
use hyper::{Method, StatusCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout_at};

use self::progress::Shown;
use super::status::readiness;
use super::{files, objects};
use crate::client::{ClientError, LabClient};
use crate::launch;
use crate::wire::{Validation, Watch};

/// How often the end of a lab is asked for, and how long it may take.
const POLL: Duration = Duration::from_millis(50);
const DOWN_LIMIT: Duration = Duration::from_secs(60);
/// How long proxies are waited for, and how often they are asked.
const SYNC_LIMIT: Duration = Duration::from_secs(5);
const SYNC_POLL: Duration = Duration::from_millis(20);
/// Twice the time in which the control plane has taken up, at the latest, what the lab wrote.
const TAKEN_UP: Duration = Duration::from_millis(100);
/// What a shell reports of a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

#[derive(Debug, Args)]
#[command(
    after_help = "Files and folders given with -f are watched as long as the lab runs: what is saved in them is applied at once. A broken edit \
                  changes nothing; `meltemi lab status` tells where and what it is until it is mended.\n\n\
                  A lab that runs already takes the manifests of a second `up`; its images, certificates and MeshConfig are those it was \
                  started with.\n\nExamples:\n  meltemi lab up\n  meltemi lab up -f samples/bookinfo/platform/kube/bookinfo.yaml --wait\n  \
                        meltemi lab up --name second --workload-cert-ttl 20s -f manifests/"
)]
pub(super) struct Options {
    /// Manifests to apply, now and whenever they change: a file, a folder, or `-` for standard input; may be given again.
    #[arg(short, long = "filename", visible_alias = "file")]
    filename: Vec<PathBuf>,
    /// The namespace of objects that name none.
    #[command(flatten)]
    namespace: super::Namespace,
    /// A YAML file that maps image names, with wildcards, to programs of this machine; counts when the lab starts.
    #[arg(long)]
    images: Option<PathBuf>,
    /// How long workload certificates are valid, such as 20s or 24h; counts when the lab starts.
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    workload_cert_ttl: Option<String>,
    /// A file with Istio's MeshConfig; counts when the lab starts.
    #[arg(long)]
    mesh_config: Option<PathBuf>,
    /// Return only when every pod is ready.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait, such as 90s or 1m30s; a number alone counts seconds.
    #[arg(long, value_name = "DURATION", value_parser = limit, default_value = "120s")]
    timeout: Duration,
}

impl Options {
    /// The given options that only a starting lab takes.
    fn late(&self) -> Vec<&'static str> {
        [
            ("--images", self.images.is_some()),
            ("--workload-cert-ttl", self.workload_cert_ttl.is_some()),
            ("--mesh-config", self.mesh_config.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }
}

/// A duration, kept as it was written for the control plane.
fn lifetime(text: &str) -> Result<String, String> {
    super::duration(text).map(|_valid| text.to_owned())
}

/// A duration, or a number of seconds.
fn limit(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_not_a_number) => super::duration(text),
    }
}

/// Brings the lab up. Ctrl-C ends what this command started; a lab that ran before goes on.
pub(super) async fn up(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    let inputs = files::read_all(&options.filename)?;
    // From here on the signal is remembered, also while the lab starts.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?;
    let is_new = ensure_up(client, options).await?;
    tokio::select! {
        done = fill(client, options, inputs, is_new) => done,
        _ = interrupt.recv() => {
            eprintln!();
            if is_new {
                down(client).await?;
            } else {
                eprintln!("interrupted; the lab \"{}\" goes on", client.name());
            }
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

async fn fill(
    client: &LabClient,
    options: &Options,
    inputs: Vec<files::Input>,
    is_new: bool,
) -> anyhow::Result<ExitCode> {
    let late = options.late();
    if !is_new && !late.is_empty() {
        eprintln!(
            "warning: {} counts when a lab starts; this one runs already: `meltemi lab down` first",
            late.join(", ")
        );
    }
    // As the watch does when the files change: a field too many keeps nothing from running.
    let how = objects::How {
        dry_run: None,
        validate: Validation::Warn,
    };
    let applied = objects::apply_inputs(client, &options.namespace.namespace, inputs, how).await?;
    watch(client, options).await?;
    if options.wait {
        until_ready(client, options.timeout).await?;
        until_synced(client).await;
    }
    summarise(client).await?;
    Ok(applied.exit_code())
}

/// Has the files and folders of `-f` applied again when they change; standard input cannot.
async fn watch(client: &LabClient, options: &Options) -> anyhow::Result<()> {
    let files = options
        .filename
        .iter()
        .filter(|path| path.as_os_str() != "-");
    let paths = files
        .map(std::path::absolute)
        .collect::<Result<Vec<_>, _>>()?;
    if !paths.is_empty() {
        let namespace = options.namespace.namespace.clone();
        client.watch(&Watch { namespace, paths }).await?;
    }
    Ok(())
}

/// Starts the lab unless it runs; whether it was started.
async fn ensure_up(client: &LabClient, options: &Options) -> anyhow::Result<bool> {
    if client.is_up().await {
        return Ok(false);
    }
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    let launch = launch::Options {
        name: client.name().to_owned(),
        images: absolute(&options.images)?,
        workload_cert_ttl: options.workload_cert_ttl.clone(),
        mesh_config: absolute(&options.mesh_config)?,
    };
    start(launch).await?;
    Ok(true)
}

async fn start(options: launch::Options) -> anyhow::Result<()> {
    tokio::task::spawn_blocking(move || launch::start(&options))
        .await?
        .context("the lab does not start")
}

/// Starts an empty lab for a command that needs one.
pub(super) async fn ensure_any(client: &LabClient) -> anyhow::Result<()> {
    match client.status().await {
        Ok(_) => Ok(()),
        Err(ClientError::NotUp(name)) => {
            eprintln!("starting the lab \"{name}\"");
            start(launch::Options {
                name,
                images: None,
                workload_cert_ttl: None,
                mesh_config: None,
            })
            .await
        }
        Err(error) => Err(error.into()),
    }
}

async fn until_ready(client: &LabClient, limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let mut shown = Shown::new(Instant::now());
    loop {
        let progress = client.progress().await?;
        shown.show(&progress, Instant::now());
        if progress.ready {
            shown.clear();
            return Ok(());
        }
        if Instant::now() >= deadline {
            shown.clear();
            anyhow::bail!(progress::timed_out(limit, &progress));
        }
        let next = deadline.min(Instant::now() + progress::EVERY);
        // What went wrong with the question goes wrong with the next one too.
        drop(timeout_at(next, client.changed(progress.revision)).await);
    }
}

/// Waits until the proxies know of each other what the pods' readiness says: a request that is sent next finds every
/// endpoint. A control plane that does not answer, or a proxy that does not, is not waited for.
async fn until_synced(client: &LabClient) {
    let deadline = Instant::now() + SYNC_LIMIT;
    let mut since = None;
    while Instant::now() < deadline {
        let asked = timeout_at(deadline, client.istiod_http(Method::GET, "debug/syncz"));
        let Ok(Ok((StatusCode::OK, proxies))) = asked.await else {
            return;
        };
        if !are_synced(&proxies) {
            since = None;
        } else if since.get_or_insert_with(Instant::now).elapsed() >= TAKEN_UP {
            return;
        }
        sleep(SYNC_POLL).await;
    }
}

/// Whether every proxy has answered all that it was sent.
fn are_synced(proxies: &[u8]) -> bool {
    let Ok(proxies) = serde_json::from_slice::<Vec<BTreeMap<String, String>>>(proxies) else {
        return false;
    };
    proxies.iter().all(|row| {
        row.iter().all(|(field, sent)| {
            field.strip_suffix("_sent").is_none_or(|of_type| {
                row.get(&format!("{of_type}_acked")) == Some(sent)
                    || row.contains_key(&format!("{of_type}_error"))
            })
        })
    })
}

async fn summarise(client: &LabClient) -> anyhow::Result<()> {
    let status = client.status().await?;
    eprintln!(
        "lab \"{}\": control plane {}, {}/{} pods ready",
        status.name,
        readiness(status.control_plane_ready),
        status.pods_ready,
        status.pods_total
    );
    Ok(())
}

pub(super) async fn down(client: &LabClient) -> anyhow::Result<ExitCode> {
    match client.down().await {
        Ok(_) => {}
        Err(ClientError::NotUp(name)) => {
            eprintln!("no lab \"{name}\" runs");
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + DOWN_LIMIT;
    // The folder goes when the last process has ended.
    while client.is_up().await || client.run_dir().exists() {
        anyhow::ensure!(
            Instant::now() < deadline,
            "the lab still runs after {} s",
            DOWN_LIMIT.as_secs()
        );
        sleep(POLL).await;
    }
    eprintln!("lab \"{}\" is down", client.name());
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_duration_or_seconds() {
        for (text, seconds) in [("5", 5), ("5s", 5), ("2m", 120), ("1m30s", 90), ("0", 0)] {
            assert_eq!(limit(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "5 s", "-1", "soon"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_proxy_is_synced_when_it_has_answered_all() {
        assert!(are_synced(b"[]") && !are_synced(b"[{\"proxy\":1}]"));
        let row = |acked: &str, more: &str| {
            format!(r#"[{{"proxy":"a.b","cluster_sent":"2","cluster_acked":"{acked}"{more}}}]"#)
        };
        assert!(are_synced(row("2", "").as_bytes()));
        assert!(!are_synced(row("1", "").as_bytes()));
        assert!(are_synced(row("1", r#","cluster_error":"no""#).as_bytes()));
    }
}
