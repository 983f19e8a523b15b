use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser;
use hyper_util::rt::TokioIo;
use meltemi_ca::{TokenIssuer, TokenRequest};
use meltemi_core::Identity;
use meltemi_pki::{DnsClientTls, PrivateKey, WorkloadCertificate};
use meltemi_process::CancellationToken;
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use meltemi_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use meltemi_proto::istio::v1::auth::IstioCertificateRequest;
use meltemi_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use meltemi_xds::client::{Transport, TransportError};
use meltemi_xds::{Resource, Subscriptions, Updates};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::{ControlError, ControlPlane, Options};

pub(super) const NODE: &str = "sidecar~10.0.0.9~client-1.shop~shop.svc.cluster.local";
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Nothing here takes longer unless it is broken.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

pub(super) struct Harness {
    folder: tempfile::TempDir,
    issuer: TokenIssuer,
    xds: std::net::SocketAddr,
    monitoring: std::net::SocketAddr,
    shutdown: CancellationToken,
    running: JoinHandle<Result<(), ControlError>>,
}

impl Harness {
    pub(super) async fn start(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config", "state"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let issuer = TokenIssuer::new(&PrivateKey::generate().unwrap(), ISSUER).unwrap();
        std::fs::write(folder.path().join("jwks.json"), issuer.jwks().unwrap()).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join("config").join(name), text).unwrap();
        }
        let harness = Self::launch(folder, issuer, &[]).await;
        harness.until_ready().await;
        harness
    }

    async fn launch(folder: tempfile::TempDir, issuer: TokenIssuer, more: &[&str]) -> Self {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (config, state, keys) = (path("config"), path("state"), path("jwks.json"));
        let arguments = [
            "control-plane",
            "--config-dir",
            &config,
            "--state-dir",
            &state,
            "--token-issuer-key",
            &keys,
            "--workload-cert-ttl",
            "60s",
            "--xds-addr",
            "127.0.0.1:0",
            "--monitoring-addr",
            "127.0.0.1:0",
        ];
        let arguments = Arguments::try_parse_from(arguments.iter().chain(more));
        let plane = ControlPlane::bind(arguments.unwrap().options)
            .await
            .unwrap();
        let shutdown = CancellationToken::new();
        Self {
            folder,
            issuer,
            xds: plane.xds_addr(),
            monitoring: plane.monitoring_addr(),
            running: tokio::spawn(plane.serve(shutdown.clone())),
            shutdown,
        }
    }

    pub(super) async fn until_ready(&self) {
        self.until(async || self.text("/ready").await.starts_with("HTTP/1.1 200"))
            .await;
    }

    /// Waits for an answer to `/ready` that says this.
    pub(super) async fn until_waiting_for(&self, what: &str) {
        self.until(async || self.text("/ready").await.contains(what))
            .await;
    }

    /// Another control plane with the same folders, once this one has ended. It need not become ready.
    pub(super) async fn restart(self, more: &[&str]) -> Self {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        ended.unwrap().unwrap().unwrap();
        Self::launch(self.folder, self.issuer, more).await
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(PATIENCE, self.running).await;
        ended.unwrap().unwrap().unwrap();
    }

    pub(super) fn remove(&self, name: &str) {
        std::fs::remove_file(self.folder.path().join("config").join(name)).unwrap();
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let config: PathBuf = self.folder.path().join("config");
        let temporary = config.join(format!(".{name}"));
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, config.join(name)).unwrap();
    }

    pub(super) fn token(&self, namespace: &str, service_account: &str) -> String {
        let request = TokenRequest {
            namespace,
            service_account,
            service_account_uid: None,
            pod: None,
            node: None,
            audiences: &["istio-ca"],
            ttl: Duration::from_secs(600),
        };
        self.issuer.issue(&request, SystemTime::now()).unwrap()
    }

    fn way(&self, certificate: Option<&WorkloadCertificate>) -> Way {
        let roots = std::fs::read(self.folder.path().join("state/root-cert.pem")).unwrap();
        let mut tls = DnsClientTls::new(&roots).unwrap().alpn(["h2"]);
        if let Some(certificate) = certificate {
            tls = tls.certificate(certificate);
        }
        Way {
            address: self.xds,
            tls: tls.build().unwrap(),
        }
    }

    /// The answer to a request of this token for that identity.
    pub(super) async fn certificate(
        &self,
        token: Option<&str>,
        wanted: &Identity,
    ) -> Result<WorkloadCertificate, String> {
        let key = PrivateKey::generate().unwrap();
        let mut request = Request::new(IstioCertificateRequest {
            csr: key.csr_pem(wanted).unwrap(),
            validity_duration: 86_400,
            metadata: None,
        });
        authorize(request.metadata_mut(), token);
        let channel = self.way(None).channel().await.unwrap();
        let answer = IstioCertificateServiceClient::new(channel)
            .create_certificate(request)
            .await
            .map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
        let chain = answer.into_inner().cert_chain;
        WorkloadCertificate::accept(&key, &chain, wanted, SystemTime::now())
            .map_err(|error| error.to_string())
    }

    pub(super) fn proxy(&self, node: &str, token: Option<&str>) -> Proxy {
        Proxy::start(self.way(None), node, token)
    }

    pub(super) fn proxy_with_certificate(
        &self,
        node: &str,
        certificate: &WorkloadCertificate,
    ) -> Proxy {
        Proxy::start(self.way(Some(certificate)), node, None)
    }

    /// The whole answer to a GET, headers and all.
    pub(super) async fn text(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.monitoring).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(super) async fn json(&self, path: &str) -> serde_json::Value {
        let answer = self.text(path).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(body).unwrap()
    }

    pub(super) async fn until_diagnostic(&self, code: &str) -> serde_json::Value {
        let find = async || {
            let all = self.json("/debug/diagnostics").await;
            let all = all.as_array().cloned().unwrap();
            all.into_iter()
                .find(|diagnostic| diagnostic["code"] == code)
        };
        self.until(async || find().await.is_some()).await;
        find().await.unwrap()
    }

    async fn until(&self, mut holds: impl AsyncFnMut() -> bool) {
        let wait = async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }
}

#[derive(Clone)]
struct Way {
    address: std::net::SocketAddr,
    tls: Arc<tokio_rustls::rustls::ClientConfig>,
}

impl Way {
    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let way = self.clone();
        let connect = tower::service_fn(move |_| {
            let way = way.clone();
            async move {
                let name = ServerName::try_from("istiod.istio-system.svc").unwrap();
                let stream = TcpStream::connect(way.address).await?;
                let stream = TlsConnector::from(way.tls).connect(name, stream).await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://istiod")
            .connect_with_connector(connect)
            .await
    }
}

fn authorize(metadata: &mut tonic::metadata::MetadataMap, token: Option<&str>) {
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().unwrap();
        metadata.insert("authorization", value);
    }
}

pub(super) struct Proxy {
    pub(super) subscriptions: Subscriptions,
    updates: Updates,
    way: Way,
    node: Node,
    token: Option<String>,
}

impl Proxy {
    fn start(way: Way, node: &str, token: Option<&str>) -> Self {
        let node = crate::node::tests::node(node, &[]);
        let token = token.map(str::to_owned);
        let (to, credentials) = (way.clone(), token.clone());
        let (subscriptions, updates, worker) = meltemi_xds::client::new(node.clone(), move || {
            let (way, token) = (to.clone(), credentials.clone());
            async move {
                let mut transport = Transport::new(way.channel().await?);
                authorize(&mut transport.metadata, token.as_deref());
                Ok::<_, TransportError>(transport)
            }
        });
        tokio::spawn(worker);
        Self {
            subscriptions,
            updates,
            way,
            node,
            token,
        }
    }

    /// The next version of a resource, everything before accepted.
    pub(super) async fn until(&mut self, type_url: &str, name: &str) -> Resource {
        let find = async {
            loop {
                let update = self.updates.next().await.unwrap();
                let is_wanted = update.type_url == type_url;
                let found = update
                    .added
                    .iter()
                    .find(|resource| *resource.name == *name)
                    .cloned();
                update.accept();
                if let (true, Some(found)) = (is_wanted, found) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, find).await;
        found.unwrap_or_else(|_| panic!("{name} did not arrive"))
    }

    /// The status that ends a stream of this proxy, opened by hand.
    pub(super) async fn until_refused(self) -> Code {
        drop(self.updates);
        let channel = self.way.channel().await.unwrap();
        let request = DeltaDiscoveryRequest {
            node: Some(self.node),
            type_url: meltemi_proto::type_url::CLUSTER.to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let requests = tokio_stream::iter([request]);
        let mut request = Request::new(tokio_stream::StreamExt::chain(
            requests,
            tokio_stream::pending(),
        ));
        authorize(request.metadata_mut(), self.token.as_deref());
        let mut stream = AggregatedDiscoveryServiceClient::new(channel)
            .delta_aggregated_resources(request)
            .await
            .unwrap()
            .into_inner();
        let ended = tokio::time::timeout(PATIENCE, stream.message()).await;
        ended.unwrap().unwrap_err().code()
    }
}
