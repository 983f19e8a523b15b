//! Requests with tokens, and what the application, the client and the operator see of them.

mod envoy;

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use meltemi_proto::type_url;
use serde_json::{Value, json};

use super::configuration::{cluster, forward, outbound_http};
use super::mesh::{App, Authority, Client, Sidecar, get};

const SECRET: &[u8] = b"a secret that only tests have";
const FILTER: &str = "envoy.filters.http.jwt_authn";

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

pub(super) fn keys() -> String {
    json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "kid": "k", "alg": "HS256"}]}).to_string()
}

pub(super) fn token(claims: &Value) -> String {
    let header = Header {
        kid: Some("k".to_owned()),
        ..Header::new(Algorithm::HS256)
    };
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

fn good() -> String {
    token(&json!({"iss": "i", "sub": "alice", "groups": ["admin"], "exp": now() + 600}))
}

fn old() -> String {
    token(&json!({"iss": "i", "exp": 5}))
}

/// One provider as Istio writes it, with some of it changed.
fn authentication(changes: Value) -> Value {
    let mut provider = json!({"issuer": "i", "localJwks": {"inlineString": keys()},
        "forwardPayloadHeader": "x-payload", "payloadInMetadata": "payload", "clearRouteCache": true,
        "claimToHeaders": [{"headerName": "x-sub", "claimName": "sub"}]});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(provider.as_object_mut().unwrap().remove(name)),
            value => provider[name] = value.clone(),
        }
    }
    json!({"@type": type_url::JWT_AUTHN, "providers": {"origins-0": provider}, "bypassCorsPreflight": true,
        "requirementMap": {"strict": {"providerName": "origins-0"}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requiresAny": {"requirements": [
            {"providerName": "origins-0"}, {"allowMissing": {}}]}}}]})
}

/// A listener with the filter in front of all others, and these routes.
fn listener(filter: &Value, routes: &[Value]) -> Value {
    let mut listener = outbound_http(routes[0].clone());
    let manager = &mut listener["filterChains"][0]["filters"][0]["typedConfig"];
    manager["routeConfig"]["virtualHosts"][0]["routes"] = routes.into();
    let filters = manager["httpFilters"].as_array_mut().unwrap();
    filters.insert(0, json!({"name": FILTER, "typedConfig": filter}));
    listener
}

struct Setup {
    app: App,
    sidecar: Sidecar,
    browser: Client,
}

impl Setup {
    async fn new(filter: &Value, routes: &[Value]) -> Self {
        let app = App::echo().await;
        let sidecar = Sidecar::start(&Authority::new(), "client");
        sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
        sidecar.apply(type_url::LISTENER, &[listener(filter, routes)]);
        let browser = Client::connect(sidecar.address("outbound").await).await;
        Self {
            app,
            sidecar,
            browser,
        }
    }

    async fn send(&mut self, path: &str, lines: &[(&'static str, &str)]) -> Response<bytes::Bytes> {
        let mut request: Request<Full<bytes::Bytes>> = get(path);
        for (name, value) in lines {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        self.browser.send(request).await.unwrap()
    }

    fn metric(&self, name: &str) -> String {
        let lines = self.sidecar.metric(&[name]);
        let line = lines.iter().find(|line| !line.starts_with('#')).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn the_application_sees_what_was_verified_and_no_token() {
    let mut setup = Setup::new(&authentication(json!({})), &[forward("c")]).await;
    let (token, forged) = (good(), [("x-sub", "mallory"), ("x-payload", "forged")]);
    let bearer = format!("Bearer {token}");
    let mut lines = forged.to_vec();
    lines.push(("authorization", &bearer));
    let path = format!("/a?x=1&access_token={token}");
    assert_eq!(setup.send(&path, &lines).await.status(), StatusCode::OK);
    assert_eq!(setup.send("/b", &forged).await.status(), StatusCode::OK);
    let seen = setup.app.seen.lock().clone();
    let (uri, headers) = &seen[0];
    assert_eq!(uri, "/a?x=1");
    assert_eq!(headers["x-sub"], "alice");
    assert_eq!(headers["x-payload"], token.split('.').nth(1).unwrap());
    assert!(!headers.contains_key("authorization"));
    let (_, headers) = &seen[1];
    assert!(!headers.contains_key("x-sub") && !headers.contains_key("x-payload"));
    assert_eq!(setup.metric("jwt_authn_allowed"), "2");
    let lines = setup.sidecar.lines(2).await.concat();
    assert!(!lines.contains(&token), "{lines}");
}

#[tokio::test]
async fn a_refusal_says_why_to_client_and_operator() {
    let filter = authentication(json!({"audiences": ["x"]}));
    let mut setup = Setup::new(&filter, &[forward("c")]).await;
    let (old, elsewhere) = (old(), good());
    let bearer = format!("Bearer {old}");
    let refused = setup.send("/a?b", &[("authorization", &bearer)]).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(&refused.body()[..], b"Jwt is expired");
    let challenge = "Bearer realm=\"http://echo.default/a?b\", error=\"invalid_token\"";
    assert_eq!(refused.headers()["www-authenticate"], challenge);
    let refused = setup.send(&format!("/?access_token={old}"), &[]).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    // Known, and not for us.
    let bearer = format!("Bearer {elsewhere}");
    let refused = setup.send("/", &[("authorization", &bearer)]).await;
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
    assert_eq!(&refused.body()[..], b"Audiences in Jwt are not allowed");
    assert_eq!(setup.app.connections(), 0);
    assert_eq!(setup.metric("jwt_authn_denied"), "3");
    let lines = setup.sidecar.lines(3).await;
    assert!(
        lines[0].contains("401 - jwt_authn_access_denied{Jwt_is_expired}"),
        "{lines:?}"
    );
    assert!(
        lines[2].contains("403 - jwt_authn_access_denied{Audiences_in_Jwt_are_not_allowed}"),
        "{lines:?}"
    );
    // Not even a bad token is for those who read logs.
    assert!(!lines.concat().contains(&old), "{lines:?}");
}

/// The application gets the token, those who read logs do not.
#[tokio::test]
async fn a_token_that_goes_on_is_not_logged() {
    let filter = authentication(json!({"forward": true}));
    let mut setup = Setup::new(&filter, &[forward("c")]).await;
    let path = format!("/a?b=c&access_token={}", good());
    assert_eq!(setup.send(&path, &[]).await.status(), StatusCode::OK);
    assert_eq!(setup.app.seen.lock()[0].0, path);
    let line = setup.sidecar.lines(1).await.remove(0);
    assert!(line.starts_with("GET /a?b=c 200 "), "{line}");
}

#[tokio::test]
async fn a_grpc_client_gets_a_grpc_answer() {
    let mut filter = authentication(json!({}));
    filter["rules"][0]["requires"] = json!({"providerName": "origins-0"});
    let mut setup = Setup::new(&filter, &[forward("c")]).await;
    let refused = setup
        .send("/a.B/C", &[("content-type", "application/grpc")])
        .await;
    assert_eq!(refused.status(), StatusCode::OK);
    assert_eq!(refused.headers()["grpc-status"], "16");
    assert_eq!(refused.headers()["grpc-message"], "Jwt is missing");
    let challenge = "Bearer realm=\"http://echo.default/a.B/C\"";
    assert_eq!(refused.headers()["www-authenticate"], challenge);
}

#[tokio::test]
async fn a_stripped_refusal_says_nothing() {
    let mut filter = authentication(json!({}));
    filter["stripFailureResponse"] = true.into();
    let mut setup = Setup::new(&filter, &[forward("c")]).await;
    let bearer = format!("Bearer {}", old());
    let refused = setup.send("/", &[("authorization", &bearer)]).await;
    assert_eq!(
        (refused.status(), refused.body().len()),
        (StatusCode::UNAUTHORIZED, 0)
    );
    assert!(!refused.headers().contains_key("www-authenticate"));
}

#[tokio::test]
async fn preflights_pass_without_a_token() {
    let mut filter = authentication(json!({}));
    filter["rules"][0]["requires"] = json!({"providerName": "origins-0"});
    let mut setup = Setup::new(&filter, &[forward("c")]).await;
    let mut preflight = get("/");
    *preflight.method_mut() = http::Method::OPTIONS;
    for name in ["origin", "access-control-request-method"] {
        preflight.headers_mut().insert(name, "x".parse().unwrap());
    }
    assert_eq!(
        setup.browser.send(preflight).await.unwrap().status(),
        StatusCode::OK
    );
    assert_eq!(
        setup.send("/", &[("origin", "x")]).await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(setup.metric("cors_preflight_bypassed"), "1");
}

#[tokio::test]
async fn routes_have_requirements_of_their_own() {
    let of = |prefix: &str, config: Value| {
        let mut config = config;
        config["@type"] = type_url::JWT_AUTHN_PER_ROUTE.into();
        json!({"name": prefix, "match": {"prefix": prefix}, "route": {"cluster": "c"}, "typedPerFilterConfig": {FILTER: config}})
    };
    let routes = [
        of("/off", json!({"disabled": true})),
        of("/strict", json!({"requirementName": "strict"})),
        of("/wrong", json!({"requirementName": "nope"})),
        forward("c"),
    ];
    let mut setup = Setup::new(&authentication(json!({})), &routes).await;
    let bearer = format!("Bearer {}", old());
    let lines = [("authorization", bearer.as_str())];
    assert_eq!(setup.send("/off", &lines).await.status(), StatusCode::OK);
    assert_eq!(
        setup.send("/", &lines).await.status(),
        StatusCode::UNAUTHORIZED
    );
    assert_eq!(
        setup.send("/strict", &[]).await.status(),
        StatusCode::UNAUTHORIZED
    );
    let wrong = setup.send("/wrong", &[]).await;
    assert_eq!(wrong.status(), StatusCode::FORBIDDEN);
    let expected =
        "Failed JWT authentication: Wrong requirement_name: nope. It should be one of [strict]";
    assert_eq!(&wrong.body()[..], expected.as_bytes());
}

/// The route is chosen anew when something was verified, by what was verified and nothing else.
#[tokio::test]
async fn claims_choose_the_route() {
    let wants = json!([{"filter": FILTER, "path": [{"key": "payload"}, {"key": "groups"}],
        "value": {"listMatch": {"oneOf": {"stringMatch": {"exact": "admin"}}}}}]);
    let answers = |name: &str, matches: Value| json!({"name": name, "match": matches, "directResponse": {"status": 200, "body": {"inlineString": name}}});
    let admins = answers("admins", json!({"prefix": "/", "dynamicMetadata": wants}));
    let all = answers("all", json!({"prefix": "/open"}));
    let mut setup = Setup::new(&authentication(json!({})), &[admins, all]).await;
    let bearer = format!("Bearer {}", good());
    let nobody = format!("Bearer {}", token(&json!({"iss": "i"})));
    let body =
        |response: Response<bytes::Bytes>| String::from_utf8(response.body().to_vec()).unwrap();
    let lines = [("authorization", bearer.as_str())];
    assert_eq!(body(setup.send("/open", &lines).await), "admins");
    assert_eq!(body(setup.send("/secret", &lines).await), "admins");
    assert_eq!(body(setup.send("/open", &[]).await), "all");
    let lines = [("authorization", nobody.as_str())];
    assert_eq!(body(setup.send("/open", &lines).await), "all");
    // Without a route, too, a bad token is refused first.
    assert_eq!(
        setup.send("/secret", &lines).await.status(),
        StatusCode::NOT_FOUND
    );
    let bearer = format!("Bearer {}", old());
    let refused = setup.send("/secret", &[("authorization", &bearer)]).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
}

fn remote(cache_duration: &str) -> Value {
    authentication(
        json!({"localJwks": null, "remoteJwks": {"cacheDuration": cache_duration,
        "httpUri": {"uri": "http://issuer.example:8000/keys?a", "cluster": "issuer", "timeout": "5s"}}}),
    )
}

#[tokio::test]
async fn keys_are_fetched_through_the_named_cluster_once() {
    let issuer = App::start(|_, _| Response::new(Full::from(keys()))).await;
    let mut setup = Setup::new(&remote("600s"), &[forward("c")]).await;
    setup.sidecar.apply(
        type_url::CLUSTER,
        &[
            cluster("c", &[setup.app.address]),
            cluster("issuer", &[issuer.address]),
        ],
    );
    // Without a token nobody is asked.
    assert_eq!(setup.send("/", &[]).await.status(), StatusCode::OK);
    assert!(issuer.seen.lock().is_empty());
    let bearer = format!("Bearer {}", good());
    for _ in 0..3 {
        let answer = setup.send("/", &[("authorization", &bearer)]).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let seen = issuer.seen.lock().clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].0.as_str(), &seen[0].1["host"]),
        ("/keys?a", &"issuer.example:8000".parse().unwrap())
    );
    assert_eq!(setup.metric("jwks_fetch_success"), "1");
}

/// Without keys every token is refused, and no other key is taken; known ones outlive their issuer.
#[tokio::test]
async fn keys_that_cannot_be_fetched_deny() {
    let mut setup = Setup::new(&remote("600s"), &[forward("c")]).await;
    let bearer = format!("Bearer {}", good());
    let lines = [("authorization", bearer.as_str())];
    for _ in 0..3 {
        let refused = setup.send("/", &lines).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(&refused.body()[..], b"Jwks remote fetch is failed");
    }
    // Not once for every request.
    assert_eq!(setup.metric("jwks_fetch_failed"), "1");
    for answer in ["{\"keys\": []}", "<html>"] {
        let issuer = App::start(move |_, _| Response::new(Full::from(answer))).await;
        let mut setup = Setup::new(&remote("600s"), &[forward("c")]).await;
        let clusters = [
            cluster("c", &[setup.app.address]),
            cluster("issuer", &[issuer.address]),
        ];
        setup.sidecar.apply(type_url::CLUSTER, &clusters);
        assert_eq!(
            setup.send("/", &lines).await.status(),
            StatusCode::UNAUTHORIZED
        );
        assert_eq!(issuer.seen.lock().len(), 1);
    }
    let issuer = App::start(|_, number| match number {
        0 => Response::builder()
            .header("connection", "close")
            .body(Full::from(keys()))
            .unwrap(),
        _ => Response::builder()
            .status(500)
            .body(Full::default())
            .unwrap(),
    })
    .await;
    let mut setup = Setup::new(&remote("0.001s"), &[forward("c")]).await;
    let clusters = [
        cluster("c", &[setup.app.address]),
        cluster("issuer", &[issuer.address]),
    ];
    setup.sidecar.apply(type_url::CLUSTER, &clusters);
    while setup.metric("jwks_fetch_failed") == "0" {
        assert_eq!(setup.send("/", &lines).await.status(), StatusCode::OK);
    }
    assert_eq!(setup.send("/", &lines).await.status(), StatusCode::OK);
}

/// A broken key set refuses the listener: what was there stays, and what is new is not open.
#[tokio::test]
async fn a_broken_key_set_is_refused_with_its_field() {
    let setup = Setup::new(&authentication(json!({})), &[forward("c")]).await;
    let broken = authentication(json!({"localJwks": {"inlineString": "{\"keys\": []}"}}));
    let rejected = setup
        .sidecar
        .try_apply(type_url::LISTENER, &[listener(&broken, &[forward("c")])]);
    let field = "filter_chains[0].filters[0].typed_config.http_filters[0].typed_config.providers[\"origins-0\"].local_jwks";
    assert_eq!(
        rejected,
        [format!("{field}: Jwks doesn't have any valid public key")]
    );
}
