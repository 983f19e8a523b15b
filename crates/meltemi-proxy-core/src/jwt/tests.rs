use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use meltemi_proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use meltemi_proto::{any, json as proto_json, type_url};
use serde_json::{Value, json};

use super::*;
use crate::compile::jwt_filter;

mod vectors;

const NOW: u64 = 1_900_000_000;
const SECRET: &[u8] = b"a secret that only tests have";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

/// A token of that header and payload as they are written, signed with [`SECRET`].
fn signed(header: &str, payload: &str) -> String {
    let signed = format!("{}.{}", encode(header), encode(payload));
    let key = EncodingKey::from_secret(SECRET);
    let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

fn token(payload: &Value) -> String {
    signed(r#"{"alg":"HS256","kid":"k"}"#, &payload.to_string())
}

/// Good claims of `iss-a`, with some of them changed.
fn claims(changes: Value) -> Value {
    let mut claims = json!({"iss": "iss-a", "aud": "x", "sub": "s", "exp": NOW + 600});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

fn jwks() -> Value {
    json!({"keys": [{"kty": "oct", "k": encode(SECRET), "alg": "HS256", "kid": "k"}]})
}

fn local(keys: &Value) -> Value {
    json!({"inlineString": keys.to_string()})
}

/// As Istio generates it for two issuers; `a` in the default locations, `b` in places of its own.
fn two_issuers() -> Value {
    let any = |list: Value| json!({"requiresAny": {"requirements": list}});
    let missing = json!({"allowMissing": {}});
    let both = json!({"requiresAll": {"requirements": [
        any(json!([{"providerName": "a"}, missing])), any(json!([{"providerName": "b"}, missing]))]}});
    json!({
        "providers": {
            "a": {"issuer": "iss-a", "audiences": ["x", "https://y/"], "localJwks": local(&jwks()),
                "forwardPayloadHeader": "x-payload", "payloadInMetadata": "payload",
                "normalizePayloadInMetadata": {"spaceDelimitedClaims": ["scope"]},
                "claimToHeaders": [{"headerName": "x-claim", "claimName": "a.b"}]},
            "b": {"issuer": "iss-b", "localJwks": local(&jwks()), "forward": true,
                "fromHeaders": [{"name": "x-token", "valuePrefix": "P "}], "fromParams": ["t"], "fromCookies": ["c"]}},
        "rules": [
            {"match": {"prefix": "/a"}, "requires": any(json!([{"providerName": "a"}, missing]))},
            {"match": {"prefix": "/required"}, "requires": {"providerName": "a"}},
            {"match": {"prefix": "/b"}, "requires": any(json!([{"providerName": "b"}, missing]))},
            {"match": {"prefix": "/two"}, "requires": any(json!([{"providerName": "a"}, {"providerName": "b"}, both]))},
            {"match": {"prefix": "/every"}, "requires": {"requiresAll": {"requirements": [{"providerName": "a"}, {"providerName": "b"}]}}},
            {"match": {"prefix": "/other"}, "requires": {"providerAndAudiences": {"providerName": "a", "audiences": ["z"]}}},
            {"match": {"prefix": "/whoever"}, "requires": missing},
            {"match": {"prefix": "/failing"}, "requires": any(json!([{"providerName": "a"}, {"allowMissingOrFailed": {}}]))},
            {"match": {"prefix": "/open"}}],
        "bypassCorsPreflight": true,
        "requirementMap": {"strict": {"providerName": "a"}}})
}

fn compile(config: &Value) -> JwtAuthentication {
    let config = proto_json::json_to_any(type_url::JWT_AUTHN, config).unwrap();
    let config: proto::JwtAuthentication = any::unpack_named(&config).unwrap();
    jwt_filter(config).unwrap()
}

/// What came of a request, and what is left of it.
struct Outcome {
    result: Result<Verified, JwtStatus>,
    headers: HeaderMap,
    path: String,
}

impl Outcome {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn judge(config: &JwtAuthentication, path: &str, lines: &[(&str, String)]) -> Outcome {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(
            HeaderName::try_from(*name).unwrap(),
            HeaderValue::try_from(value).unwrap(),
        );
    }
    config.sanitise(&mut headers);
    let mut path = path.to_owned();
    let head = RequestHead {
        method: "GET",
        path: &path.clone(),
        authority: "a",
        scheme: "http",
        headers: &headers.clone(),
    };
    let result = match config.requirement(None, &head, 0).unwrap() {
        None => Ok(Verified::default()),
        Some(requirement) => {
            let request = JwtRequest {
                headers: &mut headers,
                path: &mut path,
            };
            config.verify(requirement, request, &|_| None, Duration::from_secs(NOW))
        }
    };
    Outcome {
        result,
        headers,
        path,
    }
}

fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

fn check(path: &str, lines: &[(&str, String)], expected: &str) {
    let outcome = judge(&compile(&two_issuers()), path, lines);
    let said = outcome
        .result
        .map_or_else(|status| status.to_string(), |_| String::new());
    assert_eq!(said, expected, "{path} {lines:?}");
}

/// Every form of a bad token, with Envoy's words for it.
#[test]
fn bad_tokens() {
    let refused = |token: &str, expected: &str| check("/required", &[bearer(token)], expected);
    let form = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    let json_header = encode(r#"{"alg":"HS256"}"#);
    for text in [
        "a.b",
        "..",
        "a.b.c.d",
        ".b.c",
        "a..c",
        "a.b.",
        &"a".repeat(1 << 17),
    ] {
        refused(text, form);
    }
    refused("%.b.c", form);
    refused("a.b.c", "Jwt header is an invalid Base64url encoded");
    refused("YWJj.YWJj.YWJj", "Jwt header is an invalid JSON");
    refused(
        &format!("{json_header}.a.b"),
        "Jwt payload is an invalid Base64url encoded",
    );
    refused(
        &format!("{json_header}.YWJj.YWJj"),
        "Jwt payload is an invalid JSON",
    );
    let good = claims(json!({})).to_string();
    for (header, expected) in [
        ("[]", "Jwt header is an invalid JSON"),
        (
            r#"{"alg":"none","alg":"HS256"}"#,
            "Jwt header is an invalid JSON",
        ),
        (
            "{}",
            "Jwt header [alg] field is required and must be a string",
        ),
        (
            r#"{"alg":5}"#,
            "Jwt header [alg] field is required and must be a string",
        ),
        (r#"{"alg":"none"}"#, "Jwt header [alg] is not supported"),
        (r#"{"alg":"hs256"}"#, "Jwt header [alg] is not supported"),
        (
            r#"{"alg":"HS256","kid":3}"#,
            "Jwt header [kid] field is not a string",
        ),
        (
            r#"{"alg":"HS256","crit":["x"]}"#,
            "Jwt header [crit] is not supported",
        ),
        (
            r#"{"alg":"HS256","kid":"other"}"#,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            r#"{"alg":"RS256","kid":"k"}"#,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            r#"{"alg":"HS512","kid":"k"}"#,
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (r#"{"alg":"HS256"}"#, ""),
        (r#"{"alg":"HS256","kid":""}"#, ""),
    ] {
        refused(&signed(header, &good), expected);
    }
    for (change, expected) in [
        (json!({"iss": 5}), "Jwt payload [iss] field is not a string"),
        (
            json!({"iss": null}),
            "Jwt payload [iss] field is not a string",
        ),
        (json!({"sub": 5}), "Jwt payload [sub] field is not a string"),
        (json!({"jti": 5}), "Jwt payload [jti] field is not a string"),
        (
            json!({"iat": "x"}),
            "Jwt payload [iat] field is not an integer",
        ),
        (
            json!({"iat": -1}),
            "Jwt payload [iat] field is not a positive 64 bit integer",
        ),
        (
            json!({"nbf": "x"}),
            "Jwt payload [nbf] field is not an integer",
        ),
        (
            json!({"exp": "x"}),
            "Jwt payload [exp] field is not an integer",
        ),
        (
            json!({"exp": -1}),
            "Jwt payload [exp] field is not a positive 64 bit integer",
        ),
        (
            json!({"exp": 1e30}),
            "Jwt payload [exp] field is not a positive 64 bit integer",
        ),
        (
            json!({"aud": 5}),
            "Jwt payload [aud] field is not a string or string list",
        ),
        (
            json!({"aud": [5]}),
            "Jwt payload [aud] field is not a string or string list",
        ),
        (json!({"aud": []}), "Audiences in Jwt are not allowed"),
        (json!({"aud": "z"}), "Audiences in Jwt are not allowed"),
        (json!({"aud": ["q", "x"]}), ""),
        (json!({"aud": "http://y"}), ""),
        (json!({"iss": "iss-z"}), "Jwt issuer is not configured"),
        (
            json!({"iss": "iss-z", "exp": 5}),
            "Jwt issuer is not configured",
        ),
        (json!({"exp": NOW - 61}), "Jwt is expired"),
        (json!({"exp": NOW - 60}), ""),
        (json!({"exp": 0}), "Jwt is expired"),
        (json!({"exp": NOW as f64 - 59.5}), ""),
        (json!({"exp": u64::MAX}), ""),
        (json!({"nbf": NOW + 61}), "Jwt not yet valid"),
        (json!({"nbf": NOW + 60}), ""),
        (json!({"exp": 5, "aud": "z"}), "Jwt is expired"),
    ] {
        refused(&token(&claims(change)), expected);
    }
    let twice = r#"{"iss":"iss-z","iss":"iss-a","aud":"x"}"#;
    refused(
        &signed(r#"{"alg":"HS256"}"#, twice),
        "Jwt payload is an invalid JSON",
    );
    let deep = format!(
        r#"{{"iss":"iss-a","q":{}{}}}"#,
        "[".repeat(500),
        "]".repeat(500)
    );
    refused(
        &signed(r#"{"alg":"HS256"}"#, &deep),
        "Jwt payload is an invalid JSON",
    );
    let good = token(&claims(json!({})));
    let (body, signature) = good.rsplit_once('.').unwrap();
    refused(&format!("{body}.YWJj"), "Jwt verification fails");
    refused(
        &format!("{body}.{signature}="),
        "Jwt signature is an invalid Base64url encoded",
    );
    refused(
        &format!("{body}.a"),
        "Jwt signature is an invalid Base64url encoded",
    );
    refused(
        &format!("{good},x"),
        "Jwt signature is an invalid Base64url encoded",
    );
    refused(&good, "");
}

#[test]
fn where_tokens_stand() {
    let good = token(&claims(json!({})));
    let bad = token(&claims(json!({"exp": 5})));
    let of_b = token(&json!({"iss": "iss-b"}));
    let (missing, expired) = ("Jwt is missing", "Jwt is expired");
    let form = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
    check("/a", &[], "");
    check("/required", &[], missing);
    check(
        "/required",
        &[("authorization", format!("bearer {good}"))],
        missing,
    );
    check(
        "/required",
        &[("authorization", "Basic YWJj".to_owned())],
        missing,
    );
    check(
        "/required",
        &[("authorization", format!("Bearer  {good}"))],
        "",
    );
    check(&format!("/required?x=1&access_token={good}"), &[], "");
    check("/required?access_token=", &[], form);
    check(
        &format!("/required?access%5Ftoken={}", good.replace('.', "%2E")),
        &[],
        "",
    );
    check("/required", &[bearer(&good), bearer(&good)], form);
    check(
        &format!("/required?access_token={bad}"),
        &[bearer(&good)],
        expired,
    );
    check(
        &format!("/required?access_token={good}"),
        &[bearer(&bad)],
        expired,
    );
    check(
        &format!("/required?access_token={good}&access_token={bad}"),
        &[],
        expired,
    );
    check("/b", &[bearer(&bad)], "");
    check("/b", &[("x-token", of_b.clone())], "");
    check("/b", &[("x-token", "P x".to_owned())], form);
    check("/b", &[("x-token", format!("P {of_b}"))], "");
    check("/b", &[("cookie", format!("z=1; c=\"{of_b}\""))], "");
    check("/b", &[("cookie", format!("c={of_b}; c=x"))], form);
    check(
        &format!("/b?t={of_b}"),
        &[("cookie", "c=x".to_owned())],
        form,
    );
    let many = format!("/b?{}", format!("t={of_b}&").repeat(TOKEN_COUNT_LIMIT + 1));
    check(&many, &[], form);
}

#[test]
fn requirements_of_several_providers() {
    let good = token(&claims(json!({})));
    let bad = token(&claims(json!({"exp": 5})));
    let of_b = ("x-token", format!("P {}", token(&json!({"iss": "iss-b"}))));
    let of_nobody = token(&json!({"iss": "iss-z"}));
    check("/two", &[], "");
    check("/two", &[bearer(&good)], "");
    check("/two", std::slice::from_ref(&of_b), "");
    check("/two", &[bearer(&bad)], "Jwt is expired");
    check(
        "/two",
        &[bearer(&of_nobody)],
        "Jwt issuer is not configured",
    );
    check("/every", &[bearer(&good)], "Jwt is missing");
    check("/every", &[bearer(&good), of_b.clone()], "");
    check(
        "/other",
        &[bearer(&good)],
        "Audiences in Jwt are not allowed",
    );
    check(
        "/other",
        &[bearer(&token(&claims(json!({"aud": "z"}))))],
        "",
    );
    check("/whoever", &[], "");
    check("/whoever", &[bearer(&good), of_b], "");
    check("/whoever", &[bearer(&bad)], "Jwt is expired");
    check(
        "/whoever",
        &[bearer(&of_nobody)],
        "Jwt issuer is not configured",
    );
    check("/failing", &[bearer(&bad)], "");
    check("/open", &[bearer(&bad)], "");
    check("/unmatched", &[bearer(&bad)], "");
}

#[test]
fn routes_speak_of_requirements_by_name() {
    let config = compile(&two_issuers());
    let headers = HeaderMap::new();
    let head = RequestHead {
        method: "GET",
        path: "/open",
        authority: "a",
        scheme: "http",
        headers: &headers,
    };
    let asked = |route: &JwtPerRoute| config.requirement(Some(route), &head, 0);
    assert!(asked(&JwtPerRoute::Disabled).unwrap().is_none());
    let strict = JwtPerRoute::Requirement("strict".into());
    assert!(matches!(
        asked(&strict).unwrap(),
        Some(JwtRequirement::Provider { provider: 0, .. })
    ));
    let unknown = JwtPerRoute::Requirement("nope".into());
    assert_eq!(
        asked(&unknown).unwrap_err(),
        "Wrong requirement_name: nope. It should be one of [strict]"
    );
}

#[test]
fn upstream_learns_what_was_verified_and_nothing_else() {
    let config = compile(&two_issuers());
    let forged = [
        ("x-payload", "forged".to_owned()),
        ("x-claim", "forged".to_owned()),
    ];
    for path in ["/open", "/a", "/unmatched"] {
        let outcome = judge(&config, path, &forged);
        assert_eq!(
            (outcome.header("x-payload"), outcome.header("x-claim")),
            (None, None)
        );
    }
    let payload = claims(json!({"scope": "read  write", "a": {"b": "deep"}}));
    let good = token(&payload);
    let mut lines = forged.to_vec();
    lines.push(bearer(&good));
    let outcome = judge(&config, &format!("/a?x=%20&access_token={good}&y"), &lines);
    let verified = outcome.result.as_ref().unwrap();
    let mut told = payload.clone();
    told["scope"] = json!(["read", "write"]);
    assert_eq!(
        Value::Object(verified.metadata.clone()),
        json!({"payload": told})
    );
    assert!(!verified.clears_route);
    assert_eq!(outcome.header("x-payload"), good.split('.').nth(1));
    assert_eq!(outcome.header("x-claim"), Some("deep"));
    assert_eq!(
        (outcome.header("authorization"), outcome.path.as_str()),
        (None, "/a?x=%20&y")
    );
    // Forwarded, where the provider says so.
    let of_b = format!("P {}", token(&json!({"iss": "iss-b"})));
    let outcome = judge(&config, "/b", &[("x-token", of_b.clone())]);
    assert_eq!(outcome.header("x-token"), Some(of_b.as_str()));
    assert_eq!(outcome.result.unwrap(), Verified::default());
}

#[test]
fn claims_as_headers() {
    let check = |value: Value, expected: Option<&str>| {
        let payload = json!({"c": value});
        let found = claims::header(payload.as_object().unwrap(), &["c".into()]);
        let found = found
            .as_ref()
            .map(|value| std::str::from_utf8(value.as_bytes()).unwrap());
        assert_eq!(found, expected, "{value}");
    };
    check(json!("x"), Some("x"));
    check(json!("é x"), Some("é x"));
    check(json!(5), Some("5"));
    check(json!(-3), Some("-3.000000"));
    check(json!(5.5), Some("5.500000"));
    check(json!(true), Some("true"));
    check(json!([1, "a"]), Some("WzEsImEiXQ=="));
    check(json!({"k": 1}), Some("eyJrIjoxfQ=="));
    check(json!(null), None);
    check(json!(""), None);
    // What would end the line is not put into one.
    check(json!("a\r\nx-admin: true"), None);
}

#[test]
fn subjects_and_lifetimes() {
    let provider = |extra: Value| {
        let mut provider = json!({"issuer": "iss-a", "localJwks": local(&jwks())});
        let fields = provider.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        compile(&json!({"providers": {"p": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": {"providerName": "p"}}]}))
    };
    let check = |extra: Value, payload: Value, expected: bool| {
        let outcome = judge(&provider(extra.clone()), "/", &[bearer(&token(&payload))]);
        let wanted = if expected {
            None
        } else {
            Some(JwtStatus::VerificationFails)
        };
        assert_eq!(outcome.result.err(), wanted, "{extra} {payload}");
    };
    let subjects = json!({"subjects": {"prefix": "spiffe://"}});
    check(
        subjects.clone(),
        json!({"iss": "iss-a", "sub": "spiffe://x"}),
        true,
    );
    check(subjects.clone(), json!({"iss": "iss-a", "sub": "x"}), false);
    check(subjects, json!({"iss": "iss-a"}), false);
    let expiring = json!({"requireExpiration": true});
    check(expiring.clone(), json!({"iss": "iss-a"}), false);
    check(expiring, json!({"iss": "iss-a", "exp": NOW + 5}), true);
    let short = json!({"maxLifetime": "100s"});
    check(
        short.clone(),
        json!({"iss": "iss-a", "exp": NOW + 101}),
        false,
    );
    check(short.clone(), json!({"iss": "iss-a"}), false);
    check(short, json!({"iss": "iss-a", "exp": NOW + 100}), true);
    check(
        json!({"clockSkewSeconds": 5}),
        json!({"iss": "iss-a", "exp": NOW - 5}),
        true,
    );
    let everyone = json!({"issuer": ""});
    check(everyone, json!({"sub": "x"}), true);
}

#[test]
fn preflights_need_no_token() {
    let config = compile(&two_issuers());
    let headers = |names: &[&'static str]| -> HeaderMap {
        names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x")))
            .collect()
    };
    let all = headers(&["origin", "access-control-request-method"]);
    assert!(config.bypasses(&Method::OPTIONS, &all));
    assert!(!config.bypasses(&Method::GET, &all));
    assert!(!config.bypasses(&Method::OPTIONS, &headers(&["origin"])));
    let mut strict = two_issuers();
    strict["bypassCorsPreflight"] = false.into();
    assert!(!compile(&strict).bypasses(&Method::OPTIONS, &all));
}

#[test]
fn key_sets() {
    let check = |text: &str, expected: Result<usize, JwksError>| {
        assert_eq!(
            Jwks::parse(text.as_bytes()).map(|keys| keys.len()),
            expected,
            "{text:.80}"
        );
    };
    check("{", Err(JwksError::Json));
    check("[]", Err(JwksError::Json));
    check("{}", Err(JwksError::NoKeys));
    check(r#"{"keys": {}}"#, Err(JwksError::NotAList));
    check(r#"{"keys": []}"#, Err(JwksError::NoValidKey));
    check(r#"{"keys": [], "keys": []}"#, Err(JwksError::Json));
    check(&jwks().to_string(), Ok(1));
    let of = |keys: Value| json!({"keys": keys}).to_string();
    for bad in [
        json!({"kty": "RSA"}),
        json!({"kty": "RSA", "n": "!", "e": "AQAB"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "alg": "HS256"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "enc"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}),
        json!({"kty": "EC", "crv": "P-521", "x": "AQAB", "y": "AQAB"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}),
        json!({"kty": "OKP", "crv": "X25519", "x": encode([0; 32])}),
        json!({"kty": "oct", "k": ""}),
        json!({"kty": "oct", "k": "AQAB", "alg": "none"}),
        json!({"kty": "new"}),
        json!(5),
    ] {
        check(&of(json!([bad])), Err(JwksError::NoValidKey));
        check(&of(json!([bad, jwks()["keys"][0]])), Ok(1));
    }
    check(&of(vec![json!(5); 129].into()), Err(JwksError::TooMany));
    check(&" ".repeat(JWKS_LIMIT_BYTES + 1), Err(JwksError::TooLong));
}

/// A key's kind decides: its public half is never a shared secret, whatever the token says.
#[test]
fn algorithms_are_pinned_to_keys() {
    for vector in vectors::ALL {
        let config = |keys: &str| {
            compile(
                &json!({"providers": {"p": {"issuer": "testing@secure.istio.io", "localJwks": {"inlineString": keys}}},
                "rules": [{"match": {"prefix": "/"}, "requires": {"providerName": "p"}}]}),
            )
        };
        let said = |keys: &str, token: &str| judge(&config(keys), "/", &[bearer(token)]).result;
        assert!(
            said(vector.keys, vector.token).is_ok(),
            "{}",
            vector.algorithm
        );
        let keys: Value = serde_json::from_str(vector.keys).unwrap();
        assert!(keys["keys"][0].get("alg").is_none(), "{}", vector.algorithm);
        let (body, _) = vector.token.rsplit_once('.').unwrap();
        let payload = body.split_once('.').unwrap().1;
        // The public key as a shared secret.
        let header = encode(r#"{"alg":"HS256"}"#);
        let confused = format!("{header}.{payload}");
        for secret in [vector.keys, vector.pem] {
            let key = EncodingKey::from_secret(secret.as_bytes());
            let signature = crypto::sign(confused.as_bytes(), &key, Algorithm::HS256).unwrap();
            let status = said(vector.keys, &format!("{confused}.{signature}")).unwrap_err();
            let told = [JwtStatus::VerificationFails, JwtStatus::NoMatchingKey];
            assert!(told.contains(&status), "{} {status}", vector.algorithm);
        }
        for (i, other) in vectors::ALL.iter().enumerate() {
            if other.keys != vector.keys {
                assert!(
                    said(other.keys, vector.token).is_err(),
                    "{i} {}",
                    vector.algorithm
                );
            }
        }
    }
}

#[test]
fn keys_that_are_not_there_deny() {
    let remote =
        json!({"httpUri": {"uri": "https://issuer/keys", "cluster": "issuer", "timeout": "5s"}});
    let config = compile(
        &json!({"providers": {"p": {"issuer": "iss-a", "remoteJwks": remote}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requiresAny": {"requirements": [{"providerName": "p"}, {"allowMissing": {}}]}}}]}),
    );
    let requirement = config.rules[0].requires.as_ref().unwrap();
    let mut headers = HeaderMap::new();
    assert!(config.wanted_keys(requirement, &headers, "/").is_empty());
    let (name, value) = bearer(&token(&claims(json!({}))));
    headers.insert(name, HeaderValue::try_from(value).unwrap());
    let wanted = config.wanted_keys(requirement, &headers, "/");
    assert_eq!(wanted.len(), 1);
    assert_eq!(
        (&*wanted[0].uri, wanted[0].cache_duration.as_secs()),
        ("https://issuer/keys", 600)
    );
    let verify = |fetched: &FetchedKeys<'_>| {
        let request = JwtRequest {
            headers: &mut headers.clone(),
            path: &mut "/".to_owned(),
        };
        config.verify(requirement, request, fetched, Duration::from_secs(NOW))
    };
    assert_eq!(verify(&|_| None), Err(JwtStatus::FetchFailed));
    let keys = Arc::new(Jwks::parse(jwks().to_string().as_bytes()).unwrap());
    assert!(verify(&|_| Some(keys.clone())).is_ok());
}
