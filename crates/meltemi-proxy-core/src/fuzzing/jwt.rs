use std::sync::LazyLock;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use meltemi_proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use meltemi_proto::{any, json as proto_json, type_url};
use serde_json::json;

use crate::compile;
use crate::jwt::{Jwks, JwtRequest};
use crate::runtime::JwtAuthentication;

/// Takes tokens from everywhere, with a key that no input is signed with.
static CONFIG: LazyLock<JwtAuthentication> = LazyLock::new(|| {
    let keys = r#"{"keys": [{"kty": "oct", "k": "bm8gaW5wdXQgaXMgc2lnbmVkIHdpdGggdGhpcw"},
        {"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let config = json!({
        "providers": {"p": {"localJwks": {"inlineString": keys}, "payloadInMetadata": "payload",
            "fromHeaders": [{"name": "authorization", "valuePrefix": "Bearer "}], "fromParams": ["t"], "fromCookies": ["c"]}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"requiresAny": {"requirements": [{"providerName": "p"}, {"allowMissing": {}}]}}}]});
    let config = proto_json::json_to_any(type_url::JWT_AUTHN, &config).expect("it is one");
    let config: proto::JwtAuthentication = any::unpack_named(&config).expect("it is one");
    compile::jwt_filter(config).expect("it is whole")
});

/// A line of input each for the Authorization header, the cookie and the query; the whole as a key set. Nothing is verified, and
/// a token that was seen is refused.
///
/// # Panics
/// Something was.
pub fn jwt(bytes: &[u8]) {
    if let Ok(keys) = Jwks::parse(bytes) {
        assert!(!keys.is_empty());
    }
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [header::AUTHORIZATION, header::COOKIE] {
        let value = lines.next().map(HeaderValue::from_bytes);
        if let Some(Ok(value)) = value {
            headers.insert(name, value);
        }
    }
    let query = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let mut path = format!("/?{query}");
    let locations = &CONFIG.providers[0].locations;
    let tokens = |headers: &HeaderMap, path: &str| -> usize {
        let all = locations.iter();
        all.map(|location| location.tokens(headers, path).len())
            .sum()
    };
    let sent = tokens(&headers, &path);
    let requirement = CONFIG.rules[0]
        .requires
        .as_ref()
        .expect("it requires something");
    let request = JwtRequest {
        headers: &mut headers,
        path: &mut path,
    };
    let verified = CONFIG.verify(requirement, request, &|_| None, Duration::from_secs(1));
    match verified {
        Ok(verified) => assert!(sent == 0 && verified.metadata.is_empty(), "{sent}"),
        Err(_) => assert!(sent > 0),
    }
    CONFIG.redact(&mut path);
    let left = locations.iter();
    let left =
        left.filter(|location| matches!(location, crate::runtime::JwtLocation::Parameter(_)));
    for location in left {
        assert!(
            location.tokens(&HeaderMap::new(), &path).is_empty(),
            "{path}"
        );
    }
}
