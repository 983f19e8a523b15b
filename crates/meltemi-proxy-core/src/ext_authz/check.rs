//! The question: what an authorizer is told of a request or a connection.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use meltemi_proto::envoy::config::core::v3::{
    Address, Metadata, SocketAddress, address, socket_address,
};
use meltemi_proto::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request, TlsSession,
};
use meltemi_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use meltemi_proto::google::protobuf::Timestamp;

use crate::headers;
use crate::request::RequestHead;
use crate::runtime::{ExtAuthz, HttpAuthorizer, LogPiece};

/// Tells whether the authorizer sees all of a body; only we say so.
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
const DOWNSTREAM_CLUSTER: &str = "x-envoy-downstream-service-cluster";

/// The connection that a request came by, or that is itself in question.
#[derive(Debug, Clone, Copy)]
pub struct CheckedConnection<'a> {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Of the peer's verified certificate: its URI, else its subject.
    pub source_principal: &'a str,
    /// Of our own.
    pub destination_principal: &'a str,
    /// `None` without TLS.
    pub server_name: Option<&'a str>,
}

/// The request in question.
#[derive(Debug)]
pub struct CheckedRequest<'a> {
    pub connection: CheckedConnection<'a>,
    pub id: u64,
    /// When it came, since 1970.
    pub time: Duration,
    pub head: RequestHead<'a>,
    /// `HTTP/1.1`.
    pub protocol: &'a str,
    pub received_bytes: u64,
    /// What was read of its body, if that is to be shown.
    pub body: Option<SeenBody>,
}

/// As much of a body as the authorizer sees.
#[derive(Debug, Clone)]
pub struct SeenBody {
    pub bytes: Bytes,
    pub is_partial: bool,
    /// In `raw_body` rather than in `body`.
    pub is_raw: bool,
}

/// Asks by gRPC about a request.
pub fn of_request(
    config: &ExtAuthz,
    request: &CheckedRequest<'_>,
    context_extensions: &BTreeMap<String, String>,
) -> CheckRequest {
    let head = &request.head;
    let mut http = HttpRequest {
        id: request.id.to_string(),
        method: head.method.to_owned(),
        headers: told(config, request).into_iter().collect::<HashMap<_, _>>(),
        path: head.path.to_owned(),
        host: head.authority.to_owned(),
        scheme: head.scheme.to_owned(),
        size: i64::try_from(request.received_bytes).unwrap_or(i64::MAX),
        protocol: request.protocol.to_owned(),
        ..HttpRequest::default()
    };
    match &request.body {
        Some(body) if body.is_raw => http.raw_body = body.bytes.to_vec(),
        // A text of a message is UTF-8: whoever wants every byte asks for `pack_as_bytes`.
        Some(body) => http.body = readable(&body.bytes).into_owned(),
        None => {}
    }
    let service = head.headers.get(DOWNSTREAM_CLUSTER);
    let service = service.map_or(Cow::Borrowed(""), |name| readable(name.as_bytes()));
    let attributes = AttributeContext {
        request: Some(Request {
            time: Some(Timestamp {
                seconds: i64::try_from(request.time.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(request.time.subsec_nanos()).unwrap_or(0),
            }),
            http: Some(http),
        }),
        context_extensions: context_extensions.clone().into_iter().collect(),
        metadata_context: Some(Metadata::default()),
        route_metadata_context: Some(Metadata::default()),
        ..attributes(&request.connection, config.include_tls_session, &service)
    };
    CheckRequest {
        attributes: Some(attributes),
    }
}

/// Asks by gRPC about a connection.
pub fn of_connection(
    connection: &CheckedConnection<'_>,
    include_tls_session: bool,
) -> CheckRequest {
    CheckRequest {
        attributes: Some(attributes(connection, include_tls_session, "")),
    }
}

fn attributes(
    connection: &CheckedConnection<'_>,
    include_tls_session: bool,
    service: &str,
) -> AttributeContext {
    let peer = |address: SocketAddr, principal: &str, service: &str| Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(SocketAddress {
                address: address.ip().to_string(),
                port_specifier: Some(socket_address::PortSpecifier::PortValue(
                    address.port().into(),
                )),
                ..SocketAddress::default()
            })),
        }),
        principal: principal.to_owned(),
        service: service.to_owned(),
        ..Peer::default()
    };
    let server_name = connection.server_name.filter(|_| include_tls_session);
    AttributeContext {
        source: Some(peer(
            connection.source,
            connection.source_principal,
            service,
        )),
        destination: Some(peer(
            connection.destination,
            connection.destination_principal,
            "",
        )),
        tls_session: server_name.map(|name| TlsSession {
            sni: name.to_owned(),
        }),
        ..AttributeContext::default()
    }
}

/// The headers that the authorizer is told, pseudo-headers among them. What was sent more than once is one text, so that no
/// line is left unjudged.
fn told(config: &ExtAuthz, request: &CheckedRequest<'_>) -> BTreeMap<String, String> {
    let head = &request.head;
    let pseudo = [
        (":method", head.method),
        (":path", head.path),
        (":authority", head.authority),
        (":scheme", head.scheme),
    ];
    let pseudo = pseudo.into_iter().filter(|(_, value)| !value.is_empty());
    let pseudo = pseudo.map(|(name, value)| (name, value.as_bytes()));
    let lines = head.headers.iter();
    let lines = lines.map(|(name, value)| (name.as_str(), value.as_bytes()));
    let mut told = BTreeMap::<String, String>::new();
    for (name, value) in pseudo.chain(lines) {
        if name == PARTIAL_BODY || !config.tells(name) {
            continue;
        }
        let value = readable(value);
        match told.get_mut(name) {
            Some(before) => {
                before.push(',');
                before.push_str(&value);
            }
            None => drop(told.insert(name.to_owned(), value.into_owned())),
        }
    }
    if let Some(body) = &request.body {
        told.insert(PARTIAL_BODY.to_owned(), body.is_partial.to_string());
    }
    told
}

impl ExtAuthz {
    /// Whether the authorizer may see the header.
    fn tells(&self, name: &str) -> bool {
        let listed = self.allowed_headers.as_ref();
        !self.disallowed_headers.contains(name) && listed.is_none_or(|names| names.contains(name))
    }
}

/// What is no UTF-8 is an exclamation mark, byte by byte (Envoy `MessageUtil::sanitizeUtf8String`).
fn readable(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    Cow::Owned(text)
}

/// A request to an authorizer of the HTTP kind.
#[derive(Debug)]
pub struct HttpCheck {
    pub method: Method,
    pub path: PathAndQuery,
    pub authority: Authority,
    pub scheme: Scheme,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Asks by a request like the one in question, behind the prefix; `format` writes values with operators. `None`: it cannot be asked about, as CONNECT, which has no
/// path, cannot. That is the request's doing, not a failure of the authorizer.
pub fn http(
    config: &ExtAuthz,
    authorizer: &HttpAuthorizer,
    request: &CheckedRequest<'_>,
    own_address: &str,
    format: &dyn Fn(&[LogPiece]) -> String,
) -> Option<HttpCheck> {
    let head = &request.head;
    let method = Method::from_bytes(head.method.as_bytes()).ok()?;
    if method == Method::CONNECT || head.path.is_empty() {
        return None;
    }
    let path = format!("{}{}", authorizer.path_prefix, head.path);
    let mut all = HeaderMap::new();
    for (name, value) in told(config, request) {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(&name), HeaderValue::try_from(value))
        else {
            // Pseudo-headers are elsewhere; a name or value that came in can go out.
            continue;
        };
        all.insert(name, value);
    }
    // These were of the message that is asked about.
    headers::remove_hop_by_hop(&mut all);
    all.remove(header::EXPECT);
    all.remove(header::CONTENT_LENGTH);
    let pseudo = headers::apply(&authorizer.added_headers, &mut all, format);
    all.insert("x-envoy-internal", HeaderValue::from_static("true"));
    let millis = u64::try_from(authorizer.timeout.as_millis()).unwrap_or(u64::MAX);
    all.insert("x-envoy-expected-rq-timeout-ms", millis.into());
    append_forwarded_for(&mut all, own_address);
    let body = request.body.as_ref().map(|body| body.bytes.clone());
    let body = body.unwrap_or_default();
    all.insert(header::CONTENT_LENGTH, body.len().into());
    let authority = pseudo.authority.as_deref().unwrap_or(head.authority);
    Some(HttpCheck {
        method,
        path: PathAndQuery::try_from(pseudo.path.unwrap_or(path)).ok()?,
        authority: Authority::try_from(authority).ok()?,
        scheme: Scheme::try_from(head.scheme).ok()?,
        headers: all,
        body,
    })
}

/// Who asks, behind those who asked us.
fn append_forwarded_for(headers: &mut HeaderMap, own_address: &str) {
    const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    let before = headers.get(&FORWARDED_FOR);
    let before = before.and_then(|value| value.to_str().ok());
    let all = before.map_or_else(
        || own_address.to_owned(),
        |before| format!("{before},{own_address}"),
    );
    if let Ok(value) = HeaderValue::try_from(all) {
        headers.insert(FORWARDED_FOR, value);
    }
}
