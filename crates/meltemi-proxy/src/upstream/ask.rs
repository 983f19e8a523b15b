//! Questions of the proxy's own to a cluster: for keys, for a verdict. An answer is read to its end, up to a bound; how long
//! that may take is the asker's to say.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use meltemi_core::names::alpn;
use meltemi_proxy_core::error::ResetReason;
use meltemi_proxy_core::runtime::{AlpnOverrides, AlpnProtocol, UpstreamHttpVersion};

use super::cluster::{PickFor, Slot};
use super::connect::{self, Alpn, Wish};
use super::{Outcome, Picked, PoolProtocol, Upstream};
use crate::http::attempt;
use crate::http::body::RequestBody;
use crate::http::incoming::Incoming;
use crate::worker::Worker;

/// What a cluster is asked in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    OfTheCluster,
    /// For gRPC, whatever the cluster says of itself.
    Http2,
}

/// A question, but for the form that its protocol gives it.
pub(crate) struct Question<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) speech: Speech,
    /// Where the server name follows what is asked for.
    pub(crate) server_name: &'a str,
    /// Bytes of the answer's body.
    pub(crate) limit_bytes: usize,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

/// Asks a host of the cluster, once; again on a new connection if the peer had closed the idle one.
///
/// # Errors
/// For people: why there is no answer.
pub(crate) async fn ask(
    worker: &Worker,
    question: &Question<'_>,
    request: impl Fn(PoolProtocol) -> Result<Request<RequestBody>, http::Error>,
) -> Result<Answer, String> {
    let upstream = worker.shared.store.upstream(question.cluster);
    let upstream = upstream.ok_or("there is no such cluster")?;
    let limit = upstream.thresholds(false).max_requests;
    let _slot = Slot::take(&upstream.stats, |stats| &stats.active_requests, limit)
        .ok_or("overflow: the cluster has too many requests")?;
    let pick = PickFor {
        hash: None,
        attempts: 0,
        original_dst: None,
        tried: &[],
    };
    let Picked::Host(host) = upstream.pick(&pick) else {
        return Err("no healthy upstream".to_owned());
    };
    let protocol = match (question.speech, upstream.config.http.version) {
        (Speech::Http2, _) | (_, UpstreamHttpVersion::Http2) => PoolProtocol::Http2,
        _ => PoolProtocol::Http11,
    };
    let auto_sni = upstream.config.http.auto_sni;
    let wish = Wish {
        alpn: offer(&upstream, protocol),
        server_name: auto_sni.then(|| question.server_name.into()),
    };
    let _active = host.begin_request();
    upstream.stats.requests.add(1);
    let mut fresh = false;
    loop {
        let request = request(protocol).map_err(|error| error.to_string())?;
        let lease = connect::lease(worker, &upstream, &host, protocol, &wish, fresh).await;
        let mut lease = lease.map_err(|error| {
            // Our own limit says nothing of the host.
            if error.reason != ResetReason::Overflow {
                upstream.observe(&host, Outcome::LocalOrigin);
            }
            let reason = error.reason.as_str();
            error.failure.unwrap_or_else(|| reason.to_owned())
        })?;
        match lease.send(request).await {
            Ok(response) => {
                let status = response.status().as_u16();
                upstream.observe(&host, Outcome::Status(status));
                let (parts, body) = response.into_parts();
                let (body, trailers) = read(body, question.limit_bytes).await?;
                lease.finish();
                return Ok(Answer {
                    status: parts.status,
                    headers: parts.headers,
                    body,
                    trailers,
                });
            }
            // To be asked twice harms nobody.
            Err(failed) if !fresh && attempt::classify(&failed, lease.is_reused(), true).stale => {
                fresh = true;
            }
            Err(failed) => {
                upstream.observe(&host, Outcome::LocalOrigin);
                return Err(failed.error.to_string());
            }
        }
    }
}

async fn read(mut body: Incoming, limit_bytes: usize) -> Result<(Bytes, HeaderMap), String> {
    let mut read = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| error.to_string())?.into_data() {
            Ok(data) if read.len() + data.len() > limit_bytes => {
                return Err(format!("the answer is longer than {limit_bytes} bytes"));
            }
            Ok(data) => read.extend_from_slice(&data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((read.freeze(), trailers))
}

/// In the mesh the other side tells HTTP from other bytes by what is offered, as for requests of applications.
fn offer(upstream: &Upstream, protocol: PoolProtocol) -> Alpn {
    static OVERRIDES: OnceLock<Arc<AlpnOverrides>> = OnceLock::new();
    if upstream.config.http.version == UpstreamHttpVersion::Alpn {
        let only = match protocol {
            PoolProtocol::Http11 => alpn::HTTP11,
            PoolProtocol::Http2 => alpn::H2,
        };
        return Alpn::These([Arc::from(only)].into());
    }
    let overrides = OVERRIDES.get_or_init(|| {
        let to = |protocol, names: [&str; 3]| (protocol, names.map(Arc::from).into());
        let overrides = vec![
            to(
                AlpnProtocol::Http11,
                [alpn::ISTIO_HTTP11, alpn::ISTIO, alpn::HTTP11],
            ),
            to(AlpnProtocol::Http2, [alpn::ISTIO_H2, alpn::ISTIO, alpn::H2]),
        ];
        Arc::new(AlpnOverrides { overrides })
    });
    let protocol = match protocol {
        PoolProtocol::Http11 => AlpnProtocol::Http11,
        PoolProtocol::Http2 => AlpnProtocol::Http2,
    };
    Alpn::Overridden(overrides.clone(), protocol)
}
