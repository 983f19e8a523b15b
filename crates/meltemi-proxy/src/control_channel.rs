//! gRPC channels to the control plane: TLS with the mesh root, the token of this pod, the proxy's own socket mark.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meltemi_pki::{DnsClientTls, TlsError, server_name};
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Uri};

use crate::listener::socket::{self, UpstreamSocketOptions};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// HTTP/2 pings that notice a control plane that vanished without a word.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("reading {0}")]
    File(PathBuf, #[source] std::io::Error),
    #[error("the token in {0} is no header value")]
    Token(PathBuf),
    #[error("\"{0}\" is not host:port")]
    Address(String),
    #[error("looking up \"{0}\"")]
    Resolve(String, #[source] std::io::Error),
    #[error("\"{0}\" has no address")]
    NoAddress(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("connecting to {0}")]
    Connect(String, #[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A control-plane address with the files that go with it.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) root_cert: PathBuf,
    pub(crate) token: PathBuf,
    pub(crate) socket_mark: Option<u32>,
}

/// Connects, TLS included, so that the caller learns of a failure here and not at its first call.
pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Channel, ChannelError> {
    let (host, _) = endpoint
        .address
        .rsplit_once(':')
        .ok_or_else(|| ChannelError::Address(endpoint.address.clone()))?;
    let roots = tokio::fs::read(&endpoint.root_cert)
        .await
        .map_err(|error| ChannelError::File(endpoint.root_cert.clone(), error))?;
    let config = DnsClientTls::new(&roots)?.alpn(["h2"]).build()?;
    let connector = TlsConnector::from(config);
    let name = server_name(host)?;
    let (address, mark) = (Arc::new(endpoint.address.clone()), endpoint.socket_mark);
    let service = tower::service_fn(move |_: Uri| {
        let (connector, name, address) = (connector.clone(), name.clone(), address.clone());
        async move {
            let stream = dial(&address, mark).await?;
            let stream = connector.connect(name, stream).await.map_err(explain)?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(TokioIo::new(stream))
        }
    });
    // The scheme is plain because TLS is made here; tonic would insist on its own.
    let uri = format!("http://{}", endpoint.address);
    tonic::transport::Endpoint::from_shared(uri)
        .map_err(|_| ChannelError::Address(endpoint.address.clone()))?
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(service)
        .await
        .map_err(|error| ChannelError::Connect(endpoint.address.clone(), error.into()))
}

fn explain(error: std::io::Error) -> Box<dyn std::error::Error + Send + Sync> {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Some(cause) => meltemi_pki::explain(cause).into(),
        None => error.into(),
    }
}

async fn dial(address: &str, mark: Option<u32>) -> Result<tokio::net::TcpStream, ChannelError> {
    let resolved = tokio::net::lookup_host(address)
        .await
        .map_err(|error| ChannelError::Resolve(address.to_owned(), error))?;
    let mut last = ChannelError::NoAddress(address.to_owned());
    for candidate in resolved {
        match socket::connect(
            candidate,
            UpstreamSocketOptions {
                mark,
                ..UpstreamSocketOptions::default()
            },
        )
        .await
        {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ChannelError::Connect(candidate.to_string(), error.into()),
        }
    }
    Err(last)
}

/// Adds the pod's token, read anew each time because the kubelet replaces it.
pub(crate) async fn authorise(
    endpoint: &Endpoint,
    metadata: &mut MetadataMap,
) -> Result<(), ChannelError> {
    metadata.insert("authorization", bearer(endpoint).await?);
    Ok(())
}

pub(crate) async fn bearer(endpoint: &Endpoint) -> Result<MetadataValue<Ascii>, ChannelError> {
    let token = tokio::fs::read_to_string(&endpoint.token)
        .await
        .map_err(|error| ChannelError::File(endpoint.token.clone(), error))?;
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.trim())
        .parse()
        .map_err(|_| ChannelError::Token(endpoint.token.clone()))?;
    value.set_sensitive(true);
    Ok(value)
}
