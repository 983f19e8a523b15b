//! Takes a request in: refuses what is malformed, makes the path canonical, sets the headers that say where it came from.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Version};
use hyper::ext::Protocol;
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::headers::remove_steering;
use meltemi_proxy_core::path::{self, PathOutcome};
use meltemi_proxy_core::request::{RequestHead, forwarded_for, is_grpc, without_port};
use meltemi_proxy_core::runtime::{HttpConnectionManager, PeerMetadataMethod, StripPort};
use meltemi_proxy_core::strict::{self, Malformed};
use meltemi_proxy_core::xfcc;
use rand::Rng as _;

use super::headers::{
    EXTERNAL_ADDRESS, PEER_METADATA, PEER_METADATA_ID, REQUEST_ID, X_FORWARDED_FOR,
    X_FORWARDED_PROTO, XFCC,
};
use super::serve::HttpConnection;
use crate::downstream::Downstream;
use crate::http1::BrokenBody;
use crate::telemetry::peer::Workload;

/// A request's head as the rest of the pipeline sees it.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) version: Version,
    pub(crate) scheme: &'static str,
    pub(crate) authority: String,
    /// With query, canonical.
    pub(crate) path: String,
    /// Without Host.
    pub(crate) headers: HeaderMap,
    pub(crate) is_grpc: bool,
    /// The protocol of an allowed `Upgrade`, lower-case.
    pub(crate) upgrade: Option<Arc<str>>,
    /// Who asks, where `x-forwarded-for` is trusted to tell.
    pub(crate) client: Option<IpAddr>,
    /// How the names of headers were written, if that is to be kept.
    pub(crate) extensions: Extensions,
}

impl Head {
    /// Of a request whose head was not read: logs show it as dashes.
    pub(crate) fn unread() -> Self {
        Self {
            method: Method::from_bytes(b"-").unwrap_or_default(),
            version: Version::HTTP_11,
            scheme: "http",
            authority: String::new(),
            path: String::new(),
            headers: HeaderMap::new(),
            is_grpc: false,
            upgrade: None,
            client: None,
            extensions: Extensions::new(),
        }
    }

    pub(crate) fn view(&self) -> RequestHead<'_> {
        RequestHead {
            method: self.method.as_str(),
            path: &self.path,
            authority: &self.authority,
            scheme: self.scheme,
            headers: &self.headers,
        }
    }
}

/// What became of a request at the door.
pub(crate) enum Intake {
    Accepted(Head),
    Refused(Head, ErrorKind),
    /// Escaped slashes were decoded and the client is to ask again (`UNESCAPE_AND_REDIRECT`).
    Redirect(Head, String),
}

pub(crate) fn take_in(connection: &HttpConnection, parts: Parts) -> Intake {
    let manager = &connection.manager;
    let default_host = manager.http1.default_host_for_http_10.as_deref();
    let strict = strict::check_head(
        &parts.method,
        &parts.uri,
        parts.version,
        &parts.headers,
        default_host,
    );
    if parts.uri.scheme().is_some()
        && parts.version < Version::HTTP_2
        && !manager.http1.allow_absolute_url
    {
        return Intake::Refused(Head::unread(), ErrorKind::Malformed(Malformed::Path));
    }
    let mut head = head_of(&connection.downstream, parts, default_host);
    let protocol = head.extensions.remove::<Protocol>();
    let broken = head.extensions.remove::<BrokenBody>();
    if !manager.http1.preserve_header_case {
        head.extensions = Extensions::new();
    }
    let broken = broken.map(|BrokenBody(malformed)| malformed);
    if let Some(malformed) = broken.or_else(|| strict.err()) {
        return Intake::Refused(head, ErrorKind::Malformed(malformed));
    }
    if head.version == Version::HTTP_10 && !manager.http1.accept_http_10 {
        return Intake::Refused(head, ErrorKind::LowVersion);
    }
    if head.headers.len() > manager.max_request_headers_count {
        return Intake::Refused(head, ErrorKind::RequestHeadersTooLarge);
    }
    if let Some(kind) = underscores(manager, &mut head.headers) {
        return Intake::Refused(head, kind);
    }
    strip_authority(connection, &mut head);
    match path::normalise(&head.path, manager.path) {
        Ok(PathOutcome::Unchanged) => {}
        Ok(PathOutcome::Changed(path)) => head.path = path,
        Ok(PathOutcome::Redirect(path)) => return Intake::Redirect(head, path),
        Err(_) => return Intake::Refused(head, ErrorKind::Malformed(Malformed::PathNormalisation)),
    }
    if let Some(kind) = upgrade(manager, protocol.as_ref(), &mut head) {
        return Intake::Refused(head, kind);
    }
    introduce(connection, &mut head);
    Intake::Accepted(head)
}

fn head_of(downstream: &Downstream, parts: Parts, default_host: Option<&str>) -> Head {
    let Parts {
        method,
        uri,
        version,
        mut headers,
        extensions,
        ..
    } = parts;
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // RFC 9112 section 6.3: of the two the encoding counts; the other must not travel on.
        headers.remove(header::CONTENT_LENGTH);
    }
    let host = headers.remove(header::HOST);
    let authority = match (uri.authority(), host) {
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(host)) => match std::str::from_utf8(host.as_bytes()) {
            Ok(host) => host.to_owned(),
            Err(_) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        },
        (None, None) => default_host.unwrap_or_default().to_owned(),
    };
    let path = if method == Method::CONNECT && extensions.get::<Protocol>().is_none() {
        String::new()
    } else {
        uri.path_and_query()
            .map_or_else(|| "/".to_owned(), |path| path.as_str().to_owned())
    };
    let scheme = scheme(downstream, &headers);
    let is_grpc = is_grpc(&headers);
    join_cookies(version, &mut headers);
    Head {
        method,
        version,
        scheme,
        authority,
        path,
        headers,
        is_grpc,
        upgrade: None,
        client: None,
        extensions,
    }
}

/// RFC 9113 section 8.2.3: HTTP/2 may cut a cookie into crumbs for better compression; everyone else reads one line.
fn join_cookies(version: Version, headers: &mut HeaderMap) {
    if version != Version::HTTP_2 {
        return;
    }
    let mut crumbs = headers.get_all(header::COOKIE).into_iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .into_iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// `strip_matching_host_port`, `strip_any_host_port`, `strip_trailing_host_dot`.
fn strip_authority(connection: &HttpConnection, head: &mut Head) {
    let manager = &connection.manager;
    if manager.strip_port == StripPort::Keep && !manager.strip_trailing_host_dot {
        return;
    }
    let host = without_port(&head.authority);
    let port = head.authority.strip_prefix(host).unwrap_or_default();
    let strips = match manager.strip_port {
        StripPort::Keep => false,
        StripPort::Any => !port.is_empty(),
        StripPort::Matching => {
            port.strip_prefix(':')
                == Some(
                    connection
                        .downstream
                        .arrival
                        .destination
                        .port()
                        .to_string()
                        .as_str(),
                )
        }
    };
    let has_dot = manager.strip_trailing_host_dot && host.ends_with('.');
    if strips || has_dot {
        let host = if has_dot {
            host.trim_end_matches('.')
        } else {
            host
        };
        head.authority = if strips {
            host.to_owned()
        } else {
            format!("{host}{port}")
        };
    }
}

fn scheme(downstream: &Downstream, headers: &HeaderMap) -> &'static str {
    match headers.get(X_FORWARDED_PROTO).map(HeaderValue::as_bytes) {
        Some(proto) if proto.eq_ignore_ascii_case(b"https") => "https",
        Some(proto) if proto.eq_ignore_ascii_case(b"http") => "http",
        _ if downstream.handshake.is_some() => "https",
        _ => "http",
    }
}

/// `headers_with_underscores_action`: a name like `x_role` may reach an application as `X-Role`.
fn underscores(manager: &HttpConnectionManager, headers: &mut HeaderMap) -> Option<ErrorKind> {
    if !manager.reject_underscore_headers && !manager.drop_underscore_headers {
        return None;
    }
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().contains('_'))
        .cloned()
        .collect();
    if manager.reject_underscore_headers && !names.is_empty() {
        return Some(ErrorKind::Malformed(Malformed::Underscore));
    }
    for name in names {
        headers.remove(name);
    }
    None
}

/// Keeps an upgrade that the listener allows. `h2c` is never done, only taken off the request (RFC 9113 section 3.1 made
/// it obsolete, and it smuggles).
fn upgrade(
    manager: &HttpConnectionManager,
    protocol: Option<&Protocol>,
    head: &mut Head,
) -> Option<ErrorKind> {
    if let Some(protocol) = protocol {
        return extended_connect(manager, protocol, head);
    }
    let wants = head
        .headers
        .get(header::UPGRADE)?
        .as_bytes()
        .to_ascii_lowercase();
    let kind = String::from_utf8_lossy(&wants).into_owned();
    if kind == "h2c" || head.version != Version::HTTP_11 {
        head.headers.remove(header::UPGRADE);
        head.headers.remove("http2-settings");
        return None;
    }
    let asked = head
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|value| {
            value
                .as_bytes()
                .split(|c| *c == b',')
                .any(|word| word.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        });
    if !asked {
        head.headers.remove(header::UPGRADE);
        return None;
    }
    grant(manager, &kind, head)
}

fn grant(manager: &HttpConnectionManager, kind: &str, head: &mut Head) -> Option<ErrorKind> {
    match manager
        .upgrades
        .iter()
        .find(|upgrade| *upgrade.kind == *kind)
    {
        Some(upgrade) if upgrade.enabled => {
            head.upgrade = Some(upgrade.kind.clone());
            None
        }
        _ => Some(ErrorKind::UpgradeNotAllowed),
    }
}

/// RFC 8441: CONNECT with `:protocol` is what HTTP/1 says with GET and `Upgrade`, and is routed as such (Envoy
/// `transformUpgradeRequestFromH2toH1`).
fn extended_connect(
    manager: &HttpConnectionManager,
    protocol: &Protocol,
    head: &mut Head,
) -> Option<ErrorKind> {
    let refused = grant(manager, &protocol.as_str().to_ascii_lowercase(), head);
    if refused.is_some() {
        return refused;
    }
    head.method = Method::GET;
    // The handshake's key has no use over HTTP/2; a server of HTTP/1 asks for one (RFC 6455 section 4.1).
    if head.upgrade.as_deref() == Some("websocket")
        && !head.headers.contains_key(header::SEC_WEBSOCKET_KEY)
    {
        let key = BASE64.encode(rand::rng().random::<[u8; 16]>());
        if let Ok(key) = HeaderValue::try_from(key) {
            head.headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
    }
    None
}

/// Sets the headers that say who asks: request id, forwarded protocol, client certificate.
fn introduce(connection: &HttpConnection, head: &mut Head) {
    let (downstream, manager) = (&connection.downstream, &connection.manager);
    if downstream.is_inbound() || manager.use_remote_address {
        remove_steering(&mut head.headers);
    }
    // Envoy: an edge makes its own ids.
    if manager.use_remote_address && !manager.preserve_external_request_id {
        head.headers.remove(REQUEST_ID);
    }
    if manager.generate_request_id && !head.headers.contains_key(REQUEST_ID) {
        head.headers.insert(REQUEST_ID, new_request_id());
    }
    // At an edge without trusted proxies in front, what the client says of it counts for nothing.
    let is_believed = !manager.use_remote_address || manager.xff_num_trusted_hops > 0;
    if !is_believed || !head.headers.contains_key(X_FORWARDED_PROTO) {
        head.headers
            .insert(X_FORWARDED_PROTO, HeaderValue::from_static(head.scheme));
    }
    head.client = client(manager, &head.headers);
    if manager.use_remote_address {
        let peer = edge_peer(connection);
        name_outsider(head.client.unwrap_or(peer), &mut head.headers);
        if !manager.skip_xff_append {
            append_forwarded_for(peer, &mut head.headers);
        }
    }
    if let Some(via) = &manager.via {
        head.headers.append(header::VIA, via.clone());
    }
    forward_certificate(connection, &mut head.headers);
}

/// Who asks, by the word of trusted proxies (Envoy `use_remote_address`, `xff_num_trusted_hops`): an edge counts its peer as
/// the first of them.
fn client(manager: &HttpConnectionManager, headers: &HeaderMap) -> Option<IpAddr> {
    let hops = manager.xff_num_trusted_hops as usize;
    let skip = if manager.use_remote_address {
        hops.checked_sub(1)?
    } else {
        hops
    };
    headers
        .contains_key(X_FORWARDED_FOR)
        .then(|| forwarded_for(headers, skip))?
}

/// The peer as others know it: one on loopback is this machine (Envoy, `x-forwarded-for`).
fn edge_peer(connection: &HttpConnection) -> IpAddr {
    let peer = connection.downstream.arrival.peer.ip();
    let own = connection.worker.shared.own_ips.first();
    own.copied().filter(|_| peer.is_loopback()).unwrap_or(peer)
}

/// Tells the application who asks from outside (Envoy, `x-envoy-external-address`).
fn name_outsider(client: IpAddr, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::try_from(client.to_string()) {
        headers.insert(EXTERNAL_ADDRESS, value);
    }
}

fn append_forwarded_for(peer: IpAddr, headers: &mut HeaderMap) {
    let peer = peer.to_string();
    let value = match headers
        .get(X_FORWARDED_FOR)
        .and_then(|value| value.to_str().ok())
    {
        Some(before) => format!("{before},{peer}"),
        None => peer,
    };
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(X_FORWARDED_FOR, value);
    }
}

/// A v4 UUID.
fn new_request_id() -> HeaderValue {
    let mut bytes: [u8; 16] = rand::rng().random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    HeaderValue::from_bytes(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

const HEX: [u8; 16] = *b"0123456789abcdef";

/// `x-forwarded-client-cert` as the listener's mode says (Envoy `forward_client_cert_details`).
fn forward_certificate(connection: &HttpConnection, headers: &mut HeaderMap) {
    let is_there = headers.contains_key(XFCC);
    let value = if is_there {
        client_certificate(connection, headers)
    } else {
        // Without a word of the client's it is the same for every request of the connection.
        let own = || client_certificate(connection, headers);
        connection.xfcc.get_or_init(own).clone()
    };
    match value {
        Some(value) => {
            headers.insert(XFCC, value);
        }
        None if is_there => {
            headers.remove(XFCC);
        }
        None => {}
    }
}

fn client_certificate(connection: &HttpConnection, headers: &HeaderMap) -> Option<HeaderValue> {
    let (downstream, manager) = (&connection.downstream, &connection.manager);
    let joined: Option<String> = {
        let lines: Vec<&str> = headers
            .get_all(XFCC)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .collect();
        (!lines.is_empty()).then(|| lines.join(","))
    };
    let value = xfcc::forward(
        manager.forward_client_cert,
        manager.client_cert_details,
        joined.as_deref(),
        downstream.certificate.as_ref(),
        downstream
            .record
            .tls
            .as_ref()
            .and_then(|tls| tls.local_uri_san.as_deref()),
    );
    value.and_then(|value| HeaderValue::from_str(&value).ok())
}

/// Reads who the downstream says it is, and takes the metadata off the request.
pub(crate) fn downstream_peer(
    connection: &HttpConnection,
    head: &mut Head,
) -> (Option<Arc<Workload>>, bool) {
    let Some(exchange) = &connection.plan.peer_metadata else {
        return (None, false);
    };
    let reads = exchange
        .downstream_discovery
        .iter()
        .any(|m| matches!(m, PeerMetadataMethod::IstioHeaders { .. }));
    if !reads {
        return (None, false);
    }
    let asked = head.headers.remove(PEER_METADATA_ID).is_some();
    let peer = head
        .headers
        .remove(PEER_METADATA)
        .and_then(|value| connection.peers.resolve(&value));
    (peer, asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_uuids() {
        let id = new_request_id();
        let text = id.to_str().unwrap();
        assert_eq!(text.len(), 36);
        let parts: Vec<usize> = text.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(text.as_bytes()[14], b'4');
        assert_ne!(id, new_request_id());
    }
}
