//! `request GET|POST <path>` to the admin port, and `wait` for readiness.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Asks a port of this pod's loopback.
async fn ask(method: Method, port: u16, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .with_context(|| format!("connecting to 127.0.0.1:{port}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("/{path}")
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, format!("localhost:{port}"))
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

/// Asks the admin interface of this pod's proxy.
pub(crate) async fn ask_admin(method: &str, path: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    ask(
        Method::from_bytes(method.as_bytes())?,
        meltemi_core::names::port::ADMIN,
        path,
    )
    .await
}

/// Prints the answer of the admin interface.
pub(super) async fn request(method: &str, path: &str, port: u16) -> anyhow::Result<()> {
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes())?;
    let (status, body) = ask(method, port, path).await?;
    let mut out = std::io::stdout().lock();
    out.write_all(&body)?;
    out.flush()?;
    anyhow::ensure!(
        status.is_success(),
        "received unsuccessful status code: {status}"
    );
    Ok(())
}

/// Waits until the proxy is ready.
pub(super) async fn wait(port: u16, limit: Duration, period: Duration) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut last = String::new();
    while started.elapsed() < limit {
        match ask(Method::GET, port, "/healthz/ready").await {
            Ok((StatusCode::OK, _)) => return Ok(()),
            Ok((status, body)) => {
                last = format!("{status}: {}", String::from_utf8_lossy(&body).trim())
            }
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(period).await;
    }
    anyhow::bail!("the proxy is not ready after {limit:?}; last: {last}")
}
