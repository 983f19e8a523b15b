use std::collections::BTreeSet;

use http::HeaderName;

use crate::runtime::{JsonNode, LogFormat, LogPiece, Operator};

/// Why a format string is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("\"{0}\" has an operator without its closing %")]
    Unclosed(String),
    #[error("%{0}% is not supported")]
    Operator(String),
    #[error("%{0}% has no length after the colon")]
    Length(String),
}

/// Parses a format string; `%%` is a percent sign.
///
/// # Errors
/// An operator that we do not have, or that is not closed.
pub fn parse(format: &str) -> Result<Vec<LogPiece>, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some((head, tail)) = rest.split_once('%') {
        literal.push_str(head);
        if let Some(tail) = tail.strip_prefix('%') {
            literal.push('%');
            rest = tail;
            continue;
        }
        let end = operator_end(tail).ok_or_else(|| FormatError::Unclosed(format.to_owned()))?;
        let (text, tail) = tail.split_at_checked(end).unwrap_or((tail, ""));
        if !literal.is_empty() {
            pieces.push(LogPiece::Literal(std::mem::take(&mut literal).into()));
        }
        pieces.push(operator(text)?);
        rest = tail.strip_prefix('%').unwrap_or(tail);
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(LogPiece::Literal(literal.into()));
    }
    Ok(pieces)
}

/// Where an operator ends: at the next percent sign that is outside of its parentheses, as `START_TIME(%s)` has some inside.
fn operator_end(text: &str) -> Option<usize> {
    let mut is_inside = false;
    text.bytes().position(|c| {
        match c {
            b'(' => is_inside = true,
            b')' => is_inside = false,
            _ => {}
        }
        c == b'%' && !is_inside
    })
}

/// `NAME`, `NAME(ARGUMENT)`, either with `:LENGTH`.
fn operator(text: &str) -> Result<LogPiece, FormatError> {
    let (call, length) = match text.rsplit_once(':') {
        Some((call, length)) if !length.contains(')') => (call, Some(length)),
        _ => (text, None),
    };
    let max_bytes = match length {
        None => None,
        Some(length) => Some(
            length
                .parse()
                .map_err(|_| FormatError::Length(text.to_owned()))?,
        ),
    };
    let (name, argument) = match call.split_once('(') {
        Some((name, argument)) => (name, argument.strip_suffix(')')),
        None => (call, None),
    };
    let operator = named(name, argument).ok_or_else(|| FormatError::Operator(text.to_owned()))?;
    Ok(LogPiece::Operator {
        operator,
        max_bytes,
    })
}

fn named(name: &str, argument: Option<&str>) -> Option<Operator> {
    use Operator as O;
    let headers = |argument: &str| {
        let (name, or) = match argument.split_once('?') {
            Some((name, or)) => (name, Some(or)),
            None => (argument, None),
        };
        (
            name.to_ascii_lowercase().into(),
            or.map(|or| or.to_ascii_lowercase().into()),
        )
    };
    if let Some(argument) = argument {
        return Some(match name {
            "REQ" | "REQUEST_HEADER" => {
                let (name, or) = headers(argument);
                O::RequestHeader { name, or }
            }
            "REQ_WITHOUT_QUERY" => {
                let (name, or) = headers(argument);
                O::RequestHeaderWithoutQuery { name, or }
            }
            "RESP" | "RESPONSE_HEADER" => {
                let (name, or) = headers(argument);
                O::ResponseHeader { name, or }
            }
            "TRAILER" | "RESPONSE_TRAILER" => {
                let (name, or) = headers(argument);
                O::Trailer { name, or }
            }
            "QUERY_PARAM" => O::QueryParameter(argument.into()),
            "START_TIME" if super::render::is_time_format(argument) => {
                O::StartTime(Some(argument.into()))
            }
            "START_TIME" => return None,
            "GRPC_STATUS" if argument == "NUMBER" => O::GrpcStatusNumber,
            "DYNAMIC_METADATA" => match argument.split_once(':') {
                Some((namespace, key)) => O::DynamicMetadata {
                    namespace: namespace.into(),
                    key: key.into(),
                },
                None => O::Absent,
            },
            _ if ABSENT_WITH_ARGUMENT.contains(&name) => O::Absent,
            _ if OPTIONAL_ARGUMENT.contains(&name) => return named(name, None),
            _ => return None,
        });
    }
    Some(match name {
        "START_TIME" => O::StartTime(None),
        "DURATION" => O::Duration,
        "REQUEST_DURATION" => O::RequestDuration,
        "RESPONSE_DURATION" => O::ResponseDuration,
        "RESPONSE_TX_DURATION" => O::ResponseTxDuration,
        "PROTOCOL" => O::Protocol,
        "UPSTREAM_PROTOCOL" => O::UpstreamProtocol,
        "RESPONSE_CODE" => O::ResponseCode,
        "RESPONSE_CODE_DETAILS" => O::ResponseCodeDetails,
        "RESPONSE_FLAGS" => O::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => O::ResponseFlagsLong,
        "CONNECTION_TERMINATION_DETAILS" => O::ConnectionTerminationDetails,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => O::UpstreamTransportFailureReason,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => O::DownstreamTransportFailureReason,
        "BYTES_RECEIVED" => O::BytesReceived,
        "BYTES_SENT" => O::BytesSent,
        "UPSTREAM_HOST" => O::UpstreamHost,
        "UPSTREAM_REMOTE_ADDRESS" => O::UpstreamRemoteAddress,
        "UPSTREAM_REMOTE_PORT" => O::UpstreamRemotePort,
        "UPSTREAM_CLUSTER" => O::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => O::UpstreamClusterRaw,
        "UPSTREAM_LOCAL_ADDRESS" => O::UpstreamLocalAddress,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => O::UpstreamRequestAttemptCount,
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => O::UpstreamLocalAddressWithoutPort,
        "UPSTREAM_LOCAL_PORT" => O::UpstreamLocalPort,
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => O::UpstreamRemoteAddressWithoutPort,
        "UPSTREAM_HOST_NAME" => O::UpstreamHostName,
        "UPSTREAM_PEER_URI_SAN" => O::UpstreamPeerUriSan,
        "UPSTREAM_LOCAL_URI_SAN" => O::UpstreamLocalUriSan,
        "UPSTREAM_TLS_CIPHER" => O::UpstreamTlsCipher,
        "UPSTREAM_TLS_VERSION" => O::UpstreamTlsVersion,
        "DOWNSTREAM_LOCAL_ADDRESS" => O::DownstreamLocalAddress,
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => O::DownstreamLocalAddressWithoutPort,
        "DOWNSTREAM_LOCAL_PORT" => O::DownstreamLocalPort,
        "DOWNSTREAM_REMOTE_ADDRESS" => O::DownstreamRemoteAddress,
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => O::DownstreamRemoteAddressWithoutPort,
        "DOWNSTREAM_REMOTE_PORT" => O::DownstreamRemotePort,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => O::DownstreamDirectRemoteAddress,
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            O::DownstreamDirectRemoteAddressWithoutPort
        }
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => O::DownstreamDirectRemotePort,
        "DOWNSTREAM_PEER_URI_SAN" => O::DownstreamPeerUriSan,
        "DOWNSTREAM_LOCAL_URI_SAN" => O::DownstreamLocalUriSan,
        "DOWNSTREAM_TLS_VERSION" => O::DownstreamTlsVersion,
        "DOWNSTREAM_TLS_CIPHER" => O::DownstreamTlsCipher,
        "DOWNSTREAM_PEER_FINGERPRINT_256" => O::DownstreamPeerFingerprint256,
        "REQUESTED_SERVER_NAME" => O::RequestedServerName,
        "ROUTE_NAME" => O::RouteName,
        "VIRTUAL_HOST_NAME" => O::VirtualHostName,
        "FILTER_CHAIN_NAME" => O::FilterChainName,
        "CONNECTION_ID" => O::ConnectionId,
        "GRPC_STATUS" => O::GrpcStatus,
        "GRPC_STATUS_NUMBER" => O::GrpcStatusNumber,
        // As Envoy has it for HTTP: the request's own identifier.
        "STREAM_ID" => O::RequestHeader {
            name: "x-request-id".into(),
            or: None,
        },
        _ if ABSENT.contains(&name) => O::Absent,
        _ => return None,
    })
}

/// Operators whose argument only changes how the value is written. Differs from Envoy: it is written in one way.
const OPTIONAL_ARGUMENT: &[&str] = &[
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "GRPC_STATUS",
    "REQUESTED_SERVER_NAME",
    "RESPONSE_CODE_DETAILS",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
];

/// Envoy's operators for which there is never a value here, with their argument.
const ABSENT_WITH_ARGUMENT: &[&str] = &[
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "EMIT_TIME",
    "EMIT_TIME_LOCAL",
    "FILTER_STATE",
    "METADATA",
    "START_TIME_LOCAL",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_METADATA",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
];

/// Those without an argument.
const ABSENT: &[&str] = &[
    "ACCESS_LOG_TYPE",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_LOCAL_PORT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "EMIT_TIME",
    "EMIT_TIME_LOCAL",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "PACKETS_RETRANSMITTED",
    "PACKETS_SENT",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "ROUNDTRIP_DURATION",
    "SPAN_ID",
    "START_TIME_LOCAL",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_SUBJECT",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
];

/// The request headers that a format reads, so that only these need to outlive the request.
pub fn request_headers(format: &LogFormat) -> Vec<HeaderName> {
    names(format, |operator| match operator {
        Operator::RequestHeader { name, or } | Operator::RequestHeaderWithoutQuery { name, or } => {
            Some((name, or.as_deref()))
        }
        _ => None,
    })
}

/// The response headers that a format reads.
pub fn response_headers(format: &LogFormat) -> Vec<HeaderName> {
    names(format, |operator| match operator {
        Operator::ResponseHeader { name, or } => Some((name, or.as_deref())),
        _ => None,
    })
}

type Names<'a> = Option<(&'a str, Option<&'a str>)>;

fn names(format: &LogFormat, of: impl Fn(&Operator) -> Names<'_>) -> Vec<HeaderName> {
    let mut found = BTreeSet::new();
    let mut collect = |pieces: &[LogPiece]| {
        for piece in pieces {
            let LogPiece::Operator { operator, .. } = piece else {
                continue;
            };
            if let Some((name, or)) = of(operator) {
                found.insert(name.to_owned());
                found.extend(or.map(str::to_owned));
            }
        }
    };
    match format {
        LogFormat::Text(pieces) => collect(pieces),
        LogFormat::Json(node) => walk(node, &mut collect),
    }
    // Pseudo-headers are no header names; the record has them as fields.
    found
        .iter()
        .filter_map(|name| HeaderName::try_from(name).ok())
        .collect()
}

fn walk(node: &JsonNode, visit: &mut impl FnMut(&[LogPiece])) {
    match node {
        JsonNode::Object(fields) => fields.iter().for_each(|(_, node)| walk(node, visit)),
        JsonNode::List(items) => items.iter().for_each(|node| walk(node, visit)),
        JsonNode::Template(pieces) => visit(pieces),
        JsonNode::Number(_) | JsonNode::Bool(_) | JsonNode::Null => {}
    }
}
