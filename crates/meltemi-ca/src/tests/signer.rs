use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use meltemi_core::{Identity, TrustDomain};
use meltemi_pki::{Leaf, PrivateKey, ServingCertificate, Usage, WorkloadCertificate};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SanType,
};

use super::{id, now};
use crate::{SignError, Signer, SignerOptions, StateError};

const HOUR: Duration = Duration::from_secs(3600);

fn signer(directory: &Path) -> Result<Signer, StateError> {
    Signer::load_or_create(directory, SignerOptions::default(), now())
}

fn temporary() -> (tempfile::TempDir, Signer) {
    let directory = tempfile::tempdir().unwrap();
    let signer = signer(&directory.path().join("ca")).unwrap();
    (directory, signer)
}

fn issue(signer: &Signer, ttl: Duration) -> WorkloadCertificate {
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_pem(&id("a")).unwrap();
    let issued = signer
        .sign_workload(csr.as_bytes(), &id("a"), ttl, now())
        .unwrap();
    assert_eq!(issued.chain.len(), 2, "leaf, root");
    assert_eq!(issued.chain[1], signer.roots_pem());
    let certificate = WorkloadCertificate::accept(&key, &issued.chain, &id("a"), now()).unwrap();
    assert_eq!(certificate.serial(), issued.serial);
    certificate
}

#[test]
fn nothing_of_a_request_is_believed_but_its_key() {
    let (_directory, signer) = temporary();
    let key = PrivateKey::generate().unwrap();
    let mut greedy = CertificateParams::default();
    greedy
        .distinguished_name
        .push(DnType::CommonName, "cluster-admin");
    greedy.subject_alt_names = (0..100)
        .map(|i| SanType::DnsName(format!("a{i}.example.com").try_into().unwrap()))
        .collect();
    let victim = "spiffe://cluster.local/ns/istio-system/sa/istiod";
    greedy
        .subject_alt_names
        .push(SanType::URI(victim.try_into().unwrap()));
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    greedy.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    // An extension that nobody knows must not make a request fail either.
    greedy.custom_extensions = vec![CustomExtension::from_oid_content(
        &[1, 3, 6, 1, 4, 1, 99999, 1],
        vec![5, 0],
    )];
    let csr = greedy.serialize_request(&key).unwrap().pem().unwrap();
    let issued = signer
        .sign_workload(csr.as_bytes(), &id("a"), HOUR, now())
        .unwrap();

    let der = meltemi_pki::certificates_from_pem(issued.chain[0].as_bytes()).unwrap();
    for usage in [Usage::ServerAuth, Usage::ClientAuth] {
        let leaf = Leaf::parse_for(&der[0], usage).unwrap();
        assert_eq!(leaf.identity, id("a"));
        assert_eq!(leaf.subject, "");
    }
    // One name, no authority: checked on the bytes that a client of ours never reads.
    let text = String::from_utf8_lossy(&der[0]).into_owned();
    for absent in ["example.com", "istiod", "cluster-admin"] {
        assert!(!text.contains(absent), "{absent}");
    }
    assert!(WorkloadCertificate::accept(&key, &issued.chain, &id("a"), now()).is_ok());
}

#[test]
fn durations_are_defaulted_and_clamped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let options = SignerOptions {
        default_ttl: HOUR,
        max_ttl: 2 * HOUR,
        root_ttl: 3 * HOUR,
        ..SignerOptions::default()
    };
    let start = now();
    let signer = Signer::load_or_create(&path, options.clone(), start).unwrap();
    let lifetime = |signer: &Signer, ttl, at| {
        let csr = PrivateKey::generate().unwrap().csr_pem(&id("a")).unwrap();
        let issued = signer
            .sign_workload(csr.as_bytes(), &id("a"), ttl, at)
            .unwrap();
        issued.validity.not_after.duration_since(at).unwrap()
    };
    assert_eq!(lifetime(&signer, Duration::ZERO, start), HOUR);
    assert_eq!(lifetime(&signer, HOUR / 2, start), HOUR / 2);
    assert_eq!(lifetime(&signer, 24 * HOUR, start), 2 * HOUR);
    let late = start + 5 * HOUR / 2;
    let left = lifetime(&signer, Duration::ZERO, late);
    assert!(left <= HOUR / 2, "clamped to the authority: {left:?}");
    let csr = PrivateKey::generate().unwrap().csr_pem(&id("a")).unwrap();
    assert!(matches!(
        signer.sign_workload(csr.as_bytes(), &id("a"), HOUR, start + 4 * HOUR),
        Err(SignError::AuthorityExpired)
    ));
}

#[test]
fn not_before_is_set_back_two_minutes() {
    let (_directory, signer) = temporary();
    let validity = issue(&signer, HOUR).validity();
    let back = now().duration_since(validity.not_before).unwrap();
    assert!((120..125).contains(&back.as_secs()), "{back:?}");
}

#[test]
fn serials_differ_for_one_key() {
    let (_directory, signer) = temporary();
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_pem(&id("a")).unwrap();
    let serial = || {
        signer
            .sign_workload(csr.as_bytes(), &id("a"), HOUR, now())
            .unwrap()
            .serial
    };
    assert_ne!(serial(), serial());
}

#[test]
fn other_trust_domains_and_broken_requests_are_refused() {
    let (_directory, signer) = temporary();
    let csr = PrivateKey::generate().unwrap().csr_pem(&id("a")).unwrap();
    let foreign = Identity::new(TrustDomain::new("other").unwrap(), "default", "a").unwrap();
    assert!(matches!(
        signer.sign_workload(csr.as_bytes(), &foreign, HOUR, now()),
        Err(SignError::TrustDomain(_))
    ));
    assert!(matches!(
        signer.sign_workload(b"no request", &id("a"), HOUR, now()),
        Err(SignError::Request(_))
    ));
}

#[test]
fn the_root_survives_a_restart_and_its_key_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let first = signer(&path).unwrap();
    let second = signer(&path).unwrap();
    assert_eq!(first.roots_pem(), second.roots_pem());
    issue(&second, HOUR);
    let mode = |name: &str| {
        let metadata = fs::metadata(path.join(name)).unwrap();
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(mode("ca-key.pem"), 0o600);
    assert_eq!(mode("."), 0o700);
    let entries = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(entries, 1, "no temporary files stay");
}

#[test]
fn damaged_state_is_refused_by_name_and_never_replaced() {
    let spoiled = [
        ("ca-key.pem", "nonsense"),
        ("ca-cert.pem", "nonsense"),
        ("root-cert.pem", ""),
    ];
    for (name, content) in spoiled {
        let directory = tempfile::tempdir().unwrap();
        signer(directory.path()).unwrap();
        fs::write(directory.path().join(name), content).unwrap();
        let error = signer(directory.path()).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert!(error.contains("restore it from a backup"), "{error}");
        let kept = fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(kept, content);
    }
    let directory = tempfile::tempdir().unwrap();
    signer(directory.path()).unwrap();
    fs::remove_file(directory.path().join("ca-key.pem")).unwrap();
    let error = signer(directory.path()).unwrap_err().to_string();
    assert!(error.contains("ca-key.pem is damaged: the file is missing"));
}

#[test]
fn a_key_of_another_authority_is_noticed() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    signer(ours.path()).unwrap();
    signer(theirs.path()).unwrap();
    fs::copy(
        theirs.path().join("ca-key.pem"),
        ours.path().join("ca-key.pem"),
    )
    .unwrap();
    let error = signer(ours.path()).unwrap_err().to_string();
    assert!(error.contains("do not belong together"), "{error}");
}

#[test]
fn an_ageing_root_is_renewed_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let options = SignerOptions {
        root_ttl: 10 * HOUR,
        ..SignerOptions::default()
    };
    let load = |at| Signer::load_or_create(directory.path(), options.clone(), at);
    let start = now();
    let old = load(start).unwrap();
    assert_eq!(load(start + 7 * HOUR).unwrap().roots_pem(), old.roots_pem());
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_pem(&id("a")).unwrap();
    let new = load(start + 9 * HOUR).unwrap();
    assert_ne!(new.roots_pem(), old.roots_pem());
    assert!(new.root_not_after() > old.root_not_after());
    assert!(
        new.roots_pem().ends_with(old.roots_pem()),
        "the old root is believed on"
    );
    // What the old root signed chains to the new one, and the other way round.
    let chains = |leaf: &str, root: &str, at| {
        let answer = [leaf, root];
        WorkloadCertificate::accept(&key, &answer, &id("a"), at).unwrap()
    };
    let later = new
        .sign_workload(csr.as_bytes(), &id("a"), 10 * HOUR, start + 9 * HOUR)
        .unwrap();
    chains(&later.chain[0], old.roots_pem(), start + 9 * HOUR);
    let long = old
        .sign_workload(csr.as_bytes(), &id("a"), 10 * HOUR, start)
        .unwrap();
    chains(&long.chain[0], new.roots_pem(), start + 9 * HOUR);
    let reloaded = load(start + 9 * HOUR).unwrap();
    assert_eq!(reloaded.roots_pem(), new.roots_pem());
    assert!(load(start + 40 * HOUR).is_err(), "expired");
}

#[test]
fn a_mounted_intermediate_signs_with_its_chain() {
    let root_key = PrivateKey::generate().unwrap();
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (now() - HOUR).into();
        params.not_after = (now() + 24 * HOUR).into();
        params
    };
    let root = authority("root");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let key = PrivateKey::generate().unwrap();
    let intermediate = authority("intermediate")
        .signed_by(&key, &Issuer::from_params(&root, &root_key))
        .unwrap()
        .pem();
    let directory = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
    put("ca-key.pem", &key.to_pem().unwrap());
    put("ca-cert.pem", &intermediate);
    put("cert-chain.pem", &format!("{intermediate}{root_pem}"));
    put("root-cert.pem", &root_pem);

    let signer = signer(directory.path()).unwrap();
    let workload = PrivateKey::generate().unwrap();
    let csr = workload.csr_pem(&id("a")).unwrap();
    let issued = signer
        .sign_workload(csr.as_bytes(), &id("a"), HOUR, now())
        .unwrap();
    assert_eq!(issued.chain[1..], [intermediate, root_pem.clone()]);
    let accepted = WorkloadCertificate::accept(&workload, &issued.chain, &id("a"), now()).unwrap();
    assert_eq!(accepted.roots_pem(), Some(root_pem));
}

#[test]
fn serving_certificates_carry_dns_names() {
    let (_directory, signer) = temporary();
    let key = PrivateKey::generate().unwrap();
    let names = ["istiod.istio-system.svc", "istiod.istio-system"];
    let issued = signer.sign_serving(&key, &names, HOUR, now()).unwrap();
    ServingCertificate::with_key(issued.chain_pem().as_bytes(), &key, now()).unwrap();
    let der = meltemi_pki::certificates_from_pem(issued.chain[0].as_bytes()).unwrap();
    let text = String::from_utf8_lossy(&der[0]).into_owned();
    assert!(names.iter().all(|name| text.contains(name)));
    let bad = signer.sign_serving(&key, &["\u{e9}"], HOUR, now());
    assert!(matches!(bad, Err(SignError::Sign(_))));
}

#[test]
fn serving_certificates_outlive_short_workload_certificates() {
    let directory = tempfile::tempdir().unwrap();
    let options = SignerOptions {
        default_ttl: HOUR,
        max_ttl: HOUR,
        ..SignerOptions::default()
    };
    let signer = Signer::load_or_create(&directory.path().join("ca"), options, now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let start = now();
    let issued = signer
        .sign_serving(&key, &["istiod.istio-system.svc"], 5 * HOUR, start)
        .unwrap();
    assert_eq!(issued.validity.not_after, start + 5 * HOUR);
}
