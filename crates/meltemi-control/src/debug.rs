//! The endpoints of 15014.

mod dump;

use axum::Json;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use meltemi_core::names::ISTIOD;
use meltemi_model::authentication_rows;
use meltemi_process::{Metrics, Readiness, VERSION, admin};
use meltemi_proto::type_url;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::hub::{Command, ProxyDetail, ProxyReport};
use crate::status::TypeStatus;

#[derive(Clone, Debug)]
pub(crate) struct Debug {
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
}

pub(crate) fn router(debug: Debug) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .route("/debug/syncz", get(syncz))
        .route("/debug/config_dump", get(config_dump))
        .route("/debug/authenticationz", get(authenticationz))
        .route("/debug/diagnostics", get(diagnostics))
        .with_state(debug)
}

async fn ready(State(debug): State<Debug>) -> Response {
    admin::ready_response(&debug.readiness)
}

async fn version() -> Json<Value> {
    Json(json!({ "component": "pilot", "version": VERSION }))
}

async fn metrics(State(debug): State<Debug>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT);
    admin::metrics_response(&debug.metrics, accept.and_then(|value| value.to_str().ok()))
}

async fn syncz(State(debug): State<Debug>) -> Response {
    match debug.ask(Command::Proxies).await {
        Ok(proxies) => Json(proxies.iter().map(sync_row).collect::<Value>()).into_response(),
        Err(unavailable) => unavailable,
    }
}

async fn diagnostics(State(debug): State<Debug>) -> Response {
    match debug.ask(Command::Diagnostics).await {
        Ok(diagnostics) => Json(diagnostics).into_response(),
        Err(unavailable) => unavailable,
    }
}

#[derive(Debug, Deserialize)]
struct ProxyQuery {
    #[serde(rename = "proxyID")]
    proxy: Option<String>,
}

async fn config_dump(State(debug): State<Debug>, Query(query): Query<ProxyQuery>) -> Response {
    match debug.proxy(query).await {
        Ok(proxy) => Json(dump::config_dump(&proxy)).into_response(),
        Err(refusal) => refusal,
    }
}

async fn authenticationz(State(debug): State<Debug>, Query(query): Query<ProxyQuery>) -> Response {
    match debug.proxy(query).await {
        Ok(ProxyDetail { node, mesh, .. }) => {
            let view = &node.view;
            let rows = authentication_rows(&mesh, &view.namespace, &view.labels);
            Json(rows).into_response()
        }
        Err(refusal) => refusal,
    }
}

impl Debug {
    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, Response> {
        let unavailable = || {
            let text = "the control plane is not running\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        };
        if !self.readiness.is_ready() {
            return Err(admin::ready_response(&self.readiness));
        }
        let (reply, answer) = oneshot::channel();
        self.hub
            .send(command(reply))
            .await
            .map_err(|_| unavailable())?;
        answer.await.map_err(|_| unavailable())
    }

    async fn proxy(&self, query: ProxyQuery) -> Result<ProxyDetail, Response> {
        let Some(name) = query.proxy.filter(|name| !name.is_empty()) else {
            let text = "name the proxy: ?proxyID=<pod>.<namespace>\n";
            return Err((StatusCode::BAD_REQUEST, text).into_response());
        };
        let found = self
            .ask(|reply| Command::Proxy(name.clone(), reply))
            .await?;
        found.ok_or_else(|| {
            let text = format!("no proxy {name} is connected\n");
            (StatusCode::NOT_FOUND, text).into_response()
        })
    }
}

/// One row in istiod's shape: for every type the nonce sent and the nonce accepted last, equal when in sync. Beyond
/// istiod's, `<type>_error` holds what the proxy refused since.
fn sync_row(proxy: &ProxyReport) -> Value {
    let mut row = Map::new();
    let mut set = |key: String, value: &str| row.insert(key, json!(value));
    set("cluster_id".to_owned(), &proxy.node.cluster_id);
    set("proxy".to_owned(), &proxy.node.name);
    set("proxy_type".to_owned(), &proxy.node.proxy_type);
    set("istio_version".to_owned(), &proxy.node.version);
    set("istiod".to_owned(), ISTIOD);
    let none = TypeStatus::default();
    for (name, url) in [
        ("cluster", type_url::CLUSTER),
        ("listener", type_url::LISTENER),
        ("route", type_url::ROUTE),
        ("endpoint", type_url::ENDPOINT),
        ("secret", type_url::SECRET),
        ("extensionconfig", type_url::EXTENSION_CONFIG),
    ] {
        let status = proxy.types.get(url).unwrap_or(&none);
        set(format!("{name}_sent"), &status.sent_nonce);
        set(format!("{name}_acked"), &status.acked_nonce);
        if let Some(error) = &status.error {
            set(format!("{name}_error"), error);
        }
    }
    Value::Object(row)
}
