//! The certificates of a run. One authority, that of the control plane under test, signs for everyone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use meltemi_ca::{Signer, SignerOptions, TokenIssuer, TokenRequest};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) const TRUST_DOMAIN: &str = "cluster.local";
pub(crate) const NAMESPACE: &str = "bench";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const TOKEN_LIFE: Duration = Duration::from_secs(12 * 3600);

/// Who a certificate is for; both are service accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    Client,
    Server,
}

impl Account {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    pub(crate) fn spiffe(self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{}", self.name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    EcdsaP256,
    Rsa2048,
}

/// Paths of PEM files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one, as HAProxy wants it.
    pub(crate) combined: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// Founds the authority in the folder that the control plane gets as its state.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn found(folder: &Path) -> anyhow::Result<Self> {
        let now = SystemTime::now();
        fs::create_dir_all(folder)?;
        Signer::load_or_create(&folder.join("ca"), SignerOptions::default(), now)?;
        let pki = Self {
            folder: folder.to_owned(),
        };
        let tokens = pki.tokens()?;
        fs::write(pki.token_keys(), tokens.jwks()?)?;
        for account in [Account::Client, Account::Server] {
            for key in [KeyType::EcdsaP256, KeyType::Rsa2048] {
                pki.sign(account, key)?;
            }
        }
        Ok(pki)
    }

    pub(crate) fn state(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.join("ca/root-cert.pem")
    }

    pub(crate) fn token_keys(&self) -> PathBuf {
        self.folder.join("jwks.json")
    }

    /// A service-account token as a pod has it.
    pub(crate) fn token(&self, account: Account) -> anyhow::Result<String> {
        let request = TokenRequest {
            namespace: NAMESPACE,
            service_account: account.name(),
            service_account_uid: None,
            pod: None,
            node: None,
            audiences: &["istio-ca"],
            ttl: TOKEN_LIFE,
        };
        Ok(self.tokens()?.issue(&request, SystemTime::now())?)
    }

    pub(crate) fn files(&self, account: Account, key: KeyType) -> Files {
        let kind = match key {
            KeyType::EcdsaP256 => "ecdsa",
            KeyType::Rsa2048 => "rsa",
        };
        let file = |what: &str| {
            self.folder
                .join(format!("{}-{kind}-{what}.pem", account.name()))
        };
        Files {
            certificate: file("cert"),
            key: file("key"),
            combined: file("combined"),
        }
    }

    /// The certificate and key of an account, for the load generator's own TLS.
    pub(crate) fn load(
        &self,
        account: Account,
        key: KeyType,
    ) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let files = self.files(account, key);
        let chain = CertificateDer::pem_file_iter(files.certificate)?.collect::<Result<_, _>>()?;
        Ok((chain, PrivateKeyDer::from_pem_file(files.key)?))
    }

    pub(crate) fn roots(&self) -> anyhow::Result<Arc<rustls::RootCertStore>> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(self.root())? {
            roots.add(certificate?)?;
        }
        Ok(Arc::new(roots))
    }

    pub(crate) fn tokens(&self) -> anyhow::Result<TokenIssuer> {
        Ok(TokenIssuer::load_or_create(
            &self.folder.join("token-key.pem"),
            ISSUER,
        )?)
    }

    fn sign(&self, account: Account, key: KeyType) -> anyhow::Result<()> {
        let ca = self.folder.join("ca");
        let signer = KeyPair::from_pem(&fs::read_to_string(ca.join("ca-key.pem"))?)?;
        let certificate = fs::read_to_string(ca.join("ca-cert.pem"))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, signer)
            .context("the authority's certificate")?;
        let pair = match key {
            KeyType::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::Rsa2048 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            }
        }?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(account.spiffe().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let signed = params.signed_by(&pair, &issuer)?.pem();
        let files = self.files(account, key);
        let key = pair.serialize_pem();
        fs::write(&files.certificate, &signed)?;
        fs::write(&files.key, &key)?;
        fs::write(&files.combined, format!("{signed}{key}"))?;
        Ok(())
    }
}
