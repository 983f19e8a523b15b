//! Keys, certificates and kubeconfigs of a cluster. One authority signs for everyone.
//!
//! Names and groups are those that the API server's built-in roles are bound to (Kubernetes docs, "PKI certificates and
//! requirements").

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::config::{Credentials, kubeconfig};
use crate::plan::{API_SERVICE, DOMAIN, Plan};

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Where the files of [`Pki::found`] lie.
#[derive(Clone, Debug)]
pub(crate) struct Pki {
    folder: PathBuf,
}

impl Pki {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn certificate(&self, who: &str) -> PathBuf {
        self.folder.join(format!("{who}.crt"))
    }

    pub(crate) fn key(&self, who: &str) -> PathBuf {
        self.folder.join(format!("{who}.key"))
    }

    pub(crate) fn kubeconfig(&self, who: &str) -> PathBuf {
        self.folder.join(format!("{who}.kubeconfig"))
    }

    /// Makes the authority and everything that the cluster's parts and its administrator need.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn found(&self, plan: Plan) -> Result<()> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let authority = self.authority("ca")?;
        // One that signs nothing else: whoever has its certificate may claim to be anybody.
        let front_proxy = self.authority("front-proxy-ca")?;
        self.sign(
            &front_proxy,
            "front-proxy",
            &Subject::client("front-proxy", None),
        )?;
        self.sign(&authority, "apiserver", &api_server(plan))?;
        let server = plan.api_server();
        let client = |who: &str, name: &str, group: Option<&str>| {
            self.sign(&authority, who, &Subject::client(name, group))?;
            self.write_kubeconfig(who, &server)
        };
        client("admin", "admin", Some(MASTERS))?;
        client("apiserver-kubelet", "apiserver-kubelet", Some(MASTERS))?;
        client("controller-manager", "system:kube-controller-manager", None)?;
        client("scheduler", "system:kube-scheduler", None)?;
        client("kube-proxy", "system:kube-proxy", None)?;
        for node in plan.nodes() {
            let name = node.name();
            let mut subject = Subject::client(&format!("system:node:{name}"), Some("system:nodes"));
            // The same certificate is the kubelet's as a server.
            subject.names = vec![name.clone(), node.address().to_string()];
            self.sign(&authority, &name, &subject)?;
            self.write_kubeconfig(&name, &server)?;
        }
        // RSA: every reader of a cluster's tokens knows RS256.
        let tokens = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)?;
        write(&self.key("service-accounts"), &tokens.serialize_pem())
    }

    /// A kubeconfig of the administrator for another address of the API server.
    pub(crate) fn admin_kubeconfig(&self, server: &str) -> Result<String> {
        self.kubeconfig_text("admin", server)
    }

    fn authority(&self, who: &str) -> Result<Issuer<'static, KeyPair>> {
        let key = KeyPair::generate()?;
        let mut params = Subject::client(who, None).params()?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.extended_key_usages = vec![];
        write(&self.certificate(who), &params.self_signed(&key)?.pem())?;
        write(&self.key(who), &key.serialize_pem())?;
        Ok(Issuer::new(params, key))
    }

    fn sign(&self, issuer: &Issuer<'_, KeyPair>, who: &str, subject: &Subject) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = subject.params()?.signed_by(&key, issuer)?;
        write(&self.certificate(who), &certificate.pem())?;
        write(&self.key(who), &key.serialize_pem())
    }

    fn write_kubeconfig(&self, who: &str, server: &str) -> Result<()> {
        write(&self.kubeconfig(who), &self.kubeconfig_text(who, server)?)
    }

    fn kubeconfig_text(&self, who: &str, server: &str) -> Result<String> {
        let read = |path: PathBuf| {
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(kubeconfig(
            server,
            &Credentials {
                user: who,
                authority: &read(self.certificate("ca"))?,
                certificate: &read(self.certificate(who))?,
                key: &read(self.key(who))?,
            },
        ))
    }
}

struct Subject {
    common_name: String,
    group: Option<String>,
    names: Vec<String>,
}

impl Subject {
    fn client(common_name: &str, group: Option<&str>) -> Self {
        Self {
            common_name: common_name.to_owned(),
            group: group.map(str::to_owned),
            names: Vec::new(),
        }
    }

    fn params(&self) -> Result<CertificateParams> {
        let mut params = CertificateParams::new(self.names.clone())?;
        let mut name = rcgen::DistinguishedName::new();
        name.push(DnType::CommonName, self.common_name.as_str());
        if let Some(group) = &self.group {
            name.push(DnType::OrganizationName, group.as_str());
        }
        params.distinguished_name = name;
        // A test bed outlives no certificate, and a machine's clock may be anywhere.
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2100, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        Ok(params)
    }
}

fn api_server(plan: Plan) -> Subject {
    Subject {
        common_name: "kube-apiserver".to_owned(),
        group: None,
        names: vec![
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            format!("kubernetes.default.svc.{DOMAIN}"),
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            API_SERVICE.to_string(),
            plan.first().address().to_string(),
        ],
    }
}

/// Writes a file that only its owner reads: most of these hold keys.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let mut open = OpenOptions::new();
    let file = open
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_gets_its_files() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::new(folder.path().join("pki"));
        pki.found(Plan::new(2).unwrap()).unwrap();
        for who in ["admin", "scheduler", "n2"] {
            assert!(pki.kubeconfig(who).is_file(), "{who}");
        }
        let text = pki.admin_kubeconfig("https://127.0.0.1:1").unwrap();
        assert!(text.contains("https://127.0.0.1:1"));
    }
}
