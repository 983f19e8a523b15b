//! The scaffold of admin and monitoring HTTP servers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::{Metrics, OPENMETRICS_CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE};
use crate::readiness::Readiness;

pub use axum;

/// How long open admin connections may keep a process alive once it shuts down.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// A bound admin server: binding is apart from serving so that a taken port fails the start.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl AdminServer {
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let local_addr = listener.local_addr()?;
        Ok(Self {
            listener,
            local_addr,
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until the token is cancelled, then lets open requests finish for [`DRAIN_TIMEOUT`]. Handlers may take
    /// `ConnectInfo<SocketAddr>`.
    ///
    /// # Errors
    /// Accepting failed for good.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) -> io::Result<()> {
        let deadline = {
            let shutdown = shutdown.clone();
            async move {
                shutdown.cancelled().await;
                tokio::time::sleep(DRAIN_TIMEOUT).await;
            }
        };
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        let server =
            axum::serve(self.listener, service).with_graceful_shutdown(shutdown.cancelled_owned());
        tokio::select! {
            served = server => served,
            () = deadline => Ok(()),
        }
    }
}

/// Metrics in the format that `accept` asks for: OpenMetrics by name, otherwise Prometheus text.
pub fn metrics_response(metrics: &Metrics, accept: Option<&str>) -> Response {
    if accept.is_some_and(|accept| accept.contains("application/openmetrics-text")) {
        let content_type = [(header::CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE)];
        return (content_type, metrics.openmetrics_text()).into_response();
    }
    let content_type = [(header::CONTENT_TYPE, PROMETHEUS_CONTENT_TYPE)];
    (content_type, metrics.prometheus_text()).into_response()
}

/// 200 when ready, otherwise 503 with what is pending.
pub fn ready_response(readiness: &Readiness) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return StatusCode::OK.into_response();
    }
    let reason = format!("waiting for: {}\n", pending.join(", "));
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn exchange(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn serves_until_shut_down() {
        let readiness = Readiness::new();
        let gate = readiness.gate("config");
        let server = AdminServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = server.local_addr();
        let shutdown = CancellationToken::new();
        let router = Router::new().route("/ready", get(async move || ready_response(&readiness)));
        let serving = tokio::spawn(server.serve(router, shutdown.clone()));

        let request = "GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answer = exchange(address, request).await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("waiting for: config\n"), "{answer}");
        gate.open();
        let answer = exchange(address, request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

        shutdown.cancel();
        serving.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_does_not_hold_the_shutdown() {
        let server = AdminServer::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let _idle = TcpStream::connect(server.local_addr()).await.unwrap();
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        server.serve(Router::new(), shutdown).await.unwrap();
    }
}
