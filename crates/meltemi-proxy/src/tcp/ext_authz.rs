//! Asks an external authorizer about a connection (Envoy `filters.network.ext_authz`).
//!
//! Differs from Envoy, which asks at the first bytes of the client and lets those of a server that speaks first through: here
//! nothing is connected before there is a verdict.

use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::ext_authz::Verdict;
use meltemi_proxy_core::ext_authz::check::{self, CheckedConnection};
use meltemi_proxy_core::record::AuthorizationRecord;
use meltemi_proxy_core::runtime::NetworkExtAuthz;

use crate::authorizer;
use crate::downstream::Downstream;
use crate::worker::Worker;

/// What connections are refused with; it is told to nobody but the log.
const DENIED: http::StatusCode = http::StatusCode::FORBIDDEN;

pub(crate) async fn judge(
    downstream: &Downstream,
    worker: &Worker,
    config: &NetworkExtAuthz,
    record: &mut AuthorizationRecord,
) -> Result<(), ErrorKind> {
    let counters = &worker.shared.telemetry.counters;
    if let Some(wanted) = &config.enabled
        && !wanted.matches(record.metadata(&wanted.key))
    {
        counters.tcp_ext_authz_disabled.add(1);
        return Ok(());
    }
    counters.tcp_ext_authz_total.add(1);
    let tls = downstream.record.tls.as_ref();
    let subject = downstream.certificate.as_ref();
    let subject = subject.map_or("", |peer| peer.subject.as_str());
    let connection = CheckedConnection {
        source: downstream.arrival.peer,
        destination: downstream.arrival.destination,
        source_principal: downstream.principal().unwrap_or(subject),
        destination_principal: tls
            .and_then(|tls| tls.local_uri_san.as_deref())
            .unwrap_or_default(),
        server_name: tls.and(downstream.arrival.server_name.as_deref()),
    };
    let check = check::of_connection(&connection, config.include_tls_session);
    let verdict = authorizer::by_grpc(worker, &config.authorizer, &check).await;
    let refusal = match verdict {
        Verdict::Allowed(allowance) => {
            counters.tcp_ext_authz_ok.add(1);
            record.note_authorizer(allowance.metadata);
            return Ok(());
        }
        Verdict::Denied(denial) => {
            counters.tcp_ext_authz_denied.add(1);
            record.note_authorizer(denial.metadata);
            ErrorKind::ExtAuthzDenied(DENIED)
        }
        Verdict::Failed(_) if config.fails_open => {
            counters.tcp_ext_authz_error.add(1);
            counters.tcp_ext_authz_failure_mode_allowed.add(1);
            return Ok(());
        }
        Verdict::Failed(_) => {
            counters.tcp_ext_authz_error.add(1);
            ErrorKind::ExtAuthzFailed(DENIED)
        }
        Verdict::Invalid => {
            counters.tcp_ext_authz_error.add(1);
            ErrorKind::ExtAuthzInvalid
        }
    };
    counters.tcp_ext_authz_cx_closed.add(1);
    Err(refusal)
}
