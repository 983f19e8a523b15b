//! Envoy as a child process.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use meltemi_process::CancellationToken;
use tokio::process::{Child, Command};

use super::Run;
use crate::admin::{Answer, Asked, text};
use crate::applets;
use crate::bootstrap::Bootstrap;

/// Runs Envoy until it ends; told to end, it is drained first. The answer is its exit status.
pub(super) async fn run(
    run: &Run,
    bootstrap: &Path,
    drain: Duration,
    shutdown: CancellationToken,
) -> anyhow::Result<u8> {
    let mut child = Command::new(&run.binary)
        .arg("-c")
        .arg(bootstrap)
        .args([
            "--concurrency",
            &run.concurrency.to_string(),
            "-l",
            &run.log_level,
            "--disable-hot-restart",
        ])
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", run.binary.display()))?;
    tracing::info!(pid = child.id(), "started Envoy");
    tokio::select! {
        status = child.wait() => return Ok(exit_code(status?)),
        () = shutdown.cancelled() => {}
    }
    let drained = applets::ask_admin("POST", "/drain_listeners?inboundonly&graceful").await;
    if let Err(error) = drained {
        tracing::warn!(%error, "Envoy was not drained");
    }
    tokio::select! {
        status = child.wait() => return Ok(exit_code(status?)),
        () = tokio::time::sleep(drain) => {}
    }
    end(&mut child).await
}

async fn end(child: &mut Child) -> anyhow::Result<u8> {
    const PATIENCE: Duration = Duration::from_secs(2);
    if let Err(error) = applets::ask_admin("POST", "/quitquitquit").await {
        tracing::debug!(%error, "Envoy does not answer");
    }
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(status) => Ok(exit_code(status?)),
        Err(_) => {
            child.kill().await?;
            Ok(0)
        }
    }
}

fn exit_code(status: std::process::ExitStatus) -> u8 {
    status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(1)
}

/// Readiness as Envoy's admin port tells it.
pub(super) async fn answer(_bootstrap: &Bootstrap, asked: &Asked) -> Answer {
    if asked.path() != "/healthz/ready" {
        return text(StatusCode::NOT_FOUND, "not found\n");
    }
    match applets::ask_admin("GET", "/ready").await {
        Ok((status, body)) => text(status, body),
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
    }
}
