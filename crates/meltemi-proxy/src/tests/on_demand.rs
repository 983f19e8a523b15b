//! A proxy that asks for what it needs, against a control plane played by a map.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meltemi_proto::json::json_to_any;
use meltemi_proto::type_url;
use meltemi_xds::Resource;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::configuration::{cluster, forward, nowhere};
use super::mesh::{App, Authority, Client, Sidecar, get};
use crate::config::Configurator;
use crate::config::demand::{Allowance, Wish};

/// What exists, by type and name, and what was told of it.
#[derive(Default)]
struct Plane {
    resources: Mutex<HashMap<(&'static str, String), Value>>,
    told: Mutex<BTreeSet<(&'static str, String)>>,
}

impl Plane {
    fn add(&self, type_url: &'static str, name: &str, resource: Value) {
        self.resources
            .lock()
            .insert((type_url, name.to_owned()), resource);
    }

    /// Answers everything that is subscribed to and was not answered.
    fn answer(&self, configurator: &Mutex<Configurator>) {
        loop {
            let subscribed = configurator.lock().subscriptions().unwrap();
            let all = subscribed
                .into_iter()
                .flat_map(|(url, names)| names.into_iter().map(move |name| (url, name)));
            let new: Vec<_> = all
                .filter(|key| self.told.lock().insert(key.clone()))
                .collect();
            if new.is_empty() {
                return;
            }
            for (url, name) in new {
                let found = self.resources.lock().get(&(url, name.clone())).cloned();
                let rejected = match found {
                    Some(json) => {
                        let resource = Resource::new(&name, json_to_any(url, &json).unwrap());
                        configurator.lock().apply(url, vec![resource], &[])
                    }
                    None => configurator.lock().apply(url, Vec::new(), &[name]),
                };
                assert_eq!(rejected, []);
            }
        }
    }

    fn serve(self: &Arc<Self>, sidecar: &Sidecar) {
        let demand = sidecar.shared.store.demand.clone().unwrap();
        let (plane, configurator) = (self.clone(), sidecar.configurator.clone());
        tokio::spawn(async move {
            let mut allowance = Allowance::default();
            loop {
                let wishes = demand.wishes(&mut allowance).await;
                configurator.lock().ask(wishes);
                plane.answer(&configurator);
            }
        });
    }
}

fn http_chain(routes: &str) -> Value {
    json!({"filters": [{"name": "hcm", "typedConfig": {
        "@type": type_url::HTTP_CONNECTION_MANAGER, "statPrefix": "x",
        "rds": {"routeConfigName": routes, "configSource": {"ads": {}, "resourceApiVersion": "V3"}},
        "httpFilters": [{"name": "router", "typedConfig": {"@type": type_url::ROUTER}}]}}]})
}

fn tcp_chain(cluster: &str) -> Value {
    json!({"filters": [{"name": "tcp", "typedConfig": {
        "@type": type_url::TCP_PROXY, "statPrefix": "x", "cluster": cluster}}]})
}

fn listener(name: &str, port: u16, chain: Value) -> Value {
    json!({"name": name, "address": {"socketAddress": {"address": "0.0.0.0", "portValue": port}},
        "bindToPort": false, "trafficDirection": "OUTBOUND", "filterChains": [chain]})
}

fn standing(name: &str) -> Value {
    json!({"name": name, "useOriginalDst": name == "virtualOutbound", "trafficDirection": "OUTBOUND",
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 0}},
        "filterChains": [tcp_chain("Passthrough")]})
}

/// Keys that the proxy fetches itself come from a cluster that no route names.
#[tokio::test]
async fn the_cluster_of_keys_is_asked_for() {
    let sidecar = Sidecar::on_demand(&Authority::new(), "client");
    let mut chain = http_chain("routes");
    let filters = &mut chain["filters"][0]["typedConfig"]["httpFilters"];
    let keys =
        json!({"httpUri": {"uri": "http://issuer/keys", "cluster": "issuer", "timeout": "1s"}});
    let filter = json!({"@type": type_url::JWT_AUTHN, "providers": {"p": {"issuer": "i", "remoteJwks": keys}}});
    let filters = filters.as_array_mut().unwrap();
    filters.insert(0, json!({"name": "jwt", "typedConfig": filter}));
    let mut inbound = standing("virtualInbound");
    inbound["filterChains"] = json!([chain]);
    sidecar.apply(type_url::LISTENER, &[inbound]);
    let wanted = sidecar.configurator().subscriptions().unwrap();
    let names = wanted.get(type_url::CLUSTER).unwrap();
    assert!(names.iter().any(|name| name == "issuer"), "{names:?}");
}

/// An authorizer, too, and no listener that asks it is in force before it can be asked: with `failure_mode_allow` what came in
/// between would pass unjudged.
#[tokio::test]
async fn a_listener_waits_for_its_authorizers() {
    let sidecar = Sidecar::on_demand(&Authority::new(), "client");
    let ask = |url: &str, cluster: &str| {
        json!({"@type": url, "transportApiVersion": "V3", "failureModeAllow": true,
            "grpcService": {"envoyGrpc": {"clusterName": cluster}, "timeout": "1s"}})
    };
    let mut requests = http_chain("routes");
    let filters = requests["filters"][0]["typedConfig"]["httpFilters"].as_array_mut();
    let filter = ask(type_url::EXT_AUTHZ, "of-requests");
    filters
        .unwrap()
        .insert(0, json!({"name": "a", "typedConfig": filter}));
    requests["filterChainMatch"] = json!({"transportProtocol": "tls"});
    let mut connections = tcp_chain("c");
    let mut filter = ask(type_url::NETWORK_EXT_AUTHZ, "of-connections");
    filter["statPrefix"] = "tcp.".into();
    let filters = connections["filters"].as_array_mut().unwrap();
    filters.insert(0, json!({"name": "a", "typedConfig": filter}));
    let mut inbound = standing("virtualInbound");
    inbound["filterChains"] = json!([requests, connections]);
    sidecar.apply(type_url::LISTENER, &[inbound]);
    let wanted = ["c", "of-connections", "of-requests"];
    assert_eq!(names(&sidecar, type_url::CLUSTER), wanted);
    let configurator = &sidecar.configurator;
    drop(
        configurator
            .lock()
            .apply(type_url::ROUTE, Vec::new(), &["routes".to_owned()]),
    );
    let is_in_force = || {
        let listeners = sidecar.shared.store.listeners.load();
        listeners
            .iter()
            .any(|listener| &*listener.name == "virtualInbound")
    };
    for (number, name) in wanted.iter().enumerate() {
        assert!(!is_in_force(), "{number} clusters");
        sidecar.apply(type_url::CLUSTER, &[cluster(name, &[nowhere()])]);
    }
    assert!(is_in_force());
}

/// Endpoints over EDS, so that the cluster is not complete without them.
fn add_eds_cluster(plane: &Plane, name: &str, endpoint: SocketAddr) {
    let mut cluster = cluster(name, &[endpoint]);
    let assignment = cluster["loadAssignment"].take();
    cluster.as_object_mut().unwrap().remove("loadAssignment");
    cluster["type"] = "EDS".into();
    cluster["edsClusterConfig"] =
        json!({"serviceName": name, "edsConfig": {"ads": {}, "resourceApiVersion": "V3"}});
    plane.add(type_url::CLUSTER, name, cluster);
    plane.add(type_url::ENDPOINT, name, assignment);
}

fn host(authority: &str, cluster: &str) -> Value {
    json!({"name": format!("{authority}:80"), "domains": [authority], "routes": [forward(cluster)]})
}

/// A proxy with its standing listeners, and the address of the outbound one.
async fn started(plane: &Arc<Plane>) -> (Sidecar, SocketAddr) {
    for name in ["virtualInbound", "virtualOutbound"] {
        plane.add(type_url::LISTENER, name, standing(name));
    }
    let sidecar = Sidecar::on_demand(&Authority::new(), "client");
    plane.answer(&sidecar.configurator);
    assert!(sidecar.configurator().is_complete());
    let outbound = sidecar.address("virtualOutbound").await;
    (sidecar, outbound)
}

fn names(sidecar: &Sidecar, type_url: &str) -> Vec<String> {
    let subscriptions = sidecar.configurator().subscriptions().unwrap();
    subscriptions[type_url].iter().cloned().collect()
}

#[tokio::test]
async fn a_request_brings_what_it_needs_and_nothing_else() {
    let app = App::echo().await;
    let plane = Arc::new(Plane::default());
    plane.add(
        type_url::CLUSTER,
        "Passthrough",
        cluster("Passthrough", &[nowhere()]),
    );
    let (sidecar, outbound) = started(&plane).await;
    let port = outbound.port();
    let shared = format!("0.0.0.0_{port}");
    plane.add(
        type_url::LISTENER,
        &shared,
        listener(&shared, port, http_chain("80")),
    );
    let routes = json!({"name": "80", "ignorePortInHostMatching": true,
        "vhds": {"configSource": {"ads": {}, "resourceApiVersion": "V3"}}});
    plane.add(type_url::ROUTE, "80", routes);
    plane.add(
        type_url::VIRTUAL_HOST,
        "80/echo.default",
        host("echo.default", "echo"),
    );
    add_eds_cluster(&plane, "echo", app.address);
    add_eds_cluster(&plane, "unused", app.address);
    plane.serve(&sidecar);

    let mut client = Client::connect(outbound).await;
    assert_eq!(client.get("/").await.status(), 200);
    assert_eq!(names(&sidecar, type_url::CLUSTER), ["Passthrough", "echo"]);
    assert_eq!(names(&sidecar, type_url::ENDPOINT), ["echo"]);
    assert_eq!(names(&sidecar, type_url::VIRTUAL_HOST), ["80/echo.default"]);
    let waits = || {
        let demand = sidecar.shared.store.demand.as_ref().unwrap();
        demand.counts.waits.load(Ordering::Relaxed)
    };
    assert_eq!(waits(), 2, "the listener and the virtual host");

    // The second time nothing is asked; a name in capitals, with a port and a dot, is the same.
    let mut second = Client::connect(outbound).await;
    let mut request = get("/");
    let odd = format!("ECHO.default.:{port}").parse().unwrap();
    request.headers_mut().insert(http::header::HOST, odd);
    assert_eq!(second.send(request).await.unwrap().status(), 200);
    assert_eq!(waits(), 2);

    // A host that does not exist is an answer too.
    let mut stranger = get("/");
    let name = "nobody".parse().unwrap();
    stranger.headers_mut().insert(http::header::HOST, name);
    assert_eq!(second.send(stranger).await.unwrap().status(), 404);
    assert_eq!(waits(), 3);
}

#[tokio::test]
async fn an_address_without_a_listener_goes_where_the_capturing_one_says() {
    let app = App::echo().await;
    let plane = Arc::new(Plane::default());
    plane.add(
        type_url::CLUSTER,
        "Passthrough",
        cluster("Passthrough", &[app.address]),
    );
    let (sidecar, outbound) = started(&plane).await;
    plane.serve(&sidecar);
    let mut client = Client::connect(outbound).await;
    assert_eq!(client.get("/").await.status(), 200);
    let held = sidecar.configurator().take_changes_to_save().unwrap();
    let listeners = held
        .iter()
        .find(|of| of.type_url == type_url::LISTENER)
        .unwrap();
    assert_eq!(
        listeners.removed_resources.len(),
        2,
        "both names do not exist"
    );
}

/// A configurator that was asked for a virtual host and given it.
async fn with_a_host() -> Sidecar {
    let plane = Arc::new(Plane::default());
    plane.add(
        type_url::CLUSTER,
        "Passthrough",
        cluster("Passthrough", &[nowhere()]),
    );
    for name in ["virtualInbound", "virtualOutbound"] {
        plane.add(type_url::LISTENER, name, standing(name));
    }
    plane.add(type_url::VIRTUAL_HOST, "80/echo", host("echo", "echo"));
    add_eds_cluster(&plane, "echo", nowhere());
    let sidecar = Sidecar::on_demand(&Authority::new(), "client");
    let wishes = vec![
        Wish::Host("80/echo".to_owned()),
        Wish::Listener("10.0.0.9_80".to_owned()),
    ];
    sidecar.configurator().ask(wishes);
    plane.answer(&sidecar.configurator);
    assert_eq!(names(&sidecar, type_url::CLUSTER), ["Passthrough", "echo"]);
    sidecar
}

#[tokio::test(start_paused = true)]
async fn what_is_idle_leaves_with_everything_it_held() {
    let sidecar = with_a_host().await;
    tokio::time::advance(std::time::Duration::from_secs(3000)).await;
    sidecar.configurator().sweep();
    assert_eq!(names(&sidecar, type_url::VIRTUAL_HOST), ["80/echo"]);
    tokio::time::advance(std::time::Duration::from_secs(601)).await;
    sidecar.configurator().sweep();
    assert!(names(&sidecar, type_url::VIRTUAL_HOST).is_empty());
    assert_eq!(
        names(&sidecar, type_url::LISTENER),
        ["virtualInbound", "virtualOutbound"]
    );
    // Clusters leave a sweep later: requests that chose them may still be about to pick a host.
    assert_eq!(names(&sidecar, type_url::CLUSTER), ["Passthrough", "echo"]);
    sidecar.configurator().sweep();
    sidecar.configurator().sweep();
    assert_eq!(names(&sidecar, type_url::CLUSTER), ["Passthrough"]);
    assert!(names(&sidecar, type_url::ENDPOINT).is_empty());
    assert!(sidecar.shared.store.upstream("echo").is_none());
    let saved = sidecar.configurator().take_changes_to_save().unwrap();
    let left: usize = saved
        .iter()
        .map(|of| of.resources.len() + of.removed_resources.len())
        .sum();
    assert_eq!(left, 3, "two listeners and a cluster");
}

#[tokio::test]
async fn strange_names_push_out_the_least_used_and_no_more() {
    let sidecar = with_a_host().await;
    for i in 0..5000 {
        sidecar
            .configurator()
            .ask(vec![Wish::Host(format!("80/{i}.example.com"))]);
    }
    let held =
        names(&sidecar, type_url::VIRTUAL_HOST).len() + names(&sidecar, type_url::LISTENER).len();
    assert_eq!(held, 2048 + 2, "the bound, and the standing listeners");
}

#[tokio::test]
async fn a_proxy_that_is_started_again_serves_without_a_control_plane() {
    let first = with_a_host().await;
    let saved = first.configurator().take_changes_to_save().unwrap();
    assert!(
        first.configurator().take_changes_to_save().is_none(),
        "nothing changed since"
    );
    let second = Sidecar::on_demand(&Authority::new(), "client");
    second.configurator().restore(saved);
    assert!(second.configurator().is_complete());
    let demand = second.shared.store.demand.clone().unwrap();
    let routes = meltemi_proxy_core::compile::route_configuration(
        meltemi_proto::envoy::config::route::v3::RouteConfiguration {
            name: "80".to_owned(),
            ..Default::default()
        },
    );
    let host = demand
        .host(&routes.unwrap(), "echo")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&*host.name, "echo:80");
    let nobody = "10.0.0.9:81".parse().unwrap();
    let listeners = &second.shared.store.listeners;
    let held = names(&second, type_url::LISTENER);
    assert!(
        held.contains(&"10.0.0.9_80".to_owned()),
        "absence is kept: {held:?}"
    );
    let asked = demand.listener(listeners, nobody);
    assert!(
        futures_util::FutureExt::now_or_never(asked).is_none(),
        "unknown is not absent"
    );
}
