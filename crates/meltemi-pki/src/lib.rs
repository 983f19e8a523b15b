//! Keys, certificates, trust bundles and the TLS configurations made from them.
//!
//! ```text
//! PrivateKey -> csr_pem -> (certificate authority) -> WorkloadCertificate -+-> ServerTls -> rustls::ServerConfig
//!                                                      TrustBundle --------+-> ClientTls -> rustls::ClientConfig
//!                                                                              a connection -> HandshakeInfo
//! ServingCertificate -> EdgeTls -> rustls::ServerConfig, for strangers
//! ```
//!
//! The only crate that names the crypto provider. It opens no sockets or files and reads no clock: the time is an
//! argument, or what rustls hands to a verifier. It knows no xDS and no Istio resource.
//!
//! A configuration is made for one certificate and one bundle and replaced as a whole when either changes. Session
//! tickets live and die with it, so that no session outlives the trust decision it was made under.

mod bundle;
mod certificate;
mod client;
mod edge;
mod handshake;
mod key;
mod leaf;
mod pem;
mod provider;
mod renewal;
mod server;
mod terms;
mod validity;
mod verify;

#[cfg(test)]
mod tests;

pub use bundle::{BundleError, TrustBundle};
pub use certificate::{CertificateError, ServingCertificate, WorkloadCertificate};
pub use client::{ClientTls, DnsClientTls, server_name};
pub use edge::{EdgeClients, EdgeTls, Sha256};
pub use handshake::{HandshakeInfo, Peer, PeerError, Stranger};
pub use key::{KeyError, PrivateKey, verified_public_key};
pub use leaf::{Leaf, LeafError, Usage};
pub use pem::{PemError, certificates_from_pem, certificates_to_pem};
pub use renewal::renew_at;
pub use server::{CertificateSlot, ClientAuth, ServerTls, ServingTls};
pub use terms::{Terms, Version};
pub use validity::Validity;
pub use verify::{VerifyError, explain};

/// A TLS configuration that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("making a TLS configuration")]
    Rustls(#[from] rustls::Error),
    #[error("\"{0}\" is not a name that a TLS client can ask for")]
    ServerName(String),
    #[error("trusted roots")]
    Bundle(#[from] BundleError),
    #[error("none of the cipher suites {0:?} is supported")]
    CipherSuites(Vec<String>),
}
