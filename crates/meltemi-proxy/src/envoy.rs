//! The agent of a stock Envoy: gets and renews the certificate, hands it over by SDS on a unix socket, writes Envoy's
//! bootstrap and, if asked to, runs Envoy. What `pilot-agent` is to Istio's proxy.

mod bootstrap;
mod child;
mod sds;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use meltemi_process::CancellationToken;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::app;
use crate::bootstrap::Bootstrap;
use crate::certificates::keep_fresh;

/// What the agent is to do.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Where SDS is served.
    pub(crate) socket: PathBuf,
    /// Where the bootstrap is written.
    pub(crate) write_bootstrap: Option<PathBuf>,
    /// The Envoy to run with it.
    pub(crate) run: Option<Run>,
}

#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) binary: PathBuf,
    pub(crate) concurrency: u32,
    pub(crate) log_level: String,
}

/// Serves until told to end; with Envoy as a child, until that ends. The answer is the exit status.
pub(crate) async fn agent(
    bootstrap: Bootstrap,
    options: Options,
    shutdown: CancellationToken,
) -> anyhow::Result<u8> {
    let bootstrap = Arc::new(bootstrap);
    let secrets = sds::Secrets::default();
    let socket = bind(&options.socket)?;
    tokio::spawn(
        Server::builder()
            .add_service(secrets.clone().into_service())
            .serve_with_incoming(socket),
    );
    let authority = app::authority(&bootstrap)?;
    tokio::spawn({
        let (secrets, bootstrap) = (secrets.clone(), bootstrap.clone());
        async move {
            let received = |certificate: meltemi_pki::WorkloadCertificate,
                            bundle: Arc<meltemi_pki::TrustBundle>,
                            key: &_| {
                secrets.replace(&certificate, &bundle, key);
            };
            keep_fresh(
                &authority,
                &bootstrap.trust_domain,
                &bootstrap.paths.root_cert,
                received,
            )
            .await;
        }
    });
    tokio::select! {
        () = secrets.present() => {}
        () = shutdown.cancelled() => return Ok(0),
    }
    if let Some(path) = &options.write_bootstrap {
        let text = bootstrap::render(&bootstrap, &options.socket).await?;
        tokio::fs::write(path, text)
            .await
            .with_context(|| format!("writing {}", path.display()))?;
        tracing::info!(path = %path.display(), "wrote Envoy's bootstrap");
    }
    match (&options.run, &options.write_bootstrap) {
        (Some(run), Some(path)) => {
            serve_readiness(&bootstrap).await?;
            child::run(
                run,
                path,
                bootstrap.proxy_config.termination_drain(),
                shutdown,
            )
            .await
        }
        _ => {
            shutdown.cancelled().await;
            Ok(0)
        }
    }
}

/// Binds a unix socket, taking the place of one that a former process left.
fn bind(path: &Path) -> anyhow::Result<UnixListenerStream> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", path.display()));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(path).with_context(|| format!("listening on {}", path.display()))?;
    Ok(UnixListenerStream::new(listener))
}

/// Answers where the kubelet asks: readiness, Envoy's own, on 15021, and the application's probes on 15020 too.
async fn serve_readiness(bootstrap: &Arc<Bootstrap>) -> anyhow::Result<()> {
    use crate::admin::listen;
    use meltemi_core::names::port;
    for port in [port::READINESS, bootstrap.proxy_config.status_port()] {
        let socket = TcpListener::bind(("0.0.0.0", port))
            .await
            .with_context(|| format!("listening on port {port}"))?;
        let bootstrap = bootstrap.clone();
        tokio::spawn(listen(socket, move |asked| {
            let bootstrap = bootstrap.clone();
            async move { child::answer(&bootstrap, asked.path()).await }
        }));
    }
    Ok(())
}
