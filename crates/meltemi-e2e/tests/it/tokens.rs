//! Istio's tasks about JSON Web Tokens, with an issuer of our own: a key pair that lives as long as a test.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use meltemi_e2e::{Lab, eventually, istio, sample};
use rcgen::KeyPair;
use serde_json::{Value, json};

const ISSUER: &str = "testing@secure.istio.io";

/// Signs what the tests say.
pub(crate) struct Issuer {
    key: EncodingKey,
    pub(crate) keys: String,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        let pem = KeyPair::generate().expect("a key").serialize_pem();
        let key = EncodingKey::from_ec_pem(pem.as_bytes()).expect("it is of P-256");
        let mut jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).expect("it has a public half");
        jwk.common.key_id = Some("one".to_owned());
        Self {
            key,
            keys: json!({"keys": [jwk]}).to_string(),
        }
    }

    pub(crate) fn token(&self, more: &Value) -> String {
        let mut claims = json!({"iss": ISSUER, "sub": ISSUER, "exp": now() + 600});
        for (name, value) in more.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some("one".to_owned());
        jsonwebtoken::encode(&header, &claims, &self.key).expect("it signs")
    }

    /// Where an httpbin publishes the keys.
    fn published(&self, host: &str) -> String {
        format!("http://{host}/base64/{}", base64url(self.keys.as_bytes()))
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("it is after 1970").as_secs()
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            let index = group >> (18 - 6 * digit) & 63;
            text.push(char::from(DIGITS[index as usize]));
        }
    }
    text
}

/// Istio's httpbin and curl in `foo`, as its security tasks begin.
fn foo(name: &str) -> Lab {
    let lab = Lab::up(name, &[]);
    lab.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: foo, labels: {istio-injection: enabled}}\n");
    for manifest in ["httpbin/httpbin.yaml", "curl/curl.yaml"] {
        lab.meltemi(&["lab", "apply", "-n", "foo", "-f", &istio(manifest)])
            .ok();
    }
    lab.wait_ready();
    lab
}

pub(crate) fn policy(namespace: &str, selector: &str, rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: jwt-example, namespace: {namespace}}}\n\
         spec:\n  selector: {{matchLabels: {{{selector}}}}}\n  jwtRules:\n  - {{issuer: {ISSUER}, {rule}}}\n"
    )
}

/// Status and body of a call of httpbin from the pod beside it.
fn ask(lab: &Lab, path: &str, token: Option<&str>) -> (String, String) {
    let url = format!("http://httpbin.foo:8000{path}");
    let line = token.map(|token| format!("Authorization: Bearer {token}"));
    let mut call = vec!["curl", "-sS", "-m", "5", "-w", "\n%{http_code}"];
    if let Some(line) = &line {
        call.extend(["-H", line]);
    }
    call.push(&url);
    let output = lab.exec("deploy/curl.foo", "curl", &call);
    let (body, status) = output.stdout.rsplit_once('\n').unwrap_or_default();
    (status.to_owned(), body.to_owned())
}

fn status(lab: &Lab, token: Option<&str>) -> String {
    ask(lab, "/headers", token).0
}

/// "Allow requests with valid JWT and list-typed claims" (Istio, Tasks, Security, Authorization, JWT): a token that is there
/// must be good, and none need be.
#[test]
fn istios_task_with_keys_that_the_control_plane_fetches() {
    let lab = foo("jwt");
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let (good, forged) = (issuer.token(&json!({})), stranger.token(&json!({})));
    assert_eq!(status(&lab, Some("invalidToken")), "200", "nobody asks");
    let published = issuer.published("httpbin.foo:8000");
    let rule = format!("jwksUri: \"{published}\", outputPayloadToHeader: x-jwt-payload");
    lab.apply(&policy("foo", "app: httpbin", &rule));
    eventually("good tokens are known", || {
        (status(&lab, Some(&good)) == "200" && status(&lab, Some(&forged)) == "401").then_some(())
    });
    assert_eq!(status(&lab, None), "200");
    let (status_of_invalid, body) = ask(&lab, "/headers", Some("invalidToken"));
    assert_eq!(status_of_invalid, "401");
    let form = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    assert_eq!(body, form);
    let old = issuer.token(&json!({"exp": 1_000_000_000}));
    assert_eq!(
        ask(&lab, "/headers", Some(&old)),
        ("401".into(), "Jwt is expired".into())
    );
    let other = issuer.token(&json!({"iss": "another@secure.istio.io"}));
    let unknown = "Jwt issuer is not configured";
    assert_eq!(
        ask(&lab, "/headers", Some(&other)),
        ("401".into(), unknown.into())
    );
    assert_eq!(
        ask(&lab, "/headers", Some(&forged)).1,
        "Jwt verification fails"
    );
    // The application gets the claims, not the token.
    let (_, seen) = ask(&lab, "/headers", Some(&good));
    let payload = good.split('.').nth(1).expect("a payload");
    assert!(seen.contains(payload) && !seen.contains("Bearer"), "{seen}");
    eventually("the access log says why", || {
        let call = [
            "lab",
            "logs",
            "deploy/httpbin",
            "-n",
            "foo",
            "-c",
            "istio-proxy",
        ];
        let log = lab.meltemi(&call).stdout;
        log.contains("jwt_authn_access_denied{Jwt_is_expired}")
            .then_some(())
    });
    // A policy whose keys nobody has takes no token, and requests without one pass.
    lab.apply(&policy(
        "foo",
        "app: httpbin",
        "jwksUri: \"http://nobody.foo:8000/keys\"",
    ));
    eventually("no token is good", || {
        (status(&lab, Some(&good)) == "401").then_some(())
    });
    assert_eq!(status(&lab, None), "200");
    // Keys in the policy itself.
    lab.apply(&policy(
        "foo",
        "app: httpbin",
        &format!("jwks: '{}'", issuer.keys),
    ));
    eventually("the token is good again", || {
        (status(&lab, Some(&good)) == "200").then_some(())
    });
    lab.meltemi(&[
        "lab",
        "delete",
        "requestauthentication",
        "jwt-example",
        "-n",
        "foo",
    ])
    .ok();
    eventually("nobody asks any more", || {
        (status(&lab, Some("invalidToken")) == "200").then_some(())
    });
}

const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: httpbin-gateway, namespace: foo}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: httpbin, namespace: foo}
spec:
  hosts: ['*']
  gateways: [foo/httpbin-gateway]
  http:
  - match:
    - uri: {prefix: /headers}
      headers: {'@request.auth.claims.groups': {exact: group1}}
    route: [{destination: {port: {number: 8000}, host: httpbin}}]
";

/// "JWT claim based routing" (Istio, Tasks, Security, Authentication).
#[test]
fn istios_task_of_routing_by_claims_at_the_gateway() {
    let lab = foo("jwt-claims");
    lab.apply_file(&sample("ingress-gateway/ingress-gateway.yaml"));
    lab.apply(ROUTES);
    lab.wait_ready();
    let issuer = Issuer::new();
    let rule = format!("jwks: '{}', forwardOriginalToken: true", issuer.keys);
    lab.apply(&policy("istio-system", "istio: ingressgateway", &rule));
    let ask = |token: Option<&str>, more: &[&str]| {
        let line = token.map(|token| format!("Authorization: Bearer {token}"));
        let mut args: Vec<&str> = line.iter().flat_map(|line| ["-H", line.as_str()]).collect();
        args.extend(more);
        args.push("http://istio-ingressgateway.istio-system/headers");
        lab.curl("deploy/curl.foo", "curl", &args).1
    };
    let group = issuer.token(&json!({"groups": ["group1", "group2"]}));
    eventually("the claim leads to httpbin", || {
        (ask(Some(&group), &[]) == "200").then_some(())
    });
    assert_eq!(ask(None, &[]), "404");
    assert_eq!(
        ask(None, &["-H", "groups: group1"]),
        "404",
        "a header is no claim"
    );
    assert_eq!(ask(Some("some.invalid.token"), &[]), "401");
    let elsewhere = issuer.token(&json!({"groups": ["group2"]}));
    assert_eq!(ask(Some(&elsewhere), &[]), "404");
    let forged = Issuer::new().token(&json!({"groups": ["group1"]}));
    assert_eq!(ask(Some(&forged), &[]), "401");
}

/// A policy of the same namespace that stands in the place of the one before.
fn require(lab: &Lab, spec: &str) {
    lab.apply(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: require-jwt, namespace: foo}}\n\
         spec: {{selector: {{matchLabels: {{app: httpbin}}}}, {spec}}}\n"
    ));
}

/// The same task's second half: a token is demanded, of a user, and with a claim; a bad one is refused before that is asked.
#[test]
fn istios_task_with_tokens_that_a_policy_demands() {
    let lab = foo("jwt-required");
    let issuer = Issuer::new();
    let keys = format!("jwks: '{}'", issuer.keys);
    lab.apply(&policy("foo", "app: httpbin", &keys));
    let user = format!("{ISSUER}/{ISSUER}");
    let (good, other) = (
        issuer.token(&json!({})),
        issuer.token(&json!({"sub": "other"})),
    );
    let member = issuer.token(&json!({"groups": ["group2", "group1"]}));
    let stranger = issuer.token(&json!({"groups": ["group2"]}));
    let by_user = format!(
        "action: ALLOW, rules: [{{from: [{{source: {{requestPrincipals: ['{user}']}}}}]}}]"
    );
    let by_claim = format!(
        "action: ALLOW, rules: [{{from: [{{source: {{requestPrincipals: ['{user}']}}}}], \
         when: [{{key: 'request.auth.claims[groups]', values: [group1]}}]}}]"
    );
    let any = "action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]";
    for (spec, let_in, refused) in [
        (by_user.as_str(), &good, [None, Some(&other)]),
        (&by_claim, &member, [Some(&good), Some(&stranger)]),
        (any, &other, [None, None]),
    ] {
        require(&lab, spec);
        let refused = refused.map(|token| token.map(String::as_str));
        eventually(&format!("in force: {spec}"), || {
            let is_let_in = status(&lab, Some(let_in)) == "200";
            let is_refused = |token: &Option<&str>| status(&lab, *token) == "403";
            (is_let_in && refused.iter().all(is_refused)).then_some(())
        });
        let (_, body) = ask(&lab, "/headers", refused[0]);
        assert_eq!(body, "RBAC: access denied", "{spec}");
        assert_eq!(status(&lab, Some("invalidToken")), "401", "{spec}");
    }
}
