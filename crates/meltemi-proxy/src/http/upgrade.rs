//! Upgraded connections: after the upstream's 101 both sides' bytes are copied as they are. Not a byte of the client passes
//! before that answer.

use http::response::Parts;
use http::{Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::wire::Answer;
use crate::tcp::copy::{Copied, copy_bidirectional};
use crate::upstream::Lease;

/// Hands the 101 on and starts the tunnel.
pub(crate) fn tunnel(
    mut exchange: Exchange,
    mut parts: Parts,
    body: Incoming,
    mut lease: Lease,
    downstream: OnUpgrade,
) -> Response<ResponseBody> {
    exchange.connection.wire.resolve(Answer::Tunnel);
    lease.hand_over();
    let mut answer = Response::from_parts(parts.clone(), body);
    if exchange.head.version == Version::HTTP_2 {
        speak_http2(&mut parts);
    }
    let upstream = hyper::upgrade::on(&mut answer);
    let idle = exchange.connection.manager.stream_idle_timeout;
    tokio::spawn(async move {
        let _lease = lease;
        let (downstream, upstream) = match tokio::try_join!(downstream, upstream) {
            Ok(both) => both,
            Err(error) => {
                tracing::debug!(%error, "upgrade failed");
                return;
            }
        };
        let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
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
