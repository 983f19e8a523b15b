use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use time::OffsetDateTime;

use crate::flags::ResponseFlags;
use crate::record::{Protocol, RequestRecord};
use crate::request::RequestHead;
use crate::runtime::{
    AccessLogFilter, Comparison, ComparisonOp, JsonNode, LogFormat, LogPiece, Operator,
};

/// What stands for a value that there is not.
const ABSENT: &str = "-";

/// Writes a record in a format. Text comes as configured, JSON as one line.
pub fn render(format: &LogFormat, record: &RequestRecord) -> String {
    match format {
        LogFormat::Text(pieces) => render_pieces(pieces, record),
        LogFormat::Json(node) => {
            let mut line = json(node, record).to_string();
            line.push('\n');
            line
        }
    }
}

/// Writes the pieces of a text format.
///
/// Differs from Envoy: what a peer chose (headers, server names) has its control characters, quotes and backslashes escaped as
/// `\xNN`, so that nobody can forge a log line (CVE-2024-45808).
pub fn render_pieces(pieces: &[LogPiece], record: &RequestRecord) -> String {
    let mut out = String::with_capacity(256);
    for piece in pieces {
        match piece {
            LogPiece::Literal(text) => out.push_str(text),
            LogPiece::Operator {
                operator,
                max_bytes,
            } => match value(operator, record) {
                None => out.push_str(ABSENT),
                Some(Value::Number(number)) => {
                    out.push_str(cut(&number.to_string(), *max_bytes));
                }
                Some(Value::Text(text)) => out.push_str(cut(&text, *max_bytes)),
                Some(Value::Foreign(bytes)) => {
                    let bytes = &bytes[..max_bytes.unwrap_or(bytes.len()).min(bytes.len())];
                    escape(bytes, &mut out);
                }
            },
        }
    }
    out
}

/// At most `max_bytes`, at a character's edge.
fn cut(text: &str, max_bytes: Option<usize>) -> &str {
    let Some(max) = max_bytes.filter(|max| *max < text.len()) else {
        return text;
    };
    text.get(..text.floor_char_boundary(max)).unwrap_or(text)
}

fn escape(bytes: &[u8], out: &mut String) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '"' || c == '\\' {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer)
                    .bytes()
                    .for_each(|byte| escape_byte(byte, out));
            } else {
                out.push(c);
            }
        }
        chunk
            .invalid()
            .iter()
            .for_each(|byte| escape_byte(*byte, out));
    }
}

fn escape_byte(byte: u8, out: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    out.push_str("\\x");
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

enum Value<'r> {
    Number(u64),
    Text(Cow<'r, str>),
    /// Chosen by a peer.
    Foreign(&'r [u8]),
}

fn json(node: &JsonNode, record: &RequestRecord) -> serde_json::Value {
    use serde_json::Value as J;
    match node {
        JsonNode::Null => J::Null,
        JsonNode::Bool(value) => J::Bool(*value),
        JsonNode::Number(number) => J::Number(number.clone()),
        JsonNode::List(items) => J::Array(items.iter().map(|item| json(item, record)).collect()),
        JsonNode::Object(fields) => J::Object(
            fields
                .iter()
                .map(|(key, node)| (key.to_string(), json(node, record)))
                .collect(),
        ),
        JsonNode::Template(pieces) => match pieces.as_slice() {
            [
                LogPiece::Operator {
                    operator,
                    max_bytes,
                },
            ] => match value(operator, record) {
                None => J::Null,
                Some(Value::Number(number)) => J::Number(number.into()),
                Some(Value::Text(text)) => J::String(cut(&text, *max_bytes).to_owned()),
                Some(Value::Foreign(bytes)) => {
                    J::String(cut(&String::from_utf8_lossy(bytes), *max_bytes).to_owned())
                }
            },
            pieces => J::String(render_pieces(pieces, record)),
        },
    }
}

fn value<'r>(operator: &Operator, record: &'r RequestRecord) -> Option<Value<'r>> {
    use Operator as O;
    let connection = &record.connection;
    let tls = connection.tls.as_ref();
    let upstream = &record.upstream;
    let upstream_tls = upstream.tls.as_ref();
    match operator {
        O::RequestHeader { name, or } => {
            request_header(record, name).or_else(|| request_header(record, or.as_deref()?))
        }
        O::RequestHeaderWithoutQuery { name, or } => {
            let found =
                request_header(record, name).or_else(|| request_header(record, or.as_deref()?));
            found.map(without_query)
        }
        O::QueryParameter(name) => query_parameter(&record.path, name),
        O::ResponseHeader { name, or } => either(&record.response_headers, name, or.as_deref()),
        O::Trailer { name, or } => either(&record.response_trailers, name, or.as_deref()),
        O::StartTime(format) => owned(start_time(record.start, format.as_deref())),
        O::Duration => millis(Some(record.duration)),
        O::RequestDuration => millis(record.request_duration),
        O::ResponseDuration => millis(record.response_duration),
        O::ResponseTxDuration => millis(
            record
                .response_duration
                .map(|first| record.duration.saturating_sub(first)),
        ),
        O::Protocol => borrowed(record.protocol.as_str()),
        O::UpstreamProtocol => borrowed(upstream.protocol.and_then(Protocol::as_str)),
        O::ResponseCode => Some(Value::Number(
            record.status.map_or(0, |status| status.as_u16().into()),
        )),
        O::ResponseCodeDetails => borrowed(record.details.as_deref()),
        O::ResponseFlags if record.flags.is_empty() => None,
        O::ResponseFlags => owned(record.flags.to_string()),
        O::ResponseFlagsLong if record.flags.is_empty() => None,
        O::ResponseFlagsLong => owned(record.flags.long()),
        O::ConnectionTerminationDetails => {
            borrowed(record.connection_termination_details.as_deref())
        }
        O::UpstreamTransportFailureReason => borrowed(upstream.transport_failure.as_deref()),
        O::DownstreamTransportFailureReason => borrowed(connection.transport_failure.as_deref()),
        O::BytesReceived => Some(Value::Number(record.bytes_received)),
        O::BytesSent => Some(Value::Number(record.bytes_sent)),
        O::UpstreamHost | O::UpstreamRemoteAddress => address(upstream.remote_address),
        O::UpstreamRemotePort => port(upstream.remote_address),
        O::UpstreamCluster => borrowed(
            record
                .cluster
                .as_ref()
                .map(|c| &*c.stat_name)
                .or(record.cluster_name.as_deref()),
        ),
        O::UpstreamClusterRaw => borrowed(record.cluster_name.as_deref()),
        O::UpstreamLocalAddress => address(upstream.local_address),
        O::UpstreamLocalAddressWithoutPort => ip(upstream.local_address),
        O::UpstreamLocalPort => port(upstream.local_address),
        O::UpstreamRemoteAddressWithoutPort => ip(upstream.remote_address),
        O::UpstreamHostName => {
            let endpoint = upstream.endpoint.as_ref();
            let name = endpoint.map(|endpoint| &*endpoint.hostname);
            borrowed(name.filter(|name| !name.is_empty()))
                .or_else(|| address(upstream.remote_address))
        }
        O::UpstreamRequestAttemptCount => Some(Value::Number(upstream.attempts.into())),
        O::UpstreamPeerUriSan => borrowed(upstream_tls.and_then(|tls| tls.peer_uri_san.as_deref())),
        O::UpstreamLocalUriSan => {
            borrowed(upstream_tls.and_then(|tls| tls.local_uri_san.as_deref()))
        }
        O::UpstreamTlsCipher => borrowed(upstream_tls.map(|tls| &*tls.cipher)),
        O::UpstreamTlsVersion => borrowed(upstream_tls.map(|tls| tls.version)),
        O::DownstreamLocalAddress => address(Some(connection.local_address)),
        O::DownstreamLocalAddressWithoutPort => owned(connection.local_address.ip().to_string()),
        O::DownstreamLocalPort => port(Some(connection.local_address)),
        O::DownstreamRemoteAddress => address(Some(record.remote_address())),
        O::DownstreamRemoteAddressWithoutPort => owned(record.remote_address().ip().to_string()),
        O::DownstreamRemotePort => port(Some(record.remote_address())),
        O::DownstreamDirectRemoteAddress => address(Some(connection.direct_remote_address)),
        O::DownstreamDirectRemoteAddressWithoutPort => ip(Some(connection.direct_remote_address)),
        O::DownstreamDirectRemotePort => port(Some(connection.direct_remote_address)),
        O::DownstreamPeerUriSan => borrowed(tls.and_then(|tls| tls.peer_uri_san.as_deref())),
        O::DownstreamLocalUriSan => borrowed(tls.and_then(|tls| tls.local_uri_san.as_deref())),
        O::DownstreamTlsVersion => borrowed(tls.map(|tls| tls.version)),
        O::DownstreamTlsCipher => borrowed(tls.map(|tls| &*tls.cipher)),
        O::DownstreamPeerFingerprint256 => {
            borrowed(tls.and_then(|tls| tls.peer_fingerprint.as_deref()))
        }
        O::RequestedServerName => connection
            .requested_server_name
            .as_ref()
            .map(|name| Value::Foreign(name.as_bytes())),
        O::RouteName => borrowed(
            record
                .route
                .as_ref()
                .map(|route| &*route.name)
                .filter(|name| !name.is_empty()),
        ),
        O::VirtualHostName => borrowed(record.virtual_host.as_deref()),
        O::FilterChainName => {
            borrowed(Some(&*connection.filter_chain).filter(|name| !name.is_empty()))
        }
        O::ConnectionId => Some(Value::Number(connection.id)),
        O::GrpcStatus => record.grpc_status.map(|code| Value::Text(grpc_name(code))),
        O::GrpcStatusNumber => record.grpc_status.map(|code| Value::Number(code.into())),
        O::DynamicMetadata { namespace, key } => borrowed(metadata(record, namespace, key))
            .or_else(|| authorizer(record, namespace, key)),
        O::Absent => None,
    }
}

/// What the filters of a request, or of a connection, leave; of other filters there is nothing.
fn metadata<'r>(record: &'r RequestRecord, namespace: &str, key: &str) -> Option<&'r str> {
    let own = match record.protocol {
        Protocol::Tcp => "envoy.filters.network.rbac",
        _ => "envoy.filters.http.rbac",
    };
    match (namespace, key) {
        ("envoy.common", "access_log_hint") => {
            let hint = record.authorization.audit_hint()?;
            Some(if hint { "true" } else { "false" })
        }
        (namespace, key) if namespace == own => record.authorization.metadata(key),
        _ => None,
    }
}

/// What an external authorizer said of the request, or of the connection.
fn authorizer<'r>(record: &'r RequestRecord, namespace: &str, key: &str) -> Option<Value<'r>> {
    let own = match record.protocol {
        Protocol::Tcp => "envoy.filters.network.ext_authz",
        _ => "envoy.filters.http.ext_authz",
    };
    let said = record.authorization.authorizer(key);
    Some(match said.filter(|_| namespace == own)? {
        serde_json::Value::String(text) => Value::Foreign(text.as_bytes()),
        other => Value::Text(Cow::Owned(other.to_string())),
    })
}

fn borrowed(text: Option<&str>) -> Option<Value<'_>> {
    text.map(|text| Value::Text(Cow::Borrowed(text)))
}

fn owned(text: String) -> Option<Value<'static>> {
    Some(Value::Text(Cow::Owned(text)))
}

fn millis(duration: Option<Duration>) -> Option<Value<'static>> {
    duration.map(|duration| Value::Number(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
}

fn address(address: Option<SocketAddr>) -> Option<Value<'static>> {
    address.map(|address| Value::Text(Cow::Owned(address.to_string())))
}

fn port(address: Option<SocketAddr>) -> Option<Value<'static>> {
    address.map(|address| Value::Number(address.port().into()))
}

fn ip(address: Option<SocketAddr>) -> Option<Value<'static>> {
    address.map(|address| Value::Text(Cow::Owned(address.ip().to_string())))
}

/// A path may hold what nobody may read: tokens in its query.
fn without_query(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Foreign(bytes) => {
            let end = bytes.iter().position(|byte| *byte == b'?');
            Value::Foreign(&bytes[..end.unwrap_or(bytes.len())])
        }
        other => other,
    }
}

fn query_parameter<'r>(path: &'r str, name: &str) -> Option<Value<'r>> {
    let (_, query) = path.split_once('?')?;
    let mut pairs = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(Value::Foreign(value.as_bytes()))
}

fn request_header<'r>(record: &'r RequestRecord, name: &str) -> Option<Value<'r>> {
    if record.protocol == Protocol::Tcp {
        return None;
    }
    let pseudo = |text: &'r str| (!text.is_empty()).then_some(Value::Foreign(text.as_bytes()));
    match name {
        ":method" => pseudo(record.method.as_str()),
        ":path" => pseudo(&record.path),
        ":authority" | "host" => pseudo(&record.authority),
        ":scheme" => pseudo(record.scheme),
        name => header(&record.request_headers, name),
    }
}

fn either<'r>(headers: &'r HeaderMap, name: &str, or: Option<&str>) -> Option<Value<'r>> {
    header(headers, name).or_else(|| header(headers, or?))
}

fn header<'r>(headers: &'r HeaderMap, name: &str) -> Option<Value<'r>> {
    headers
        .get(name)
        .map(|value| Value::Foreign(value.as_bytes()))
}

/// Envoy's names of gRPC codes.
fn grpc_name(code: u32) -> Cow<'static, str> {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| Cow::Owned(code.to_string()), |name| Cow::Borrowed(*name))
}

/// ISO 8601 in UTC with milliseconds unless a strftime-like format is given.
fn start_time(start: SystemTime, format: Option<&str>) -> String {
    let start = OffsetDateTime::from(start);
    let mut out = String::with_capacity(24);
    let mut chars = format.unwrap_or("%Y-%m-%dT%H:%M:%S.%3fZ").chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let spec = chars.next().unwrap_or('%');
        let text = match spec {
            'Y' => format!("{:04}", start.year()),
            'm' => format!("{:02}", u8::from(start.month())),
            'd' => format!("{:02}", start.day()),
            'H' => format!("{:02}", start.hour()),
            'M' => format!("{:02}", start.minute()),
            'S' => format!("{:02}", start.second()),
            'F' => format!(
                "{:04}-{:02}-{:02}",
                start.year(),
                u8::from(start.month()),
                start.day()
            ),
            'T' => format!(
                "{:02}:{:02}:{:02}",
                start.hour(),
                start.minute(),
                start.second()
            ),
            's' => start.unix_timestamp().to_string(),
            'z' => "+0000".to_owned(),
            'f' => format!("{:09}", start.nanosecond()),
            digit => {
                chars.next();
                let digits = format!("{:09}", start.nanosecond());
                let places = digit.to_digit(10).unwrap_or(9).min(9) as usize;
                digits.chars().take(places).collect()
            }
        };
        out.push_str(&text);
    }
    out
}

/// Whether every specifier of a time format is one of ours: `%Y %m %d %H %M %S %F %T %s %z %f %1f..%9f`.
pub(super) fn is_time_format(format: &str) -> bool {
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            continue;
        }
        match chars.next() {
            Some('Y' | 'm' | 'd' | 'H' | 'M' | 'S' | 'F' | 'T' | 's' | 'z' | 'f') => {}
            Some('1'..='9') if chars.next() == Some('f') => {}
            _ => return false,
        }
    }
    true
}

/// Whether a filter lets a record through; `random` serves sampling.
pub fn admits(filter: &AccessLogFilter, record: &RequestRecord, random: u64) -> bool {
    use AccessLogFilter as F;
    match filter {
        F::StatusCode(comparison) => {
            comparison.holds(record.status.map_or(0, |status| status.as_u16().into()))
        }
        F::Duration(comparison) => {
            comparison.holds(u64::try_from(record.duration.as_millis()).unwrap_or(u64::MAX))
        }
        F::ResponseFlags(flags) if flags.is_empty() => !record.flags.is_empty(),
        F::ResponseFlags(flags) => flags
            .iter()
            .filter_map(|name| ResponseFlags::from_short(name))
            .any(|flag| record.flags.contains(flag)),
        F::GrpcStatus { codes, exclude } => {
            let code = record.grpc_status.unwrap_or_else(|| {
                record
                    .status
                    .map_or(crate::error::grpc::UNKNOWN, crate::error::grpc::from_http)
            });
            codes.contains(&code) != *exclude
        }
        F::Header(matcher) => matcher.matches(&RequestHead {
            method: record.method.as_str(),
            path: &record.path,
            authority: &record.authority,
            scheme: record.scheme,
            headers: &record.request_headers,
        }),
        F::Runtime(share) => share.contains(random),
        F::AllOf(filters) => filters.iter().all(|filter| admits(filter, record, random)),
        F::AnyOf(filters) => filters.iter().any(|filter| admits(filter, record, random)),
    }
}

impl Comparison {
    fn holds(self, value: u64) -> bool {
        let wanted = u64::from(self.value);
        match self.op {
            ComparisonOp::Equal => value == wanted,
            ComparisonOp::NotEqual => value != wanted,
            ComparisonOp::AtLeast => value >= wanted,
            ComparisonOp::AtMost => value <= wanted,
        }
    }
}
