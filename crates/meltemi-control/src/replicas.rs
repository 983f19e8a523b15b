//! Other replicas of the control plane: each knows how far its own proxies are, and who tells users has to ask all.
//!
//! They ask each other on 15012, by certificates that the authority they share signs for the control plane itself.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use axum::extract::{Query, State};
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_api::status::Standing;
use meltemi_ca::{PeerInfo, Signer};
use meltemi_core::Identity;
use meltemi_core::names::{DEFAULT_REVISION, ISTIOD, label, of_revision};
use meltemi_model::Workload;
use meltemi_pki::{DnsClientTls, PrivateKey, WorkloadCertificate};
use rustls_pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_rustls::TlsConnector;

use crate::hub::Command;

const PATH: &str = "/replicas/standings";
/// How long another replica may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// An answer names objects of which there is news: of a large mesh, all of them once.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;
/// Of the certificate for one question.
const CERTIFICATE_TTL: Duration = Duration::from_secs(600);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Another replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Replica {
    pub(crate) name: String,
    address: IpAddr,
    /// In its certificate.
    server_name: String,
}

impl Replica {
    pub(crate) fn of(pod: &Workload) -> Option<Self> {
        let revision = pod.labels.get(label::ISTIO_REV);
        let service = of_revision(ISTIOD, revision.unwrap_or(DEFAULT_REVISION));
        Some(Self {
            name: pod.name.clone(),
            address: *pod.addresses.first()?,
            server_name: format!("{service}.{}.svc", pod.namespace),
        })
    }
}

/// Asks other replicas.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) signer: Arc<ArcSwap<Signer>>,
    /// The control plane's.
    pub(crate) namespace: String,
    pub(crate) port: u16,
}

impl Asking {
    /// What a replica knows of objects of which there is news since it was last asked, or of all.
    pub(crate) async fn ask(
        &self,
        replica: &Replica,
        all: bool,
    ) -> Result<Vec<Standing>, BoxError> {
        tokio::time::timeout(TIMEOUT, self.get(replica, all)).await?
    }

    async fn get(&self, replica: &Replica, all: bool) -> Result<Vec<Standing>, BoxError> {
        let tls = self.tls()?;
        let name = ServerName::try_from(replica.server_name.clone())?;
        let stream = TcpStream::connect(SocketAddr::new(replica.address, self.port)).await?;
        let stream = TlsConnector::from(tls).connect(name, stream).await?;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let uri = format!("https://{}{PATH}?all={all}", replica.server_name);
        let request = Request::get(uri).body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_LIMIT_BYTES);
        let body = body.collect().await?.to_bytes();
        connection.abort();
        if status != StatusCode::OK {
            return Err(format!("{status}").into());
        }
        Ok(serde_json::from_slice(&body)?)
    }

    /// With a certificate of the control plane's own.
    fn tls(&self) -> Result<Arc<tokio_rustls::rustls::ClientConfig>, BoxError> {
        let (signer, now) = (self.signer.load(), SystemTime::now());
        let identity = Identity::new(signer.trust_domain().clone(), &self.namespace, ISTIOD)?;
        let key = PrivateKey::generate()?;
        let csr = key.csr_pem(&identity)?;
        let issued = signer.sign_workload(csr.as_bytes(), &identity, CERTIFICATE_TTL, now)?;
        let chain = [issued.chain_pem()];
        let certificate = WorkloadCertificate::accept(&key, &chain, &identity, now)?;
        let tls = DnsClientTls::new(signer.roots_pem().as_bytes())?;
        Ok(tls.certificate(&certificate).alpn(["h2"]).build()?)
    }
}

/// Answers other replicas.
pub(crate) fn router(hub: mpsc::Sender<Command>, namespace: &str) -> Router {
    let answering = Answering {
        hub,
        namespace: namespace.into(),
    };
    Router::new()
        .route(PATH, get(standings))
        .with_state(answering)
}

#[derive(Clone)]
struct Answering {
    hub: mpsc::Sender<Command>,
    /// The control plane's.
    namespace: Arc<str>,
}

#[derive(Debug, Deserialize)]
struct Wanted {
    #[serde(default)]
    all: bool,
}

async fn standings(
    State(answering): State<Answering>,
    peer: Option<Extension<PeerInfo>>,
    Query(Wanted { all }): Query<Wanted>,
) -> Response {
    let identity = peer.as_ref().and_then(|peer| peer.identity.as_ref());
    if !identity.is_some_and(|identity| answering.is_control_plane(identity)) {
        tracing::warn!(?identity, "a question of a replica was denied");
        return StatusCode::FORBIDDEN.into_response();
    }
    let (reply, answer) = oneshot::channel();
    let sent = answering.hub.send(Command::Standings { all, reply }).await;
    match (sent, answer.await) {
        (Ok(()), Ok(mut known)) => {
            // What is wrong with an object everybody sees alike.
            known
                .standings
                .retain(|standing| standing.proxies.is_some());
            known
                .standings
                .iter_mut()
                .for_each(|one| one.problems.clear());
            Json(known.standings).into_response()
        }
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

impl Answering {
    /// The trust domain was compared in the handshake.
    fn is_control_plane(&self, identity: &Identity) -> bool {
        *identity.namespace == *self.namespace && identity.service_account == ISTIOD
    }
}
