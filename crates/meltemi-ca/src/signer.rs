use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use meltemi_core::{Identity, TrustDomain};
use meltemi_pki::{
    KeyError, PrivateKey, TrustBundle, Validity, certificates_from_pem, certificates_to_pem,
    verified_public_key,
};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};

use crate::StateError;
use crate::state::{self, PRIVATE, PUBLIC};

/// File names of the state directory, those of Istio's `cacerts` Secret, so that it can be mounted in its place.
const KEY_FILE: &str = "ca-key.pem";
const CERTIFICATE_FILE: &str = "ca-cert.pem";
const CHAIN_FILE: &str = "cert-chain.pem";
const ROOTS_FILE: &str = "root-cert.pem";

/// How far `notBefore` is set back, for clocks that run behind (Istio's two minutes).
const BACKDATE: Duration = Duration::from_secs(120);
/// A self-signed root is renewed when less than this share of its life is left.
const ROOT_RENEWAL_SHARE: f64 = 0.2;

#[derive(Clone, Debug)]
pub struct SignerOptions {
    pub trust_domain: TrustDomain,
    /// For requests that name no duration (Istio's `DEFAULT_WORKLOAD_CERT_TTL`, 24 h).
    pub default_ttl: Duration,
    /// The longest duration given (Istio's `MAX_WORKLOAD_CERT_TTL`, 90 days).
    pub max_ttl: Duration,
    /// Of a root made here (Istio: 10 years).
    pub root_ttl: Duration,
}

impl Default for SignerOptions {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            trust_domain: TrustDomain::default(),
            default_ttl: DAY,
            max_ttl: DAY * 90,
            root_ttl: DAY * 3650,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SignError {
    #[error("the certificate signing request")]
    Request(#[source] KeyError),
    #[error("the authority's own certificate is not valid now")]
    AuthorityExpired,
    #[error("{0} is not of this authority's trust domain")]
    TrustDomain(Identity),
    #[error("signing a certificate")]
    Sign(#[from] rcgen::Error),
}

/// A signed leaf with its chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedCertificate {
    /// PEM texts: the leaf, the intermediates, the roots in one.
    pub chain: Vec<String>,
    pub validity: Validity,
    /// In lower-case hexadecimal digits.
    pub serial: String,
}

impl IssuedCertificate {
    pub fn chain_pem(&self) -> String {
        self.chain.concat()
    }
}

/// Signs workload and serving certificates with a key that it keeps in a directory.
pub struct Signer {
    issuer: Issuer<'static, PrivateKey>,
    validity: Validity,
    roots_validity: Validity,
    intermediates: Vec<String>,
    self_signed: bool,
    roots_pem: String,
    options: SignerOptions,
}

impl Signer {
    /// Takes up the authority kept in `directory`, made by an earlier run or mounted from a `cacerts` Secret, or founds
    /// one with a self-signed root when the directory is absent or empty.
    ///
    /// # Errors
    /// The directory cannot be used, or its content is incomplete, damaged or expired.
    pub fn load_or_create(
        directory: &Path,
        options: SignerOptions,
        now: SystemTime,
    ) -> Result<Self, StateError> {
        if state::is_vacant(directory)? {
            let key = PrivateKey::generate()?;
            let key_pem = key.to_pem()?;
            let root = self_signed(&key, &options, now)?;
            let files: [(&str, &[u8], u32); 4] = [
                (KEY_FILE, key_pem.as_bytes(), PRIVATE),
                (CERTIFICATE_FILE, root.as_bytes(), PUBLIC),
                (CHAIN_FILE, root.as_bytes(), PUBLIC),
                (ROOTS_FILE, root.as_bytes(), PUBLIC),
            ];
            state::create_directory(directory, &files)?;
        }
        Self::load(directory, options, now)
    }

    /// Takes up the authority kept in `directory`, which must be there: of one in use, missing files are damage.
    ///
    /// # Errors
    /// As [`Signer::load_or_create`].
    pub fn load(
        directory: &Path,
        options: SignerOptions,
        now: SystemTime,
    ) -> Result<Self, StateError> {
        Stored::read(directory)?.into_signer(directory, options, now)
    }

    /// Tells one content of the files in `directory` from another. Time stamps would not: a mounted Secret changes by a
    /// link, and a copy may keep them.
    ///
    /// # Errors
    /// A file that is there cannot be read.
    pub fn stamp(directory: &Path) -> Result<u64, StateError> {
        let mut hasher = DefaultHasher::new();
        for name in [KEY_FILE, CERTIFICATE_FILE, CHAIN_FILE, ROOTS_FILE] {
            state::read_optional(&directory.join(name))?.hash(&mut hasher);
        }
        Ok(hasher.finish())
    }

    /// A certificate for the key of `csr_pem` and the identity that was authenticated. Nothing else of the request is
    /// believed. A request for no duration gets the default, a longer one than allowed the longest.
    ///
    /// Differs from Istio: a duration beyond the maximum is shortened and not refused, so that an operator can lower
    /// the maximum under running workloads.
    ///
    /// # Errors
    /// The request has no good key, or this authority cannot sign for the identity now.
    pub fn sign_workload(
        &self,
        csr_pem: &[u8],
        identity: &Identity,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, SignError> {
        if identity.trust_domain != self.options.trust_domain {
            return Err(SignError::TrustDomain(identity.clone()));
        }
        let key = verified_public_key(csr_pem).map_err(SignError::Request)?;
        let uri = SanType::URI(identity.to_string().try_into()?);
        self.sign(&key, vec![uri], self.granted(ttl), now)
    }

    /// A certificate with DNS names for a server of the control plane. The limits of workload certificates are not its.
    ///
    /// # Errors
    /// A name is no DNS name, or this authority cannot sign now.
    pub fn sign_serving<N: AsRef<str>>(
        &self,
        key: &PrivateKey,
        names: &[N],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, SignError> {
        let names = names
            .iter()
            .map(|name| Ok(SanType::DnsName(name.as_ref().try_into()?)))
            .collect::<Result<_, SignError>>()?;
        self.sign(key, names, ttl, now)
    }

    /// The roots that vouch for what is signed here, in PEM: the content of `istio-ca-root-cert`.
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// Whether it is time for the root to be renewed, which loading does. Only a self-signed one can be.
    pub fn is_ageing(&self, now: SystemTime) -> bool {
        self.self_signed && ageing(self.validity, now)
    }

    pub fn options(&self) -> &SignerOptions {
        &self.options
    }

    /// When the first of the roots ends that are needed.
    pub fn root_not_after(&self) -> SystemTime {
        self.roots_validity.not_after
    }

    /// When the signing certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.options.trust_domain
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<IssuedCertificate, SignError> {
        if !self.validity.contains(now) {
            return Err(SignError::AuthorityExpired);
        }
        let validity = Validity {
            not_before: (now - BACKDATE).max(self.validity.not_before),
            not_after: (now + ttl).min(self.validity.not_after),
        };
        let serial = serial_number();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = validity.not_before.into();
        params.not_after = validity.not_after.into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(key, &self.issuer)?;
        let mut chain = vec![leaf.pem()];
        chain.extend_from_slice(&self.intermediates);
        chain.push(self.roots_pem.clone());
        Ok(IssuedCertificate {
            chain,
            validity,
            serial: hex::encode(serial),
        })
    }

    /// What a workload gets that asks for this; zero asks for the default.
    fn granted(&self, ttl: Duration) -> Duration {
        let wanted = if ttl.is_zero() {
            self.options.default_ttl
        } else {
            ttl
        };
        wanted.min(self.options.max_ttl)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer")
            .field("options", &self.options)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}

/// The files of a state directory.
struct Stored {
    key: PrivateKey,
    certificate_pem: String,
    chain_pem: String,
    roots_pem: String,
}

impl Stored {
    fn read(directory: &Path) -> Result<Self, StateError> {
        let read = |name: &str| -> Result<(PathBuf, String), StateError> {
            let path = directory.join(name);
            let damaged = |reason: &str| StateError::damaged_part(&path, reason);
            let content =
                state::read_optional(&path)?.ok_or_else(|| damaged("the file is missing"))?;
            let text = String::from_utf8(content).map_err(|_| damaged("it is not text"))?;
            Ok((path, text))
        };
        let (key_path, key_pem) = read(KEY_FILE)?;
        let key = PrivateKey::from_pem(key_pem.as_bytes())
            .map_err(|error| StateError::damaged_part(&key_path, state::with_causes(&error)))?;
        let chain = directory.join(CHAIN_FILE);
        let chain_pem = match state::read_optional(&chain)? {
            Some(_) => read(CHAIN_FILE)?.1,
            None => String::new(),
        };
        Ok(Self {
            key,
            certificate_pem: read(CERTIFICATE_FILE)?.1,
            chain_pem,
            roots_pem: read(ROOTS_FILE)?.1,
        })
    }

    /// Checks that the parts belong together and are valid, renews an ageing self-signed root with the same key.
    fn into_signer(
        mut self,
        directory: &Path,
        options: SignerOptions,
        now: SystemTime,
    ) -> Result<Signer, StateError> {
        let path = directory.join(CERTIFICATE_FILE);
        let damaged = |reason: String| StateError::damaged_part(&path, reason);
        let mut authority = self.authority(directory, &options)?;
        if !authority.validity.contains(now) {
            return Err(damaged(
                "the certificate has expired or is not valid yet".into(),
            ));
        }
        if authority.self_signed && ageing(authority.validity, now) {
            let root = self_signed(&self.key, &options, now)?;
            // Those who still present what the old root vouches for are believed until it ends.
            let old = self.unexpired_roots(now).map_err(damaged)?;
            self.roots_pem = [root.clone(), old].concat();
            (self.certificate_pem, self.chain_pem) = (root.clone(), root.clone());
            for (name, content) in [
                (ROOTS_FILE, &self.roots_pem),
                (CERTIFICATE_FILE, &root),
                (CHAIN_FILE, &root),
            ] {
                state::write(&directory.join(name), content.as_bytes(), PUBLIC)?;
            }
            authority = self.authority(directory, &options)?;
        }
        let certificates = certificates_from_pem(self.certificate_pem.as_bytes())
            .map_err(|error| damaged(error.to_string()))?;
        let signing = certificates
            .first()
            .ok_or_else(|| damaged("no certificate".into()))?;
        let issuer = Issuer::from_ca_cert_der(signing, self.key.clone())?;
        let signer = Signer {
            issuer,
            validity: authority.validity,
            roots_validity: authority.roots_validity,
            intermediates: authority.intermediates,
            self_signed: authority.self_signed,
            roots_pem: self.roots_pem,
            options,
        };
        signer.prove(now).map_err(damaged)?;
        Ok(signer)
    }

    fn unexpired_roots(&self, now: SystemTime) -> Result<String, String> {
        let domain = TrustDomain::default();
        let bundle = TrustBundle::new(domain, self.roots_pem.as_bytes())
            .map_err(|error| state::with_causes(&error))?;
        let roots = bundle.roots().into_iter();
        let unexpired = roots.filter(|(_, validity)| now < validity.not_after);
        Ok(certificates_to_pem(unexpired.map(|(der, _)| der)))
    }

    fn authority(
        &self,
        directory: &Path,
        options: &SignerOptions,
    ) -> Result<Authority, StateError> {
        let damaged = |name: &str, error: &dyn std::error::Error| {
            StateError::damaged_part(&directory.join(name), state::with_causes(error))
        };
        let bundle = |name: &str, pem: &str| {
            TrustBundle::new(options.trust_domain.clone(), pem.as_bytes())
                .map_err(|error| damaged(name, &error))
        };
        let signing = bundle(CERTIFICATE_FILE, &self.certificate_pem)?;
        let roots = bundle(ROOTS_FILE, &self.roots_pem)?;
        let first =
            |bundle: &TrustBundle| bundle.roots().first().map(|(der, v)| ((*der).clone(), *v));
        let none = || StateError::damaged_part(&directory.join(CERTIFICATE_FILE), "no certificate");
        let (certificate, validity) = first(&signing).ok_or_else(none)?;
        let root_list = roots.roots();
        let self_signed = root_list.iter().any(|(root, _)| **root == certificate);
        let first_to_end = root_list
            .iter()
            .map(|(_, validity)| *validity)
            .min_by_key(|validity| validity.not_after)
            .ok_or_else(none)?;
        // Beside an own root there are only those before it, whose end nobody has to prepare for.
        let roots_validity = if self_signed { validity } else { first_to_end };
        let mut intermediates = Vec::new();
        if !self_signed {
            intermediates.push(certificates_to_pem([&certificate]));
            if !self.chain_pem.trim().is_empty() {
                let chain = certificates_from_pem(self.chain_pem.as_bytes())
                    .map_err(|error| damaged(CHAIN_FILE, &error))?;
                intermediates.extend(
                    chain
                        .iter()
                        .filter(|der| **der != certificate)
                        .filter(|der| !root_list.iter().any(|(root, _)| root == der))
                        .map(|der| certificates_to_pem([der])),
                );
            }
        }
        Ok(Authority {
            validity,
            roots_validity,
            self_signed,
            intermediates,
        })
    }
}

struct Authority {
    validity: Validity,
    roots_validity: Validity,
    self_signed: bool,
    intermediates: Vec<String>,
}

impl Signer {
    /// Signs for a throw-away key and accepts the answer as a workload would: key, certificate, chain and roots fit.
    fn prove(&self, now: SystemTime) -> Result<(), String> {
        let describe = |error: &dyn std::error::Error| {
            let cause = state::with_causes(error);
            format!("key, certificate, chain and roots do not belong together: {cause}")
        };
        let identity = Identity::new(self.options.trust_domain.clone(), "istio-system", "istiod")
            .map_err(|error| describe(&error))?;
        let key = PrivateKey::generate().map_err(|error| describe(&error))?;
        let csr = key.csr_pem(&identity).map_err(|error| describe(&error))?;
        let issued = self
            .sign_workload(csr.as_bytes(), &identity, Duration::ZERO, now)
            .map_err(|error| describe(&error))?;
        meltemi_pki::WorkloadCertificate::accept(&key, &issued.chain, &identity, now)
            .map(|_| ())
            .map_err(|error| describe(&error))
    }
}

fn ageing(validity: Validity, now: SystemTime) -> bool {
    let total = validity.not_after.duration_since(validity.not_before);
    let left = validity.not_after.duration_since(now);
    match (total, left) {
        (Ok(total), Ok(left)) => left < total.mul_f64(ROOT_RENEWAL_SHARE),
        _ => true,
    }
}

/// A root certificate for `key`, with the subject `O=<trust domain>` as Istio's has.
fn self_signed(
    key: &PrivateKey,
    options: &SignerOptions,
    now: SystemTime,
) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, options.trust_domain.as_str());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + options.root_ttl).into();
    params.serial_number = Some(SerialNumber::from_slice(&serial_number()));
    Ok(params.self_signed(key)?.pem())
}

/// 127 random bits, positive and never zero (RFC 5280 section 4.1.2.2).
fn serial_number() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x01;
    serial
}
