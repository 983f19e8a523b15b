//! New connections, each with a full handshake. The load generator is the TLS peer of one proxy at a time: the server of
//! proxy A and the client of proxy B. It keeps no sessions, so that no proxy can resume one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::kx_group::{X25519, X25519MLKEM768};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::bytes::ping;
use crate::pki::{Account, KeyType, Pki};
use crate::rig::{BACK, Place, Port};

/// The names of mesh TCP over TLS.
const ALPN: [&[u8]; 2] = [b"istio-peer-exchange", b"istio"];

/// The terms on which the load generator shakes hands: its key, and the groups it agrees to for the exchange of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Terms {
    /// X25519, which every proxy speaks.
    EcdsaP256,
    Rsa2048,
    /// X25519MLKEM768 with those that offer it, as two of our proxies do.
    Hybrid,
}

impl Terms {
    const ALL: [Self; 3] = [Self::EcdsaP256, Self::Rsa2048, Self::Hybrid];

    /// Where the load generator's own TLS server listens on these terms.
    pub(crate) fn port(self) -> Port {
        match self {
            Self::EcdsaP256 => Port::TlsEcdsa,
            Self::Rsa2048 => Port::TlsRsa,
            Self::Hybrid => Port::TlsHybrid,
        }
    }

    fn key(self) -> KeyType {
        match self {
            Self::EcdsaP256 | Self::Hybrid => KeyType::EcdsaP256,
            Self::Rsa2048 => KeyType::Rsa2048,
        }
    }

    fn provider(self) -> Arc<CryptoProvider> {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = match self {
            Self::EcdsaP256 | Self::Rsa2048 => vec![X25519],
            Self::Hybrid => vec![X25519MLKEM768, X25519],
        };
        Arc::new(provider)
    }
}

/// Starts the peers of proxy A, which echo, for the rest of the run.
///
/// # Errors
/// A port is taken.
pub(crate) fn serve(place: Place<'_>, pki: &Pki) -> anyhow::Result<()> {
    for terms in Terms::ALL {
        let config = server(pki, terms)?;
        place.run(|| {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, terms.port().target()));
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            std::thread::Builder::new()
                .name("tls-peer".to_owned())
                .spawn(|| accept(listener, config))?;
            Ok(())
        })?;
    }
    Ok(())
}

fn accept(listener: std::net::TcpListener, config: Arc<ServerConfig>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let Ok(listener) = TcpListener::from_std(listener) else {
            return;
        };
        let acceptor = TlsAcceptor::from(config);
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                drop(tokio::spawn(echo(acceptor.clone(), stream)));
            }
        }
    });
}

async fn echo(acceptor: TlsAcceptor, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    tokio::io::copy(&mut reader, &mut writer).await.map(drop)
}

fn server(pki: &Pki, terms: Terms) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = terms.provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(pki.roots()?, provider.clone()).build()?;
    let (chain, key) = pki.load(Account::Server, terms.key())?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Only the one without an exchange of metadata, which this peer does not take part in.
    config.alpn_protocols = vec![b"istio".to_vec()];
    Ok(Arc::new(config))
}

/// The load generator as the client of proxy B.
#[derive(Clone)]
pub(crate) struct Caller {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Caller {
    /// # Errors
    /// The certificate cannot be read.
    pub(crate) fn new(pki: &Pki, terms: Terms) -> anyhow::Result<Self> {
        let (chain, key) = pki.load(Account::Client, terms.key())?;
        let provider = terms.provider();
        let mut config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_client_auth_cert(chain, key)?;
        config.resumption = Resumption::disabled();
        config.alpn_protocols = ALPN.map(<[u8]>::to_vec).into();
        let name = "outbound_.82_._.server.bench.svc.cluster.local";
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            name: ServerName::try_from(name)?,
        })
    }

    /// Connects to proxy B, has a byte echoed and closes.
    ///
    /// # Errors
    /// The handshake fails or the connection breaks.
    pub(super) async fn call(&self) -> anyhow::Result<()> {
        let stream = TcpStream::connect((BACK, Port::Tcp.target())).await?;
        stream.set_nodelay(true)?;
        let connected = self.connector.connect(self.name.clone(), stream).await;
        ping(&mut connected.context("the handshake with proxy B")?).await?;
        Ok(())
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Caller").finish_non_exhaustive()
    }
}

/// Believes any server: the load generator stands in for a client whose own cost and caution are not measured.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
