//! `curl`, as far as guides use it, for people who type it in the proxy's container.
//!
//! Connections of the proxy's own uid are not captured, so a plain curl there would leave unencrypted. This one asks the
//! proxy to carry the connection (`CONNECT` on the admin port), which makes it what a call of the application would be.

use std::io::{IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use clap::Parser;
use http::{HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::either::Either;

use crate::admin::IDENTITY_HEADER;

/// Redirects followed with `-L`; curl's own bound is 50.
const REDIRECT_LIMIT: usize = 50;

/// The options of curl that this applet has; curl's names and meanings.
#[derive(Debug, Parser)]
#[command(
    name = "curl",
    disable_help_flag = true,
    about = "Transfers a URL through the proxy, as a call of the application"
)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "curl's flags are what they are"
)]
pub(super) struct CurlArgs {
    #[arg(required = true)]
    urls: Vec<String>,
    #[arg(short, long)]
    silent: bool,
    #[arg(short = 'S', long)]
    show_error: bool,
    #[arg(short, long)]
    verbose: bool,
    /// Include the response's head in the output
    #[arg(short, long)]
    include: bool,
    /// Ask for the head only
    #[arg(short = 'I', long)]
    head: bool,
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    #[arg(short, long, value_name = "FORMAT")]
    write_out: Option<String>,
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    method: Option<String>,
    #[arg(short, long, visible_aliases = ["data-raw", "data-ascii", "data-binary"])]
    data: Vec<String>,
    #[arg(short = 'A', long, value_name = "NAME")]
    user_agent: Option<String>,
    /// Follow redirects
    #[arg(short = 'L', long)]
    location: bool,
    /// Said of https URLs, which this curl refuses with or without it
    #[arg(short = 'k', long)]
    insecure: bool,
    #[arg(short, long, value_name = "SECONDS")]
    max_time: Option<f64>,
    #[arg(long, value_name = "SECONDS")]
    connect_timeout: Option<f64>,
    /// Exit with 22 on status 400 and above, without output
    #[arg(short, long)]
    fail: bool,
    /// The proxy's admin port
    #[arg(long, default_value_t = meltemi_core::names::port::ADMIN, hide = true)]
    admin_port: u16,
}

/// A failure with curl's exit status.
/// A connection that the proxy carries, or one within the pod.
type Stream = Either<TokioIo<hyper::upgrade::Upgraded>, TcpStream>;

#[derive(Debug, thiserror::Error)]
enum CurlError {
    #[error("(3) URL using bad/illegal format or missing URL: {0}")]
    Url(String),
    #[error("(1) Protocol \"{0}\" not supported")]
    Protocol(String),
    /// The connection that the proxy carries is encrypted by the mesh; TLS inside it would be the application's own.
    #[error(
        "(1) Protocol \"https\" not supported here: the proxy adds the mesh's TLS to an http:// URL; for TLS of the server's own run curl \
         in the application's container"
    )]
    Https,
    #[error("(7) Failed to connect to the proxy on 127.0.0.1:{0}: {1}")]
    Proxy(u16, std::io::Error),
    #[error("(6) Could not resolve host: {0}")]
    Resolve(String),
    #[error("(7) Failed to connect to {0}: {1}")]
    Connect(String, String),
    #[error("(22) The requested URL returned error: {0}")]
    Status(u16),
    #[error("(23) Failure writing output to destination: {0}")]
    Output(#[from] std::io::Error),
    #[error("(28) Operation timed out after {0} milliseconds")]
    Timeout(u128),
    #[error("(43) Bad option: {0}")]
    Option(String),
    #[error("(47) Maximum ({REDIRECT_LIMIT}) redirects followed")]
    Redirects,
    #[error("(56) Recv failure: {0}")]
    Receive(String),
}

impl CurlError {
    fn status(&self) -> u8 {
        match self {
            Self::Protocol(_) | Self::Https => 1,
            Self::Url(_) => 3,
            Self::Resolve(_) => 6,
            Self::Proxy(..) | Self::Connect(..) => 7,
            Self::Status(_) => 22,
            Self::Output(_) => 23,
            Self::Timeout(_) => 28,
            Self::Option(_) => 43,
            Self::Redirects => 47,
            Self::Receive(_) => 56,
        }
    }
}

/// Runs the transfers one after the other; the answer is the last exit status that is not zero, as curl has it.
pub(super) async fn curl(args: &CurlArgs) -> u8 {
    let mut status = 0;
    for url in &args.urls {
        let transfer = transfer(args, url);
        let result = match args
            .max_time
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        {
            None => transfer.await,
            Some(limit) => match tokio::time::timeout(limit, transfer).await {
                Ok(result) => result,
                Err(_) => Err(CurlError::Timeout(limit.as_millis())),
            },
        };
        if let Err(error) = result {
            status = error.status();
            if !args.silent || args.show_error {
                complain(&format!("curl: {error}\n"));
            }
        }
    }
    status
}

async fn transfer(args: &CurlArgs, url: &str) -> Result<(), CurlError> {
    let mut url = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    for _ in 0..=REDIRECT_LIMIT {
        let uri: Uri = url.parse().map_err(|_| CurlError::Url(url.clone()))?;
        let response = exchange(args, &uri).await?;
        let next = response
            .headers()
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok());
        if args.location
            && response.status().is_redirection()
            && let Some(next) = next
        {
            url = resolve(&uri, next);
            continue;
        }
        return print(args, response).await;
    }
    Err(CurlError::Redirects)
}

/// A `Location` relative to the URL it came from.
fn resolve(base: &Uri, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let (scheme, authority) = (
        base.scheme_str().unwrap_or("http"),
        base.authority().map_or("", |a| a.as_str()),
    );
    if location.starts_with('/') {
        return format!("{scheme}://{authority}{location}");
    }
    let folder = base
        .path()
        .rsplit_once('/')
        .map_or("", |(folder, _)| folder);
    format!("{scheme}://{authority}{folder}/{location}")
}

async fn exchange(args: &CurlArgs, uri: &Uri) -> Result<Response<Incoming>, CurlError> {
    let host = uri.host().ok_or_else(|| CurlError::Url(uri.to_string()))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(CurlError::Https),
        other => return Err(CurlError::Protocol(other.unwrap_or_default().to_owned())),
    }
    let port = uri.port_u16().unwrap_or(80);
    let stream = connect(args, host, port);
    let stream = match args
        .connect_timeout
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    {
        None => stream.await?,
        Some(limit) => tokio::time::timeout(limit, stream)
            .await
            .map_err(|_| CurlError::Timeout(limit.as_millis()))??,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(receive)?;
    tokio::spawn(connection);
    let request = build_request(args, uri)?;
    if args.verbose {
        narrate_request(&request);
    }
    let response = sender.send_request(request).await.map_err(receive)?;
    if args.verbose {
        complain(&format!(
            "< {:?} {}\n",
            response.version(),
            response.status()
        ));
        for (name, value) in response.headers() {
            complain(&format!(
                "< {name}: {}\n",
                String::from_utf8_lossy(value.as_bytes())
            ));
        }
        complain("<\n");
    }
    Ok(response)
}

fn receive(error: hyper::Error) -> CurlError {
    use std::error::Error as _;
    CurlError::Receive(
        error
            .source()
            .map_or_else(|| error.to_string(), ToString::to_string),
    )
}

/// Connects to the pod's own loopback as any program of the pod does: redirection leaves it alone. Everything else goes by the
/// proxy.
async fn connect(args: &CurlArgs, host: &str, port: u16) -> Result<Stream, CurlError> {
    if !is_loopback(host) {
        let tunnel = open_tunnel(args, &format!("{host}:{port}")).await?;
        return Ok(Either::Left(tunnel));
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port)).await;
    let stream =
        stream.map_err(|error| CurlError::Connect(format!("{host}:{port}"), error.to_string()))?;
    Ok(Either::Right(stream))
}

/// RFC 6761 section 6.3 keeps `localhost` for the loopback.
fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>();
    address.map_or_else(
        |_name| bare.eq_ignore_ascii_case("localhost"),
        |address| address.is_loopback(),
    )
}

/// Asks the proxy to carry a connection to `target`.
async fn open_tunnel(
    args: &CurlArgs,
    target: &str,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, CurlError> {
    let port = args.admin_port;
    let stream = TcpStream::connect(("127.0.0.1", port))
        .await
        .map_err(|error| CurlError::Proxy(port, error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(receive)?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri(target)
        .header(header::HOST, target)
        .body(Empty::<Bytes>::new())
        .map_err(|_| CurlError::Url(target.to_owned()))?;
    let response = sender.send_request(request).await.map_err(receive)?;
    if !response.status().is_success() {
        let status = response.status();
        let reason = response
            .into_body()
            .collect()
            .await
            .map_err(receive)?
            .to_bytes();
        let reason = String::from_utf8_lossy(&reason).trim().to_owned();
        return Err(match status.as_u16() {
            404 => CurlError::Resolve(target.to_owned()),
            _ => CurlError::Connect(target.to_owned(), reason),
        });
    }
    if args.verbose {
        let identity = response
            .headers()
            .get(IDENTITY_HEADER)
            .and_then(|value| value.to_str().ok());
        complain(&format!(
            "* Connected to {target} through the proxy, as {}\n",
            identity.unwrap_or("nobody")
        ));
    }
    Ok(TokioIo::new(
        hyper::upgrade::on(response).await.map_err(receive)?,
    ))
}

fn build_request(args: &CurlArgs, uri: &Uri) -> Result<Request<Full<Bytes>>, CurlError> {
    let body = args.data.join("&");
    let method = match &args.method {
        Some(name) => {
            Method::from_bytes(name.as_bytes()).map_err(|_| CurlError::Option(name.clone()))?
        }
        None if args.head => Method::HEAD,
        None if !args.data.is_empty() => Method::POST,
        None => Method::GET,
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(method).uri(path);
    if let Some(headers) = request.headers_mut() {
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let value = |text: &str| {
            HeaderValue::from_str(text).map_err(|_| CurlError::Option(text.to_owned()))
        };
        headers.insert(header::HOST, value(authority)?);
        headers.insert(
            header::USER_AGENT,
            value(args.user_agent.as_deref().unwrap_or("curl/8 (meltemi)"))?,
        );
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        if !args.data.is_empty() {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
        }
        let mut given = http::HeaderMap::new();
        for line in &args.headers {
            let (name, text) = line
                .split_once(':')
                .ok_or_else(|| CurlError::Option(line.clone()))?;
            let name = HeaderName::from_bytes(name.trim().as_bytes())
                .map_err(|_| CurlError::Option(line.clone()))?;
            headers.remove(&name);
            given.append(name, value(text.trim())?);
        }
        // curl: a name without a value takes the default header away.
        given.retain_values();
        headers.extend(given);
    }
    request
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| CurlError::Option(error.to_string()))
}

trait RetainValues {
    fn retain_values(&mut self);
}

impl RetainValues for http::HeaderMap {
    fn retain_values(&mut self) {
        let empty: Vec<HeaderName> = self
            .iter()
            .filter(|(_, value)| value.is_empty())
            .map(|(name, _)| name.clone())
            .collect();
        for name in empty {
            self.remove(name);
        }
    }
}

fn narrate_request(request: &Request<Full<Bytes>>) {
    complain(&format!(
        "> {} {} HTTP/1.1\n",
        request.method(),
        request.uri()
    ));
    for (name, value) in request.headers() {
        complain(&format!(
            "> {name}: {}\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    complain(">\n");
}

async fn print(args: &CurlArgs, response: Response<Incoming>) -> Result<(), CurlError> {
    let (head, body) = response.into_parts();
    let failed = args.fail && head.status.as_u16() >= 400;
    let mut out = BytesMut::new();
    if args.include || args.head {
        out.extend_from_slice(format!("{:?} {}\r\n", head.version, head.status).as_bytes());
        for (name, value) in &head.headers {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
    let mut sink: Box<dyn std::io::Write> = match &args.output {
        Some(path) => Box::new(std::fs::File::create(path)?),
        None => Box::new(std::io::stdout()),
    };
    if !failed {
        sink.write_all(&out)?;
    }
    let size = write_body(body, &mut sink, !failed).await?;
    sink.flush()?;
    if let Some(format) = &args.write_out {
        let text = write_out(format, &head, size);
        std::io::stdout().write_all(text.as_bytes())?;
    }
    std::io::stdout().flush()?;
    if failed {
        Err(CurlError::Status(head.status.as_u16()))
    } else {
        Ok(())
    }
}

async fn write_body(
    mut body: Incoming,
    sink: &mut dyn std::io::Write,
    wanted: bool,
) -> Result<usize, CurlError> {
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(receive)?;
        if let Some(data) = frame.data_ref() {
            size += data.len();
            if wanted {
                sink.write_all(data)?;
            }
        }
    }
    Ok(size)
}

fn write_out(format: &str, head: &http::response::Parts, size: usize) -> String {
    let code = format!("{:03}", head.status.as_u16());
    format
        .replace("%{http_code}", &code)
        .replace("%{response_code}", &code)
        .replace("%{size_download}", &size.to_string())
        .replace("\\n", "\n")
        .replace("\\t", "\t")
}

/// Writes to standard error, where curl narrates.
fn complain(text: &str) {
    let mut stderr = std::io::stderr();
    let result = stderr.write_all(text.as_bytes());
    if let Err(error) = result
        && stderr.is_terminal()
    {
        tracing::debug!(%error, "cannot write to standard error");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> CurlArgs {
        CurlArgs::try_parse_from(std::iter::once("curl").chain(line.iter().copied())).unwrap()
    }

    #[test]
    fn reads_the_lines_of_guides() {
        let parsed = args(&[
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}\\n",
            "http://reviews:9080/reviews/0",
        ]);
        assert!(parsed.silent && parsed.show_error);
        assert_eq!(parsed.write_out.as_deref(), Some("%{http_code}\\n"));
        assert_eq!(args(&["-XDELETE", "-m5", "a"]).max_time, Some(5.0));
        assert_eq!(
            args(&["-H", "end-user: jason", "-H", "a: b", "x"])
                .headers
                .len(),
            2
        );
    }

    #[test]
    fn builds_requests_as_curl_does() {
        let uri: Uri = "http://reviews:9080/a?b=c".parse().unwrap();
        let get = build_request(&args(&["x", "-H", "Host: other", "-H", "Accept:"]), &uri).unwrap();
        assert_eq!(
            (get.method(), get.uri().to_string()),
            (&Method::GET, "/a?b=c".to_owned())
        );
        assert_eq!(get.headers()[header::HOST], "other");
        assert!(!get.headers().contains_key(header::ACCEPT));
        let post = build_request(&args(&["x", "-d", "a=1", "-d", "b=2"]), &uri).unwrap();
        assert_eq!(post.method(), Method::POST);
        assert_eq!(
            build_request(&args(&["x", "-I"]), &uri).unwrap().method(),
            Method::HEAD
        );
    }

    #[tokio::test]
    async fn https_is_refused_with_or_without_a_check_of_certificates() {
        for line in [&["https://a"][..], &["-k", "https://a"]] {
            let refused = transfer(&args(line), "https://a").await.unwrap_err();
            assert_eq!(refused.status(), 1);
            assert!(refused.to_string().contains("application's container"));
        }
    }

    #[test]
    fn follows_relative_redirects() {
        let base: Uri = "http://a:1/x/y?q".parse().unwrap();
        assert_eq!(resolve(&base, "/z"), "http://a:1/z");
        assert_eq!(resolve(&base, "z"), "http://a:1/x/z");
        assert_eq!(resolve(&base, "http://b/"), "http://b/");
    }
}
