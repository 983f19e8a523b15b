//! What went wrong with a request or connection, and the one place that turns it into an answer.

use std::fmt;
use std::sync::Arc;

use http::StatusCode;

use crate::flags::ResponseFlags;
use crate::jwt::JwtStatus;
use crate::runtime::FaultAbortStatus;
use crate::strict::Malformed;

/// A failure on the data path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.details())]
pub struct ProxyError {
    pub kind: ErrorKind,
    pub side: Side,
    /// Why the transport failed, if it did (`%UPSTREAM_TRANSPORT_FAILURE_REASON%`).
    pub transport_failure: Option<Arc<str>>,
    /// This was the last of several attempts.
    pub was_retried: bool,
}

/// Who failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Downstream,
    Upstream,
    Internal,
}

/// Why an upstream stream ended before its response (Envoy `StreamResetReason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResetReason {
    LocalConnectionFailure,
    RemoteConnectionFailure,
    ConnectionTimeout,
    /// The connection was closed under the stream.
    ConnectionTermination,
    RemoteReset,
    /// HTTP/2 REFUSED_STREAM: the upstream did nothing with the request.
    RemoteRefusedStream,
    LocalReset,
    /// A circuit breaker is open.
    Overflow,
    ProtocolError,
}

impl ResetReason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LocalConnectionFailure => "local connection failure",
            Self::RemoteConnectionFailure => "remote connection failure",
            Self::ConnectionTimeout => "connection timeout",
            Self::ConnectionTermination => "connection termination",
            Self::RemoteReset => "remote reset",
            Self::RemoteRefusedStream => "remote refused stream reset",
            Self::LocalReset => "local reset",
            Self::Overflow => "overflow",
            Self::ProtocolError => "protocol error",
        }
    }

    pub fn is_connect_failure(self) -> bool {
        matches!(
            self,
            Self::LocalConnectionFailure | Self::RemoteConnectionFailure | Self::ConnectionTimeout
        )
    }

    fn flag(self) -> ResponseFlags {
        match self {
            Self::LocalConnectionFailure
            | Self::RemoteConnectionFailure
            | Self::ConnectionTimeout => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            Self::ConnectionTermination => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            Self::RemoteReset | Self::RemoteRefusedStream => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::LocalReset => ResponseFlags::LOCAL_RESET,
            Self::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
            Self::ProtocolError => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
        }
    }
}

/// What happened, in Envoy's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// No filter chain matched the connection.
    FilterChainNotFound,
    RouteNotFound,
    /// With the status that the route wants for it.
    ClusterNotFound(StatusCode),
    /// Configuration that is asked for on first use did not come in time (Envoy: on-demand discovery).
    NotDiscovered,
    NoHealthyUpstream,
    UpstreamReset(ResetReason),
    /// The upstream's response ended early, after its head was sent on.
    UpstreamResetAfterResponse(ResetReason),
    RouteTimeout,
    PerTryTimeout,
    /// `request_complete` tells who was waited for.
    StreamIdleTimeout {
        request_complete: bool,
    },
    MaxStreamDuration {
        request_complete: bool,
    },
    RequestTimeout,
    RequestHeadersTimeout,
    /// The upstream sent more than we read, or a head above our limits.
    UpstreamProtocol,
    FaultAbort(FaultAbortStatus),
    /// With the policy that denied, or none that allowed.
    RbacDenied {
        policy: Option<Arc<str>>,
    },
    /// What is wrong with the token of the request; `is_told` to the client.
    JwtDenied {
        status: JwtStatus,
        is_told: bool,
    },
    /// The route asks for a token that the filter does not know.
    JwtMisconfigured {
        message: Arc<str>,
    },
    /// An external authorizer said no, with this status.
    ExtAuthzDenied(StatusCode),
    /// It could not be asked, or could not say; with the status that is configured for it.
    ExtAuthzFailed(StatusCode),
    /// It wants changes of the request that cannot be made.
    ExtAuthzInvalid,
    LocalRateLimited {
        status: StatusCode,
        as_resource_exhausted: bool,
    },
    DropOverload,
    Malformed(Malformed),
    RequestHeadersTooLarge,
    RequestPayloadTooLarge,
    UpgradeNotAllowed,
    /// HTTP/1.0 where it is not accepted.
    LowVersion,
    DownstreamDisconnect,
    DownstreamReset,
    Overloaded,
    /// A bug of ours, caught at the stream's edge.
    Internal,
}

/// One row per kind: status, gRPC code (`None`: from the status), flag, details, body.
struct Answer {
    status: StatusCode,
    grpc: Option<u32>,
    flag: ResponseFlags,
    details: &'static str,
    body: &'static str,
}

const fn answer(
    status: StatusCode,
    flag: ResponseFlags,
    details: &'static str,
    body: &'static str,
) -> Answer {
    Answer {
        status,
        grpc: None,
        flag,
        details,
        body,
    }
}

/// gRPC status codes (gRPC "Status codes and their use").
pub mod grpc {
    pub const CANCELLED: u32 = 1;
    pub const UNKNOWN: u32 = 2;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const UNAUTHENTICATED: u32 = 16;

    /// gRPC "HTTP to gRPC status code mapping".
    pub fn from_http(status: http::StatusCode) -> u32 {
        match status.as_u16() {
            400 => INTERNAL,
            401 => UNAUTHENTICATED,
            403 => PERMISSION_DENIED,
            404 => UNIMPLEMENTED,
            429 | 502..=504 => UNAVAILABLE,
            _ => UNKNOWN,
        }
    }

    /// Envoy `Grpc::Utility::grpcToHttpStatus`.
    pub fn to_http(code: u32) -> http::StatusCode {
        use http::StatusCode as S;
        match code {
            0 => S::OK,
            CANCELLED => S::from_u16(499).unwrap_or(S::INTERNAL_SERVER_ERROR),
            3 | 9 | 11 => S::BAD_REQUEST,
            DEADLINE_EXCEEDED => S::GATEWAY_TIMEOUT,
            5 => S::NOT_FOUND,
            6 | 10 => S::CONFLICT,
            PERMISSION_DENIED => S::FORBIDDEN,
            RESOURCE_EXHAUSTED => S::TOO_MANY_REQUESTS,
            UNIMPLEMENTED => S::NOT_IMPLEMENTED,
            UNAVAILABLE => S::SERVICE_UNAVAILABLE,
            UNAUTHENTICATED => S::UNAUTHORIZED,
            _ => S::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<ErrorKind> for ProxyError {
    fn from(kind: ErrorKind) -> Self {
        Self {
            side: kind.side(),
            kind,
            transport_failure: None,
            was_retried: false,
        }
    }
}

impl ProxyError {
    /// An upstream reset, with what the transport said.
    pub fn reset(reason: ResetReason, transport_failure: Option<&str>) -> Self {
        Self {
            transport_failure: transport_failure.map(Into::into),
            ..ErrorKind::UpstreamReset(reason).into()
        }
    }

    pub fn status(&self) -> StatusCode {
        self.kind.answer().status
    }

    /// The status of a reply to a gRPC request.
    pub fn grpc_status(&self) -> u32 {
        let answer = self.kind.answer();
        answer
            .grpc
            .unwrap_or_else(|| grpc::from_http(answer.status))
    }

    /// The flag; `URX` is the caller's to add when retries ran out.
    pub fn flag(&self) -> ResponseFlags {
        self.kind.answer().flag
    }

    /// `%RESPONSE_CODE_DETAILS%`. Blanks become underscores, as the log's fields are separated by blanks.
    pub fn details(&self) -> String {
        match &self.kind {
            ErrorKind::UpstreamReset(reason) => match &self.transport_failure {
                Some(failure) => underscored(&format!(
                    "upstream_reset_before_response_started{{{}|{failure}}}",
                    reason.as_str()
                )),
                None => underscored(&format!(
                    "upstream_reset_before_response_started{{{}}}",
                    reason.as_str()
                )),
            },
            ErrorKind::UpstreamResetAfterResponse(reason) => underscored(&format!(
                "upstream_reset_after_response_started{{{}}}",
                reason.as_str()
            )),
            ErrorKind::RbacDenied { policy } => underscored(&format!(
                "rbac_access_denied_matched_policy[{}]",
                policy.as_deref().unwrap_or("none")
            )),
            ErrorKind::JwtDenied { status, .. } => {
                underscored(&format!("jwt_authn_access_denied{{{status}}}"))
            }
            ErrorKind::JwtMisconfigured { message } => {
                underscored(&format!("jwt_authn_access_denied{{{message}}}"))
            }
            kind => kind.answer().details.to_owned(),
        }
    }

    pub fn body(&self) -> String {
        let reason = match &self.kind {
            ErrorKind::UpstreamReset(reason) => reason,
            ErrorKind::JwtDenied {
                status,
                is_told: true,
            } => return status.to_string(),
            ErrorKind::JwtMisconfigured { message } => {
                return format!("Failed JWT authentication: {message}");
            }
            kind => return kind.answer().body.to_owned(),
        };
        let again = if self.was_retried {
            "retried and the latest "
        } else {
            ""
        };
        let mut body = format!(
            "upstream connect error or disconnect/reset before headers. {again}reset reason: {}",
            reason.as_str()
        );
        if let Some(failure) = &self.transport_failure {
            body.push_str(", transport failure reason: ");
            body.push_str(failure);
        }
        body
    }

    /// Whether `x-envoy-overloaded: true` goes with the reply.
    pub fn is_overload(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::UpstreamReset(ResetReason::Overflow)
                | ErrorKind::DropOverload
                | ErrorKind::Overloaded
        )
    }
}

fn underscored(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_whitespace() { '_' } else { c })
        .collect()
}

/// Envoy: 504 when the request was complete and the upstream is waited for, else 408.
fn timeout_status(request_complete: bool) -> StatusCode {
    if request_complete {
        StatusCode::GATEWAY_TIMEOUT
    } else {
        StatusCode::REQUEST_TIMEOUT
    }
}

impl ErrorKind {
    /// Who failed.
    pub fn side(&self) -> Side {
        match self {
            Self::Malformed(_)
            | Self::RequestHeadersTooLarge
            | Self::RequestPayloadTooLarge
            | Self::UpgradeNotAllowed
            | Self::LowVersion
            | Self::RequestTimeout
            | Self::RequestHeadersTimeout
            | Self::DownstreamDisconnect
            | Self::DownstreamReset => Side::Downstream,
            Self::NoHealthyUpstream
            | Self::UpstreamReset(_)
            | Self::UpstreamResetAfterResponse(_)
            | Self::RouteTimeout
            | Self::PerTryTimeout
            | Self::UpstreamProtocol => Side::Upstream,
            Self::StreamIdleTimeout { request_complete }
            | Self::MaxStreamDuration { request_complete } => {
                if *request_complete {
                    Side::Upstream
                } else {
                    Side::Downstream
                }
            }
            Self::FilterChainNotFound
            | Self::RouteNotFound
            | Self::ClusterNotFound(_)
            | Self::NotDiscovered
            | Self::FaultAbort(_)
            | Self::RbacDenied { .. }
            | Self::JwtDenied { .. }
            | Self::JwtMisconfigured { .. }
            | Self::ExtAuthzDenied(_)
            | Self::ExtAuthzFailed(_)
            | Self::ExtAuthzInvalid
            | Self::LocalRateLimited { .. }
            | Self::DropOverload
            | Self::Overloaded
            | Self::Internal => Side::Internal,
        }
    }

    fn answer(&self) -> Answer {
        use ResponseFlags as F;
        use StatusCode as S;
        match self {
            Self::FilterChainNotFound => answer(
                S::NOT_FOUND,
                F::NO_ROUTE_FOUND,
                "filter_chain_not_found",
                "",
            ),
            Self::RouteNotFound => answer(S::NOT_FOUND, F::NO_ROUTE_FOUND, "route_not_found", ""),
            Self::ClusterNotFound(status) => {
                answer(*status, F::NO_CLUSTER_FOUND, "cluster_not_found", "")
            }
            Self::NotDiscovered => answer(
                S::SERVICE_UNAVAILABLE,
                F::NO_CLUSTER_FOUND,
                "on_demand_discovery_timeout",
                "no configuration came in time",
            ),
            Self::NoHealthyUpstream => answer(
                S::SERVICE_UNAVAILABLE,
                F::NO_HEALTHY_UPSTREAM,
                "no_healthy_upstream",
                "no healthy upstream",
            ),
            Self::UpstreamReset(ResetReason::ProtocolError) => {
                answer(S::BAD_GATEWAY, F::UPSTREAM_PROTOCOL_ERROR, "", "")
            }
            Self::UpstreamReset(reason) | Self::UpstreamResetAfterResponse(reason) => {
                answer(S::SERVICE_UNAVAILABLE, reason.flag(), "", "")
            }
            Self::RouteTimeout => answer(
                S::GATEWAY_TIMEOUT,
                F::UPSTREAM_REQUEST_TIMEOUT,
                "response_timeout",
                "upstream request timeout",
            ),
            Self::PerTryTimeout => answer(
                S::GATEWAY_TIMEOUT,
                F::UPSTREAM_REQUEST_TIMEOUT,
                "upstream_per_try_timeout",
                "upstream request timeout",
            ),
            Self::StreamIdleTimeout { request_complete } => answer(
                timeout_status(*request_complete),
                F::STREAM_IDLE_TIMEOUT,
                "stream_idle_timeout",
                "stream timeout",
            ),
            Self::MaxStreamDuration { request_complete } => Answer {
                grpc: Some(grpc::DEADLINE_EXCEEDED),
                ..answer(
                    timeout_status(*request_complete),
                    F::DURATION_TIMEOUT,
                    "max_duration_timeout",
                    "downstream duration timeout",
                )
            },
            Self::RequestTimeout => answer(
                S::REQUEST_TIMEOUT,
                F::NONE,
                "request_overall_timeout",
                "request timeout",
            ),
            Self::RequestHeadersTimeout => answer(
                S::REQUEST_TIMEOUT,
                F::NONE,
                "request_header_timeout",
                "request header timeout",
            ),
            Self::UpstreamProtocol => answer(
                S::BAD_GATEWAY,
                F::UPSTREAM_PROTOCOL_ERROR,
                "upstream_reset_before_response_started{protocol_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
            ),
            Self::FaultAbort(status) => fault_answer(*status),
            Self::RbacDenied { .. } => answer(S::FORBIDDEN, F::NONE, "", "RBAC: access denied"),
            Self::JwtDenied { status, .. } if status.is_forbidden() => {
                answer(S::FORBIDDEN, F::NONE, "", "")
            }
            Self::JwtDenied { .. } => answer(S::UNAUTHORIZED, F::NONE, "", ""),
            Self::JwtMisconfigured { .. } => answer(S::FORBIDDEN, F::NONE, "", ""),
            Self::ExtAuthzDenied(status) => answer(
                *status,
                F::UNAUTHORIZED_EXTERNAL_SERVICE,
                "ext_authz_denied",
                "",
            ),
            Self::ExtAuthzFailed(status) => answer(
                *status,
                F::UNAUTHORIZED_EXTERNAL_SERVICE,
                "ext_authz_error",
                "",
            ),
            Self::ExtAuthzInvalid => answer(
                S::INTERNAL_SERVER_ERROR,
                F::UNAUTHORIZED_EXTERNAL_SERVICE,
                "ext_authz_invalid",
                "",
            ),
            Self::LocalRateLimited {
                status,
                as_resource_exhausted,
            } => Answer {
                grpc: as_resource_exhausted.then_some(grpc::RESOURCE_EXHAUSTED),
                ..answer(
                    *status,
                    F::RATE_LIMITED,
                    "local_rate_limited",
                    "local_rate_limited",
                )
            },
            Self::DropOverload => answer(
                S::SERVICE_UNAVAILABLE,
                F::DROP_OVERLOAD,
                "drop_overload",
                "drop overload",
            ),
            Self::Malformed(malformed) => answer(
                malformed.status(),
                F::DOWNSTREAM_PROTOCOL_ERROR,
                malformed.details(),
                malformed.status().canonical_reason().unwrap_or_default(),
            ),
            Self::RequestHeadersTooLarge => answer(
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                F::DOWNSTREAM_PROTOCOL_ERROR,
                "request_headers_too_large",
                "Request Header Fields Too Large",
            ),
            Self::RequestPayloadTooLarge => answer(
                S::PAYLOAD_TOO_LARGE,
                F::NONE,
                "request_payload_too_large",
                "Payload Too Large",
            ),
            Self::UpgradeNotAllowed => answer(S::FORBIDDEN, F::NONE, "upgrade_failed", ""),
            Self::LowVersion => answer(S::UPGRADE_REQUIRED, F::NONE, "low_version", ""),
            Self::DownstreamDisconnect => answer(
                S::SERVICE_UNAVAILABLE,
                F::DOWNSTREAM_CONNECTION_TERMINATION,
                "downstream_remote_disconnect",
                "",
            ),
            Self::DownstreamReset => answer(
                S::SERVICE_UNAVAILABLE,
                F::DOWNSTREAM_REMOTE_RESET,
                "downstream_remote_reset",
                "",
            ),
            Self::Overloaded => answer(
                S::SERVICE_UNAVAILABLE,
                F::OVERLOAD_MANAGER,
                "overload",
                "envoy overloaded",
            ),
            Self::Internal => answer(
                S::INTERNAL_SERVER_ERROR,
                F::NONE,
                "internal_error",
                "internal error",
            ),
        }
    }
}

fn fault_answer(status: FaultAbortStatus) -> Answer {
    let (status, grpc) = match status {
        FaultAbortStatus::Http(status) => (status, None),
        FaultAbortStatus::Grpc(code) => (grpc::to_http(code), Some(code)),
    };
    Answer {
        grpc,
        ..answer(
            status,
            ResponseFlags::FAULT_INJECTED,
            "fault_filter_abort",
            "fault filter abort",
        )
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Downstream => "downstream",
            Self::Upstream => "upstream",
            Self::Internal => "internal",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        error: impl Into<ProxyError>,
        status: u16,
        grpc: u32,
        flag: &str,
        details: &str,
        body: &str,
    ) {
        let error = error.into();
        assert_eq!(error.status().as_u16(), status, "{error:?}");
        assert_eq!(error.grpc_status(), grpc, "{error:?}");
        assert_eq!(error.flag().to_string(), flag, "{error:?}");
        assert_eq!(error.details(), details);
        assert_eq!(error.body(), body);
    }

    #[test]
    fn answers_as_envoy_words_them() {
        use ErrorKind as K;
        check(K::RouteNotFound, 404, 12, "NR", "route_not_found", "");
        check(
            K::ClusterNotFound(StatusCode::SERVICE_UNAVAILABLE),
            503,
            14,
            "NC",
            "cluster_not_found",
            "",
        );
        check(
            K::NoHealthyUpstream,
            503,
            14,
            "UH",
            "no_healthy_upstream",
            "no healthy upstream",
        );
        check(
            K::RouteTimeout,
            504,
            14,
            "UT",
            "response_timeout",
            "upstream request timeout",
        );
        check(
            K::MaxStreamDuration {
                request_complete: true,
            },
            504,
            4,
            "DT",
            "max_duration_timeout",
            "downstream duration timeout",
        );
        check(
            K::StreamIdleTimeout {
                request_complete: false,
            },
            408,
            2,
            "SI",
            "stream_idle_timeout",
            "stream timeout",
        );
        check(
            K::RbacDenied { policy: None },
            403,
            7,
            "-",
            "rbac_access_denied_matched_policy[none]",
            "RBAC: access denied",
        );
        check(
            K::FaultAbort(FaultAbortStatus::Grpc(14)),
            503,
            14,
            "FI",
            "fault_filter_abort",
            "fault filter abort",
        );
        check(
            K::UpstreamReset(ResetReason::ConnectionTermination),
            503,
            14,
            "UC",
            "upstream_reset_before_response_started{connection_termination}",
            "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        );
    }

    #[test]
    fn transport_failures_are_told() {
        let failure = Some("TLS_error: certificate expired");
        let error = ProxyError {
            was_retried: true,
            ..ProxyError::reset(ResetReason::RemoteConnectionFailure, failure)
        };
        check(
            error,
            503,
            14,
            "UF",
            "upstream_reset_before_response_started{remote_connection_failure|TLS_error:_certificate_expired}",
            "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: \
             remote connection failure, transport failure reason: TLS_error: certificate expired",
        );
    }
}
