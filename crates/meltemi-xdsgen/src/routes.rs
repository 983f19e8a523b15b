//! Route configurations: virtual hosts by authority, and the routes of VirtualServices.

pub(crate) mod action;
mod matches;
mod on_demand;
mod policy;

use std::collections::BTreeSet;

use meltemi_api::istio::{Destination, OutboundTrafficPolicyMode};
use meltemi_core::names::{BLACKHOLE_CLUSTER, PASSTHROUGH_CLUSTER};
use meltemi_core::{ClusterName, Hostname};
use meltemi_model::{MeshVirtualService, Service};
use meltemi_proto::envoy::config::route::v3::{
    Decorator, DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, route, route_action, route_match,
};
use meltemi_proto::google::protobuf::Duration;

use crate::gateways::At;
use crate::inputs::Inputs;
use crate::listeners::{InboundPort, serves_http};
use crate::wire;

pub(crate) use on_demand::{on_demand, virtual_host_of};

/// The port that routes hosts which are no service, a quirk that Istio's users rely on.
const FOREIGN_PORT: u16 = 80;
/// The longest body of a `directResponse`, as Istio sets it.
const DIRECT_RESPONSE_LIMIT_BYTES: u32 = 1024 * 1024;

/// `<host>:<port>`, the routes of one service behind a sniffing listener.
pub(crate) fn sniffed_name(service: &Service, port: u16) -> String {
    format!("{}:{port}", service.hostname)
}

/// The route configurations of a port number: the shared one, named by the number, and those of sniffed services.
pub(crate) fn on_port(inputs: &Inputs<'_>, port: u16) -> Vec<RouteConfiguration> {
    let mut shared = Vec::new();
    let mut configurations = Vec::new();
    for service in inputs.services_on_port(port) {
        let Some(own) = service.port(port) else {
            continue;
        };
        if serves_http(service, own) {
            shared.push(service.as_ref());
        } else if own.protocol.is_auto() {
            configurations.push(of_sniffed(inputs, service, port));
        }
    }
    if !shared.is_empty() {
        configurations.push(of_port(inputs, port, &shared));
    }
    configurations
}

pub(crate) fn configuration(name: &str, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts,
        validate_clusters: wire::bool_value(false),
        max_direct_response_body_size_bytes: wire::u32_value(DIRECT_RESPONSE_LIMIT_BYTES),
        ignore_port_in_host_matching: true,
        ..RouteConfiguration::default()
    }
}

fn of_sniffed(inputs: &Inputs<'_>, service: &Service, port: u16) -> RouteConfiguration {
    let mut host = virtual_host(&service.hostname, port);
    // The address has chosen the service; whatever the request calls it is right.
    host.domains = vec!["*".to_owned()];
    host.routes = routes_of(inputs, service, port);
    configuration(&sniffed_name(service, port), vec![host])
}

fn of_port(inputs: &Inputs<'_>, port: u16, services: &[&Service]) -> RouteConfiguration {
    let mut taken = BTreeSet::new();
    let mut hosts = Vec::new();
    let mut add = |mut host: VirtualHost, domains: Vec<String>| {
        // Envoy refuses a domain that two virtual hosts claim: the first keeps it.
        host.domains = domains
            .into_iter()
            .filter(|domain| taken.insert(domain.clone()))
            .collect();
        if !host.domains.is_empty() {
            hosts.push(host);
        }
    };
    for service in services {
        let mut host = virtual_host(&service.hostname, port);
        host.routes = routes_of(inputs, service, port);
        add(host, domains(inputs, service));
    }
    if port == FOREIGN_PORT {
        for (name, routed) in inputs.foreign_virtual_services(port) {
            let mut host = virtual_host(name, port);
            host.routes = action::routes(inputs, routed, port, At::Mesh);
            if !host.routes.is_empty() {
                add(host, vec![name.to_string()]);
            }
        }
    }
    hosts.push(catch_all(inputs));
    configuration(&port.to_string(), hosts)
}

pub(crate) fn virtual_host(name: &Hostname, port: u16) -> VirtualHost {
    VirtualHost {
        name: format!("{name}:{port}"),
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

/// Every name a client may call the service by: full, with a trailing dot, the shorter forms that its resolver would
/// expand, and its addresses. Ports are ignored in matching.
fn domains(inputs: &Inputs<'_>, service: &Service) -> Vec<String> {
    let host = service.hostname.as_str();
    let mut domains = vec![host.to_owned()];
    if host == "*" {
        return domains;
    }
    if !service.hostname.is_wildcard() {
        domains.push(format!("{host}."));
    }
    if service.is_kubernetes() {
        domains.extend(short_names(inputs, &service.name, &service.namespace));
        if service.is_headless() {
            // Its pods, by their names below each of its own: `web-0.web`.
            let below: Vec<String> = domains.iter().map(|name| format!("*.{name}")).collect();
            domains.extend(below);
        }
    }
    let addresses = service
        .addresses
        .iter()
        .filter(|address| address.is_single());
    domains.extend(addresses.map(|address| match address.ip {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("[{ip}]"),
    }));
    for alias in &service.aliases {
        domains.push(alias.hostname.to_string());
        domains.push(format!("{}.", alias.hostname));
        domains.extend(short_names(inputs, &alias.name, &alias.namespace));
    }
    domains
}

/// What a resolver's search list lets a client of the cluster leave out.
fn short_names(inputs: &Inputs<'_>, name: &str, namespace: &str) -> Vec<String> {
    let mut names = Vec::new();
    if namespace == inputs.namespace() {
        names.push(name.to_owned());
    }
    names.push(format!("{name}.{namespace}"));
    names.push(format!("{name}.{namespace}.svc"));
    names
}

/// The routes of a service: its VirtualService's, or everything to the service.
fn routes_of(inputs: &Inputs<'_>, service: &Service, port: u16) -> Vec<Route> {
    let routed = inputs.virtual_service(&service.hostname, port);
    let routes = routed.map(|routed| action::routes(inputs, routed, port, At::Mesh));
    match routes {
        Some(routes) if !routes.is_empty() => routes,
        _ => vec![default_route(inputs, service, port)],
    }
}

fn default_route(inputs: &Inputs<'_>, service: &Service, port: u16) -> Route {
    let name = ClusterName::outbound(port, "", service.hostname.as_str()).to_string();
    let hash_policy = policy::hash_policies(inputs, &service.hostname, port, "");
    let forward = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(name)),
        retry_policy: policy::default_retries(inputs, !hash_policy.is_empty()),
        hash_policy,
        ..untimed()
    };
    Route {
        name: "default".to_owned(),
        r#match: Some(everything()),
        decorator: Some(operation(&service.hostname, port)),
        action: Some(route::Action::Route(forward)),
        ..Route::default()
    }
}

pub(crate) fn everything() -> RouteMatch {
    RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    }
}

/// A forwarding action without a time limit that still honours `grpc-timeout`.
fn untimed() -> RouteAction {
    RouteAction {
        timeout: Some(Duration::default()),
        max_stream_duration: Some(route_action::MaxStreamDuration {
            max_stream_duration: Some(Duration::default()),
            grpc_timeout_header_max: Some(Duration::default()),
            ..route_action::MaxStreamDuration::default()
        }),
        ..RouteAction::default()
    }
}

fn operation(host: &Hostname, port: u16) -> Decorator {
    Decorator {
        operation: format!("{host}:{port}/*"),
        propagate: None,
    }
}

/// What no virtual host names: let through, or refused under REGISTRY_ONLY.
fn catch_all(inputs: &Inputs<'_>) -> VirtualHost {
    let (name, action) = match inputs.unknown_destinations() {
        OutboundTrafficPolicyMode::AllowAny => {
            let forward = RouteAction {
                cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(unknown_cluster(
                    inputs,
                ))),
                ..untimed()
            };
            ("allow_any", route::Action::Route(forward))
        }
        OutboundTrafficPolicyMode::RegistryOnly => (
            "block_all",
            route::Action::DirectResponse(DirectResponseAction {
                status: 502,
                ..DirectResponseAction::default()
            }),
        ),
    };
    VirtualHost {
        name: name.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![Route {
            name: name.to_owned(),
            r#match: Some(everything()),
            action: Some(action),
            ..Route::default()
        }],
        include_request_attempt_count: true,
        ..VirtualHost::default()
    }
}

/// The inline routes of an inbound chain: everything to the workload. Retries are off, for the request may have had an
/// effect already.
pub(crate) fn inbound(cluster: &str, served: Option<&InboundPort<'_>>) -> RouteConfiguration {
    let virtual_host = match served {
        Some(port) => format!("inbound|http|{}", port.service_port),
        None => "inbound|http|0".to_owned(),
    };
    let forward = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..untimed()
    };
    let first = served.and_then(|port| Some((port.services.first()?, port.service_port)));
    RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![VirtualHost {
            name: virtual_host,
            domains: vec!["*".to_owned()],
            routes: vec![Route {
                name: "default".to_owned(),
                r#match: Some(everything()),
                decorator: first.map(|(service, port)| operation(&service.hostname, port)),
                action: Some(route::Action::Route(forward)),
                ..Route::default()
            }],
            ..VirtualHost::default()
        }],
        validate_clusters: wire::bool_value(false),
        ..RouteConfiguration::default()
    }
}

/// The host a destination means, in the namespace of the object that names it.
pub(crate) fn destination_host(
    inputs: &Inputs<'_>,
    destination: &Destination,
    namespace: &str,
) -> Option<Hostname> {
    let host = Hostname::resolve(&destination.host, namespace, inputs.cluster_domain());
    host.ok().map(|host| inputs.unaliased(host))
}

/// The port a destination means: the given one, the only one, or the one the client called.
fn destination_port(
    inputs: &Inputs<'_>,
    destination: &Destination,
    host: &Hostname,
    listener_port: u16,
) -> u16 {
    let given = destination
        .port
        .and_then(|port| u16::try_from(port.number).ok());
    given.unwrap_or_else(
        || match inputs.service(host).map(|service| &service.ports[..]) {
            Some([only]) => only.number,
            _ => listener_port,
        },
    )
}

/// The cluster of a destination. One that does not exist answers 503 NC, which says more than a silent 404.
pub(crate) fn cluster_of(
    inputs: &Inputs<'_>,
    destination: &Destination,
    namespace: &str,
    listener_port: u16,
) -> String {
    match destination_host(inputs, destination, namespace) {
        Some(host) => {
            let port = destination_port(inputs, destination, &host, listener_port);
            ClusterName::outbound(port, &destination.subset, host.as_str()).to_string()
        }
        None => BLACKHOLE_CLUSTER.to_owned(),
    }
}

/// Where calls that are of no service go, if they may: the egress proxy of the workload's Sidecar, or where they were meant for.
pub(crate) fn unknown_cluster(inputs: &Inputs<'_>) -> String {
    let cluster = inputs.egress_proxy().map(|(proxy, namespace)| {
        // Its port is required.
        cluster_of(inputs, proxy, namespace, 0)
    });
    cluster.unwrap_or_else(|| PASSTHROUGH_CLUSTER.to_owned())
}

/// The rule object that telemetry and tools show beside a route.
fn config_metadata(
    routed: &MeshVirtualService,
) -> meltemi_proto::envoy::config::core::v3::Metadata {
    let path = crate::clusters::config_path(&routed.object.reference());
    wire::metadata([("istio", wire::strukt([("config", wire::text(&path))]))])
}
