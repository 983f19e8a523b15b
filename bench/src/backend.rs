//! The server behind proxy B: 1 KiB answers over HTTP/1.1 and HTTP/2, and bytes.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::echo;
use crate::rig::{Place, Port};

/// The body of every answer.
pub(crate) const ANSWER: [u8; 1024] = [b'x'; 1024];
/// The request for bytes without end; anything else is echoed.
pub(crate) const STREAM: u8 = b'S';

/// The path that is upgraded to a WebSocket.
pub(crate) const WEBSOCKET: &str = "/websocket";

/// Serves in a thread of its own for the rest of the run.
///
/// # Errors
/// A port is taken.
pub(crate) fn start(place: Place<'_>) -> anyhow::Result<()> {
    place.run(|| {
        let ports = [Port::Http1, Port::Http2, Port::Tcp];
        let mut listeners = Vec::new();
        for port in ports {
            for number in [port.target(), port.direct()] {
                let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, number));
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                listeners.push((port, listener));
            }
        }
        // Sockets keep their namespace; the thread that serves them needs none. It inherits CPU and priority from here.
        std::thread::Builder::new()
            .name("server".to_owned())
            .spawn(|| serve(listeners))?;
        Ok(())
    })
}

fn serve(listeners: Vec<(Port, std::net::TcpListener)>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        for (port, listener) in listeners {
            if let Ok(listener) = TcpListener::from_std(listener) {
                tokio::spawn(accept(port, listener));
            }
        }
        std::future::pending::<()>().await;
    });
}

async fn accept(port: Port, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        drop(stream.set_nodelay(true));
        // Connections end when their peers go: nothing to report.
        match port {
            Port::Http1 => drop(tokio::spawn(http1(stream))),
            Port::Http2 => drop(tokio::spawn(http2(stream))),
            _ => drop(tokio::spawn(bytes(stream))),
        }
    }
}

async fn http1(stream: TcpStream) -> hyper::Result<()> {
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades()
        .await
}

async fn http2(stream: TcpStream) -> hyper::Result<()> {
    let call = async |request| match echo::serve(request).await {
        Some(answer) => Ok(answer),
        None => echo::plain(),
    };
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service_fn(call))
        .await
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned();
    let (Some(key), WEBSOCKET) = (key, request.uri().path()) else {
        return Ok(Response::new(Full::new(Bytes::from_static(&ANSWER))));
    };
    let accept = derive_accept_key(key.as_bytes());
    tokio::spawn(websocket(hyper::upgrade::on(request)));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::try_from(accept) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

/// Sends every message back.
async fn websocket(upgrade: OnUpgrade) -> anyhow::Result<()> {
    let stream = TokioIo::new(upgrade.await?);
    let mut socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}

async fn bytes(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        match buffer.first() {
            _ if count == 0 => return Ok(()),
            Some(&STREAM) => loop {
                stream.write_all(&buffer).await?;
            },
            _ => {
                stream
                    .write_all(buffer.get(..count).unwrap_or_default())
                    .await?
            }
        }
    }
}
