//! `CONNECT host:port` on the admin port: carries a connection as if the application had made it and capture had
//! redirected it. The `curl` applet uses it.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use http::{HeaderValue, StatusCode};
use hyper_util::rt::TokioIo;

use super::server::{Answer, Asked, text};
use super::{Admin, IDENTITY_HEADER};
use crate::io::Socket;
use crate::listener::Accepted;

pub(super) async fn tunnel(admin: &Admin, asked: Asked) -> Answer {
    if !asked.peer.ip().to_canonical().is_loopback() {
        return text(StatusCode::FORBIDDEN, "only from this machine's loopback\n");
    }
    let Asked { mut request, .. } = asked;
    let Some(authority) = request.uri().authority().map(ToString::to_string) else {
        return text(StatusCode::BAD_REQUEST, "usage: CONNECT host:port\n");
    };
    let destination = match resolve(&authority).await {
        Ok(destination) => destination,
        Err(error) => return text(StatusCode::NOT_FOUND, format!("{authority}: {error}\n")),
    };
    let peer = SocketAddr::new(admin.bootstrap.instance_ip, 0);
    let turn = admin.next_tunnel.fetch_add(1, Ordering::Relaxed);
    let Some(worker) = admin
        .tunnels
        .get(turn % admin.tunnels.len().max(1))
        .cloned()
    else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "no worker\n");
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgraded.await {
            Ok(upgraded) => {
                let socket = Socket::boxed(TokioIo::new(upgraded));
                if worker
                    .send(Accepted {
                        socket,
                        peer,
                        destination,
                    })
                    .await
                    .is_err()
                {
                    tracing::debug!("no worker takes the tunnel");
                }
            }
            Err(error) => tracing::debug!(%error, "tunnel was not opened"),
        }
    });
    let mut answer = text(StatusCode::OK, "");
    let identity = admin
        .shared
        .credentials
        .get()
        .map(|credentials| credentials.certificate.identity().to_string());
    if let Some(value) = identity.and_then(|identity| HeaderValue::from_str(&identity).ok()) {
        answer.headers_mut().insert(IDENTITY_HEADER, value);
    }
    answer
}

async fn resolve(authority: &str) -> std::io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(authority).await?;
    found
        .next()
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "no address"))
}
