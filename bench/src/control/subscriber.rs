//! A proxy, as the control plane sees one: a stream that subscribes as an Envoy does and accepts everything.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use hyper_util::rt::TokioIo;
use meltemi_ca::TokenRequest;
use meltemi_pki::DnsClientTls;
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::envoy::config::listener::v3::Listener;
use meltemi_proto::envoy::config::listener::v3::filter::ConfigType;
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use meltemi_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use meltemi_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use meltemi_proto::google::protobuf::value::Kind;
use meltemi_proto::google::protobuf::{Struct, Value};
use meltemi_proto::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use prost::Message as _;
use rustls::pki_types::ServerName;
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{self, Channel};

use super::mesh;
use crate::pki::Pki;

const TOKEN_LIFE: Duration = Duration::from_secs(12 * 3600);
const HANDSHAKES: usize = 8;
/// Requests that wait to be sent.
const REQUEST_LIMIT: usize = 16;

/// What one response brought.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) at: Instant,
    pub(super) resources: usize,
    /// The load assignments among them.
    pub(super) endpoints: Vec<String>,
}

/// How the control plane is reached.
pub(super) struct Way {
    address: SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    /// So that the first configuration is measured, and not how long a queue of handshakes may be.
    handshakes: Semaphore,
}

impl Way {
    pub(super) fn new(pki: &Pki, address: SocketAddr) -> anyhow::Result<Self> {
        let roots = std::fs::read(pki.root())?;
        let tls = DnsClientTls::new(&roots)?.alpn(["h2"]).build()?;
        Ok(Self {
            address,
            tls,
            handshakes: Semaphore::new(HANDSHAKES),
        })
    }

    /// From an address of the proxy's own, as pods have one: what one address may open is bounded.
    async fn channel(self: &Arc<Self>, from: Ipv4Addr) -> anyhow::Result<Channel> {
        let _permit = self.handshakes.acquire().await?;
        let way = Arc::clone(self);
        let connect = tower::service_fn(move |_| {
            let way = Arc::clone(&way);
            async move {
                let name = ServerName::try_from("istiod.istio-system.svc")
                    .map_err(std::io::Error::other)?;
                let socket = TcpSocket::new_v4()?;
                socket.bind(SocketAddr::from((from, 0)))?;
                let stream = socket.connect(way.address).await?;
                let stream = TlsConnector::from(Arc::clone(&way.tls))
                    .connect(name, stream)
                    .await?;
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        let endpoint = transport::Endpoint::from_static("http://istiod");
        Ok(endpoint.connect_with_connector(connect).await?)
    }
}

pub(super) struct Subscriber {
    node: Node,
    token: String,
    /// An address of the loopback.
    from: Ipv4Addr,
}

impl Subscriber {
    pub(super) fn new(index: usize, namespaces: usize, pki: &Pki) -> anyhow::Result<Self> {
        let namespace = mesh::namespace(index, namespaces);
        let account = format!("proxy-{index}");
        let request = TokenRequest {
            namespace: &namespace,
            service_account: &account,
            service_account_uid: None,
            pod: None,
            node: None,
            audiences: &["istio-ca"],
            ttl: TOKEN_LIFE,
        };
        let token = pki.tokens()?.issue(&request, SystemTime::now())?;
        let labels = [
            ("app", account.as_str()),
            ("version", "v1"),
            ("pod-template-hash", "5d4f9c7b8"),
        ];
        let labels = Struct {
            fields: labels
                .into_iter()
                .map(|(key, value)| (key.to_owned(), text(value)))
                .collect(),
        };
        let labels = Value {
            kind: Some(Kind::StructValue(labels)),
        };
        let metadata = BTreeMap::from([
            ("NAMESPACE", text(&namespace)),
            ("SERVICE_ACCOUNT", text(&account)),
            ("LABELS", labels),
        ]);
        let [_, _, third, last] = u32::try_from(index + 1)?.to_be_bytes();
        let node = Node {
            id: format!(
                "sidecar~10.250.{third}.{last}~{account}-1.{namespace}~{namespace}.svc.cluster.local"
            ),
            user_agent_name: "envoy".to_owned(),
            metadata: Some(Struct {
                fields: metadata
                    .into_iter()
                    .map(|(key, value)| (key.to_owned(), value))
                    .collect(),
            }),
            ..Node::default()
        };
        let from = Ipv4Addr::new(127, 1, third, last);
        Ok(Self { node, token, from })
    }

    /// Until the control plane ends the stream or nobody counts arrivals.
    pub(super) async fn run(
        self,
        way: Arc<Way>,
        arrivals: mpsc::Sender<Arrival>,
    ) -> anyhow::Result<()> {
        let channel = way.channel(self.from).await?;
        let (requests, outbound) = mpsc::channel(REQUEST_LIMIT);
        let mut request = tonic::Request::new(ReceiverStream::new(outbound));
        let authorization = format!("Bearer {}", self.token).parse()?;
        request
            .metadata_mut()
            .insert("authorization", authorization);
        for (index, type_url) in [CLUSTER, LISTENER].into_iter().enumerate() {
            let first = DeltaDiscoveryRequest {
                node: (index == 0).then(|| self.node.clone()),
                type_url: type_url.to_owned(),
                ..DeltaDiscoveryRequest::default()
            };
            requests.send(first).await?;
        }
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX);
        let mut stream = client
            .delta_aggregated_resources(request)
            .await?
            .into_inner();
        while let Some(response) = stream.message().await? {
            let at = Instant::now();
            requests.send(acknowledgement(&response)).await?;
            if let Some(more) = follow(&response)? {
                requests.send(more).await?;
            }
            let is_endpoints = response.type_url == ENDPOINT;
            let names = response.resources.iter().map(|one| one.name.clone());
            let arrival = Arrival {
                at,
                resources: response.resources.len(),
                endpoints: names.filter(|_| is_endpoints).collect(),
            };
            if arrivals.send(arrival).await.is_err() {
                return Ok(());
            }
        }
        anyhow::bail!("the control plane ended the stream")
    }
}

fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    }
}

fn acknowledgement(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// What the names in a response ask for next.
fn follow(response: &DeltaDiscoveryResponse) -> anyhow::Result<Option<DeltaDiscoveryRequest>> {
    let (type_url, names) = match response.type_url.as_str() {
        CLUSTER => {
            let names = response.resources.iter().map(|one| one.name.clone());
            let outbound = names.filter(|name| name.starts_with("outbound|"));
            (ENDPOINT, outbound.collect())
        }
        LISTENER => (ROUTE, routes(response)?),
        _ => return Ok(None),
    };
    Ok((!names.is_empty()).then(|| DeltaDiscoveryRequest {
        type_url: type_url.to_owned(),
        resource_names_subscribe: names,
        ..DeltaDiscoveryRequest::default()
    }))
}

/// The route configurations that listeners name.
fn routes(response: &DeltaDiscoveryResponse) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for resource in &response.resources {
        let body = resource.resource.as_ref().context("a listener is empty")?;
        let listener = Listener::decode(body.value.as_slice())?;
        let chains = listener
            .filter_chains
            .iter()
            .chain(&listener.default_filter_chain);
        for filter in chains.flat_map(|chain| &chain.filters) {
            let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
                continue;
            };
            if !config.type_url.ends_with(".HttpConnectionManager") {
                continue;
            }
            let manager = HttpConnectionManager::decode(config.value.as_slice())?;
            if let Some(RouteSpecifier::Rds(rds)) = manager.route_specifier {
                names.push(rds.route_config_name);
            }
        }
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}
