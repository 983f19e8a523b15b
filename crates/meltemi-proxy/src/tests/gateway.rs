//! A gateway: TLS with strangers, by server name, with certificates that the control plane delivers.

use std::sync::Arc;

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use meltemi_pki::{DnsClientTls, WorkloadCertificate, server_name};
use meltemi_proto::type_url;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::configuration::{cluster, forward, http_filter, manager, sds};
use super::mesh::{App, Authority, Client, Sidecar, get};

fn certificate(name: &str, (chain, key): &(String, String)) -> Value {
    json!({"name": name, "tlsCertificate": {
        "certificateChain": {"inlineString": chain}, "privateKey": {"inlineString": key}}})
}

fn roots(name: &str, pem: &str) -> Value {
    json!({"name": name, "validationContext": {"trustedCa": {"inlineString": pem}}})
}

/// An edge's HTTP settings.
fn edge(route: Value) -> Value {
    let mut manager = manager(false, route);
    manager["useRemoteAddress"] = true.into();
    manager["forwardClientCertDetails"] = "SANITIZE_SET".into();
    manager["setCurrentClientCertDetails"] =
        json!({"subject": true, "cert": true, "dns": true, "uri": true});
    manager
}

/// A chain for one server name, with the certificate `kubernetes://<secret>`.
fn chain(name: &str, secret: &str, clients: Option<Value>) -> Value {
    let is_mutual = clients.is_some();
    let mut common = json!({
        "alpnProtocols": ["h2", "http/1.1"],
        "tlsCertificateSdsSecretConfigs": [sds(&format!("kubernetes://{secret}"))]});
    if let Some(demands) = clients {
        common["combinedValidationContext"] = json!({
            "defaultValidationContext": demands,
            "validationContextSdsSecretConfig": sds(&format!("kubernetes://{secret}-cacert"))});
    }
    json!({
        "filterChainMatch": {"transportProtocol": "tls", "serverNames": [name]},
        "filters": http_filter(edge(forward("app"))),
        "transportSocket": {"name": "envoy.transport_sockets.tls", "typedConfig": {
            "@type": type_url::DOWNSTREAM_TLS, "requireClientCertificate": is_mutual, "commonTlsContext": common}}})
}

fn listener(chains: &[Value]) -> Value {
    json!({
        "name": "edge",
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}},
        "trafficDirection": "OUTBOUND",
        "listenerFilters": [{"name": "envoy.filters.listener.tls_inspector", "typedConfig": {"@type": type_url::TLS_INSPECTOR}}],
        "filterChains": chains,
    })
}

/// A proxy with one listener of these chains, whose secrets it is given as well.
async fn gateway(app: &App, chains: &[Value], secrets: &[Value]) -> Sidecar {
    let gateway = Sidecar::start(&Authority::new(), "gateway");
    gateway.apply(type_url::CLUSTER, &[cluster("app", &[app.address])]);
    gateway.apply(type_url::LISTENER, &[listener(chains)]);
    gateway.apply(type_url::SECRET, secrets);
    gateway
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// What the server presented, in DER.
    presented: Vec<u8>,
}

/// A TLS connection for a server name, by a client that trusts `authority` and may have a certificate.
async fn connect(
    gateway: &Sidecar,
    authority: &Authority,
    name: &str,
    own: Option<&WorkloadCertificate>,
) -> Result<Connection, String> {
    let mut tls = DnsClientTls::new(authority.pem().as_bytes()).unwrap();
    if let Some(own) = own {
        tls = tls.certificate(own);
    }
    let config = tls.alpn(["http/1.1"]).without_resumption().build().unwrap();
    let stream = TcpStream::connect(gateway.address("edge").await).await;
    let name = server_name(name).unwrap();
    let stream = TlsConnector::from(config).connect(name, stream.unwrap());
    let stream = stream.await.map_err(|error| error.to_string())?;
    let presented = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Ok(Connection { sender, presented })
}

impl Connection {
    /// In TLS 1.3 a server refuses a client's certificate when the client takes itself for connected.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<u16, String> {
        let told = |error: hyper::Error| error.to_string();
        self.sender.ready().await.map_err(told)?;
        let response = self.sender.send_request(request).await.map_err(told)?;
        let status = response.status().as_u16();
        response.into_body().collect().await.map_err(told)?;
        Ok(status)
    }
}

#[tokio::test]
async fn a_certificate_is_chosen_by_name_and_replaced_under_an_open_connection() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let chains = [chain("a.com", "a", None), chain("*.b.com", "b", None)];
    let secrets = [
        certificate("kubernetes://a", &authority.pair("a.com")),
        certificate("kubernetes://b", &authority.pair("x.b.com")),
    ];
    let gateway = gateway(&app, &chains, &secrets).await;
    let mut open = connect(&gateway, &authority, "a.com", None).await.unwrap();
    assert_eq!(open.send(get("/")).await, Ok(200));
    let other = connect(&gateway, &authority, "x.b.com", None)
        .await
        .unwrap();
    assert_ne!(open.presented, other.presented);
    assert!(connect(&gateway, &authority, "c.com", None).await.is_err());

    let renewed = certificate("kubernetes://a", &authority.pair("a.com"));
    gateway.apply(type_url::SECRET, &[renewed]);
    let new = connect(&gateway, &authority, "a.com", None).await.unwrap();
    assert_ne!(open.presented, new.presented);
    assert_eq!(open.send(get("/")).await, Ok(200), "the old connection");

    // What is no certificate is refused, and the last good one stays.
    let broken = certificate("kubernetes://a", &("no".to_owned(), "key".to_owned()));
    let rejected = gateway.try_apply(type_url::SECRET, &[broken]);
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    let kept = connect(&gateway, &authority, "a.com", None).await.unwrap();
    assert_eq!(kept.presented, new.presented);
    // One that is taken away is shown no longer; the others are.
    let gone = ["kubernetes://a".to_owned()];
    gateway
        .configurator()
        .apply(type_url::SECRET, Vec::new(), &gone);
    assert!(connect(&gateway, &authority, "a.com", None).await.is_err());
    assert!(connect(&gateway, &authority, "x.b.com", None).await.is_ok());
    assert_eq!(open.send(get("/")).await, Ok(200), "the old connection");
}

#[tokio::test]
async fn a_port_opens_when_its_secrets_came_or_are_known_to_be_missing() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let chains = [chain("a.com", "a", None), chain("b.com", "b", None)];
    let gateway = gateway(&app, &chains, &[]).await;
    let is_open = || gateway.shared.store.listener("edge").is_some();
    let wanted = gateway.configurator().wanted_secrets();
    let wanted: Vec<&str> = wanted.iter().map(|name| &**name).collect();
    assert_eq!(wanted, ["kubernetes://a", "kubernetes://b"]);
    let a = certificate("kubernetes://a", &authority.pair("a.com"));
    gateway.apply(type_url::SECRET, &[a]);
    assert!(!is_open());
    let missing = ["kubernetes://b".to_owned()];
    gateway
        .configurator()
        .apply(type_url::SECRET, Vec::new(), &missing);
    assert!(is_open());
    assert!(connect(&gateway, &authority, "a.com", None).await.is_ok());
    assert!(connect(&gateway, &authority, "b.com", None).await.is_err());
    // A listener that names it no longer lets it go.
    gateway.apply(type_url::LISTENER, &[listener(&chains[1..])]);
    assert!(gateway.shared.secrets.get("kubernetes://a").is_none());
}

#[tokio::test]
async fn clients_are_verified_by_their_own_authority_and_are_strangers_to_the_mesh() {
    let (authority, app) = (Authority::new(), App::echo().await);
    let (clients, strangers) = (Authority::new(), Authority::new());
    let mine = clients.issue("client");
    let name = "spiffe://cluster.local/ns/default/sa/client";
    let named =
        json!({"matchTypedSubjectAltNames": [{"sanType": "URI", "matcher": {"exact": name}}]});
    let pinned = json!({"verifyCertificateHash": ["00".repeat(32)]});
    let chains = [
        chain("a.com", "a", Some(named)),
        chain("b.com", "b", Some(pinned)),
        chain("c.com", "c", None),
    ];
    let secrets = [
        certificate("kubernetes://a", &authority.pair("a.com")),
        roots("kubernetes://a-cacert", clients.pem()),
        certificate("kubernetes://b", &authority.pair("b.com")),
        roots("kubernetes://b-cacert", clients.pem()),
        certificate("kubernetes://c", &authority.pair("c.com")),
    ];
    let gateway = gateway(&app, &chains, &secrets).await;
    let call = async |host: &'static str, own: Option<&WorkloadCertificate>| {
        let mut connection = connect(&gateway, &authority, host, own).await?;
        let forged = Request::get("/")
            .header("host", host)
            .header("x-forwarded-client-cert", "URI=spiffe://forged")
            .header("x-forwarded-proto", "ftp")
            .header("x-envoy-external-address", "192.0.2.1")
            .header("x-envoy-retry-on", "5xx")
            .body(Full::default());
        connection.send(forged.unwrap()).await
    };
    assert_eq!(call("a.com", Some(&mine)).await, Ok(200));
    let seen = app.seen.lock().last().unwrap().1.clone();
    let certificate = seen["x-forwarded-client-cert"].to_str().unwrap();
    assert!(
        certificate.contains(&format!("URI={name}")),
        "{certificate}"
    );
    assert!(
        certificate.contains("Cert=\"-----BEGIN%20CERTIFICATE"),
        "{certificate}"
    );
    assert!(
        !certificate.contains("forged") && !certificate.contains("By="),
        "{certificate}"
    );
    assert_eq!(seen["x-forwarded-proto"], "https");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    assert_eq!(seen["x-envoy-external-address"], "127.0.0.1");
    assert!(!seen.contains_key("x-envoy-retry-on"));

    let other_name = clients.issue("other");
    let unknown = strangers.issue("client");
    for (host, own, why) in [
        ("a.com", None, "without a certificate"),
        ("a.com", Some(&other_name), "of another name"),
        (
            "a.com",
            Some(&unknown),
            "of an authority that is not trusted",
        ),
        ("b.com", Some(&mine), "that is not pinned"),
    ] {
        assert!(call(host, own).await.is_err(), "{why}");
    }
    // Who need not show one has none to tell of.
    assert_eq!(call("c.com", None).await, Ok(200));
    let seen = app.seen.lock().last().unwrap().1.clone();
    assert!(!seen.contains_key("x-forwarded-client-cert"));
    let shown = format!("{:?}", gateway.shared.secrets);
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

#[tokio::test]
async fn plain_requests_are_sent_to_https_before_they_are_routed() {
    let app = App::echo().await;
    let gateway = Sidecar::start(&Authority::new(), "gateway");
    gateway.apply(type_url::CLUSTER, &[cluster("app", &[app.address])]);
    let mut settings = edge(forward("app"));
    settings["routeConfig"]["virtualHosts"][0]["requireTls"] = "ALL".into();
    let mut plain = listener(&[json!({"filters": http_filter(settings)})]);
    plain["listenerFilters"] = json!([]);
    gateway.apply(type_url::LISTENER, &[plain]);
    let mut client = Client::connect(gateway.address("edge").await).await;
    let response = client.get("/a?b=c").await;
    assert_eq!(response.status(), 301);
    assert_eq!(response.headers()["location"], "https://echo.default/a?b=c");
    assert_eq!(app.connections(), 0);
    let shared = Arc::clone(&gateway.shared);
    assert!(shared.store.is_open());
}
