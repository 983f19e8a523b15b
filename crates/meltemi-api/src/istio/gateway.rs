use meltemi_core::Labels;
use serde::Deserialize;

/// What proxies at the edge listen for (`networking.v1.Gateway`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Gateway {
    pub servers: Vec<Server>,
    /// The pods that serve it, in any namespace; empty means every gateway.
    pub selector: Labels,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Server {
    pub port: GatewayPort,
    /// An address to listen on instead of all.
    pub bind: String,
    /// As written: a name, or `namespace/name` with `.` for the Gateway's namespace and `*` for any.
    pub hosts: Vec<String>,
    pub tls: Option<ServerTlsSettings>,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct GatewayPort {
    pub number: u32,
    pub protocol: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ServerTlsSettings {
    /// Of a plain-text server: requests are sent to the same place by HTTPS.
    pub https_redirect: bool,
    pub mode: ServerTlsMode,
    pub server_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
    /// A Secret in the namespace of the gateway's pods.
    pub credential_name: String,
    /// The Secret with the authority of clients, instead of `<credentialName>-cacert`.
    pub ca_cert_credential_name: String,
    pub subject_alt_names: Vec<String>,
    /// SHA-256 of a client certificate's public key, in base64.
    pub verify_certificate_spki: Vec<String>,
    /// SHA-256 of a client certificate, in hexadecimal digits.
    pub verify_certificate_hash: Vec<String>,
    pub min_protocol_version: TlsProtocol,
    pub max_protocol_version: TlsProtocol,
    pub cipher_suites: Vec<String>,
}

/// How a server treats TLS (`ServerTLSSettings.TLSmode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ServerTlsMode {
    #[default]
    Passthrough,
    Simple,
    Mutual,
    AutoPassthrough,
    IstioMutual,
    OptionalMutual,
}

impl ServerTlsMode {
    /// Whether the gateway ends TLS itself.
    pub fn terminates(self) -> bool {
        !matches!(self, Self::Passthrough | Self::AutoPassthrough)
    }

    /// Whether clients may or have to show a certificate that is the user's to verify.
    pub fn verifies_clients(self) -> bool {
        matches!(self, Self::Mutual | Self::OptionalMutual)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passthrough => "PASSTHROUGH",
            Self::Simple => "SIMPLE",
            Self::Mutual => "MUTUAL",
            Self::AutoPassthrough => "AUTO_PASSTHROUGH",
            Self::IstioMutual => "ISTIO_MUTUAL",
            Self::OptionalMutual => "OPTIONAL_MUTUAL",
        }
    }
}

/// `ServerTLSSettings.TLSProtocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum TlsProtocol {
    #[default]
    #[serde(rename = "TLS_AUTO")]
    Auto,
    #[serde(rename = "TLSV1_0")]
    V1_0,
    #[serde(rename = "TLSV1_1")]
    V1_1,
    #[serde(rename = "TLSV1_2")]
    V1_2,
    #[serde(rename = "TLSV1_3")]
    V1_3,
}
