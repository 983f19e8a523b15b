//! Probes and lifecycle hooks over the network, made from the node as a kubelet makes them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Request, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_pki::DnsClientTls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// What a probe or hook does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    Exec(Vec<String>),
    Http(HttpGet),
    Tcp(SocketAddr),
    Grpc { to: SocketAddr, service: String },
    Sleep(Duration),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpGet {
    to: SocketAddr,
    path: String,
    headers: Vec<(String, String)>,
    https: bool,
}

/// A probe with Kubernetes' defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Check {
    pub(crate) action: Action,
    pub(crate) delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) successes: u32,
    pub(crate) failures: u32,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("no port named {0:?}")]
    Port(String),
    #[error("TLS: {0}")]
    Tls(#[from] meltemi_pki::TlsError),
    #[error("no action")]
    NoAction,
    #[error("invalid host {0:?}")]
    Host(String),
    #[error("{0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("invalid request: {0}")]
    Request(#[from] http::Error),
    #[error("HTTP probe failed with statuscode: {0}")]
    Status(u16),
    #[error("service unhealthy")]
    Unhealthy,
    #[error("context deadline exceeded")]
    Timeout,
    #[error("command exited with {0}")]
    Exit(i32),
}

impl Check {
    pub(crate) fn new(
        probe: &Probe,
        container: &Container,
        pod: Ipv4Addr,
    ) -> Result<Self, ProbeError> {
        let seconds = |value: Option<i32>, default: u32| {
            Duration::from_secs(
                value
                    .and_then(|value| u64::try_from(value).ok())
                    .unwrap_or_else(|| default.into()),
            )
        };
        let count = |value: Option<i32>, default| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .unwrap_or(default)
                .max(1)
        };
        Ok(Self {
            action: action(
                probe.exec.as_ref(),
                probe.http_get.as_ref(),
                probe.tcp_socket.as_ref(),
                probe.grpc.as_ref(),
                container,
                pod,
            )?,
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10).max(Duration::from_secs(1)),
            timeout: seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1)),
            successes: count(probe.success_threshold, 1),
            failures: count(probe.failure_threshold, 3),
        })
    }
}

impl Action {
    pub(crate) fn hook(
        handler: &LifecycleHandler,
        container: &Container,
        pod: Ipv4Addr,
    ) -> Result<Self, ProbeError> {
        if let Some(sleep) = &handler.sleep {
            return Ok(Self::Sleep(Duration::from_secs(
                sleep.seconds.try_into().unwrap_or_default(),
            )));
        }
        let (http, tcp) = (handler.http_get.as_ref(), handler.tcp_socket.as_ref());
        action(handler.exec.as_ref(), http, tcp, None, container, pod)
    }

    /// Does everything but `exec`, which needs the container.
    pub(crate) async fn over_network(&self) -> Result<(), ProbeError> {
        match self {
            Self::Exec(_) => Ok(()),
            Self::Http(get) => http_get(get).await,
            Self::Tcp(to) => Ok(TcpStream::connect(to).await.map(drop)?),
            Self::Grpc { to, service } => grpc_check(*to, service).await,
            Self::Sleep(duration) => {
                tokio::time::sleep(*duration).await;
                Ok(())
            }
        }
    }
}

fn action(
    exec: Option<&ExecAction>,
    http: Option<&HTTPGetAction>,
    tcp: Option<&TCPSocketAction>,
    grpc: Option<&GRPCAction>,
    container: &Container,
    pod: Ipv4Addr,
) -> Result<Action, ProbeError> {
    let address = |host: Option<&str>, port: &IntOrString| {
        let ip = match host {
            None | Some("") => IpAddr::V4(pod),
            Some(host) => host
                .parse()
                .map_err(|_| ProbeError::Host(host.to_owned()))?,
        };
        Ok::<_, ProbeError>(SocketAddr::new(ip, port_number(port, container)?))
    };
    if let Some(exec) = exec {
        return Ok(Action::Exec(exec.command.clone().unwrap_or_default()));
    }
    if let Some(get) = http {
        let scheme = get.scheme.as_deref().unwrap_or("HTTP");
        let headers = get
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()));
        return Ok(Action::Http(HttpGet {
            to: address(get.host.as_deref(), &get.port)?,
            path: get.path.clone().unwrap_or_else(|| "/".to_owned()),
            headers: headers.collect(),
            https: scheme.eq_ignore_ascii_case("https"),
        }));
    }
    if let Some(tcp) = tcp {
        return Ok(Action::Tcp(address(tcp.host.as_deref(), &tcp.port)?));
    }
    let grpc = grpc.ok_or(ProbeError::NoAction)?;
    let to = address(None, &IntOrString::Int(grpc.port))?;
    Ok(Action::Grpc {
        to,
        service: grpc.service.clone().unwrap_or_default(),
    })
}

/// A port given by number, or by the name of one of the container's ports.
fn port_number(port: &IntOrString, container: &Container) -> Result<u16, ProbeError> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let ports = container.ports.iter().flatten();
            let named = ports
                .into_iter()
                .find(|port| port.name.as_deref() == Some(name));
            named
                .map(|port| port.container_port)
                .or_else(|| name.parse().ok())
        }
    };
    let text = || match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    };
    number
        .and_then(|number| u16::try_from(number).ok())
        .ok_or_else(|| ProbeError::Port(text()))
}

async fn http_get(get: &HttpGet) -> Result<(), ProbeError> {
    let stream = TcpStream::connect(get.to).await?;
    if !get.https {
        return ask(stream, get).await;
    }
    // Kubernetes does not check the certificates of probes.
    let config = DnsClientTls::insecure_skip_verify()
        .alpn(["http/1.1"])
        .build()?;
    let name = meltemi_pki::server_name(&get.to.ip().to_string())?;
    ask(TlsConnector::from(config).connect(name, stream).await?, get).await
}

async fn ask<S>(stream: S, get: &HttpGet) -> Result<(), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let path = if get.path.starts_with('/') {
        get.path.clone()
    } else {
        format!("/{}", get.path)
    };
    let mut request = Request::get(path)
        .header(header::USER_AGENT, "kube-probe/1.34")
        .header(header::ACCEPT, "*/*");
    if !get
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"))
    {
        request = request.header(header::HOST, get.to.to_string());
    }
    for (name, value) in &get.headers {
        request = request.header(name, value);
    }
    let status = sender
        .send_request(request.body(Empty::<Bytes>::new())?)
        .await?
        .status();
    driver.abort();
    // Kubernetes: at least 200 and below 400 is success.
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(ProbeError::Status(status.as_u16()))
    }
}

/// `grpc.health.v1.Health/Check`, whose two messages have one field each: written here by hand.
async fn grpc_check(to: SocketAddr, service: &str) -> Result<(), ProbeError> {
    let stream = TcpStream::connect(to).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let request = Request::post(format!("http://{to}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(health_request(service)))?;
    let body = sender
        .send_request(request)
        .await?
        .into_body()
        .collect()
        .await?;
    driver.abort();
    // Frame header of five bytes, then field 1 (varint): SERVING is 1.
    if body.to_bytes().get(5..7) == Some(&[0x08, 0x01]) {
        Ok(())
    } else {
        Err(ProbeError::Unhealthy)
    }
}

fn health_request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if let Ok(length) = u8::try_from(service.len())
        && (1..128).contains(&length)
    {
        message.put_slice(&[0x0a, length]);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::from(&[0][..]);
    frame.put_u32(u32::try_from(message.len()).unwrap_or_default());
    frame.extend_from_slice(&message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    fn check(probe: serde_json::Value) -> Result<Check, ProbeError> {
        let container = serde_json::from_value(
            json!({"name": "c", "ports": [{"name": "web", "containerPort": 9080}]}),
        )
        .unwrap();
        Check::new(
            &serde_json::from_value(probe).unwrap(),
            &container,
            Ipv4Addr::new(10, 244, 0, 5),
        )
    }

    #[test]
    fn defaults_and_named_ports() {
        let found = check(json!({"httpGet": {"path": "/x", "port": "web"}})).unwrap();
        let Action::Http(get) = &found.action else {
            panic!("{found:?}")
        };
        assert_eq!(get.to.to_string(), "10.244.0.5:9080");
        assert_eq!(
            (
                found.period.as_secs(),
                found.timeout.as_secs(),
                found.successes,
                found.failures
            ),
            (10, 1, 1, 3)
        );
        assert_eq!(
            check(json!({"tcpSocket": {"port": "nope"}}))
                .unwrap_err()
                .to_string(),
            "no port named \"nope\""
        );
        let secure = check(json!({"httpGet": {"port": 1, "scheme": "HTTPS"}})).unwrap();
        assert!(matches!(
            secure.action,
            Action::Http(HttpGet { https: true, .. })
        ));
    }

    #[tokio::test]
    async fn http_status_decides() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for status in ["204 No Content", "302 Found", "500 Oops"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                assert!(stream.read(&mut request).await.unwrap() > 0);
                stream
                    .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await
                    .unwrap();
            }
        });
        let get = Action::Http(HttpGet {
            to,
            path: "/".into(),
            headers: Vec::new(),
            https: false,
        });
        assert!(get.over_network().await.is_ok());
        assert!(get.over_network().await.is_ok());
        assert_eq!(
            get.over_network().await.unwrap_err().to_string(),
            "HTTP probe failed with statuscode: 500"
        );
    }
}
