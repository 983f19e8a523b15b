use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::StatusCode;
use http::header::{self, HeaderValue};

use super::probe;
use crate::admin::{Admin, Answer, prometheus, text};
use crate::telemetry::put;

/// Bound of the application's answer, in time and size.
const SCRAPE_LIMIT: Duration = Duration::from_secs(5);
const SCRAPE_LIMIT_BYTES: usize = 32 * 1024 * 1024;

/// The proxy's metrics with the application's, as `prometheus.io/*` announced them before injection.
pub(super) async fn merged(admin: &Admin) -> Answer {
    let counters = &admin.shared.telemetry.counters;
    counters.scrapes.add(1);
    let mut out = String::new();
    if let Some(app) = &admin.bootstrap.app_metrics {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), app.port);
        let fetch = probe::get(
            &admin.bootstrap,
            address,
            &app.path,
            &app.path,
            &[],
            SCRAPE_LIMIT_BYTES,
        );
        match tokio::time::timeout(SCRAPE_LIMIT, fetch).await {
            Ok(Ok((StatusCode::OK, body))) => {
                out.push_str(&String::from_utf8_lossy(&body));
                if !out.ends_with('\n') {
                    out.push('\n');
                }
                // OpenMetrics ends with a marker that must not stand in the middle.
                if let Some(end) = out.rfind("# EOF\n") {
                    out.truncate(end);
                }
            }
            _ => {
                counters.scrape_failures.add(1);
                put(&mut out, "istio_agent_app_scrape_failed", "gauge", "", 1);
            }
        }
    }
    out.push_str(&prometheus(admin));
    answer(out)
}

pub(super) fn answer(body: String) -> Answer {
    let mut answer = text(StatusCode::OK, body);
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    answer
}
