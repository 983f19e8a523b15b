//! Two or more proxies in one process, with an authority of their own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_core::{Identity, TrustDomain};
use meltemi_pki::{PrivateKey, ServingCertificate, TrustBundle, WorkloadCertificate};
use meltemi_proto::json::json_to_any;
use meltemi_xds::Resource;
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    SanType,
};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::bootstrap::{self, peer_metadata};
use crate::certificates::CredentialStore;
use crate::config::dump::Retention;
use crate::config::{Configurator, Store};
use crate::drain::Drain;
use crate::http::rate_limit::RateLimits;
use crate::secrets::SecretStore;
use crate::telemetry::Telemetry;
use crate::telemetry::access_log::{LogSink, TestLog};
use crate::telemetry::peer::Own;
use crate::upstream::tls::TlsConfigs;
use crate::worker::{self, Shared, Worker};

const HOUR: Duration = Duration::from_secs(3600);

/// A root that signs workloads.
pub(crate) struct Authority {
    key: PrivateKey,
    params: CertificateParams,
    pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = PrivateKey::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { key, params, pem }
    }

    pub(crate) fn bundle(&self) -> Arc<TrustBundle> {
        Arc::new(TrustBundle::new(TrustDomain::default(), self.pem.as_bytes()).unwrap())
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate of a server that is called `name`, outside the mesh.
    pub(crate) fn serve(&self, name: &str) -> ServingCertificate {
        let (chain, key) = self.pair(name);
        ServingCertificate::from_pem(chain.as_bytes(), key.as_bytes(), SystemTime::now()).unwrap()
    }

    /// The same as PEM texts, with its key.
    pub(crate) fn pair(&self, name: &str) -> (String, String) {
        let key = PrivateKey::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let pem = params.signed_by(&key, &issuer).unwrap().pem();
        (pem, key.to_pem().unwrap().to_string())
    }

    pub(crate) fn issue(&self, service_account: &str) -> WorkloadCertificate {
        let identity = Identity::new(TrustDomain::default(), "default", service_account).unwrap();
        let key = PrivateKey::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(
            identity.to_string().as_str().try_into().unwrap(),
        )];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        let leaf = params
            .signed_by(&key, &Issuer::from_params(&self.params, &self.key))
            .unwrap()
            .pem();
        WorkloadCertificate::accept(
            &key,
            &[leaf, self.pem.clone()],
            &identity,
            SystemTime::now(),
        )
        .unwrap()
    }
}

/// One proxy.
pub(crate) struct Sidecar {
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: TestLog,
    pub(crate) configurator: Arc<Mutex<Configurator>>,
    _stop: watch::Sender<bool>,
    _tunnels: mpsc::Sender<worker::Tunnel>,
}

impl Sidecar {
    pub(crate) fn start(authority: &Authority, name: &str) -> Self {
        Self::with(Store::default(), authority, name)
    }

    /// One that asks for what it needs.
    pub(crate) fn on_demand(authority: &Authority, name: &str) -> Self {
        Self::with(Store::on_demand(), authority, name)
    }

    fn with(store: Store, authority: &Authority, name: &str) -> Self {
        let (sink, log) = LogSink::for_tests();
        let credentials = Arc::new(CredentialStore::new());
        credentials.replace(authority.issue(name), authority.bundle());
        let secrets = Arc::new(SecretStore::default());
        let mut vars = bootstrap::tests::POD.to_vec();
        vars.push(("ISTIO_META_WORKLOAD_NAME", name));
        let bootstrap = bootstrap::tests::from(&vars).unwrap();
        let shared = Arc::new(Shared {
            store,
            tls: TlsConfigs::new(credentials.clone(), secrets.clone()),
            secrets,
            credentials,
            telemetry: Telemetry::new(Own::new(peer_metadata(&bootstrap), name), sink),
            drain: Drain::new(),
            rate_limits: RateLimits::default(),
            keys: Default::default(),
            active_faults: Default::default(),
            socket_mark: None,
            drain_time: Duration::from_secs(45),
            own_ips: Vec::new(),
            own_ports: Vec::new(),
        });
        let (stop, stopped) = watch::channel(false);
        let (tunnels, incoming) = mpsc::channel(1);
        tokio::spawn(worker::run(Worker::new(shared.clone()), incoming, stopped));
        let configurator = Arc::new(Mutex::new(Configurator::new(
            shared.clone(),
            Arc::new(Retention::default()),
        )));
        Self {
            shared,
            log,
            configurator,
            _stop: stop,
            _tunnels: tunnels,
        }
    }

    pub(crate) fn configurator(&self) -> parking_lot::MutexGuard<'_, Configurator> {
        self.configurator.lock()
    }

    /// Applies resources and expects all to be accepted.
    pub(crate) fn apply(&self, type_url: &str, resources: &[Value]) {
        let rejected = self.try_apply(type_url, resources);
        assert_eq!(rejected, Vec::<String>::new());
    }

    /// Applies resources; the answer is the reasons of those that were rejected.
    pub(crate) fn try_apply(&self, type_url: &str, resources: &[Value]) -> Vec<String> {
        let resource = |json: &Value| {
            let name = json
                .get("name")
                .or_else(|| json.get("clusterName"))
                .unwrap()
                .as_str()
                .unwrap();
            Resource::new(name, json_to_any(type_url, json).unwrap())
        };
        let resources: Vec<Resource> = resources.iter().map(resource).collect();
        let rejected = self.configurator.lock().apply(type_url, resources, &[]);
        rejected
            .into_iter()
            .map(|rejection| rejection.reason)
            .collect()
    }

    /// The address of a listener, once a worker has opened it.
    pub(crate) async fn address(&self, listener: &str) -> SocketAddr {
        let mut changes = self.shared.store.watch();
        loop {
            if let Some(address) = self.shared.store.open_addresses().get(listener) {
                return *address;
            }
            changes.changed().await.unwrap();
        }
    }

    pub(crate) fn metrics(&self) -> String {
        let mut out = String::new();
        self.shared.telemetry.encode(&mut out);
        out
    }

    /// The lines of metrics that contain all of `parts`.
    pub(crate) fn metric(&self, parts: &[&str]) -> Vec<String> {
        let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
        self.metrics()
            .lines()
            .filter(has_all)
            .map(str::to_owned)
            .collect()
    }

    /// Waits for access-log lines.
    pub(crate) async fn lines(&self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.extend(self.log.lines());
            tokio::task::yield_now().await;
        }
        lines
    }
}

/// An HTTP/1 and HTTP/2 application that counts its connections.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    pub(crate) seen: Arc<Mutex<Vec<(String, HeaderMap)>>>,
}

impl App {
    pub(crate) async fn start<F>(answer: F) -> Self
    where
        F: Fn(Request<Bytes>, usize) -> Response<Full<Bytes>> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let (counted, noted) = (connections.clone(), seen.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let (answer, noted) = (answer.clone(), noted.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (answer, noted) = (answer.clone(), noted.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await?.to_bytes();
                        noted
                            .lock()
                            .push((parts.uri.to_string(), parts.headers.clone()));
                        Ok::<_, hyper::Error>(answer(Request::from_parts(parts, body), number))
                    }
                });
                tokio::spawn(async move {
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ended = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            address,
            connections,
            seen,
        }
    }

    pub(crate) async fn echo() -> Self {
        Self::start(|request, _| Response::new(Full::new(request.into_body()))).await
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A client's HTTP/1 connection.
pub(crate) struct Client(http1::SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Bytes>> {
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        let (parts, body) = response.into_parts();
        Ok(Response::from_parts(
            parts,
            body.collect().await?.to_bytes(),
        ))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response<Bytes> {
        self.send(get(path)).await.unwrap()
    }
}

pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header("host", "echo.default")
        .body(Full::default())
        .unwrap()
}

pub(crate) fn post(path: &str, body: &'static [u8]) -> Request<Full<Bytes>> {
    Request::post(path)
        .header("host", "echo.default")
        .body(Full::new(Bytes::from_static(body)))
        .unwrap()
}

/// A client's HTTP/2 connection.
pub(crate) async fn http2_client<B>(address: SocketAddr) -> http2::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static,
{
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}
