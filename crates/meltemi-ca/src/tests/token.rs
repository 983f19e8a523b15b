use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use meltemi_core::TrustDomain;
use meltemi_pki::PrivateKey;
use serde_json::{Value, json};

use super::{id, now};
use crate::{AuthError, JwtAuthenticator, PodRef, TokenIssuer, TokenRequest};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct Lab {
    key: PrivateKey,
    issuer: TokenIssuer,
    authenticator: JwtAuthenticator,
}

fn lab() -> Lab {
    let key = PrivateKey::generate().unwrap();
    let issuer = TokenIssuer::new(&key, ISSUER).unwrap();
    let authenticator = JwtAuthenticator::from_keys(
        &issuer.jwks().unwrap(),
        ISSUER,
        &["istio-ca"],
        TrustDomain::default(),
    )
    .unwrap();
    Lab {
        key,
        issuer,
        authenticator,
    }
}

impl Lab {
    fn request(&self, audiences: &[&str], at: SystemTime) -> String {
        let request = TokenRequest {
            namespace: "default",
            service_account: "a",
            service_account_uid: Some("uid-0"),
            pod: Some(("a-1", "uid-1")),
            node: Some("lab"),
            audiences,
            ttl: Duration::from_secs(3600),
        };
        self.issuer.issue(&request, at).unwrap()
    }

    /// A token with claims and header of the caller's choice, properly signed.
    fn sign(&self, header: &Header, claims: &Value) -> String {
        let key = EncodingKey::from_ec_pem(self.key.to_pem().unwrap().as_bytes()).unwrap();
        jsonwebtoken::encode(header, claims, &key).unwrap()
    }

    fn denied(&self, token: &str) -> String {
        match self.authenticator.verify(token) {
            Err(AuthError::Denied { reason, .. }) => reason,
            other => panic!("expected a denial, got {other:?}"),
        }
    }
}

fn claims() -> Value {
    let seconds = now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    json!({
        "iss": ISSUER, "aud": ["istio-ca"], "sub": "system:serviceaccount:default:a",
        "exp": seconds + 3600, "nbf": seconds, "iat": seconds,
        "kubernetes.io": { "namespace": "default", "serviceaccount": { "name": "a" } },
    })
}

fn es256() -> Header {
    Header::new(Algorithm::ES256)
}

#[test]
fn a_projected_token_names_its_workload() {
    let lab = lab();
    let workload = lab
        .authenticator
        .verify(&lab.request(&["istio-ca"], now()))
        .unwrap();
    assert_eq!(workload.identity, id("a"));
    assert_eq!(
        workload.pod,
        Some(PodRef {
            name: "a-1".into(),
            uid: "uid-1".into()
        })
    );
    assert_eq!(workload.node.as_deref(), Some("lab"));
    assert!(
        lab.authenticator
            .verify(&lab.sign(&es256(), &claims()))
            .is_ok()
    );
}

#[test]
fn tokens_look_like_those_of_kubernetes() {
    let token = lab().request(&["istio-ca"], now());
    let parts: Vec<Value> = token
        .split('.')
        .take(2)
        .map(|part| serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
        .collect();
    assert_eq!(parts[0]["alg"], "ES256");
    assert!(parts[0]["kid"].is_string());
    assert_eq!(parts[1]["sub"], "system:serviceaccount:default:a");
    assert_eq!(parts[1]["aud"], json!(["istio-ca"]));
    assert_eq!(parts[1]["kubernetes.io"]["pod"]["name"], "a-1");
    let life = parts[1]["exp"].as_u64().unwrap() - parts[1]["iat"].as_u64().unwrap();
    assert_eq!(life, 3600);
    assert_eq!(parts[1]["jti"].as_str().unwrap().len(), 36);
}

#[test]
fn times_audience_and_issuer_are_checked() {
    let lab = lab();
    let day = Duration::from_secs(86_400);
    assert_eq!(
        lab.denied(&lab.request(&["istio-ca"], now() - day)),
        "ExpiredSignature"
    );
    assert_eq!(
        lab.denied(&lab.request(&["istio-ca"], now() + day)),
        "ImmatureSignature"
    );
    assert_eq!(
        lab.denied(&lab.request(&["vault"], now())),
        "InvalidAudience"
    );
    assert_eq!(lab.denied(&lab.request(&[], now())), "InvalidAudience");
    let other = TokenIssuer::new(&lab.key, "https://elsewhere").unwrap();
    let request = TokenRequest {
        namespace: "default",
        service_account: "a",
        service_account_uid: None,
        pod: None,
        node: None,
        audiences: &["istio-ca"],
        ttl: day,
    };
    assert_eq!(
        lab.denied(&other.issue(&request, now()).unwrap()),
        "InvalidIssuer"
    );
}

#[test]
fn every_claim_that_identifies_is_required() {
    let lab = lab();
    for missing in ["exp", "iss", "aud", "sub", "kubernetes.io"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(missing);
        let reason = lab.denied(&lab.sign(&es256(), &claims));
        assert!(reason.contains(missing), "{missing}: {reason}");
    }
    let mut other = claims();
    other["sub"] = json!("system:serviceaccount:istio-system:istiod");
    assert!(lab.denied(&lab.sign(&es256(), &other)).contains("subject"));
    let mut odd = claims();
    odd["sub"] = json!("system:serviceaccount:default:a/b");
    odd["kubernetes.io"]["serviceaccount"]["name"] = json!("a/b");
    assert!(lab.denied(&lab.sign(&es256(), &odd)).contains("SPIFFE"));
}

/// Joins header and claims with a signature over them.
fn assemble(header: &Value, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let message = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.as_bytes())
    );
    let signature = encode(&sign(message.as_bytes()));
    format!("{message}.{signature}")
}

#[test]
fn the_token_does_not_choose_the_algorithm() {
    let lab = lab();
    let claims = claims().to_string();
    for alg in ["none", "None", "", "ES257"] {
        let token = assemble(&json!({ "alg": alg }), &claims, |_| Vec::new());
        lab.denied(&token);
    }
    // The public key as an HMAC secret, in the forms an attacker would try.
    let spki = lab.key.public_key_der();
    let jwks = lab.issuer.jwks().unwrap();
    for secret in [&spki[..], &jwks, b""] {
        let token = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &serde_json::from_str::<Value>(&claims).unwrap(),
            &EncodingKey::from_secret(secret),
        )
        .unwrap();
        assert_eq!(
            lab.denied(&token),
            "signed with an unknown key or algorithm"
        );
    }
}

#[test]
fn signatures_are_checked() {
    let (ours, theirs) = (lab(), lab());
    let foreign = theirs.sign(&es256(), &claims());
    assert_eq!(ours.denied(&foreign), "InvalidSignature");
    // With a key id of another key not even tried.
    let known = theirs.request(&["istio-ca"], now());
    assert_eq!(
        ours.denied(&known),
        "signed with an unknown key or algorithm"
    );

    let good = ours.sign(&es256(), &claims());
    let (message, _) = good.rsplit_once('.').unwrap();
    let zeros = BASE64_URL_SAFE_NO_PAD.encode([0; 64]);
    for forged in [
        format!("{message}."),
        format!("{message}.{zeros}"),
        message.to_owned(),
        format!("{good}."),
        String::new(),
    ] {
        ours.denied(&forged);
    }
    let mut other: Value = claims();
    other["sub"] = json!("system:serviceaccount:default:b");
    let payload = BASE64_URL_SAFE_NO_PAD.encode(other.to_string());
    let parts: Vec<&str> = good.split('.').collect();
    let swapped = format!("{}.{payload}.{}", parts[0], parts[2]);
    assert_eq!(ours.denied(&swapped), "InvalidSignature");
}

#[test]
fn header_tricks_do_not_help() {
    let lab = lab();
    let mut header = es256();
    header.crit = Some(vec!["exp".into()]);
    assert!(
        lab.denied(&lab.sign(&header, &claims()))
            .contains("critical")
    );
    // A key id is compared, not looked up anywhere.
    let mut header = es256();
    header.kid = Some("../../../../dev/null".into());
    lab.denied(&lab.sign(&header, &claims()));
}

#[test]
fn a_claim_that_occurs_twice_is_refused() {
    let lab = lab();
    let twice = claims().to_string().replacen(
        "\"sub\":",
        "\"sub\":\"system:serviceaccount:istio-system:istiod\",\"sub\":",
        1,
    );
    let key = EncodingKey::from_ec_pem(lab.key.to_pem().unwrap().as_bytes()).unwrap();
    let token = assemble(&json!({ "alg": "ES256" }), &twice, |message| {
        let text = jsonwebtoken::crypto::sign(message, &key, Algorithm::ES256).unwrap();
        BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
    });
    assert!(lab.denied(&token).contains("duplicate"));
}

#[test]
fn a_key_in_pem_does_as_well() {
    let lab = lab();
    let verifier = |pem: &str| {
        let domain = TrustDomain::default();
        JwtAuthenticator::from_keys(pem.as_bytes(), ISSUER, &["istio-ca"], domain).unwrap()
    };
    let token = lab.request(&["istio-ca"], now());
    assert!(verifier(lab.issuer.public_key_pem()).verify(&token).is_ok());
    let other = PrivateKey::generate().unwrap().public_key_pem();
    assert!(verifier(&other).verify(&token).is_err());
}

#[test]
fn symmetric_keys_of_a_key_set_are_left_out() {
    let jwks = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" }] }).to_string();
    let made = JwtAuthenticator::from_keys(
        jwks.as_bytes(),
        ISSUER,
        &["istio-ca"],
        TrustDomain::default(),
    );
    assert!(matches!(made, Err(crate::KeySetError::Empty)));
}

#[test]
fn the_token_key_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sa.key");
    let jwks = || {
        TokenIssuer::load_or_create(&path, ISSUER)
            .unwrap()
            .jwks()
            .unwrap()
    };
    assert_eq!(jwks(), jwks());
    std::fs::write(&path, "nonsense").unwrap();
    let error = TokenIssuer::load_or_create(&path, ISSUER).unwrap_err();
    assert!(error.to_string().contains("sa.key is damaged"));
}
