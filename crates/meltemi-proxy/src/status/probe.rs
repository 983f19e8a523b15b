//! The application's probes, carried out for the kubelet on the pod's own address.

use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_core::names::INBOUND_PASSTHROUGH_SOURCE;
use meltemi_pki::DnsClientTls;
use tokio_rustls::TlsConnector;

use crate::admin::{Answer, text};
use crate::bootstrap::{Bootstrap, Probe, ProbeKind};
use crate::io::{ReadAhead, Replay, Socket, Transport};
use crate::listener::socket::{self, UpstreamSocketOptions};

/// Bytes of a probe's answer that are read.
const ANSWER_LIMIT_BYTES: usize = 10 * 1024;

/// Whether injection moves probes or lifecycle hooks to such paths.
pub(crate) fn is_moved(path: &str) -> bool {
    path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/")
}

/// Runs the probe that injection moved to `path`.
pub(crate) async fn application(bootstrap: &Bootstrap, path: &str) -> Answer {
    let Some(probe) = bootstrap.probes.get(path) else {
        return text(StatusCode::NOT_FOUND, "no such probe\n");
    };
    match tokio::time::timeout(probe.timeout, run(bootstrap, probe)).await {
        Ok(Ok(status)) => text(status, ""),
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")),
        Err(_) => text(
            StatusCode::GATEWAY_TIMEOUT,
            format!("no answer in {:?}\n", probe.timeout),
        ),
    }
}

async fn run(bootstrap: &Bootstrap, probe: &Probe) -> anyhow::Result<StatusCode> {
    let at = |port| SocketAddr::new(bootstrap.instance_ip, port);
    match &probe.kind {
        ProbeKind::Tcp { port } => {
            connect(bootstrap, at(*port)).await?;
            Ok(StatusCode::OK)
        }
        ProbeKind::Http {
            port,
            path,
            host,
            https: false,
            headers,
        } => {
            let host = host.clone().unwrap_or_else(|| at(*port).to_string());
            Ok(get(
                bootstrap,
                at(*port),
                path,
                &host,
                headers,
                ANSWER_LIMIT_BYTES,
            )
            .await?
            .0)
        }
        ProbeKind::Http {
            port,
            path,
            host,
            https: true,
            headers,
        } => {
            // The kubelet does not check certificates of probes either.
            let config = DnsClientTls::insecure_skip_verify()
                .alpn(["http/1.1"])
                .build()?;
            let host = host.clone().unwrap_or_else(|| at(*port).to_string());
            let name = meltemi_pki::server_name(&at(*port).ip().to_string())?;
            let socket = connect(bootstrap, at(*port)).await?;
            let stream = TlsConnector::from(config)
                .connect(name, ReadAhead::new(Replay::from(socket)))
                .await?;
            let transport = Transport::tls(stream);
            Ok(ask(transport, path, &host, headers, ANSWER_LIMIT_BYTES)
                .await?
                .0)
        }
        ProbeKind::Grpc { port, service } => {
            grpc(connect(bootstrap, at(*port)).await?, service).await
        }
    }
}

/// Connects past the capture rules: they let 127.0.0.6 through.
async fn connect(bootstrap: &Bootstrap, address: SocketAddr) -> anyhow::Result<Socket> {
    let captured = address.is_ipv4() && !address.ip().is_loopback();
    let source = captured.then_some(IpAddr::V4(INBOUND_PASSTHROUGH_SOURCE));
    let options = UpstreamSocketOptions {
        mark: bootstrap.socket_mark,
        source,
        keepalive: None,
    };
    Ok(Socket::Tcp(socket::connect(address, options).await?))
}

/// A GET without redirects.
pub(super) async fn get(
    bootstrap: &Bootstrap,
    address: SocketAddr,
    path: &str,
    host: &str,
    headers: &[(String, String)],
    limit: usize,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let transport = Transport::Plain(Replay::from(connect(bootstrap, address).await?));
    let host = if host.starts_with('/') {
        address.to_string()
    } else {
        host.to_owned()
    };
    ask(transport, path, &host, headers, limit).await
}

async fn ask(
    transport: Transport,
    path: &str,
    host: &str,
    headers: &[(String, String)],
    limit: usize,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(transport)).await?;
    tokio::spawn(connection);
    let mut request = Request::get(path).header(header::USER_AGENT, "kube-probe/meltemi");
    let named_host = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("host"));
    request = request.header(header::HOST, named_host.map_or(host, |(_, value)| value));
    for (name, value) in headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
    {
        request = request.header(name, value);
    }
    let response = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), limit)
        .collect()
        .await
        .map(|body| body.to_bytes());
    // A long answer of a healthy application is still a healthy application.
    Ok((status, body.unwrap_or_default()))
}

/// `grpc.health.v1.Health/Check`, written by hand: one string in, one enum out.
async fn grpc(socket: Socket, service: &str) -> anyhow::Result<StatusCode> {
    const SERVING: u8 = 1;
    let (mut sender, connection) = http2::handshake(
        TokioExecutor::new(),
        TokioIo::new(Transport::Plain(Replay::from(socket))),
    )
    .await?;
    tokio::spawn(connection);
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        message.put_u8(u8::try_from(service.len())?);
        message.put_slice(service.as_bytes());
    }
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len())?);
    body.put_slice(&message);
    let request = Request::post("http://probe/grpc.health.v1.Health/Check")
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(body.freeze()))?;
    let response = sender.send_request(request).await?;
    let answer = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES)
        .collect()
        .await;
    let answer = answer.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    let serving = answer.get(5..) == Some(&[0x08, SERVING]);
    Ok(if serving {
        StatusCode::OK
    } else {
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
