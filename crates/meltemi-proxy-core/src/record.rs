//! The one record of what was decided about a request or connection; metrics, access log, traces and explanations read it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use crate::error::ProxyError;
use crate::flags::ResponseFlags;
use crate::rbac::Verdict;
use crate::runtime::{
    Cluster, Endpoint, ExtAuthzMetadata, RbacAction, RbacFilter, Route, TrafficDirection,
};

/// What one downstream connection is, shared by its requests.
#[derive(Debug, Clone)]
pub struct ConnectionRecord {
    pub id: u64,
    pub direction: TrafficDirection,
    pub listener: Arc<str>,
    pub filter_chain: Arc<str>,
    /// The original destination, or the listener's address.
    pub local_address: SocketAddr,
    pub remote_address: SocketAddr,
    /// The peer of the socket.
    pub direct_remote_address: SocketAddr,
    pub requested_server_name: Option<Arc<str>>,
    pub tls: Option<TlsRecord>,
    /// Why the TLS handshake failed.
    pub transport_failure: Option<Arc<str>>,
}

/// What a TLS session proved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsRecord {
    /// `TLSv1.3`.
    pub version: &'static str,
    pub cipher: Arc<str>,
    pub alpn: Option<Arc<str>>,
    /// Of the verified peer certificate.
    pub peer_uri_san: Option<Arc<str>>,
    /// Of our own certificate.
    pub local_uri_san: Option<Arc<str>>,
    /// Lower-case hex SHA-256 of the peer's certificate.
    pub peer_fingerprint: Option<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    Http10,
    Http11,
    Http2,
    /// No HTTP; printed as `-`.
    Tcp,
}

impl Protocol {
    /// As `%PROTOCOL%` prints it.
    pub fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Http10 => Some("HTTP/1.0"),
            Self::Http11 => Some("HTTP/1.1"),
            Self::Http2 => Some("HTTP/2"),
            Self::Tcp => None,
        }
    }
}

/// The last upstream attempt.
#[derive(Debug, Clone, Default)]
pub struct UpstreamRecord {
    pub endpoint: Option<Arc<Endpoint>>,
    /// What was connected to; for original-destination clusters there is no endpoint.
    pub remote_address: Option<SocketAddr>,
    pub local_address: Option<SocketAddr>,
    pub protocol: Option<Protocol>,
    pub tls: Option<TlsRecord>,
    pub transport_failure: Option<Arc<str>>,
    /// Attempts made, the first included.
    pub attempts: u32,
}

/// What the RBAC filters said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorizationRecord {
    /// Of the last filter with rules that are enforced.
    enforced: Option<Judged>,
    /// By the prefix of their statistics.
    dry_runs: Vec<(Arc<str>, Judged)>,
    /// Whether a rule that only tells (Istio's AUDIT) matched.
    is_audited: Option<bool>,
    /// What an external authorizer left to be logged.
    authorizer: Option<ExtAuthzMetadata>,
}

/// A verdict, and the policy that matched.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Judged {
    is_allowed: bool,
    policy: Option<Arc<str>>,
}

impl From<Verdict<'_>> for Judged {
    fn from(verdict: Verdict<'_>) -> Self {
        Self {
            is_allowed: verdict.is_allowed,
            policy: verdict.policy.cloned(),
        }
    }
}

impl Judged {
    /// By the end of a key of Envoy's metadata.
    fn value(&self, key: &str) -> Option<&str> {
        match key {
            "engine_result" if self.is_allowed => Some("allowed"),
            "engine_result" => Some("denied"),
            "effective_policy_id" => self.policy.as_deref(),
            _ => None,
        }
    }
}

impl AuthorizationRecord {
    pub fn note(
        &mut self,
        filter: &RbacFilter,
        enforced: Verdict<'_>,
        shadow: Option<Verdict<'_>>,
    ) {
        match filter.rules.as_ref().map(|rules| rules.action) {
            Some(RbacAction::Log) => {
                let is_audited = self.is_audited.unwrap_or_default() || enforced.policy.is_some();
                self.is_audited = Some(is_audited);
            }
            Some(_) => self.enforced = Some(enforced.into()),
            None => {}
        }
        if let Some(shadow) = shadow {
            let prefix = filter.shadow_prefix.clone();
            self.dry_runs.push((prefix, shadow.into()));
        }
    }

    /// What Envoy's filter leaves in its dynamic metadata under a key (Envoy docs, "Role Based Access Control, Dynamic
    /// Metadata").
    pub fn metadata(&self, key: &str) -> Option<&str> {
        if let Some(rest) = key.strip_prefix("enforced_") {
            return self.enforced.as_ref()?.value(rest);
        }
        let mut dry_runs = self.dry_runs.iter();
        dry_runs.find_map(|(prefix, judged)| {
            let rest = key.strip_prefix(&**prefix)?.strip_prefix("shadow_")?;
            judged.value(rest)
        })
    }

    /// Keeps what an external authorizer says of the request; of two the later one counts.
    pub fn note_authorizer(&mut self, metadata: Option<ExtAuthzMetadata>) {
        self.authorizer = metadata.or_else(|| self.authorizer.take());
    }

    /// What Envoy's filter leaves in its dynamic metadata of that.
    pub fn authorizer(&self, key: &str) -> Option<&serde_json::Value> {
        self.authorizer.as_ref()?.get(key)
    }

    /// `access_log_hint` of `envoy.common`.
    pub fn audit_hint(&self) -> Option<bool> {
        self.is_audited
    }
}

/// One request, or one TCP connection (then without the HTTP parts).
#[derive(Debug, Clone)]
pub struct RequestRecord {
    pub connection: Arc<ConnectionRecord>,
    /// The client, where `x-forwarded-for` is trusted to tell of it; else the connection's peer.
    pub client: Option<SocketAddr>,
    pub start: SystemTime,
    pub protocol: Protocol,
    pub method: http::Method,
    /// As routed: normalised, before rewriting, with query.
    pub path: Box<str>,
    pub authority: Box<str>,
    pub scheme: &'static str,
    /// What the log formats read (see [`crate::access_log::request_headers`]), and `content-type`.
    pub request_headers: HeaderMap,
    pub response_headers: HeaderMap,
    pub response_trailers: HeaderMap,
    pub virtual_host: Option<Arc<str>>,
    pub route: Option<Arc<Route>>,
    /// The cluster that was chosen, also when it does not exist.
    pub cluster_name: Option<Arc<str>>,
    pub cluster: Option<Arc<Cluster>>,
    pub upstream: UpstreamRecord,
    /// `None`: the stream ended before a response.
    pub status: Option<http::StatusCode>,
    pub grpc_status: Option<u32>,
    pub is_grpc: bool,
    pub flags: ResponseFlags,
    /// `via_upstream`, or why we answered ourselves.
    pub details: Option<Arc<str>>,
    pub connection_termination_details: Option<Arc<str>>,
    /// The failure that ended it, if one did.
    pub error: Option<ProxyError>,
    pub authorization: AuthorizationRecord,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// gRPC messages.
    pub request_messages: u64,
    pub response_messages: u64,
    pub duration: Duration,
    /// From the start to the last byte of the request.
    pub request_duration: Option<Duration>,
    /// From the start to the first byte of the upstream's response.
    pub response_duration: Option<Duration>,
}

impl RequestRecord {
    /// A record in which nothing has happened yet.
    pub fn new(connection: Arc<ConnectionRecord>, protocol: Protocol, start: SystemTime) -> Self {
        Self {
            connection,
            client: None,
            start,
            protocol,
            method: http::Method::GET,
            path: Box::default(),
            authority: Box::default(),
            scheme: "",
            request_headers: HeaderMap::new(),
            response_headers: HeaderMap::new(),
            response_trailers: HeaderMap::new(),
            virtual_host: None,
            route: None,
            cluster_name: None,
            cluster: None,
            upstream: UpstreamRecord::default(),
            status: None,
            grpc_status: None,
            is_grpc: false,
            flags: ResponseFlags::NONE,
            details: None,
            connection_termination_details: None,
            error: None,
            authorization: AuthorizationRecord::default(),
            bytes_received: 0,
            bytes_sent: 0,
            request_messages: 0,
            response_messages: 0,
            duration: Duration::ZERO,
            request_duration: None,
            response_duration: None,
        }
    }

    /// Whom the request is from (`%DOWNSTREAM_REMOTE_ADDRESS%`).
    pub fn remote_address(&self) -> SocketAddr {
        self.client.unwrap_or(self.connection.remote_address)
    }

    /// Records a failure: status, flag and details follow from it.
    pub fn fail(&mut self, error: ProxyError) {
        self.status = Some(error.status());
        self.flags.insert(error.flag());
        self.details = Some(error.details().into());
        if let Some(failure) = &error.transport_failure {
            self.upstream.transport_failure = Some(Arc::clone(failure));
        }
        self.error = Some(error);
    }

    /// Whether both ends proved who they are: Istio's `connection_security_policy`.
    pub fn is_mutual_tls(&self) -> bool {
        let tls = self.connection.tls.as_ref();
        tls.is_some_and(|tls| tls.peer_uri_san.is_some() && tls.local_uri_san.is_some())
    }
}
