use std::sync::Arc;
use std::time::SystemTime;

use meltemi_core::Identity;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};
use rustls_pki_types::CertificateDer;

use crate::edge::sha256;
use crate::{Leaf, LeafError, Validity, certificates_to_pem, leaf};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    #[error("the handshake is not complete")]
    Handshaking,
    #[error("the peer's certificate")]
    Leaf(#[from] LeafError),
    #[error("the session of {0} was resumed after its certificate ceased to be valid")]
    NotValidNow(Box<Identity>),
    #[error("the session of a client was resumed after its certificate ceased to be valid")]
    StrangerNotValidNow,
}

/// The facts of one completed handshake, read once per connection.
#[derive(Clone, Debug)]
pub struct HandshakeInfo {
    pub local: Option<Arc<Identity>>,
    /// Absent when the peer presented no certificate.
    pub peer: Option<Arc<Peer>>,
    /// A client outside of the mesh that presented a certificate.
    pub stranger: Option<Arc<Stranger>>,
    /// `TLSv1.3` or `TLSv1.2`, as Envoy spells it.
    pub tls_version: &'static str,
    /// The IANA name.
    pub cipher: &'static str,
    /// The group, such as `X25519MLKEM768`; empty when a resumed session made no new exchange.
    pub key_exchange: &'static str,
    pub alpn: Option<Box<[u8]>>,
    pub resumed: bool,
    pub at: SystemTime,
}

/// Who is at the other end, from its verified leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: Arc<Identity>,
    pub validity: Validity,
    pub serial: String,
    /// RFC 4514 text; empty in certificates of Istio's authority.
    pub subject: String,
    /// SHA-256 of the leaf in DER, the `Hash` of XFCC.
    pub sha256: [u8; 32],
}

impl Peer {
    fn of(leaf: &CertificateDer<'_>) -> Result<Self, LeafError> {
        let parsed = Leaf::parse(leaf)?;
        let sha256 = sha256(leaf);
        Ok(Self {
            identity: Arc::new(parsed.identity),
            validity: parsed.validity,
            serial: parsed.serial,
            subject: parsed.subject,
            sha256,
        })
    }

    pub fn sha256_hex(&self) -> String {
        hex::encode(self.sha256)
    }
}

/// A client outside of the mesh, from its verified leaf. None of its names is an identity of the mesh, whatever it looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// RFC 4514 text.
    pub subject: String,
    pub uris: Vec<String>,
    pub dns_names: Vec<String>,
    /// Of the leaf in DER, in hexadecimal digits.
    pub sha256_hex: String,
    /// The leaf as PEM.
    pub pem: String,
}

impl Stranger {
    fn of(leaf: &CertificateDer<'_>, now: SystemTime) -> Result<Self, PeerError> {
        let parsed = leaf::parse(leaf)?;
        // rustls does not look again when it resumes a session.
        if !Validity::of(&parsed).contains(now) {
            return Err(PeerError::StrangerNotValidNow);
        }
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Ok(Self {
            subject: parsed.subject().to_string(),
            uris: owned(leaf::uris(&parsed)?),
            dns_names: owned(leaf::dns_names(&parsed)?),
            sha256_hex: hex::encode(sha256(leaf)),
            pem: certificates_to_pem([leaf]),
        })
    }
}

impl HandshakeInfo {
    /// Reads a mesh connection after its handshake; a `&ServerConnection` or `&ClientConnection` derefs to `state`.
    /// The peer's validity is looked at again because rustls does not when it resumes a session.
    ///
    /// # Errors
    /// The handshake is not complete, or the peer's certificate is not one of a workload that is valid now.
    pub fn new(
        state: &CommonState,
        local: Option<&Arc<Identity>>,
        now: SystemTime,
    ) -> Result<Self, PeerError> {
        let peer = match state.peer_certificates() {
            Some([leaf, ..]) => Some(Peer::of(leaf)?),
            _ => None,
        };
        if let Some(peer) = &peer
            && !peer.validity.contains(now)
        {
            return Err(PeerError::NotValidNow(Box::new((*peer.identity).clone())));
        }
        Self::with_peer(state, local, peer, now)
    }

    /// Reads a connection of a client outside of the mesh.
    ///
    /// # Errors
    /// The handshake is not complete, or the client's certificate is not valid now.
    pub fn at_edge(state: &CommonState, now: SystemTime) -> Result<Self, PeerError> {
        let stranger = match state.peer_certificates() {
            Some([leaf, ..]) => Some(Arc::new(Stranger::of(leaf, now)?)),
            _ => None,
        };
        Ok(Self {
            stranger,
            ..Self::with_peer(state, None, None, now)?
        })
    }

    /// Reads a connection whose peer has no SPIFFE identity, such as a server outside the mesh.
    ///
    /// # Errors
    /// The handshake is not complete.
    pub fn without_peer(
        state: &CommonState,
        local: Option<&Arc<Identity>>,
        now: SystemTime,
    ) -> Result<Self, PeerError> {
        Self::with_peer(state, local, None, now)
    }

    fn with_peer(
        state: &CommonState,
        local: Option<&Arc<Identity>>,
        peer: Option<Peer>,
        now: SystemTime,
    ) -> Result<Self, PeerError> {
        let (Some(version), Some(suite)) =
            (state.protocol_version(), state.negotiated_cipher_suite())
        else {
            return Err(PeerError::Handshaking);
        };
        let group = state.negotiated_key_exchange_group();
        Ok(Self {
            local: local.cloned(),
            peer: peer.map(Arc::new),
            stranger: None,
            tls_version: version_name(version),
            cipher: cipher_name(suite.suite()),
            key_exchange: group
                .and_then(|group| group.name().as_str())
                .unwrap_or_default(),
            alpn: state.alpn_protocol().map(Box::from),
            resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            at: now,
        })
    }

    /// The protocol agreed on by ALPN as text, empty without one.
    pub fn alpn_str(&self) -> &str {
        let protocol = self.alpn.as_deref().unwrap_or_default();
        std::str::from_utf8(protocol).unwrap_or("?")
    }
}

fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        _ => "unknown",
    }
}

fn cipher_name(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => other.as_str().unwrap_or("unknown"),
    }
}
