//! Envoy as a child process.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use meltemi_process::CancellationToken;
use tokio::process::{Child, Command};

use super::Run;
use crate::admin::{Answer, text};
use crate::applets;
use crate::bootstrap::Bootstrap;
use crate::status::probe;

/// Runs Envoy until it ends; told to end, it is drained first. The answer is its exit status.
pub(super) async fn run(
    run: &Run,
    bootstrap: &Path,
    drain: Duration,
    shutdown: CancellationToken,
) -> anyhow::Result<u8> {
    // Ours are off, and a child would inherit that.
    nix::sys::prctl::set_thp_disable(false).ok();
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

/// Readiness as Envoy's admin port tells it, and what the application's own probes say.
pub(super) async fn answer(bootstrap: &Bootstrap, path: &str) -> Answer {
    match path {
        "/healthz/ready" => match applets::ask_admin("GET", "/ready").await {
            Ok((status, body)) => text(status, body),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error:#}\n")),
        },
        path if probe::is_moved(path) => probe::application(bootstrap, path).await,
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::bootstrap;

    /// Injection rewrites probes for any sidecar: with a stock Envoy the agent carries them out.
    #[tokio::test]
    async fn the_agent_of_an_envoy_answers_the_probes_that_were_moved() {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = app.local_addr().unwrap().port();
        let probers = format!(
            r#"{{"/app-health/web/readyz": {{"httpGet": {{"path": "/ready", "port": {port}}}}}, "/app-lifecycle/web/prestopz": {{"tcpSocket": {{"port": {port}}}}}}}"#
        );
        let mut vars = bootstrap::tests::POD.to_vec();
        vars.retain(|(name, _)| !matches!(*name, "INSTANCE_IP" | "ISTIO_KUBE_APP_PROBERS"));
        vars.extend([
            ("INSTANCE_IP", "127.0.0.1"),
            ("ISTIO_KUBE_APP_PROBERS", &probers),
        ]);
        let bootstrap = bootstrap::tests::from(&vars).unwrap();
        let serving = async {
            let (mut asked, _) = app.accept().await.unwrap();
            let mut head = [0; 16];
            asked.read_exact(&mut head).await.unwrap();
            assert_eq!(&head, b"GET /ready HTTP/");
            let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
            asked.write_all(answer).await.unwrap();
        };
        let asking = answer(&bootstrap, "/app-health/web/readyz");
        let (answered, ()) = tokio::join!(asking, serving);
        assert_eq!(answered.status(), StatusCode::SERVICE_UNAVAILABLE);
        let hook = answer(&bootstrap, "/app-lifecycle/web/prestopz").await;
        assert_eq!(hook.status(), StatusCode::OK);
        let unknown = answer(&bootstrap, "/app-health/other/readyz").await;
        assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
    }
}
