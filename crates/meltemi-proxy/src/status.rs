//! What the kubelet and Prometheus ask of a sidecar: readiness on 15021, probes of the application and merged metrics on
//! 15020, the proxy's own metrics on 15090.

mod metrics;
pub(crate) mod probe;

use std::sync::Arc;

use http::{Method, StatusCode};

use crate::admin::{Admin, Answer, Asked, prometheus, text};
use crate::drain::Phase;

/// Answers on 15020.
pub(crate) async fn agent(admin: Arc<Admin>, asked: Asked) -> Answer {
    let path = asked.path().to_owned();
    match path.as_str() {
        "/healthz/ready" => ready(&admin),
        "/stats/prometheus" | "/metrics" => metrics::merged(&admin).await,
        "/quitquitquit" | "/drain" => control(&admin, &asked, &path),
        path if probe::is_moved(path) => probe::application(&admin.bootstrap, path).await,
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// Ends or drains the process: POST, from this pod only.
fn control(admin: &Admin, asked: &Asked, path: &str) -> Answer {
    if asked.request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "POST required\n");
    }
    if !asked.peer.ip().to_canonical().is_loopback() || !asked.is_for_loopback() {
        return text(StatusCode::FORBIDDEN, "only from this pod's loopback\n");
    }
    if path == "/drain" {
        admin.shared.drain.enter(Phase::Draining);
    } else {
        admin.quit.cancel();
    }
    text(StatusCode::OK, "OK\n")
}

/// Answers on 15021.
pub(crate) async fn readiness(admin: Arc<Admin>, asked: Asked) -> Answer {
    match asked.path() {
        "/healthz/ready" => ready(&admin),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

/// Answers on 15090.
pub(crate) async fn own_metrics(admin: Arc<Admin>, asked: Asked) -> Answer {
    match asked.path() {
        "/stats/prometheus" => metrics::answer(prometheus(&admin)),
        _ => text(StatusCode::NOT_FOUND, "not found\n"),
    }
}

fn ready(admin: &Admin) -> Answer {
    if admin.shared.drain.is_draining() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "draining\n");
    }
    let mut pending = admin.readiness.pending();
    if !admin.shared.store.is_open() {
        pending.push("listeners");
    }
    if pending.is_empty() {
        text(StatusCode::OK, "")
    } else {
        text(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("waiting for: {}\n", pending.join(", ")),
        )
    }
}
