//! What tokens do to a request: RequestAuthentication generated, compiled and judged.

use std::time::Duration;

use http::HeaderName;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use meltemi_api::Kind as ObjectKind;
use meltemi_model::{JwksSource, KeyFetching, Part};
use meltemi_proxy_core::jwt::{JwtRequest, Verified};
use meltemi_proxy_core::runtime::{
    HttpConnectionManager, HttpFilterKind, JwtAuthentication, JwtKeys,
};
use serde_json::{Value, json};

use super::*;
use crate::{Kind, generate};

const NOW: u64 = 1_900_000_000;
/// Of issuers in these tests; `c2VjcmV0` in base64.
const SECRET: &[u8] = b"secret";
const KEYS: &str = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}]}"#;

/// Two workloads, `a` and `b`, each behind its Service.
const TWO: &str = "
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: a}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec: {selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: a, image: a}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: b}
spec: {selector: {matchLabels: {app: b}}, template: {metadata: {labels: {app: b}}, spec: {containers: [{name: a, image: a}]}}}
";

fn policy(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// A rule with the tests' keys.
fn rule(issuer: &str, rest: &str) -> String {
    format!("{{issuer: {issuer}, jwks: '{KEYS}'{rest}}}")
}

fn world(policies: &[String]) -> World {
    World::new(&format!("{TWO}{}", policies.concat()))
}

fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET);
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

fn of(issuer: &str) -> String {
    token(&json!({"iss": issuer, "sub": "s", "exp": NOW + 600}))
}

fn managers(listener: &Listener) -> impl Iterator<Item = &HttpConnectionManager> {
    listener.chains().filter_map(|chain| match &chain.terminal {
        Terminal::Http(manager) => Some(manager.as_ref()),
        _ => None,
    })
}

fn filter(manager: &HttpConnectionManager) -> Option<&JwtAuthentication> {
    let mut filters = manager.http_filters.iter();
    filters.find_map(|filter| match &filter.kind {
        HttpFilterKind::Jwt(config) => Some(config.as_ref()),
        _ => None,
    })
}

fn judge(config: &JwtAuthentication, lines: &[(&str, String)]) -> Result<Verified, String> {
    let mut headers: HeaderMap = lines
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    config.sanitise(&mut headers);
    let copy = headers.clone();
    let head = RequestHead {
        method: "GET",
        path: "/",
        authority: "a",
        scheme: "http",
        headers: &copy,
    };
    let requirement = config.requirement(None, &head, 0).unwrap().unwrap();
    let request = JwtRequest {
        headers: &mut headers,
        path: &mut "/".to_owned(),
    };
    let verified = config.verify(requirement, request, &|_| None, Duration::from_secs(NOW));
    verified.map_err(|status| status.to_string())
}

impl Proxy {
    /// What every chain of the inbound listener says of a request with these tokens; "open" if it asks for none.
    fn said(&self, tokens: &[String]) -> String {
        let lines: Vec<(&str, String)> = tokens
            .iter()
            .map(|token| ("authorization", format!("Bearer {token}")))
            .collect();
        let mut said: Vec<String> = managers(&self.capture["inbound"])
            .map(|manager| match filter(manager) {
                None => "open".to_owned(),
                Some(config) => match judge(config, &lines) {
                    Ok(_) => "good".to_owned(),
                    Err(status) => status,
                },
            })
            .collect();
        said.dedup();
        said.join(" / ")
    }
}

#[test]
fn tokens_are_judged_where_a_policy_selects() {
    let spec = format!(
        "{{selector: {{matchLabels: {{app: a}}}}, jwtRules: [{}]}}",
        rule("i", "")
    );
    let world = world(&[policy("a", "default", &spec)]);
    let (a, b) = (Proxy::of(&world, "a"), Proxy::of(&world, "b"));
    assert_eq!(a.said(&[]), "good");
    assert_eq!(a.said(&[of("i")]), "good");
    assert_eq!(a.said(&[of("other")]), "Jwt issuer is not configured");
    let old = token(&json!({"iss": "i", "exp": 5}));
    assert_eq!(a.said(&[old]), "Jwt is expired");
    assert_eq!(b.said(&[of("other")]), "open");
    // Requests that leave are nobody's to judge.
    for listener in a.listeners.iter() {
        assert!(managers(listener).all(|manager| filter(manager).is_none()));
    }
}

#[test]
fn rules_of_mesh_namespace_and_workload_add_up() {
    let of_rule = |issuer: &str| format!("{{jwtRules: [{}]}}", rule(issuer, ""));
    let selected = format!(
        "{{selector: {{matchLabels: {{app: a}}}}, jwtRules: [{}]}}",
        rule("workload", "")
    );
    let elsewhere = policy("x", "elsewhere", &of_rule("elsewhere"));
    let world = world(&[
        policy("mesh", "istio-system", &of_rule("mesh")),
        policy("namespace", "default", &of_rule("namespace")),
        policy("workload", "default", &selected),
        elsewhere,
    ]);
    let (a, b) = (Proxy::of(&world, "a"), Proxy::of(&world, "b"));
    for issuer in ["mesh", "namespace", "workload"] {
        assert_eq!(a.said(&[of(issuer)]), "good", "{issuer}");
    }
    assert_eq!((a.said(&[]), b.said(&[])), ("good".into(), "good".into()));
    let unknown = "Jwt issuer is not configured";
    assert_eq!(a.said(&[of("elsewhere")]), unknown);
    assert_eq!(b.said(&[of("mesh")]), "good");
    assert_eq!(b.said(&[of("workload")]), unknown);
}

/// However many issuers there are, each of which looks at every token.
#[test]
fn issuers_may_be_many() {
    let rules: Vec<String> = (0..100).map(|i| rule(&format!("issuer-{i}"), "")).collect();
    let spec = format!("{{jwtRules: [{}]}}", rules.join(", "));
    let proxy = Proxy::of(&world(&[policy("many", "default", &spec)]), "a");
    for issuer in ["issuer-0", "issuer-55", "issuer-99"] {
        assert_eq!(proxy.said(&[of(issuer)]), "good", "{issuer}");
    }
    assert_eq!(proxy.said(&[of("i")]), "Jwt issuer is not configured");
    assert_eq!(proxy.said(&[]), "good");
}

#[test]
fn a_token_may_be_demanded() {
    let one = format!("{{jwtRules: [{}]}}", rule("i", ", presence: REQUIRED"));
    let proxy = Proxy::of(&world(&[policy("one", "default", &one)]), "a");
    assert_eq!(proxy.said(&[]), "Jwt is missing");
    assert_eq!(proxy.said(&[of("i")]), "good");
    let two = format!(
        "{{jwtRules: [{}, {}]}}",
        rule("i", ", presence: REQUIRED"),
        rule("j", "")
    );
    let proxy = Proxy::of(&world(&[policy("two", "default", &two)]), "a");
    assert_eq!(proxy.said(&[]), "Jwt is missing");
    for issuer in ["i", "j"] {
        assert_eq!(proxy.said(&[of(issuer)]), "good", "{issuer}");
    }
}

/// No keys, no entry; and a new key set costs what it has to.
#[test]
fn keys_that_are_not_there_deny() {
    let spec = "{jwtRules: [{issuer: i, jwksUri: 'https://i/keys'}, {issuer: j}]}";
    let mut world = world(&[policy("p", "default", spec)]);
    let sources: Vec<JwksSource> = world.mesh.snapshot().key_sources().into_keys().collect();
    let (url, issuer) = (
        JwksSource::Url("https://i/keys".to_owned()),
        JwksSource::Issuer("j".to_owned()),
    );
    assert_eq!(sources, [url.clone(), issuer.clone()]);
    let no_key = "Jwks doesn't have key to match kid or alg from Jwt";
    let proxy = Proxy::of(&world, "a");
    assert_eq!(proxy.said(&[of("i")]), no_key);
    assert_eq!(proxy.said(&[]), "good");
    let view = world.view("a", Flavour::Meltemi);
    let mut shelf = crate::Shelf::default();
    let none = meltemi_model::ChangeSet::default();
    let mut state = crate::ProxyState::new(view, &mut shelf.round(&world.mesh.snapshot(), &none));
    let changes = world.mesh.set_keys(&url, Some(KEYS.into()));
    assert_eq!(
        changes.iter().collect::<Vec<_>>(),
        [&Part::Keys(url.clone())]
    );
    let report = state.update(&mut shelf.round(&world.mesh.snapshot(), &changes));
    // The inbound cluster is made with the listener.
    assert_eq!((report.regenerated, report.changed), (2, 1));
    let generated = state.generated();
    assert_eq!(generated, generate(state.view(), &world.mesh.snapshot()));
    let proxy = Proxy::new(&generated);
    assert_eq!(proxy.said(&[of("i")]), "good");
    assert_eq!(proxy.said(&[of("j")]), no_key);
    // What is no key set is no key.
    world.mesh.set_keys(&issuer, Some("{}".into()));
    assert_eq!(Proxy::of(&world, "a").said(&[of("j")]), no_key);
    assert!(world.mesh.set_keys(&url, Some(KEYS.into())).is_empty());
    world.mesh.set_keys(&url, None);
    assert_eq!(Proxy::of(&world, "a").said(&[of("i")]), no_key);
}

#[test]
fn a_policy_regenerates_inbound_only_and_is_its_origin() {
    let mut world = world(&[]);
    let view = world.view("a", Flavour::Meltemi);
    let mut shelf = crate::Shelf::default();
    let none = meltemi_model::ChangeSet::default();
    let mut state = crate::ProxyState::new(view, &mut shelf.round(&world.mesh.snapshot(), &none));
    let before = state.generated();
    let spec = format!("{{jwtRules: [{}]}}", rule("i", ""));
    let changes = world.apply(&policy("p", "default", &spec));
    state.update(&mut shelf.round(&world.mesh.snapshot(), &changes));
    let after = state.generated();
    for kind in Kind::ALL {
        let differs = |name: &&Arc<str>| before.of(kind).get(*name) != after.of(kind).get(*name);
        let names: Vec<_> = after.of(kind).keys().filter(differs).collect();
        let expected: &[&str] = if kind == Kind::Listener {
            &["virtualInbound"]
        } else {
            &[]
        };
        assert_eq!(
            names.iter().map(|name| &***name).collect::<Vec<_>>(),
            expected
        );
    }
    let origins: Vec<String> = state.origins().map(ToString::to_string).collect();
    assert!(
        origins.contains(&"RequestAuthentication default/p".to_owned()),
        "{origins:?}"
    );
    let changes = world.delete(ObjectKind::RequestAuthentication, "p");
    state.update(&mut shelf.round(&world.mesh.snapshot(), &changes));
    assert_eq!(state.generated(), before);
}

#[test]
fn policies_with_targets_are_for_gateways_of_that_name() {
    let spec = format!(
        "{{targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: edge}}], jwtRules: [{}]}}",
        rule("i", "")
    );
    let deployment = TWO.replace(
        "{labels: {app: b}}",
        "{labels: {app: b, gateway.networking.k8s.io/gateway-name: edge}}",
    );
    let world = World::new(&format!("{deployment}{}", policy("p", "default", &spec)));
    assert_eq!(Proxy::of(&world, "a").said(&[of("x")]), "open");
    let refused = "Jwt issuer is not configured";
    assert_eq!(Proxy::of(&world, "b").said(&[of("x")]), refused);
}

const GATEWAY: &str = "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: g}
spec: {selector: {app: b}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec:
  hosts: ['*']
  gateways: [g]
  http:
  - name: admins
    match: [{uri: {prefix: /}, headers: {'@request.auth.claims.groups': {exact: admin}}}]
    route: [{destination: {host: a}}]
  - name: nested
    match: [{headers: {'@request.auth.claims[org.example][team]': {prefix: red}}}]
    route: [{destination: {host: a}}]
  - name: users
    match: [{headers: {'@request.auth.claims.sub': {}}, withoutHeaders: {'@request.auth.claims.groups': {exact: banned}}}]
    route: [{destination: {host: a}}]
";

/// Routes at gateways by claims: of verified tokens only (Istio, "JWT claim based routing").
#[test]
fn gateways_route_by_verified_claims() {
    let spec = format!("{{jwtRules: [{}]}}", rule("i", ""));
    let world = World::new(&format!("{TWO}{GATEWAY}{}", policy("p", "default", &spec)));
    let view = world.router("b", Flavour::Meltemi);
    let proxy = Proxy::new(&generate(&view, &world.mesh.snapshot()));
    let listener = proxy.listeners.iter().next().unwrap();
    let manager = managers(listener).next().unwrap();
    let config = filter(manager).unwrap();
    let RouteSource::Rds(name) = &manager.routes else {
        panic!("a gateway's routes are a resource");
    };
    let host = virtual_host::select(&proxy.routes[name.as_ref()], "x").cloned();
    let host = host.unwrap();
    let route = |claims: Option<Value>, lines: &[(&'static str, String)]| {
        let mut lines = lines.to_vec();
        if let Some(mut claims) = claims {
            claims["iss"] = json!("i");
            lines.push(("authorization", format!("Bearer {}", token(&claims))));
        }
        let verified = judge(config, &lines).unwrap();
        assert!(verified.clears_route || verified.metadata.is_empty());
        let headers = HeaderMap::new();
        let head = RequestHead {
            method: "GET",
            path: "/",
            authority: "x",
            scheme: "http",
            headers: &headers,
        };
        routing::select_verified(&host, &head, Some(&verified.metadata), 0)
            .map_or_else(String::new, |route| route.name.to_string())
    };
    assert_eq!(route(Some(json!({"groups": "admin"})), &[]), "admins");
    assert_eq!(
        route(Some(json!({"groups": ["x", "admin"]})), &[]),
        "admins"
    );
    assert_eq!(
        route(Some(json!({"org.example": {"team": "red-1"}})), &[]),
        "nested"
    );
    assert_eq!(route(Some(json!({"sub": "s"})), &[]), "users");
    assert_eq!(
        route(Some(json!({"sub": "s", "groups": ["banned"]})), &[]),
        ""
    );
    assert_eq!(route(Some(json!({"groups": "Admin"})), &[]), "");
    assert_eq!(route(None, &[]), "");
    // A header of that name is no claim.
    assert_eq!(route(None, &[("groups", "admin".to_owned())]), "");
}

/// `PILOT_JWT_ENABLE_REMOTE_JWKS`: the proxy asks the cluster of the service that the URL names, at gateways too.
#[test]
fn proxies_may_fetch_keys_from_services_of_the_mesh() {
    let spec = "{jwtRules: [{issuer: i, timeout: 2s, jwksUri: 'http://a.default.svc.cluster.local/keys'}, {issuer: j, jwksUri: 'https://j/keys'}]}";
    let mut world = World::new(&format!("{TWO}{GATEWAY}{}", policy("p", "default", spec)));
    let server_of = |world: &World, issuer: &str| {
        let proxy = Proxy::of(world, "a");
        let manager = managers(&proxy.capture["inbound"]).next().unwrap();
        let config = filter(manager).unwrap();
        let mut providers = config.providers.iter();
        let provider = providers.find(|own| &*own.issuer == issuer).unwrap();
        match &provider.keys {
            JwtKeys::Local(_) => None,
            JwtKeys::Remote(remote) => {
                assert_eq!(remote.timeout.as_secs(), if issuer == "i" { 2 } else { 5 });
                Some(format!("{} {}", remote.cluster, remote.uri))
            }
        }
    };
    let sources = |world: &World| world.mesh.snapshot().key_sources().len();
    assert_eq!((server_of(&world, "i"), sources(&world)), (None, 2));
    let cluster = "outbound|80||a.default.svc.cluster.local";
    world.mesh = std::mem::take(&mut world.mesh).with_key_fetching(KeyFetching::Hybrid);
    let expected = format!("{cluster} http://a.default.svc.cluster.local/keys");
    assert_eq!(server_of(&world, "i"), Some(expected));
    assert_eq!((server_of(&world, "j"), sources(&world)), (None, 1));
    world.delete(ObjectKind::VirtualService, "v");
    let edge = generate(&world.router("b", Flavour::Meltemi), &world.mesh.snapshot());
    assert!(
        edge.clusters.contains_key(cluster),
        "{:?}",
        edge.clusters.keys()
    );
    // Without the service, the control plane again.
    world.delete(ObjectKind::Service, "a");
    assert_eq!((server_of(&world, "i"), sources(&world)), (None, 2));
    world.mesh = std::mem::take(&mut world.mesh).with_key_fetching(KeyFetching::Proxies);
    assert_eq!(
        server_of(&world, "j"),
        Some("outbound|443||j https://j/keys".to_owned())
    );
    assert_eq!(sources(&world), 0);
}

/// What passes the check of key sets is taken by proxies: a set that they refused would freeze the listener.
#[test]
fn key_sets_that_pass_are_taken() {
    let ed25519 = |x: &str| format!(r#"{{"kty": "OKP", "crv": "Ed25519", "x": "{x}"}}"#);
    let good = ed25519("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    for (set, is_good) in [
        (format!(r#"{{"keys": [{good}]}}"#), true),
        (format!(r#"{{"keys": [{good}], "keys": []}}"#), false),
        (
            format!(
                r#"{{"keys": [{}]}}"#,
                ed25519("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURp")
            ),
            false,
        ),
        (format!(r#"{{"keys": [{}]}}"#, ed25519("AA")), false),
        (
            r#"{"keys": [{"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}]}"#.to_owned(),
            false,
        ),
        (
            r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "HS256"}]}"#.to_owned(),
            false,
        ),
        (
            r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}]}"#.to_owned(),
            false,
        ),
        (
            r#"{"keys": [{"kty": "oct", "k": "AQAB", "alg": 5}]}"#.to_owned(),
            false,
        ),
    ] {
        let taken = meltemi_proxy_core::jwt::Jwks::parse(set.as_bytes());
        assert_eq!(taken.is_ok(), is_good, "{set}");
        let found = meltemi_api::jwks::problem(set.as_bytes());
        assert_eq!(found.is_none(), is_good, "{set}");
        let mut world = world(&[policy(
            "p",
            "default",
            "{jwtRules: [{issuer: i, jwksUri: 'https://i/keys'}]}",
        )]);
        let source = JwksSource::Url("https://i/keys".to_owned());
        world.mesh.set_keys(&source, Some(set.into()));
        assert_eq!(Proxy::of(&world, "a").said(&[]), "good");
    }
}
