//! The endpoints of 15014.

mod dump;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use meltemi_ca::{Authenticators, Credentials};
use meltemi_core::names::ISTIOD;
use meltemi_model::authentication_rows;
use meltemi_process::{Metrics, Readiness, VERSION, admin};
use meltemi_proto::type_url;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::hub::{Command, ProxyDetail, ProxyReport};
use crate::keys::Board;
use crate::status::TypeStatus;

#[derive(Clone, Debug)]
pub(crate) struct Debug {
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) metrics: Metrics,
    pub(crate) readiness: Readiness,
    /// Who asks from elsewhere; set once the authority is open.
    pub(crate) authenticators: Arc<OnceLock<Authenticators>>,
    /// The control plane's own: who is in it sees everything.
    pub(crate) namespace: Arc<str>,
    pub(crate) keys: Board,
}

pub(crate) fn router(debug: Debug) -> Router {
    let guarded = middleware::from_fn_with_state(debug.clone(), admit);
    Router::new()
        .route("/debug/syncz", get(syncz))
        .route("/debug/config_dump", get(config_dump))
        .route("/debug/authenticationz", get(authenticationz))
        .route("/debug/diagnostics", get(diagnostics))
        .route("/debug/jwksz", get(jwksz))
        .route_layer(guarded)
        .route("/ready", get(ready))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(debug)
}

/// What a caller of `/debug` may see.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Viewer {
    Everything,
    Namespace(String),
}

impl Viewer {
    fn sees(&self, namespace: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Namespace(own) => own == namespace,
        }
    }

    /// Whether it may see a proxy by its name, `pod.namespace`.
    fn sees_proxy(&self, name: &str) -> bool {
        let namespace = name.rsplit_once('.').map(|(_, namespace)| namespace);
        namespace.is_some_and(|namespace| self.sees(namespace)) || *self == Self::Everything
    }
}

/// `/debug` tells where everything in the mesh is and what it may do: whoever is in the control plane's own pod sees it, and
/// a token of the mesh sees its namespace, one of the control plane's all (Istio, `ENABLE_DEBUG_ENDPOINT_AUTH`).
async fn admit(
    State(debug): State<Debug>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    if from.ip().to_canonical().is_loopback() {
        request.extensions_mut().insert(Viewer::Everything);
        return next.run(request).await;
    }
    let Some(authenticators) = debug.authenticators.get() else {
        return admin::ready_response(&debug.readiness);
    };
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok());
    let credentials = Credentials::of_header(authorization);
    let identity = match authenticators.authenticate(&credentials).await {
        Ok(workload) => workload.identity,
        Err(error) => {
            tracing::warn!(%from, %error, "a request for /debug was denied");
            let text = "show a token of the mesh: authorization: Bearer <token>\n";
            return (StatusCode::UNAUTHORIZED, text).into_response();
        }
    };
    let viewer = match identity.namespace {
        own if *own == *debug.namespace => Viewer::Everything,
        own => Viewer::Namespace(own),
    };
    request.extensions_mut().insert(viewer);
    next.run(request).await
}

fn forbidden(what: &str) -> Response {
    let text = format!("{what} is for tokens of the control plane's namespace\n");
    (StatusCode::FORBIDDEN, text).into_response()
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

async fn syncz(State(debug): State<Debug>, Extension(viewer): Extension<Viewer>) -> Response {
    match debug.ask(Command::Proxies).await {
        Ok(proxies) => {
            let proxies = proxies.iter();
            let seen = proxies.filter(|proxy| viewer.sees(&proxy.node.view.namespace));
            Json(seen.map(sync_row).collect::<Value>()).into_response()
        }
        Err(unavailable) => unavailable,
    }
}

async fn diagnostics(State(debug): State<Debug>, Extension(viewer): Extension<Viewer>) -> Response {
    if viewer != Viewer::Everything {
        return forbidden("the list of all problems");
    }
    match debug.ask(Command::Diagnostics).await {
        Ok(diagnostics) => Json(diagnostics).into_response(),
        Err(unavailable) => unavailable,
    }
}

/// The key sets that tokens are checked with: where from, since when, and what is wrong.
async fn jwksz(State(debug): State<Debug>, Extension(viewer): Extension<Viewer>) -> Response {
    if viewer != Viewer::Everything {
        return forbidden("the list of key sets");
    }
    let states = debug.keys.states();
    let rows = states.iter().map(|(source, state)| {
        let age = state.fetched.map(|at| at.elapsed().as_secs());
        json!({
            "source": source.to_string(),
            "ageSeconds": age,
            "failure": state.failure.as_deref(),
        })
    });
    Json(rows.collect::<Value>()).into_response()
}

#[derive(Debug, Deserialize)]
struct ProxyQuery {
    #[serde(rename = "proxyID")]
    proxy: Option<String>,
}

async fn config_dump(
    State(debug): State<Debug>,
    Extension(viewer): Extension<Viewer>,
    Query(query): Query<ProxyQuery>,
) -> Response {
    match debug.proxy(query, &viewer).await {
        Ok(proxy) => Json(dump::config_dump(&proxy)).into_response(),
        Err(refusal) => refusal,
    }
}

async fn authenticationz(
    State(debug): State<Debug>,
    Extension(viewer): Extension<Viewer>,
    Query(query): Query<ProxyQuery>,
) -> Response {
    match debug.proxy(query, &viewer).await {
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

    async fn proxy(&self, query: ProxyQuery, viewer: &Viewer) -> Result<ProxyDetail, Response> {
        let Some(name) = query.proxy.filter(|name| !name.is_empty()) else {
            let text = "name the proxy: ?proxyID=<pod>.<namespace>\n";
            return Err((StatusCode::BAD_REQUEST, text).into_response());
        };
        if !viewer.sees_proxy(&name) {
            return Err(forbidden("a proxy of another namespace"));
        }
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
/// istiod's, `<type>_error` holds what the proxy refused since. The virtual hosts that a proxy asks for one by one are of its
/// routes, so that a proxy is in sync with those when it is with both.
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
        let own = proxy.types.get(url).unwrap_or(&none);
        let hosts = proxy.types.get(type_url::VIRTUAL_HOST);
        let hosts = hosts.filter(|_| url == type_url::ROUTE);
        let status = hosts.map_or_else(|| own.clone(), |hosts| own.joined(hosts));
        set(format!("{name}_sent"), &status.sent_nonce);
        set(format!("{name}_acked"), &status.acked_nonce);
        if let Some(error) = &status.error {
            set(format!("{name}_error"), error);
        }
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use axum::body::Body;
    use meltemi_ca::{JwtAuthenticator, TokenIssuer, TokenRequest};
    use meltemi_core::TrustDomain;
    use meltemi_pki::PrivateKey;
    use tower::ServiceExt as _;

    use meltemi_core::names::ISTIO_SYSTEM;

    use super::*;

    const ISSUER: &str = "lab";

    fn token(issuer: &TokenIssuer, namespace: &str) -> String {
        let request = TokenRequest {
            namespace,
            service_account: "any",
            service_account_uid: None,
            pod: None,
            node: None,
            audiences: &["istio-ca"],
            ttl: Duration::from_secs(600),
        };
        issuer.issue(&request, SystemTime::now()).unwrap()
    }

    /// Without a hub: who is let in learns that the control plane does not run.
    const LET_IN: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

    #[tokio::test]
    async fn strangers_see_no_more_than_their_token_is_for() {
        let issuer = TokenIssuer::new(&PrivateKey::generate().unwrap(), ISSUER).unwrap();
        let keys = issuer.jwks().unwrap();
        let domain = TrustDomain::default();
        let tokens = JwtAuthenticator::from_keys(&keys, ISSUER, &["istio-ca"], domain).unwrap();
        let authenticators = Arc::new(OnceLock::new());
        let all = Authenticators::new(vec![Arc::new(tokens)]);
        assert!(authenticators.set(all).is_ok());
        let router = router(Debug {
            hub: mpsc::channel(1).0,
            metrics: Metrics::new(),
            readiness: Readiness::new(),
            authenticators,
            keys: Board::default(),
            namespace: ISTIO_SYSTEM.into(),
        });
        let ask = async |from: &str, token: Option<&str>, path: &str| {
            let from: SocketAddr = from.parse().unwrap();
            let mut request = Request::builder().uri(path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let mut request = request.body(Body::empty()).unwrap();
            request.extensions_mut().insert(ConnectInfo(from));
            router.clone().oneshot(request).await.unwrap().status()
        };
        let (shop, system) = (token(&issuer, "shop"), token(&issuer, ISTIO_SYSTEM));
        let (shop, system) = (Some(shop.as_str()), Some(system.as_str()));
        let (near, far) = ("127.0.0.1:9", "10.244.0.7:9");
        let (own, other) = (
            "/debug/config_dump?proxyID=web-1.shop",
            "/debug/authenticationz?proxyID=vault-1.bank",
        );
        for (from, token, path, expected) in [
            (near, None, "/debug/syncz", LET_IN),
            ("[::ffff:127.0.0.1]:9", None, other, LET_IN),
            (far, None, "/debug/syncz", StatusCode::UNAUTHORIZED),
            (far, Some("x"), own, StatusCode::UNAUTHORIZED),
            (far, shop, "/debug/syncz", LET_IN),
            (far, shop, own, LET_IN),
            (far, shop, other, StatusCode::FORBIDDEN),
            (far, shop, "/debug/diagnostics", StatusCode::FORBIDDEN),
            (far, system, other, LET_IN),
            (far, system, "/debug/diagnostics", LET_IN),
            (far, None, "/metrics", StatusCode::OK),
            (far, None, "/ready", StatusCode::OK),
            (far, None, "/version", StatusCode::OK),
        ] {
            assert_eq!(ask(from, token, path).await, expected, "{from} {path}");
        }
    }

    #[test]
    fn a_namespace_sees_its_own_proxies() {
        let own = Viewer::Namespace("shop".to_owned());
        assert!(own.sees_proxy("web-1.shop") && own.sees("shop"));
        for other in ["vault-1.bank", "web-1.shopping", "shop", "shop.web-1"] {
            assert!(!own.sees_proxy(other), "{other}");
            assert!(Viewer::Everything.sees_proxy(other), "{other}");
        }
    }
}
