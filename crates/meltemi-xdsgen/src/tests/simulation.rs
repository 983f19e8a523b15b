//! What generated configuration does to a call, by the proxy's own matchers. Cases are Istio's documented behaviour.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use meltemi_proxy_core::filter_chain::{ConnectionFacts, match_filter_chain};
use meltemi_proxy_core::listener_table::ListenerTable;
use meltemi_proxy_core::request::RequestHead;
use meltemi_proxy_core::runtime::{
    ClusterLoadAssignment, Endpoint, Listener, RouteAction, RouteConfiguration, RouteSource,
    TcpTarget, Terminal, TransportProtocol, VirtualHost,
};
use meltemi_proxy_core::{compile, routing, runtime, virtual_host};
use prost::Message;

use super::support::World;
use meltemi_proto::Resource;

use crate::{Flavour, Generated};

const CANARY: &str = include_str!("../../testdata/canary-strict/in.yaml");
const PROTOCOLS: &str = include_str!("../../testdata/protocols/in.yaml");
const ROUTES: &str = include_str!("../../testdata/routes/in.yaml");
const AUTHORIZATION: &str = include_str!("../../testdata/authorization/in.yaml");
const BOOKINFO: &str = include_str!("../../testdata/bookinfo/in.yaml");

/// One proxy's compiled configuration.
struct Proxy {
    listeners: ListenerTable,
    capture: HashMap<&'static str, Arc<Listener>>,
    routes: HashMap<String, RouteConfiguration>,
    clusters: HashMap<String, runtime::Cluster>,
    assignments: HashMap<String, ClusterLoadAssignment>,
    /// Of a proxy that asks for virtual hosts, by route configuration and authority.
    ask: Option<AskForHost>,
}

type AskForHost = Box<dyn Fn(&str, &str) -> Arc<VirtualHost>>;

fn decode<M: Message + Default>(resource: &Resource) -> M {
    M::decode(resource.body.value.as_slice()).unwrap()
}

impl Proxy {
    fn new(generated: &Generated) -> Self {
        let mut capture = HashMap::new();
        let mut unbound = Vec::new();
        for resource in generated.listeners.values() {
            let listener =
                Arc::new(compile::listener(decode(resource)).unwrap_or_else(|e| panic!("{e}")));
            match &*resource.name {
                "virtualInbound" => drop(capture.insert("inbound", listener)),
                "virtualOutbound" => drop(capture.insert("outbound", listener)),
                _ => unbound.push(listener),
            }
        }
        Self {
            listeners: ListenerTable::new(unbound),
            capture,
            routes: compiled(&generated.routes, |r| {
                compile::route_configuration(decode(r))
            }),
            clusters: compiled(&generated.clusters, |r| compile::cluster(decode(r))),
            assignments: compiled(&generated.endpoints, |r| {
                compile::cluster_load_assignment(decode(r))
            }),
            ask: None,
        }
    }

    fn of(world: &World, pod: &str) -> Self {
        Self::new(&world.generate(pod, Flavour::Meltemi))
    }
}

fn compiled<T, E: std::fmt::Display>(
    resources: &crate::Resources,
    compile: impl Fn(&Resource) -> Result<T, E>,
) -> HashMap<String, T> {
    resources
        .iter()
        .map(|(name, resource)| {
            let compiled = compile(resource).unwrap_or_else(|error| panic!("{error}"));
            (name.to_string(), compiled)
        })
        .collect()
}

/// A connection, and a request on it if HTTP was understood.
#[derive(Clone, Copy)]
struct Call<'a> {
    to: &'a str,
    transport: TransportProtocol,
    /// The client's ALPN, or what the inspector reads off cleartext.
    application: &'a [&'a str],
    sni: Option<&'a str>,
    authority: &'a str,
    path: &'a str,
    headers: &'a [(&'static str, &'a str)],
    random: u64,
}

const HTTP: Call<'_> = Call {
    to: "",
    transport: TransportProtocol::RawBuffer,
    application: &["http/1.1"],
    sni: None,
    authority: "",
    path: "/",
    headers: &[],
    random: 0,
};
const MESH: Call<'_> = Call {
    transport: TransportProtocol::Tls,
    application: &["istio-http/1.1", "istio", "http/1.1"],
    ..HTTP
};
const BYTES: Call<'_> = Call {
    application: &[],
    ..HTTP
};
const OTHER_TLS: Call<'_> = Call {
    transport: TransportProtocol::Tls,
    application: &["h2", "http/1.1"],
    ..HTTP
};

/// What became of a call: `chain [mtls] > route > cluster`, or why it ended.
fn outcome(proxy: &Proxy, listener: &Listener, call: &Call<'_>) -> String {
    let destination: SocketAddr = call.to.parse().unwrap();
    let source: SocketAddr = "10.244.9.9:40000".parse().unwrap();
    let facts = ConnectionFacts {
        destination,
        source,
        direct_source: source.ip(),
        server_name: call.sni,
        transport: call.transport,
        application_protocols: call.application,
    };
    let Some(chain) = match_filter_chain(listener, &facts) else {
        return "closed".to_owned();
    };
    let (tls, scheme) = match &chain.tls {
        None => ("", "http"),
        Some(tls) if tls.require_client_certificate => ("mtls ", "https"),
        Some(_) => ("tls ", "https"),
    };
    let rest = match &chain.terminal {
        Terminal::Close => "close".to_owned(),
        Terminal::Tcp(tcp) => match &tcp.target {
            TcpTarget::Cluster(name) => format!("tcp > {name}"),
            TcpTarget::Weighted { .. } => "tcp > weighted".to_owned(),
        },
        Terminal::Http(manager) => {
            let routes = match &manager.routes {
                RouteSource::Rds(name) => &proxy.routes[name.as_ref()],
                RouteSource::Inline(routes) => routes,
            };
            let host = match &proxy.ask {
                Some(ask) if routes.asks_for_hosts => Some(ask(&routes.name, call.authority)),
                _ => virtual_host::select(routes, call.authority).cloned(),
            };
            format!("http > {}", request(host, call, scheme))
        }
    };
    format!("{tls}{rest}")
}

fn request(host: Option<Arc<VirtualHost>>, call: &Call<'_>, scheme: &str) -> String {
    let headers: HeaderMap = call
        .headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    let head = RequestHead {
        method: "GET",
        path: call.path,
        authority: call.authority,
        scheme,
        headers: &headers,
    };
    let Some(host) = host else {
        return "404".to_owned();
    };
    let Some(route) = routing::select(&host, &head, call.random) else {
        return "404".to_owned();
    };
    match &route.action {
        RouteAction::Forward(forward) => {
            let picked = routing::pick_cluster(forward, &head, call.random).unwrap();
            format!("{} > {}", route.name, picked.name)
        }
        RouteAction::Redirect(_) => "redirect".to_owned(),
        RouteAction::DirectResponse(response) => response.status.as_u16().to_string(),
    }
}

impl Proxy {
    fn inbound(&self, call: Call<'_>) -> String {
        outcome(self, &self.capture["inbound"], &call)
    }

    fn outbound(&self, call: Call<'_>) -> String {
        let destination = call.to.parse().unwrap();
        let listener = self.listeners.find(destination);
        outcome(
            self,
            listener.unwrap_or_else(|| &self.capture["outbound"]),
            &call,
        )
    }

    /// Each endpoint of a cluster with how it is spoken to.
    fn endpoints(&self, cluster: &str) -> Vec<String> {
        let compiled = &self.clusters[cluster];
        let transport = |endpoint: &Arc<Endpoint>| match compiled.transport_for(endpoint) {
            Some(tls) => format!("mtls {}", tls.sni.as_deref().unwrap_or("-")),
            None => "plain".to_owned(),
        };
        self.assignments[cluster]
            .endpoints()
            .map(|endpoint| {
                format!(
                    "{} {}",
                    endpoint.socket_addr().unwrap(),
                    transport(endpoint)
                )
            })
            .collect()
    }
}

#[test]
fn our_proxy_accepts_everything() {
    for (input, pod) in [
        (AUTHORIZATION, "web"),
        (BOOKINFO, "reviews-v1"),
        (CANARY, "client-v1"),
        (PROTOCOLS, "server"),
        (ROUTES, "client-v1"),
    ] {
        for config in [
            "",
            "accessLogFile: /dev/stdout\n",
            "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n",
        ] {
            let world = World::new(input).config(config);
            Proxy::of(&world, pod);
            Proxy::new(&world.generate(pod, Flavour::Envoy));
        }
    }
}

#[test]
fn a_canary_splits_by_header_and_weight() {
    let proxy = Proxy::of(&World::new(CANARY), "client-v1");
    let call = Call {
        to: "10.96.0.1:9080",
        authority: "reviews:9080",
        path: "/reviews/0",
        ..HTTP
    };
    let jason = Call {
        headers: &[("end-user", "jason")],
        ..call
    };
    assert_eq!(
        proxy.outbound(jason),
        "http > jason > outbound|9080|v2|reviews.default.svc.cluster.local"
    );
    let shares = (0..100_u64)
        .map(|random| proxy.outbound(Call { random, ..call }))
        .filter(|outcome| outcome.contains("|v1|"))
        .count();
    assert_eq!(shares, 90);
    assert_eq!(
        proxy.endpoints("outbound|9080|v1|reviews.default.svc.cluster.local"),
        ["10.244.0.1:9080 mtls outbound_.9080_.v1_.reviews.default.svc.cluster.local"]
    );
    // Names that are no service, and addresses that nobody has, pass through.
    let other = Call {
        authority: "example.com",
        ..call
    };
    assert_eq!(
        proxy.outbound(other),
        "http > allow_any > PassthroughCluster"
    );
    let unknown = Call {
        to: "192.0.2.1:1234",
        ..call
    };
    assert_eq!(proxy.outbound(unknown), "tcp > PassthroughCluster");
    let not_http = Call {
        application: &[],
        ..call
    };
    assert_eq!(proxy.outbound(not_http), "tcp > PassthroughCluster");
}

/// Istio: a Service of type ExternalName is an alias; called by its name, the target is reached as by its own.
#[test]
fn an_external_name_leads_where_its_target_does() {
    let mut world = World::new(CANARY);
    world.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: opinions}\n\
         spec: {type: ExternalName, externalName: reviews.default.svc.cluster.local}\n",
    );
    let proxy = Proxy::of(&world, "client-v1");
    for authority in [
        "opinions:9080",
        "opinions.default",
        "opinions.default.svc.cluster.local:9080",
    ] {
        let call = Call {
            to: "10.96.0.1:9080",
            authority,
            path: "/reviews/0",
            headers: &[("end-user", "jason")],
            ..HTTP
        };
        assert_eq!(
            proxy.outbound(call),
            "http > jason > outbound|9080|v2|reviews.default.svc.cluster.local",
            "{authority}"
        );
    }
}

#[test]
fn automatic_mtls_is_decided_for_each_endpoint() {
    let world = World::new(
        "apiVersion: v1\nkind: Service\nmetadata: {name: mixed}\nspec: {selector: {app: mixed}, ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: meshed}\nspec: {selector: {matchLabels: {app: mixed}}, template: {metadata: {labels: {app: mixed}}, spec: {containers: [{name: a, image: a}]}}}\n---\n\
         apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: legacy}\nspec: {selector: {matchLabels: {app: mixed}}, template: {metadata: {labels: {app: mixed, sidecar.istio.io/inject: 'false'}}, spec: {containers: [{name: a, image: a}]}}}\n",
    );
    let proxy = Proxy::of(&world, "meshed");
    let cluster = "outbound|80||mixed.default.svc.cluster.local";
    assert_eq!(
        proxy.endpoints(cluster),
        [
            "10.244.0.1:80 mtls outbound_.80_._.mixed.default.svc.cluster.local",
            "10.244.0.2:80 plain",
        ]
    );
    // Where the namespace says DISABLE, clients do not try.
    let mut world = world;
    world.apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: DISABLE}}\n");
    let proxy = Proxy::of(&world, "meshed");
    assert_eq!(
        proxy.endpoints(cluster),
        ["10.244.0.1:80 plain", "10.244.0.2:80 plain"]
    );
}

/// Mode of port 9080 x what arrives -> what happens.
#[test]
fn the_inbound_side_follows_the_mode() {
    let mut world = World::new(BOOKINFO);
    let to = "10.244.0.3:9080";
    let routed = "http > default > inbound|9080||";
    let opaque = "tcp > inbound|9080||";
    let mutual = format!("mtls {routed}");
    for (mode, mesh, http, bytes, other_tls) in [
        ("PERMISSIVE", mutual.as_str(), routed, routed, "closed"),
        ("STRICT", &mutual, "closed", "closed", &mutual),
        ("DISABLE", routed, routed, routed, routed),
    ] {
        world.apply(&format!("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"));
        let proxy = Proxy::of(&world, "reviews-v1");
        assert_eq!(proxy.inbound(Call { to, ..MESH }), mesh, "{mode} mesh");
        assert_eq!(proxy.inbound(Call { to, ..HTTP }), http, "{mode} http");
        assert_eq!(proxy.inbound(Call { to, ..BYTES }), bytes, "{mode} bytes");
        assert_eq!(
            proxy.inbound(Call { to, ..OTHER_TLS }),
            other_tls,
            "{mode} tls"
        );
        assert_ne!(routed, opaque);
    }
}

#[test]
fn inbound_ports_that_no_service_has_reach_the_application() {
    let proxy = Proxy::of(&World::new(BOOKINFO), "reviews-v1");
    let to = "10.244.0.3:1234";
    let cluster = "InboundPassthroughCluster";
    let expected = [
        (MESH, format!("mtls http > default > {cluster}")),
        (HTTP, format!("http > default > {cluster}")),
        (BYTES, format!("tcp > {cluster}")),
        (OTHER_TLS, format!("tcp > {cluster}")),
        (
            Call {
                application: &["istio-peer-exchange", "istio"],
                ..MESH
            },
            format!("mtls tcp > {cluster}"),
        ),
    ];
    for (call, outcome) in expected {
        assert_eq!(proxy.inbound(Call { to, ..call }), outcome);
    }
    let itself = Call {
        to: "10.244.0.3:15006",
        ..HTTP
    };
    assert_eq!(proxy.inbound(itself), "tcp > BlackHoleCluster");
}

#[test]
fn every_protocol_finds_its_listener() {
    let proxy = Proxy::of(&World::new(PROTOCOLS), "server");
    let service = "server.default.svc.cluster.local";
    let sniffed = Call {
        to: "10.96.0.1:8000",
        authority: "whatever",
        ..HTTP
    };
    assert_eq!(
        proxy.outbound(sniffed),
        format!("http > default > outbound|8000||{service}")
    );
    let bytes = Call {
        application: &[],
        ..sniffed
    };
    assert_eq!(
        proxy.outbound(bytes),
        format!("tcp > outbound|8000||{service}")
    );
    let tls = Call {
        transport: TransportProtocol::Tls,
        ..bytes
    };
    assert_eq!(
        proxy.outbound(tls),
        format!("tcp > outbound|8000||{service}")
    );
    let declared = Call {
        to: "10.96.0.1:9000",
        ..BYTES
    };
    assert_eq!(
        proxy.outbound(declared),
        format!("tcp > outbound|9000||{service}")
    );
    let headless = Call {
        to: "10.244.0.1:7000",
        ..BYTES
    };
    assert_eq!(
        proxy.outbound(headless),
        "tcp > outbound|7000||headless.default.svc.cluster.local"
    );
    let external = Call {
        to: "192.0.2.9:443",
        sni: Some("api.example.com"),
        ..OTHER_TLS
    };
    assert_eq!(
        proxy.outbound(external),
        "tcp > outbound|443||api.example.com"
    );
    let unnamed = Call {
        sni: Some("else.example.com"),
        ..external
    };
    assert_eq!(proxy.outbound(unnamed), "tcp > PassthroughCluster");
    let range = Call {
        to: "10.9.0.77:5432",
        ..BYTES
    };
    assert_eq!(proxy.outbound(range), "tcp > outbound|5432||db.example.com");
    assert_eq!(
        proxy.outbound(Call {
            to: "10.10.0.77:5432",
            ..range
        }),
        "tcp > PassthroughCluster"
    );
}

#[test]
fn virtual_services_route() {
    let proxy = Proxy::of(&World::new(ROUTES), "client-v1");
    let call = Call {
        to: "10.96.0.1:80",
        authority: "reviews.default",
        ..HTTP
    };
    let reviews = "reviews.default.svc.cluster.local";
    let to = |path, authority| {
        proxy.outbound(Call {
            path,
            authority,
            ..call
        })
    };
    assert_eq!(
        to("/exact", "reviews"),
        format!("http > all-matches.second > outbound|80|v1|{reviews}")
    );
    assert_eq!(to("/moved/on", "reviews.default.svc"), "http > redirect");
    assert_eq!(to("/teapot", "reviews:80"), "http > 418");
    assert!(to("/", "10.96.0.1").starts_with("http >  > outbound|80"));
    assert_eq!(
        to("/", "virtual.example.com"),
        format!("http >  > outbound|80||{reviews}")
    );
    let matched = Call {
        path: "/v1/x?q=1&r=xx&s=",
        authority: "reviews",
        headers: &[("x-present", ""), ("x-prefix", "abc"), ("x-regex", "bcd")],
        ..call
    };
    assert_eq!(
        proxy.outbound(matched),
        format!("http > all-matches.first > outbound|80|v1|{reviews}")
    );
    let excluded = Call {
        headers: &[
            ("x-present", ""),
            ("x-prefix", "abc"),
            ("x-regex", "bcd"),
            ("x-not", "1"),
        ],
        ..matched
    };
    assert!(!proxy.outbound(excluded).contains("first"));
    let database = Call {
        to: "10.96.0.3:5432",
        ..BYTES
    };
    assert_eq!(proxy.outbound(database), "tcp > weighted");
    let secure = Call {
        to: "10.96.0.4:8443",
        sni: Some("www.example.com"),
        ..OTHER_TLS
    };
    assert_eq!(
        proxy.outbound(secure),
        "tcp > outbound|8443||secure.default.svc.cluster.local"
    );
}

mod authorization;
mod external_authorization;
mod gateways;
mod locality;
mod on_demand;
mod policies;
mod sidecars;
mod tokens;
