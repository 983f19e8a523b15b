//! Whole handshakes in memory between configurations of this crate, with certificates of a small authority.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use meltemi_core::{Identity, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType,
};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use crate::{
    CertificateError, CertificateSlot, ClientAuth, ClientTls, DnsClientTls, HandshakeInfo,
    KeyError, PeerError, PrivateKey, ServerTls, ServingCertificate, ServingTls, Terms, TlsError,
    TrustBundle, Usage, VerifyError, Version, WorkloadCertificate, certificates_from_pem, explain,
    server_name, verified_public_key, verify::verify_workload,
};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> SystemTime {
    SystemTime::now()
}

fn id(service_account: &str) -> Identity {
    Identity::new(TrustDomain::default(), "default", service_account).unwrap()
}

struct Authority {
    key: PrivateKey,
    params: CertificateParams,
    pem: String,
}

impl Authority {
    fn new(not_after: SystemTime) -> Self {
        let key = PrivateKey::generate().unwrap();
        Self::with_key(key, not_after)
    }

    fn with_key(key: PrivateKey, not_after: SystemTime) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now() - 10 * HOUR).into();
        params.not_after = not_after.into();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, params, pem }
    }

    fn bundle(&self) -> Arc<TrustBundle> {
        Arc::new(TrustBundle::new(TrustDomain::default(), self.pem.as_bytes()).unwrap())
    }

    fn sign(&self, key: &PrivateKey, params: &CertificateParams) -> String {
        let issuer = Issuer::from_params(&self.params, &self.key);
        params.signed_by(key, &issuer).unwrap().pem()
    }

    fn issue(&self, identity: &Identity) -> WorkloadCertificate {
        let key = PrivateKey::generate().unwrap();
        let answer = [self.sign(&key, &leaf(identity)), self.pem.clone()];
        WorkloadCertificate::accept(&key, &answer, identity, now()).unwrap()
    }
}

fn leaf(identity: &Identity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(&identity.to_string())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = (now() - HOUR).into();
    params.not_after = (now() + HOUR).into();
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Two connected ends after their handshake.
struct Session {
    client: ClientConnection,
    server: ServerConnection,
}

/// Runs a handshake and exchanges a byte each way, so that tickets are delivered and refusals arrive.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<Session, rustls::Error> {
    let mut client = ClientConnection::new(Arc::clone(client), server_name(name).unwrap())?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    client.writer().write_all(b"x").unwrap();
    server.writer().write_all(b"y").unwrap();
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            server.read_tls(&mut wire).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).unwrap();
            client.process_new_packets()?;
        }
    }
    let mut byte = [0];
    client.reader().read_exact(&mut byte).unwrap();
    server.reader().read_exact(&mut byte).unwrap();
    Ok(Session { client, server })
}

const SNI: &str = "outbound_.9080_._.reviews.default.svc.cluster.local";

#[test]
fn mutual_tls_with_the_facts_of_both_ends() {
    let ca = Authority::new(now() + HOUR);
    let (caller, callee) = (ca.issue(&id("productpage")), ca.issue(&id("reviews")));
    let client = ClientTls::new(&caller, ca.bundle())
        .allow([id("reviews")])
        .alpn(["istio-peer-exchange", "istio"])
        .build()
        .unwrap();
    let server = ServerTls::new(&callee, ca.bundle())
        .alpn(["istio", "h2"])
        .build()
        .unwrap();
    let session = handshake(&client, &server, SNI).unwrap();
    assert_eq!(session.server.server_name(), Some(SNI));

    let info = HandshakeInfo::new(&session.server, Some(callee.identity()), now()).unwrap();
    let peer = info.peer.clone().unwrap();
    assert_eq!(*peer.identity, id("productpage"));
    assert_eq!(peer.subject, "");
    assert_eq!(info.local.as_deref(), Some(&id("reviews")));
    assert_eq!((info.tls_version, info.alpn_str()), ("TLSv1.3", "istio"));
    assert_eq!(info.key_exchange, "X25519MLKEM768");
    assert_eq!(info.cipher, "TLS_AES_128_GCM_SHA256");
    assert!(!info.resumed);
    let der = certificates_from_pem(caller.chain_pem().as_bytes()).unwrap();
    assert_eq!(der.len(), 1, "the root is not sent");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der[0]);
    assert_eq!(peer.sha256_hex(), hex::encode(digest));

    let info = HandshakeInfo::new(&session.client, Some(caller.identity()), now()).unwrap();
    assert_eq!(*info.peer.unwrap().identity, id("reviews"));
}

#[test]
fn tls12_where_a_peer_needs_it() {
    let ca = Authority::new(now() + HOUR);
    let certificate = ca.issue(&id("a"));
    let client = ClientTls::new(&certificate, ca.bundle()).build().unwrap();
    let mut old = (*client).clone();
    old.alpn_protocols = Vec::new();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let old = Arc::new(
        ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(crate::verify::NoVerifier))
            .with_client_cert_resolver(Arc::clone(&old.client_auth_cert_resolver)),
    );
    let serve = |oldest| {
        ServerTls::new(&certificate, ca.bundle())
            .terms(Terms::from(oldest))
            .build()
            .unwrap()
    };
    let session = handshake(&old, &serve(Version::V12), SNI).unwrap();
    let info = HandshakeInfo::new(&session.server, None, now()).unwrap();
    assert_eq!(info.tls_version, "TLSv1.2");
    assert_eq!(info.cipher, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384");
    assert!(handshake(&old, &serve(Version::V13), SNI).is_err());
}

#[test]
fn terms_bound_versions_and_cipher_suites() {
    let ca = Authority::new(now() + HOUR);
    let certificate = ca.issue(&id("a"));
    let client = |newest| {
        let terms = Terms {
            newest,
            ..Terms::default()
        };
        let client = ClientTls::new(&certificate, ca.bundle()).terms(terms);
        client.build().unwrap()
    };
    let server = |newest, suites: &[&str]| {
        let terms = Terms {
            newest,
            cipher_suites: suites.iter().map(ToString::to_string).collect(),
            ..Terms::default()
        };
        ServerTls::new(&certificate, ca.bundle())
            .terms(terms)
            .build()
    };
    let agreed = |client, server| {
        let session = handshake(client, server, SNI).ok()?;
        let info = HandshakeInfo::new(&session.server, None, now()).unwrap();
        Some((info.tls_version, info.cipher))
    };
    let (new, old) = (client(Version::V13), client(Version::V12));

    let suites = &[
        "[ECDHE-RSA-CHACHA20-POLY1305|ECDHE-ECDSA-CHACHA20-POLY1305]",
        "AES128-SHA",
    ];
    let chosen = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    let only_12 = server(Version::V12, suites).unwrap();
    assert_eq!(agreed(&new, &only_12), Some(("TLSv1.2", chosen)));
    let both = server(Version::V13, suites).unwrap();
    assert_eq!(agreed(&new, &both).unwrap().0, "TLSv1.3");
    assert_eq!(agreed(&old, &both), Some(("TLSv1.2", chosen)));

    let no_suite_of_12 = server(Version::V13, &["AES128-SHA"]).unwrap();
    assert_eq!(agreed(&new, &no_suite_of_12).unwrap().0, "TLSv1.3");
    assert_eq!(agreed(&old, &no_suite_of_12), None);
    let nothing = server(Version::V12, &["AES128-SHA"]);
    assert!(matches!(nothing, Err(TlsError::CipherSuites(_))));
}

#[test]
fn an_upstream_with_another_identity_is_refused_and_named() {
    let ca = Authority::new(now() + HOUR);
    let certificate = ca.issue(&id("ratings"));
    let client = ClientTls::new(&certificate, ca.bundle())
        .allow([id("reviews")])
        .build()
        .unwrap();
    let server = ServerTls::new(&certificate, ca.bundle()).build().unwrap();
    let error = handshake(&client, &server, SNI).err().unwrap();
    assert_eq!(
        explain(&error),
        "the peer is spiffe://cluster.local/ns/default/sa/ratings, \
         expected spiffe://cluster.local/ns/default/sa/reviews"
    );
}

#[test]
fn client_certificates_are_required_optional_or_not_asked_for() {
    let ca = Authority::new(now() + HOUR);
    let certificate = ca.issue(&id("a"));
    let anonymous = DnsClientTls::insecure_skip_verify().build().unwrap();
    let serve = |auth| {
        ServerTls::new(&certificate, ca.bundle())
            .client_auth(auth)
            .build()
            .unwrap()
    };
    assert!(handshake(&anonymous, &serve(ClientAuth::Required), SNI).is_err());
    for auth in [ClientAuth::Optional, ClientAuth::None] {
        let session = handshake(&anonymous, &serve(auth), SNI).unwrap();
        let info = HandshakeInfo::new(&session.server, None, now()).unwrap();
        assert_eq!(info.peer, None);
    }
    let stranger = Authority::new(now() + HOUR);
    let outsider = ClientTls::new(&stranger.issue(&id("a")), ca.bundle())
        .build()
        .unwrap();
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        assert!(handshake(&outsider, &serve(auth), SNI).is_err());
    }
}

#[test]
fn a_server_can_restrict_its_clients() {
    let ca = Authority::new(now() + HOUR);
    let (a, b) = (ca.issue(&id("a")), ca.issue(&id("b")));
    let server = ServerTls::new(&a, ca.bundle())
        .allow([id("b")])
        .build()
        .unwrap();
    let client = |certificate| ClientTls::new(certificate, ca.bundle()).build().unwrap();
    assert!(handshake(&client(&b), &server, SNI).is_ok());
    assert!(handshake(&client(&a), &server, SNI).is_err());
}

/// Verifies a leaf made from `params` under `ca` as both usages.
fn verdict(ca: &Authority, params: &CertificateParams) -> Result<Identity, VerifyError> {
    let key = PrivateKey::generate().unwrap();
    let pem = ca.sign(&key, params);
    let leaf = certificates_from_pem(pem.as_bytes()).unwrap().remove(0);
    let time = crate::verify::unix_time(now());
    let verify = |usage| verify_workload(&ca.bundle(), &leaf, &[], time, usage);
    verify(Usage::ServerAuth).and_then(|_| verify(Usage::ClientAuth))
}

#[test]
fn leaves_that_are_no_workload_certificates_are_refused() {
    let ca = Authority::new(now() + HOUR);
    assert_eq!(verdict(&ca, &leaf(&id("a"))), Ok(id("a")));

    type Spoil = fn(&mut CertificateParams);
    let cases: [(&str, Spoil); 10] = [
        ("two URIs", |p| {
            p.subject_alt_names
                .push(uri("spiffe://cluster.local/ns/b/sa/b"));
        }),
        ("no URI", |p| {
            let name = "spiffe.cluster.local".try_into().unwrap();
            p.subject_alt_names = vec![SanType::DnsName(name)];
        }),
        ("not a workload's URI", |p| {
            p.subject_alt_names = vec![uri("spiffe://cluster.local/other")];
        }),
        ("other trust domain", |p| {
            p.subject_alt_names = vec![uri("spiffe://other.domain/ns/default/sa/a")];
        }),
        ("no extended key usage", |p| p.extended_key_usages.clear()),
        ("client only", |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        }),
        ("server only", |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        }),
        ("authority", |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }),
        ("may sign certificates", |p| {
            p.key_usages.push(KeyUsagePurpose::KeyCertSign);
        }),
        ("expired", |p| p.not_after = (now() - HOUR / 2).into()),
    ];
    for (case, spoil) in cases {
        let mut params = leaf(&id("a"));
        spoil(&mut params);
        assert!(verdict(&ca, &params).is_err(), "{case}");
    }
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let ca = Authority::new(now() - HOUR);
    let refused = verdict(&ca, &leaf(&id("a")));
    assert!(matches!(refused, Err(VerifyError::Chain { .. })));
}

#[test]
fn an_expired_root_does_not_hide_its_renewal_with_the_same_key() {
    let old = Authority::new(now() - HOUR);
    let new = Authority::with_key(old.key.clone(), now() + HOUR);
    let key = PrivateKey::generate().unwrap();
    let pem = old.sign(&key, &leaf(&id("a")));
    let leaf = certificates_from_pem(pem.as_bytes()).unwrap().remove(0);
    let both = format!("{}{}", old.pem, new.pem);
    let bundle = TrustBundle::new(TrustDomain::default(), both.as_bytes()).unwrap();
    let time = crate::verify::unix_time(now());
    assert_eq!(
        verify_workload(&bundle, &leaf, &[], time, Usage::ServerAuth),
        Ok(id("a"))
    );
}

#[test]
fn a_root_vouches_only_for_its_own_domain() {
    let (ours, theirs) = (Authority::new(now() + HOUR), Authority::new(now() + HOUR));
    let other = TrustDomain::new("other.domain").unwrap();
    let bundle = TrustBundle::clone(&ours.bundle())
        .with_domain(other.clone(), theirs.pem.as_bytes())
        .unwrap();
    let foreign = Identity::new(other, "default", "a").unwrap();
    let verify = |ca: &Authority, identity: &Identity| {
        let pem = ca.sign(&PrivateKey::generate().unwrap(), &leaf(identity));
        let leaf = certificates_from_pem(pem.as_bytes()).unwrap().remove(0);
        let time = crate::verify::unix_time(now());
        verify_workload(&bundle, &leaf, &[], time, Usage::ClientAuth)
    };
    assert!(verify(&ours, &id("a")).is_ok());
    assert!(verify(&theirs, &foreign).is_ok());
    assert!(verify(&theirs, &id("a")).is_err());
    assert!(verify(&ours, &foreign).is_err());
    assert_eq!(bundle.roots().len(), 2);
}

/// What was verified once is refused as soon as the leaf, an intermediate or the root is no longer valid.
#[test]
fn a_verified_chain_ends_with_the_first_of_its_certificates() {
    let refused_after = |leaf_hours: u32, issuer_hours: u32, root_hours: u32| {
        let until = |hours: u32| now() + hours * HOUR;
        let root = Authority::new(until(root_hours));
        let mut issuer = Authority::new(until(issuer_hours));
        issuer
            .params
            .distinguished_name
            .push(DnType::CommonName, "issuer");
        issuer.pem = root.sign(&issuer.key, &issuer.params);
        let mut params = leaf(&id("a"));
        params.not_after = until(leaf_hours).into();
        let text = issuer.sign(&PrivateKey::generate().unwrap(), &params) + &issuer.pem;
        let chain = certificates_from_pem(text.as_bytes()).unwrap();
        let bundle = root.bundle();
        let verify = |hours: u32| {
            let time = crate::verify::unix_time(until(hours));
            verify_workload(&bundle, &chain[0], &chain[1..], time, Usage::ClientAuth)
        };
        assert_eq!(verify(0), Ok(id("a")));
        assert_eq!(verify(1), Ok(id("a")));
        let roots = bundle.of(&TrustDomain::default()).unwrap();
        let knows = |hours: u32| {
            let verified = roots.verified();
            verified.contains(Usage::ClientAuth, &chain[0], &chain[1..], until(hours))
        };
        assert!(knows(1) && !knows(3));
        verify(3).unwrap_err()
    };
    assert!(matches!(refused_after(2, 9, 9), VerifyError::Expired(_)));
    let issuer_ended = refused_after(9, 2, 9);
    assert!(matches!(
        issuer_ended,
        VerifyError::Expired(_) | VerifyError::Chain { .. }
    ));
    assert!(matches!(refused_after(9, 9, 2), VerifyError::Chain { .. }));
}

#[test]
fn sessions_resume_within_a_configuration_and_not_across_rotations() {
    let ca = Authority::new(now() + HOUR);
    let certificate = ca.issue(&id("a"));
    let client = || ClientTls::new(&certificate, ca.bundle()).build().unwrap();
    let server = || ServerTls::new(&certificate, ca.bundle()).build().unwrap();
    let (c1, s1) = (client(), server());
    let resumed = |c: &Arc<ClientConfig>, s: &Arc<ServerConfig>| {
        let session = handshake(c, s, SNI).unwrap();
        let info = HandshakeInfo::new(&session.server, None, now()).unwrap();
        assert_eq!(*info.peer.unwrap().identity, id("a"));
        info.resumed
    };
    assert!(!resumed(&c1, &s1));
    assert!(resumed(&c1, &s1));
    assert!(!resumed(&c1, &server()), "another server configuration");
    assert!(!resumed(&client(), &s1), "another client configuration");
}

#[test]
fn a_connection_of_a_certificate_that_ran_out_is_noticed() {
    let ca = Authority::new(now() + HOUR);
    let certificate = ca.issue(&id("a"));
    let client = ClientTls::new(&certificate, ca.bundle()).build().unwrap();
    let server = ServerTls::new(&certificate, ca.bundle()).build().unwrap();
    let session = handshake(&client, &server, SNI).unwrap();
    let later = certificate.validity().not_after + Duration::from_secs(1);
    assert_eq!(
        HandshakeInfo::new(&session.server, None, later).err(),
        Some(PeerError::NotValidNow(Box::new(id("a"))))
    );
}

#[test]
fn an_answer_must_fit_the_request() {
    let ca = Authority::new(now() + HOUR);
    let key = PrivateKey::generate().unwrap();
    let accept = |answer: &[String]| WorkloadCertificate::accept(&key, answer, &id("a"), now());
    let good = ca.sign(&key, &leaf(&id("a")));

    let accepted = accept(&[good.clone(), ca.pem.clone()]).unwrap();
    assert_eq!(accepted.roots_pem().as_deref(), Some(ca.pem.as_str()));
    assert_eq!(accepted.chain_pem(), good);

    let second_root = Authority::new(now() + HOUR).pem;
    let rotating = accept(&[good.clone(), second_root.clone(), ca.pem.clone()]).unwrap();
    assert_eq!(rotating.chain_pem(), good);
    assert_eq!(rotating.roots_pem(), Some(second_root + &ca.pem));

    let other_key = ca.sign(&PrivateKey::generate().unwrap(), &leaf(&id("a")));
    assert!(matches!(
        accept(&[other_key, ca.pem.clone()]),
        Err(CertificateError::KeyMismatch)
    ));
    let other_id = ca.sign(&key, &leaf(&id("b")));
    assert!(matches!(
        accept(&[other_id, ca.pem.clone()]),
        Err(CertificateError::WrongIdentity { .. })
    ));
    let other_root = Authority::new(now() + HOUR);
    assert!(matches!(
        accept(&[good.clone(), other_root.pem]),
        Err(CertificateError::Chain(_))
    ));
    let mut stale = leaf(&id("a"));
    stale.not_after = (now() - HOUR / 2).into();
    assert!(matches!(
        accept(&[ca.sign(&key, &stale), ca.pem.clone()]),
        Err(CertificateError::NotValidNow)
    ));
    assert!(accept(&[]).is_err());
}

#[test]
fn requests_prove_possession_and_only_their_key_is_read() {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_pem(&id("a")).unwrap();
    let read = verified_public_key(csr.as_bytes()).unwrap();
    assert_eq!(
        rcgen::PublicKeyData::subject_public_key_info(&read),
        key.public_key_der()
    );

    let der = CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .der()
        .to_vec();
    let mut lenient = Vec::new();
    for position in 0..der.len() {
        let mut forged = der.clone();
        forged[position] ^= 1;
        let forged = crate::pem::encode("CERTIFICATE REQUEST", &forged);
        // Two bytes that the signature does not cover may differ: the tag of the outer algorithm identifier, and the count of
        // unused bits of the signature itself when its last bit is zero. Neither changes the key that is read.
        if let Ok(read) = verified_public_key(forged.as_bytes()) {
            lenient.push(position);
            assert_eq!(
                rcgen::PublicKeyData::subject_public_key_info(&read),
                key.public_key_der()
            );
        }
    }
    assert!(lenient.len() <= 2, "{lenient:?}");
    let mut trailing = der;
    trailing.push(0);
    let trailing = crate::pem::encode("CERTIFICATE REQUEST", &trailing);
    assert!(matches!(
        verified_public_key(trailing.as_bytes()),
        Err(KeyError::CsrFormat)
    ));
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let strong = CertificateParams::default()
        .serialize_request(&p384)
        .unwrap()
        .pem()
        .unwrap();
    assert!(verified_public_key(strong.as_bytes()).is_ok(), "P-384");
    for junk in ["", "x", &"a".repeat(1 << 20)] {
        assert!(verified_public_key(junk.as_bytes()).is_err());
    }
}

#[test]
fn keys_round_trip_and_do_not_print() {
    let key = PrivateKey::generate().unwrap();
    let pem = key.to_pem().unwrap();
    let again = PrivateKey::from_pem(pem.as_bytes()).unwrap();
    assert_eq!(key.public_key_der(), again.public_key_der());
    assert_eq!(format!("{key:?}"), "PrivateKey(P-256)");
    let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    assert!(matches!(
        PrivateKey::from_pem(ed25519.serialize_pem().as_bytes()),
        Err(KeyError::NotP256)
    ));
}

fn serving(ca: &Authority, name: &str) -> ServingCertificate {
    let key = PrivateKey::generate().unwrap();
    let mut params = leaf(&id("istiod"));
    params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
    let pem = ca.sign(&key, &params) + &ca.pem;
    ServingCertificate::with_key(pem.as_bytes(), &key, now()).unwrap()
}

/// Of a system's roots those count that can be roots; of a file that is named for the purpose all have to.
#[test]
fn a_system_may_keep_roots_that_are_none() {
    let ca = Authority::new(now() + HOUR);
    let odd = serving(&ca, "istiod.istio-system.svc");
    let slot = Arc::new(CertificateSlot::default());
    slot.set(&odd);
    let server = ServingTls::new(slot).build().unwrap();
    let key = PrivateKey::generate().unwrap();
    let no_root = ca.sign(&key, &leaf(&id("a")));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let many = [no_root.as_str(), broken, &ca.pem.repeat(200)].concat();
    assert!(DnsClientTls::new(many.as_bytes()).is_err());
    let client = DnsClientTls::with_system_roots(many.as_bytes()).unwrap();
    let client = client.build().unwrap();
    assert!(handshake(&client, &server, "istiod.istio-system.svc").is_ok());
    let other = Authority::new(now() + HOUR);
    let client = DnsClientTls::with_system_roots(other.pem.as_bytes()).unwrap();
    let client = client.build().unwrap();
    assert!(handshake(&client, &server, "istiod.istio-system.svc").is_err());
    assert!(DnsClientTls::with_system_roots(no_root.as_bytes()).is_err());
}

#[test]
fn the_control_plane_is_known_by_name_and_swaps_its_certificate() {
    let ca = Authority::new(now() + HOUR);
    let slot = Arc::new(CertificateSlot::default());
    let server = ServingTls::new(Arc::clone(&slot))
        .alpn(["h2"])
        .build()
        .unwrap();
    let client = DnsClientTls::new(ca.pem.as_bytes())
        .unwrap()
        .alpn(["h2"])
        .build()
        .unwrap();
    let ask = |name| handshake(&client, &server, name);
    assert!(ask("istiod.istio-system.svc").is_err(), "empty slot");
    slot.set(&serving(&ca, "istiod.istio-system.svc"));
    let session = ask("istiod.istio-system.svc").unwrap();
    let info = HandshakeInfo::without_peer(&session.client, None, now()).unwrap();
    assert_eq!(info.alpn_str(), "h2");
    let error = ask("istiod.evil.svc").err().unwrap();
    assert_eq!(
        explain(&error),
        "the certificate is for none of the names [\"istiod.evil.svc\"]"
    );
    slot.set(&serving(&ca, "istiod.evil.svc"));
    assert!(ask("istiod.evil.svc").is_ok());

    let by_list = DnsClientTls::new(ca.pem.as_bytes())
        .unwrap()
        .names(["istiod.evil.svc"])
        .unwrap()
        .build()
        .unwrap();
    assert!(handshake(&by_list, &server, "anything").is_ok());
}

#[test]
fn server_names_are_matched_by_type_and_a_wildcard_stands_for_one_label() {
    let ca = Authority::new(now() + HOUR);
    let client = DnsClientTls::new(ca.pem.as_bytes()).unwrap();
    let client = client.build().unwrap();
    let is_accepted = |name: SanType, usage, asked| {
        let key = PrivateKey::generate().unwrap();
        let mut params = leaf(&id("a"));
        params.subject_alt_names = vec![name];
        params.extended_key_usages = vec![usage];
        let pem = ca.sign(&key, &params) + &ca.pem;
        let certificate = ServingCertificate::with_key(pem.as_bytes(), &key, now()).unwrap();
        let slot = Arc::new(CertificateSlot::new(&certificate));
        let server = ServingTls::new(slot).build().unwrap();
        handshake(&client, &server, asked).is_ok()
    };
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let email = |name: &str| SanType::Rfc822Name(name.try_into().unwrap());
    let server = ExtendedKeyUsagePurpose::ServerAuth;

    assert!(is_accepted(
        dns("*.example.com"),
        server.clone(),
        "b.example.com"
    ));
    for (name, usage, asked) in [
        (dns("*.example.com"), &server, "a.b.example.com"),
        (dns("*.example.com"), &server, "example.com"),
        (uri("https://b.example.com"), &server, "b.example.com"),
        (email("b.example.com"), &server, "b.example.com"),
        (
            dns("b.example.com"),
            &ExtendedKeyUsagePurpose::ClientAuth,
            "b.example.com",
        ),
    ] {
        let text = format!("{name:?} {usage:?} {asked}");
        assert!(!is_accepted(name, usage.clone(), asked), "{text}");
    }
}

#[test]
fn the_control_plane_follows_the_bundle() {
    let (old, new) = (Authority::new(now() + HOUR), Authority::new(now() + HOUR));
    let bundle = Arc::new(ArcSwap::new(old.bundle()));
    let slot = Arc::new(CertificateSlot::new(&serving(&old, "istiod")));
    let server = ServingTls::new(slot)
        .client_auth(ClientAuth::Optional, Arc::clone(&bundle))
        .build()
        .unwrap();
    let client = |certificate: Option<&WorkloadCertificate>| {
        let tls = DnsClientTls::new(old.pem.as_bytes()).unwrap();
        match certificate {
            Some(certificate) => tls.certificate(certificate),
            None => tls,
        }
        .build()
        .unwrap()
    };
    let peer = |config: &Arc<ClientConfig>| {
        let session = handshake(config, &server, "istiod").ok()?;
        let info = HandshakeInfo::new(&session.server, None, now()).unwrap();
        Some(info.peer.map(|peer| Identity::clone(&peer.identity)))
    };
    let newcomer = client(Some(&new.issue(&id("a"))));
    assert_eq!(peer(&client(None)), Some(None));
    assert_eq!(
        peer(&client(Some(&old.issue(&id("a"))))),
        Some(Some(id("a")))
    );
    assert_eq!(peer(&newcomer), None);
    bundle.store(new.bundle());
    assert_eq!(peer(&newcomer), Some(Some(id("a"))));
}

#[test]
fn every_generated_sni_is_a_server_name() {
    for name in [
        SNI,
        "outbound_.9080_.v1_.reviews.default.svc.cluster.local",
        "outbound_.443_._.*.example.com",
        "10.0.0.1",
        "istiod.istio-system.svc",
    ] {
        let accepted = server_name(name).is_ok();
        assert_eq!(accepted, !name.contains('*'), "{name}");
    }
}

/// Envoy's `match_typed_subject_alt_names` of every type that a server's certificate may have, and none at all.
#[test]
fn a_server_may_be_known_by_a_uri_by_an_address_or_by_its_chain_alone() {
    let ca = Authority::new(now() + HOUR);
    let is_accepted = |client: DnsClientTls, san: SanType| {
        let key = PrivateKey::generate().unwrap();
        let mut params = leaf(&id("a"));
        params.subject_alt_names = vec![san];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let pem = ca.sign(&key, &params) + &ca.pem;
        let certificate = ServingCertificate::with_key(pem.as_bytes(), &key, now()).unwrap();
        let slot = Arc::new(CertificateSlot::new(&certificate));
        let server = ServingTls::new(slot).build().unwrap();
        handshake(&client.build().unwrap(), &server, "placeholder").is_ok()
    };
    let trusting = || DnsClientTls::new(ca.pem.as_bytes()).unwrap();
    let uri = |uri: &str| SanType::URI(uri.try_into().unwrap());
    let dns = |name: &str| SanType::DnsName(name.try_into().unwrap());
    let spiffe = "spiffe://cluster.local/ns/a/sa/b";

    assert!(is_accepted(trusting().uris([spiffe]), uri(spiffe)));
    assert!(!is_accepted(
        trusting().uris([spiffe]),
        uri("spiffe://cluster.local/ns/a/sa/c")
    ));
    assert!(!is_accepted(trusting().uris([spiffe]), dns("placeholder")));
    let either = || trusting().names(["x.example"]).unwrap().uris([spiffe]);
    assert!(is_accepted(either(), dns("x.example")));
    assert!(is_accepted(either(), uri(spiffe)));
    let by_address = || trusting().names(["10.0.0.1"]).unwrap();
    assert!(is_accepted(
        by_address(),
        SanType::IpAddress([10, 0, 0, 1].into())
    ));
    assert!(!is_accepted(by_address(), dns("placeholder")));

    assert!(!is_accepted(trusting(), dns("other")));
    assert!(is_accepted(trusting().without_name(), dns("other")));
    let stranger = Authority::new(now() + HOUR);
    let untrusting = DnsClientTls::new(stranger.pem.as_bytes()).unwrap();
    assert!(!is_accepted(untrusting.without_name(), dns("other")));
    let named = trusting().without_name().uris([spiffe]);
    assert!(!is_accepted(named, dns("other")));
}
