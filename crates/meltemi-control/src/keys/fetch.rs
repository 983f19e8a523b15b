//! Gets a key set over HTTP, within bounds.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use axum::http::header::{self, HeaderValue};
use axum::http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use meltemi_api::jwks;
use meltemi_model::JwksSource;
use meltemi_pki::DnsClientTls;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::AddressPolicy;

/// Answers that say "elsewhere" are followed as often as this.
const REDIRECT_LIMIT: usize = 3;
/// A key set, or a discovery document: enough for the keys of [`jwks::problem`]'s bound, and little enough to keep many sets.
pub(super) const BODY_LIMIT_BYTES: usize = 128 * 1024;
/// The head of an answer.
const HEAD_LIMIT_BYTES: usize = 64 * 1024;
/// Where systems keep the roots of the web's certificates.
pub(super) const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("\"{0}\" is not an http:// or https:// URL")]
    Url(String),
    #[error("{0} leads from https:// to http://")]
    Downgrade(String),
    #[error("{0} cannot be resolved")]
    Resolve(String),
    #[error("{0} has no address that keys may be fetched from")]
    Blocked(String),
    #[error("cannot connect to {0}")]
    Connect(String),
    #[error("no TLS with {0}: {1}")]
    Tls(String, String),
    #[error("no root certificates are known; give some with --jwks-ca-file")]
    NoRoots,
    #[error("no answer from {0}")]
    Http(String),
    #[error("{0} answers {1}")]
    Status(String, StatusCode),
    #[error("{0} redirects too often")]
    Redirects(String),
    #[error("the answer of {0} is cut off, or above {limit} bytes", limit = BODY_LIMIT_BYTES)]
    Body(String),
    #[error("the answer of {0} {1}")]
    Keys(String, String),
    #[error("the discovery document of {0} {1}")]
    Discovery(String, &'static str),
    #[error("took longer than {0:?}")]
    Timeout(std::time::Duration),
    #[error("the fetch was broken off")]
    Broken,
}

/// Who gets keys.
#[derive(Clone)]
pub(crate) struct Client {
    tls: Option<TlsConnector>,
    pub(super) policy: AddressPolicy,
}

impl Client {
    /// Trusts the roots in the file, or else the system's.
    pub(crate) fn new(roots: Option<&Path>, policy: AddressPolicy) -> Self {
        let read = |path: &Path| std::fs::read(path).ok();
        let tls = match roots {
            Some(path) => read(path).map(|pem| DnsClientTls::new(&pem)),
            None => {
                let mut system = SYSTEM_ROOTS.iter();
                let pem = system.find_map(|path| read(Path::new(path)));
                pem.map(|pem| DnsClientTls::with_system_roots(&pem))
            }
        };
        let tls = tls.and_then(|tls| {
            let config = tls
                .and_then(|tls| tls.alpn(["http/1.1"]).build())
                .inspect_err(|error| tracing::error!(%error, "root certificates of key sets"));
            config.ok().map(TlsConnector::from)
        });
        Self { tls, policy }
    }

    #[cfg(test)]
    pub(super) fn has_roots(&self) -> bool {
        self.tls.is_some()
    }

    /// The text of the key set, which a proxy can use.
    pub(crate) async fn keys(&self, source: &JwksSource) -> Result<Arc<str>, FetchError> {
        let target = match source {
            JwksSource::Url(url) => Target::parse(url)?,
            JwksSource::Issuer(issuer) => self.discover(issuer).await?,
        };
        let shown = target.to_string();
        let body = self.get(target).await?;
        if let Some(problem) = jwks::problem(&body) {
            return Err(FetchError::Keys(shown, problem));
        }
        let text = String::from_utf8(body.into());
        text.map(Into::into)
            .map_err(|_| FetchError::Keys(shown, "is not UTF-8".to_owned()))
    }

    /// OpenID Connect Discovery 1.0, section 4: the document has to be of the issuer that was asked for.
    async fn discover(&self, issuer: &str) -> Result<Target, FetchError> {
        #[derive(Deserialize)]
        struct Document {
            issuer: Option<String>,
            jwks_uri: Option<String>,
        }
        let base = issuer.trim_end_matches('/');
        let target = Target::parse(&format!("{base}/.well-known/openid-configuration"))?;
        let is_https = target.is_https;
        let body = self.get(target).await?;
        let failed = |why| FetchError::Discovery(shown(issuer), why);
        let document: Document =
            serde_json::from_slice(&body).map_err(|_| failed("is no JSON object"))?;
        let named = document.issuer.ok_or_else(|| failed("has no issuer"))?;
        if named.trim_end_matches('/') != base {
            return Err(failed("is of another issuer"));
        }
        let keys = document.jwks_uri.ok_or_else(|| failed("has no jwks_uri"))?;
        let keys = Target::parse(&keys)?;
        if is_https && !keys.is_https {
            return Err(failed("leads from https:// to http://"));
        }
        Ok(keys)
    }

    async fn get(&self, first: Target) -> Result<Bytes, FetchError> {
        let shown = first.to_string();
        let mut at = first;
        for _ in 0..=REDIRECT_LIMIT {
            match self.once(&at).await? {
                Answer::Body(body) => return Ok(body),
                Answer::Elsewhere(location) => {
                    let next = Target::parse(&location)?;
                    if at.is_https && !next.is_https {
                        return Err(FetchError::Downgrade(at.to_string()));
                    }
                    at = next;
                }
            }
        }
        Err(FetchError::Redirects(shown))
    }

    async fn once(&self, target: &Target) -> Result<Answer, FetchError> {
        let stream = self.connect(target).await?;
        if !target.is_https {
            return ask(stream, target).await;
        }
        let failed =
            |error: &dyn std::fmt::Display| FetchError::Tls(target.to_string(), error.to_string());
        let tls = self.tls.as_ref().ok_or(FetchError::NoRoots)?;
        let name = meltemi_pki::server_name(&target.host).map_err(|error| failed(&error))?;
        let stream = tls
            .connect(name, stream)
            .await
            .map_err(|error| failed(&error))?;
        ask(stream, target).await
    }

    /// What is judged is the address that is connected to: names can be made to mean anything, and something else the next time.
    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        let resolved = match target.host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, target.port)],
            Err(_) => {
                let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
                found
                    .map_err(|_| FetchError::Resolve(target.to_string()))?
                    .collect()
            }
        };
        let mut failure = FetchError::Blocked(target.to_string());
        for address in resolved {
            if !self.policy.admits(address.ip()) {
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(_) => failure = FetchError::Connect(target.to_string()),
            }
        }
        Err(failure)
    }
}

/// Without credentials and the query, which may hold a secret.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, Some(path)),
        None => (rest, None),
    };
    let host = authority.rsplit('@').next().unwrap_or_default();
    match path {
        Some(path) => format!("{scheme}://{host}/{path}"),
        None => format!("{scheme}://{host}"),
    }
}

/// As people may read it.
pub(super) fn shown_source(source: &JwksSource) -> JwksSource {
    match source {
        JwksSource::Url(url) => JwksSource::Url(shown(url)),
        JwksSource::Issuer(issuer) => JwksSource::Issuer(shown(issuer)),
    }
}

/// Who is asked first; empty where nobody can be.
pub(super) fn host(source: &JwksSource) -> String {
    let (JwksSource::Url(url) | JwksSource::Issuer(url)) = source;
    let host = Target::parse(url).map(|target| target.host);
    let host = host.unwrap_or_default().to_ascii_lowercase();
    host.trim_end_matches('.').to_owned()
}

enum Answer {
    Body(Bytes),
    Elsewhere(String),
}

/// A URL's parts.
struct Target {
    is_https: bool,
    host: String,
    port: u16,
    uri: Uri,
}

impl Target {
    fn parse(url: &str) -> Result<Self, FetchError> {
        let wrong = || FetchError::Url(shown(url));
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']');
        Ok(Self {
            is_https,
            host: host.to_owned(),
            port: authority
                .port_u16()
                .unwrap_or(if is_https { 443 } else { 80 }),
            uri,
        })
    }
}

/// Without the query, which may hold a secret.
impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(
            f,
            "{scheme}://{}:{}{}",
            self.host,
            self.port,
            self.uri.path()
        )
    }
}

async fn ask<S>(stream: S, target: &Target) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let failed = |_| FetchError::Http(target.to_string());
    let handshake = http1::Builder::new()
        .max_buf_size(HEAD_LIMIT_BYTES)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let path = target
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let authority = target
            .uri
            .authority()
            .map_or("", |authority| authority.as_str());
        let request = Request::get(path)
            .header(header::HOST, authority)
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .body(Empty::new())
            .map_err(|_| FetchError::Url(target.to_string()))?;
        let response = sender.send_request(request).await.map_err(failed)?;
        if response.status().is_redirection()
            && let Some(location) = response.headers().get(header::LOCATION)
        {
            return elsewhere(target, location);
        }
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(target.to_string(), response.status()));
        }
        let body = Limited::new(response.into_body(), BODY_LIMIT_BYTES)
            .collect()
            .await;
        let body = body.map_err(|_| FetchError::Body(target.to_string()))?;
        Ok(Answer::Body(body.to_bytes()))
    }
    .await;
    connection.abort();
    answer
}

/// A whole URL, or a path on the same host.
fn elsewhere(target: &Target, location: &HeaderValue) -> Result<Answer, FetchError> {
    let location = location.to_str().unwrap_or_default();
    let scheme = if target.is_https { "https" } else { "http" };
    let authority = target
        .uri
        .authority()
        .map_or("", |authority| authority.as_str());
    Ok(Answer::Elsewhere(match location.starts_with('/') {
        true if !location.starts_with("//") => format!("{scheme}://{authority}{location}"),
        _ => location.to_owned(),
    }))
}
