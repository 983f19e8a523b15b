//! The same filter, the same requests: a stock Envoy says the same. `ENVOY_BINARY=/path/to/envoy` names it.

use jsonwebtoken::crypto;

use super::super::stock::{self, Envoy};
use super::*;

/// Routes that answer by themselves, and tell in the answer what is left of the request.
fn manager(filter: &Value) -> Value {
    let told = ["x-payload", "x-claim", "authorization", "x-token", ":path"];
    let told: Vec<Value> = told
        .iter()
        .map(|name| {
            let header = format!("told-{}", name.trim_start_matches(':'));
            json!({"header": {"key": header, "value": format!("%REQ({name})%")}, "keepEmptyValue": true})
        })
        .collect();
    let route = json!({"match": {"prefix": "/"}, "directResponse": {"status": 200}, "responseHeadersToAdd": told});
    json!({
        "@type": type_url::HTTP_CONNECTION_MANAGER,
        "statPrefix": "test",
        "routeConfig": {"name": "local", "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "httpFilters": [
            {"name": FILTER, "typedConfig": filter},
            {"name": "envoy.filters.http.router", "typedConfig": {"@type": type_url::ROUTER}}],
    })
}

fn filter() -> Value {
    let local = json!({"inlineString": keys()});
    let any = |list: Value| json!({"requiresAny": {"requirements": list}});
    let missing = json!({"allowMissing": {}});
    let provider = |name: &str| json!({"providerName": name});
    let each = json!([
        any(json!([provider("a"), missing])),
        any(json!([provider("b"), missing]))
    ]);
    let rule =
        |prefix: &str, requires: Value| json!({"match": {"prefix": prefix}, "requires": requires});
    json!({"@type": type_url::JWT_AUTHN, "bypassCorsPreflight": true,
        "providers": {
            "a": {"issuer": "iss-a", "audiences": ["x"], "localJwks": local, "forwardPayloadHeader": "x-payload",
                "padForwardPayloadHeader": true, "payloadInMetadata": "payload",
                "claimToHeaders": [{"headerName": "x-claim", "claimName": "c.d"}]},
            "b": {"issuer": "iss-b", "localJwks": local, "forward": true,
                "fromHeaders": [{"name": "x-token", "valuePrefix": "P "}], "fromParams": ["t"], "fromCookies": ["k"]},
            "s": {"issuer": "iss-s", "localJwks": local, "subjects": {"prefix": "good"}, "maxLifetime": "1000s", "clockSkewSeconds": 5}},
        "rules": [
            rule("/optional", any(json!([provider("a"), missing]))),
            rule("/required", provider("a")),
            rule("/elsewhere", any(json!([provider("b"), missing]))),
            rule("/two", any(json!([provider("a"), provider("b"), {"requiresAll": {"requirements": each}}]))),
            rule("/both", json!({"requiresAll": {"requirements": [provider("a"), provider("b")]}})),
            rule("/audience", json!({"providerAndAudiences": {"providerName": "a", "audiences": ["y"]}})),
            rule("/subject", provider("s")),
            rule("/whoever", missing),
            rule("/lax", any(json!([provider("a"), {"allowMissingOrFailed": {}}]))),
            {"match": {"prefix": "/open"}}]})
}

/// A token of exactly this header and payload.
fn raw(header: &str, payload: &str) -> String {
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let key = EncodingKey::from_secret(SECRET);
    let signature = crypto::sign(signed.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{signed}.{signature}")
}

/// Paths, and the headers that go with them. What is known to differ is not among them: `exp: 0`, `crit`, ES512, padding and
/// blanks in base64, several values of one parameter (all stricter), what
/// good tokens beside bad ones do at "/lax", and that Envoy takes them for good at "/whoever".
fn requests() -> Vec<(String, Vec<(&'static str, String)>)> {
    let claims = |changes: Value| {
        let mut claims = json!({"iss": "iss-a", "aud": "x", "sub": "good", "exp": now() + 600});
        let changes = changes.as_object().unwrap().clone();
        claims.as_object_mut().unwrap().extend(changes);
        claims
    };
    let of = |changes: Value| token(&claims(changes));
    let bearer = |token: &str| vec![("authorization", format!("Bearer {token}"))];
    let (good, old) = (of(json!({})), of(json!({"exp": 5})));
    let of_b = token(&json!({"iss": "iss-b"}));
    let in_b = |token: &str| vec![("x-token", format!("P {token}"))];
    let payload = claims(json!({})).to_string();
    let (body, signature) = good.rsplit_once('.').unwrap();
    let mut tokens: Vec<String> = [
        "a.b",
        "..",
        "a.b.c.d",
        "a.b.",
        ".b.c",
        "%.b.c",
        "!.b.c",
        "YWJj.YWJj.YWJj",
        "eyJhbGciOiJIUzI1NiJ9.a.b",
        "eyJhbGciOiJIUzI1NiJ9.YWJj.YWJj",
    ]
    .map(str::to_owned)
    .into();
    for header in [
        "[]",
        "{}",
        r#"{"alg":5}"#,
        r#"{"alg":"none"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","kid":3}"#,
        r#"{"alg":"HS256","kid":"z"}"#,
        r#"{"alg":"HS256","kid":""}"#,
        r#"{"alg":"HS256"}"#,
        r#"{"alg":"RS256","kid":"k"}"#,
        r#"{"alg":"HS384","kid":"k"}"#,
        r#"{"alg":"EdDSA","kid":"k"}"#,
        r#"{"alg":"ES256","kid":"k"}"#,
    ] {
        tokens.push(raw(header, &payload));
    }
    for payload in [
        "[]",
        "x",
        r#"{"iss":"iss-z","iss":"iss-a"}"#,
        r#"{"iss":null}"#,
        r#"{"aud":"x"}"#,
        r#"{"iss":"iss-a","aud":"x","exp":1e30}"#,
        r#"{"iss":"iss-a","aud":"x","exp":18446744073709551616}"#,
    ] {
        tokens.push(raw(r#"{"alg":"HS256"}"#, payload));
    }
    for changes in [
        json!({"iss": 5}),
        json!({"sub": 5}),
        json!({"jti": 5}),
        json!({"iat": "x"}),
        json!({"iat": -1}),
        json!({"nbf": "x"}),
        json!({"nbf": -1}),
        json!({"exp": "x"}),
        json!({"exp": -1}),
        json!({"exp": 5}),
        json!({"exp": now() as f64 + 9.5}),
        json!({"nbf": now() + 1000}),
        json!({"nbf": now() + 10}),
        json!({"exp": now() - 10}),
        json!({"aud": 5}),
        json!({"aud": [5]}),
        json!({"aud": []}),
        json!({"aud": "z"}),
        json!({"aud": ["z", "x"]}),
        json!({"aud": "https://x/"}),
        json!({"iss": "iss-z"}),
        json!({"iss": "iss-z", "exp": 5}),
        json!({"exp": 5, "aud": "z"}),
        json!({"c": {"d": "deep"}}),
        json!({"c": {"d": 5}}),
        json!({"c": {"d": -5.5}}),
        json!({"c": {"d": true}}),
        json!({"c": {"d": [1, "a"]}}),
        json!({"c": {"d": null}}),
        json!({"c": 5}),
    ] {
        tokens.push(of(changes));
    }
    tokens.extend([
        format!("{body}.YWJj"),
        format!("{body}.{signature}%"),
        format!("{good},x"),
        format!("x{good}"),
        format!(" {good}"),
    ]);
    let mut all: Vec<(String, Vec<(&'static str, String)>)> = Vec::new();
    for token in &tokens {
        all.push(("/required/a?b=c".to_owned(), bearer(token)));
        all.push(("/optional".to_owned(), bearer(token)));
        // A path has no such characters.
        if !token.contains([' ', '%']) {
            all.push((format!("/elsewhere?t={token}"), Vec::new()));
        }
    }
    for path in [
        "/optional",
        "/required",
        "/two",
        "/both",
        "/whoever",
        "/lax",
        "/open",
        "/subject",
        "/nothing",
    ] {
        let at = |lines: Vec<(&'static str, String)>| (path.to_owned(), lines);
        let both = |one: &str, other: &str| [bearer(one), in_b(other)].concat();
        let forged = vec![
            ("x-payload", "forged".to_owned()),
            ("x-claim", "forged".to_owned()),
        ];
        all.extend([
            at(Vec::new()),
            at(forged),
            at(bearer(&good)),
            at(bearer(&old)),
            at(bearer(&of_b)),
            at(in_b(&of_b)),
            at(in_b("x")),
            at(both(&good, &of_b)),
            at(both(&old, &of_b)),
            at(vec![("authorization", format!("bearer {good}"))]),
            at(vec![("authorization", format!("Basic {good}"))]),
        ]);
        // Where they are not judged both lines go on, and headers of ours tell the first alone.
        if !["/lax", "/open", "/nothing"].contains(&path) {
            all.push(at([bearer(&good), bearer(&good)].concat()));
        }
        all.push((format!("{path}?x=1&access_token={good}&y=2"), Vec::new()));
        if path != "/whoever" {
            all.push(at(both(&good, "x")));
        }
        if !["/lax", "/whoever"].contains(&path) {
            all.push((format!("{path}?access_token={old}"), bearer(&good)));
            all.push((format!("{path}?access_token={good}"), bearer(&old)));
        }
    }
    all.push(("/audience".to_owned(), bearer(&good)));
    all.push(("/audience".to_owned(), bearer(&of(json!({"aud": "y"})))));
    for (sub, exp) in [
        ("good", now() + 500),
        ("bad", now() + 500),
        ("good", now() + 5000),
        ("good", 5),
    ] {
        let token = of(json!({"iss": "iss-s", "sub": sub, "exp": exp}));
        all.push(("/subject".to_owned(), bearer(&token)));
    }
    all.push((
        "/elsewhere".to_owned(),
        vec![("cookie", format!("a=b; k={of_b}"))],
    ));
    all.push(("/elsewhere".to_owned(), vec![("cookie", "k=x".to_owned())]));
    all.push(("/elsewhere".to_owned(), vec![("x-token", of_b)]));
    all
}

/// What a client sees of an answer.
fn shown(response: &Response<bytes::Bytes>) -> String {
    let mut lines = vec![response.status().as_u16().to_string()];
    lines.push(String::from_utf8_lossy(response.body()).into_owned());
    for name in [
        "www-authenticate",
        "told-x-payload",
        "told-x-claim",
        "told-authorization",
        "told-x-token",
        "told-path",
        "grpc-status",
        "grpc-message",
    ] {
        // What is absent is a dash in our headers, as in logs.
        for value in response.headers().get_all(name) {
            let value = String::from_utf8_lossy(value.as_bytes());
            let value = if value == "-" { "".into() } else { value };
            lines.push(format!("{name}: {value}"));
        }
    }
    lines.join("\n")
}

#[tokio::test]
async fn a_stock_envoy_answers_the_same() {
    let Some(binary) = stock::binary() else {
        return;
    };
    let manager = manager(&filter());
    let envoy = Envoy::start(&binary, std::slice::from_ref(&manager), &[]).await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    let mut listener = outbound_http(forward("c"));
    listener["filterChains"][0]["filters"][0]["typedConfig"] = manager;
    sidecar.apply(type_url::LISTENER, &[listener]);
    let ours = sidecar.address("outbound").await;
    let mut differing = Vec::new();
    let all = requests();
    let count = all.len();
    for (path, lines) in all {
        for grpc in [false, true] {
            let mut answers = Vec::new();
            for address in [ours, envoy.addresses[0]] {
                let mut request = get(&path);
                for (name, value) in &lines {
                    request.headers_mut().append(*name, value.parse().unwrap());
                }
                if grpc {
                    let kind = "application/grpc".parse().unwrap();
                    request.headers_mut().insert("content-type", kind);
                }
                let mut client = Client::connect(address).await;
                answers.push(shown(&client.send(request).await.unwrap()));
            }
            // What Envoy's direct responses are to gRPC has nothing to do with tokens.
            let is_passed = grpc && !answers[1].contains("www-authenticate");
            if !is_passed && answers[0] != answers[1] {
                differing.push(format!(
                    "{path} {lines:?}\n--- ours\n{}\n--- Envoy's\n{}",
                    answers[0], answers[1]
                ));
            }
        }
    }
    assert!(count > 200, "{count} requests");
    assert!(
        differing.is_empty(),
        "{} differ:\n{}",
        differing.len(),
        differing.join("\n\n")
    );
}
