//! Texts with `%OPERATOR%`s, of headers and access logs (Envoy 1.40, "Command operators").
//!
//! The proxies judge them too, and refuse the whole listener or virtual host for one that they do not know; so the lists here
//! say what proxies take, and a test of the two together keeps them alike.

use crate::suggest::did_you_mean;

/// What is wrong with a text, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub message: String,
    pub hint: String,
}

/// Operators that stand alone.
pub const PLAIN: &[&str] = &[
    "ACCESS_LOG_TYPE",
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "CONNECTION_ID",
    "CONNECTION_TERMINATION_DETAILS",
    "CUSTOM_FLAGS",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_DIRECT_LOCAL_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
    "DOWNSTREAM_DIRECT_REMOTE_PORT",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "DOWNSTREAM_HEADER_BYTES_RECEIVED",
    "DOWNSTREAM_HEADER_BYTES_SENT",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    "DOWNSTREAM_LOCAL_CLOSE_REASON",
    "DOWNSTREAM_LOCAL_DNS_SAN",
    "DOWNSTREAM_LOCAL_EMAIL_SAN",
    "DOWNSTREAM_LOCAL_IP_SAN",
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_LOCAL_SUBJECT",
    "DOWNSTREAM_LOCAL_URI_SAN",
    "DOWNSTREAM_PEER_CERT",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
    "DOWNSTREAM_PEER_CHAIN_SERIALS",
    "DOWNSTREAM_PEER_DNS_SAN",
    "DOWNSTREAM_PEER_EMAIL_SAN",
    "DOWNSTREAM_PEER_FINGERPRINT_1",
    "DOWNSTREAM_PEER_FINGERPRINT_256",
    "DOWNSTREAM_PEER_IP_SAN",
    "DOWNSTREAM_PEER_ISSUER",
    "DOWNSTREAM_PEER_OTHERNAME_SAN",
    "DOWNSTREAM_PEER_SERIAL",
    "DOWNSTREAM_PEER_SUBJECT",
    "DOWNSTREAM_PEER_URI_SAN",
    "DOWNSTREAM_REMOTE_ADDRESS",
    "DOWNSTREAM_REMOTE_PORT",
    "DOWNSTREAM_TLS_CIPHER",
    "DOWNSTREAM_TLS_SESSION_ID",
    "DOWNSTREAM_TLS_VERSION",
    "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
    "DOWNSTREAM_WIRE_BYTES_RECEIVED",
    "DOWNSTREAM_WIRE_BYTES_SENT",
    "DURATION",
    "FILTER_CHAIN_NAME",
    "GRPC_STATUS_NUMBER",
    "HOSTNAME",
    "LOCAL_REPLY_BODY",
    "PACKETS_RETRANSMITTED",
    "PACKETS_SENT",
    "PROTOCOL",
    "REQUEST_DURATION",
    "REQUEST_HEADERS_BYTES",
    "REQUEST_TX_DURATION",
    "RESPONSE_CODE",
    "RESPONSE_DURATION",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "RESPONSE_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "ROUTE_NAME",
    "SPAN_ID",
    "STREAM_ID",
    "TLS_JA3_FINGERPRINT",
    "TLS_JA4_FINGERPRINT",
    "TRACE_ID",
    "UNIQUE_ID",
    "UPSTREAM_CLUSTER",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_CONNECTION_ID",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED",
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "UPSTREAM_HEADER_BYTES_RECEIVED",
    "UPSTREAM_HEADER_BYTES_SENT",
    "UPSTREAM_HOST",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME",
    "UPSTREAM_HOST_NAMES_ATTEMPTED",
    "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT",
    "UPSTREAM_HOST_NAME_WITHOUT_PORT",
    "UPSTREAM_LOCAL_ADDRESS",
    "UPSTREAM_LOCAL_CLOSE_REASON",
    "UPSTREAM_LOCAL_DNS_SAN",
    "UPSTREAM_LOCAL_IP_SAN",
    "UPSTREAM_LOCAL_PORT",
    "UPSTREAM_LOCAL_SUBJECT",
    "UPSTREAM_LOCAL_URI_SAN",
    "UPSTREAM_PEER_CERT",
    "UPSTREAM_PEER_DNS_SAN",
    "UPSTREAM_PEER_IP_SAN",
    "UPSTREAM_PEER_ISSUER",
    "UPSTREAM_PEER_SUBJECT",
    "UPSTREAM_PEER_URI_SAN",
    "UPSTREAM_PROTOCOL",
    "UPSTREAM_REMOTE_ADDRESS",
    "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_TLS_CIPHER",
    "UPSTREAM_TLS_SESSION_ID",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_WIRE_BYTES_RECEIVED",
    "UPSTREAM_WIRE_BYTES_SENT",
    "VIRTUAL_CLUSTER_NAME",
    "VIRTUAL_HOST_NAME",
];

/// Operators with or without an argument in parentheses.
pub const OPTIONAL: &[&str] = &[
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_PEER_CERT_V_END",
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "EMIT_TIME",
    "EMIT_TIME_LOCAL",
    "GRPC_STATUS",
    "REQUESTED_SERVER_NAME",
    "RESPONSE_CODE_DETAILS",
    "START_TIME",
    "START_TIME_LOCAL",
    "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
];

/// Operators that need an argument in parentheses.
pub const WITH_ARGUMENT: &[&str] = &[
    "CLUSTER_METADATA",
    "COMMON_DURATION",
    "DYNAMIC_METADATA",
    "FILTER_STATE",
    "METADATA",
    "QUERY_PARAM",
    "REQ",
    "REQUEST_HEADER",
    "REQ_WITHOUT_QUERY",
    "RESP",
    "RESPONSE_HEADER",
    "RESPONSE_TRAILER",
    "TRAILER",
    "UPSTREAM_FILTER_STATE",
    "UPSTREAM_METADATA",
];

/// The first problem of a text; none if proxies take it.
pub fn problem(text: &str) -> Option<Problem> {
    let mut rest = text;
    while let Some((_, tail)) = rest.split_once('%') {
        if let Some(tail) = tail.strip_prefix('%') {
            rest = tail;
            continue;
        }
        let Some(end) = operator_end(tail) else {
            return Some(Problem {
                message: "a % begins an operator that no other % ends".to_owned(),
                hint: "write %% for a percent sign".to_owned(),
            });
        };
        let (operator, tail) = tail.split_at_checked(end)?;
        if let Some(problem) = operator_problem(operator) {
            return Some(problem);
        }
        rest = tail.strip_prefix('%').unwrap_or(tail);
    }
    None
}

/// An operator ends at the next percent sign outside of its parentheses, as `START_TIME(%s)` has some inside.
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
fn operator_problem(text: &str) -> Option<Problem> {
    let problem = |message: String, hint: &str| {
        Some(Problem {
            message,
            hint: hint.to_owned(),
        })
    };
    let (call, length) = match text.rsplit_once(':') {
        Some((call, length)) if !length.contains(')') => (call, Some(length)),
        _ => (text, None),
    };
    if length.is_some_and(|length| length.parse::<usize>().is_err()) {
        let message = format!("%{text}% has no length after the colon");
        return problem(message, "write a number of bytes, or remove the colon");
    }
    let (name, argument) = match call.split_once('(') {
        Some((name, argument)) => (name, Some(argument.strip_suffix(')'))),
        None => (call, None),
    };
    let is = |list: &[&str]| list.contains(&name);
    match argument {
        Some(None) => problem(
            format!("%{text}% has no closing parenthesis"),
            "write the argument in parentheses: %REQ(X-REQUEST-ID)%",
        ),
        Some(Some(argument)) if name == "START_TIME" && !is_time_format(argument) => problem(
            format!("%{text}% has a time format that is not supported"),
            "the specifiers are %Y %m %d %H %M %S %F %T %s %z %f and %1f to %9f",
        ),
        Some(Some(_)) if is(OPTIONAL) || is(WITH_ARGUMENT) => None,
        None if is(PLAIN) || is(OPTIONAL) => None,
        Some(Some(_)) if is(PLAIN) => problem(
            format!("%{name}% takes no argument"),
            "remove the parentheses",
        ),
        None if is(WITH_ARGUMENT) => problem(
            format!("%{name}% needs an argument"),
            "write it in parentheses: %REQ(X-REQUEST-ID)%",
        ),
        _ => Some(unknown(name, text)),
    }
}

fn unknown(name: &str, text: &str) -> Problem {
    let known = [PLAIN, OPTIONAL, WITH_ARGUMENT].concat();
    let hint = match did_you_mean(name, known) {
        Some(near) => format!("did you mean \"{near}\"? For a percent sign write %%"),
        None => "see Envoy's command operators; for a percent sign write %%".to_owned(),
    };
    Problem {
        message: format!("%{text}% is no operator that proxies know"),
        hint,
    }
}

fn is_time_format(format: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::problem;

    #[test]
    fn problems_say_what_to_write() {
        for good in [
            "",
            "100%%",
            "%PROTOCOL%",
            "%REQ(X?Y):12% and %REQ_WITHOUT_QUERY(:PATH)%",
            "%START_TIME(%Y/%m/%d %3f)%%HOSTNAME%",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for (bad, message) in [
            ("100%", "a % begins an operator that no other % ends"),
            ("%REQ(X)", "a % begins an operator that no other % ends"),
            ("50% of 100%", "% of 100% is no operator that proxies know"),
            (
                "%PROTOCOLS%",
                "%PROTOCOLS% is no operator that proxies know",
            ),
            ("%REQ%", "%REQ% needs an argument"),
            ("%PROTOCOL(X)%", "%PROTOCOL% takes no argument"),
            ("%PROTOCOL:x%", "%PROTOCOL:x% has no length after the colon"),
            (
                "%START_TIME(%b)%",
                "%START_TIME(%b)% has a time format that is not supported",
            ),
        ] {
            assert_eq!(problem(bad).unwrap().message, message);
        }
        assert!(
            problem("%PROTOCOLS%")
                .unwrap()
                .hint
                .contains("\"PROTOCOL\"")
        );
    }
}
