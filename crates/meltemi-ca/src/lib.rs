//! The certificate authority: who asks, what they get, and the keys that sign it.
//!
//! ```text
//! CreateCertificate -> Credentials -> Authenticator -> AuthenticatedWorkload -+
//!                      CSR -> public key only --------------------------------+-> Signer -> leaf, intermediates, roots
//! ```
//!
//! The identity of a certificate comes from the authenticated caller and from nowhere else: what a request says about
//! names, usages or constraints is not read. This crate knows no xDS and no Istio resource; it does not listen.

mod authenticate;
mod client_certificate;
mod issuer;
mod metrics;
mod service;
mod signer;
mod state;
mod token;

#[cfg(test)]
mod tests;

pub use authenticate::{
    AuthError, AuthenticatedWorkload, Authenticator, Authenticators, Credentials, PeerInfo, PodRef,
};
pub use client_certificate::ClientCertificateAuthenticator;
pub use issuer::{TokenIssuer, TokenRequest};
pub use metrics::IssuanceMetrics;
pub use service::CertificateService;
pub use signer::{IssuedCertificate, SignError, Signer, SignerOptions};
pub use state::{StateError, with_causes};
pub use token::{JwtAuthenticator, KeySetError};
