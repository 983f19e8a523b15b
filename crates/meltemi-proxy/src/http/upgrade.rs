//! Upgraded connections: after the upstream's 101 both sides' bytes are copied as they are. Not a byte of the client passes
//! before that answer.

use http::response::Parts;
use http::{Response, StatusCode, Version, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use meltemi_proxy_core::error::ErrorKind;
use parking_lot::Mutex;

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::respond;
use crate::http1;
use crate::io::{forward_read, forward_write};
use crate::tcp::copy::{Copied, copy_bidirectional};
use crate::upstream::Lease;

/// What becomes of the downstream's connection, or its stream, if the answer is 101.
pub(crate) enum OnUpgrade {
    /// It did not ask for this.
    Never,
    Http1(http1::OnTunnel),
    Http2(hyper::upgrade::OnUpgrade),
}

enum Granted {
    Http1(http1::Tunnel),
    Http2(TokioIo<Upgraded>),
}

forward_read!(Granted: Self::Http1(io) => io, Self::Http2(io) => io);
forward_write!(Granted: Self::Http1(io) => io, Self::Http2(io) => io);

impl OnUpgrade {
    /// `None` if the downstream went before it got the answer.
    async fn granted(self) -> Option<Granted> {
        match self {
            Self::Never => None,
            Self::Http1(tunnel) => tunnel.await.ok().map(Granted::Http1),
            Self::Http2(upgrade) => match upgrade.await {
                Ok(upgraded) => Some(Granted::Http2(TokioIo::new(upgraded))),
                Err(error) => {
                    tracing::debug!(%error, "upgrade failed");
                    None
                }
            },
        }
    }
}

/// Hands the 101 on and starts the tunnel.
pub(crate) fn tunnel(
    mut exchange: Exchange,
    mut parts: Parts,
    mut lease: Lease,
    downstream: OnUpgrade,
) -> Response<ResponseBody> {
    let Some(mut upstream) = lease.take_tunnel() else {
        return respond::error(exchange, ErrorKind::UpstreamProtocol.into());
    };
    if exchange.head.version == Version::HTTP_2 {
        speak_http2(&mut parts);
    }
    let idle = exchange.connection.manager.stream_idle_timeout;
    tokio::spawn(async move {
        let _lease = lease;
        let Some(mut downstream) = downstream.granted().await else {
            return;
        };
        let connection = exchange.connection.clone();
        let copied = Mutex::new(Copied::default());
        let copying = copy_bidirectional(&mut downstream, &mut upstream, idle, |so_far| {
            *copied.lock() = so_far;
        });
        tokio::select! {
            (_, result) = copying => {
                if let Err(error) = result {
                    tracing::debug!(%error, "tunnel ended");
                }
            }
            () = connection.downstream.outlived(&connection.worker.shared) => {
                tracing::debug!("a tunnel outlived its filter chain");
            }
        }
        let copied = copied.into_inner();
        exchange.sent(copied.to_downstream, 0);
        exchange.tunnelled_bytes = copied.to_upstream;
        exchange.complete();
    });
    Response::from_parts(parts, ResponseBody::Empty)
}

/// HTTP/2 grants a tunnel with 200, and knows no connection headers (RFC 8441 section 5).
fn speak_http2(parts: &mut Parts) {
    parts.status = StatusCode::OK;
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::SEC_WEBSOCKET_ACCEPT,
    ] {
        parts.headers.remove(name);
    }
}
