//! Routes for a proxy that asks by authority (VHDS): route configurations without virtual hosts, and the virtual host that
//! the whole configuration would have chosen for one authority.
//!
//! The proxy does not match domains: a wildcard that it holds would hide a more exact name that it has not asked for.
//! So each answer is for one authority alone, the fallback included.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use meltemi_core::Hostname;
use meltemi_model::{MeshVirtualService, Service};
use meltemi_proto::envoy::config::route::v3::{RouteConfiguration, Vhds, VirtualHost};

use super::{
    FOREIGN_PORT, action, catch_all, configuration, domains, of_sniffed, routes_of, sniffed_name,
    virtual_host,
};
use crate::clusters;
use crate::gateways::At;
use crate::inputs::Inputs;
use crate::listeners::serves_http;

/// The route configurations of a port number that are asked for by name. Those of sniffed services are whole: the
/// address has chosen the service already.
pub(crate) fn on_demand(
    inputs: &Inputs<'_>,
    port: u16,
    names: &BTreeSet<String>,
) -> Vec<RouteConfiguration> {
    let mut configurations = Vec::new();
    let shared = port.to_string();
    if names.contains(&shared) {
        let mut on_port = inputs.services_on_port(port);
        if on_port.any(|service| serves(service, port)) {
            configurations.push(RouteConfiguration {
                vhds: Some(Vhds {
                    config_source: Some(clusters::ads()),
                }),
                ..configuration(&shared, Vec::new())
            });
        }
    }
    for service in names.iter().filter_map(|name| sniffed(inputs, name, port)) {
        configurations.push(of_sniffed(inputs, service, port));
    }
    configurations
}

fn serves(service: &Service, port: u16) -> bool {
    let own = service.port(port);
    own.is_some_and(|own| serves_http(service, own))
}

fn sniffed<'a>(inputs: &Inputs<'a>, name: &str, port: u16) -> Option<&'a Service> {
    let (host, _) = name.rsplit_once(':')?;
    let service = inputs.service_on_port(&Hostname::new(host).ok()?, port)?;
    let own = service.port(port)?;
    let is_sniffed = own.protocol.is_auto() && !serves_http(service, own);
    (is_sniffed && sniffed_name(service, port) == name).then_some(service)
}

/// The virtual host of an authority (lower-case, without its port), by Envoy's precedence: exact, the longest wildcard,
/// anything. Its only domain is the authority.
pub(crate) fn virtual_host_of(inputs: &Inputs<'_>, port: u16, authority: &str) -> VirtualHost {
    let mut host = match claimant(inputs, port, authority) {
        Some(Claimant::Service(service)) => VirtualHost {
            routes: routes_of(inputs, service, port),
            ..virtual_host(&service.hostname, port)
        },
        Some(Claimant::Foreign(name, routed)) => VirtualHost {
            routes: action::routes(inputs, routed, port, At::Mesh),
            ..virtual_host(name, port)
        },
        None => catch_all(inputs),
    };
    host.domains = vec![authority.to_owned()];
    host
}

/// Who a domain belongs to.
enum Claimant<'a> {
    Service(&'a Service),
    Foreign(&'a Hostname, &'a Arc<MeshVirtualService>),
}

/// Domains that may decide, the more specific first; services come before hosts that are none.
fn claimant<'a>(inputs: &Inputs<'a>, port: u16, authority: &str) -> Option<Claimant<'a>> {
    let undotted = authority.strip_suffix('.').unwrap_or(authority);
    let exact = [authority, undotted];
    let wildcards = wildcards(undotted);
    let mut domains = exact
        .into_iter()
        .chain(wildcards.iter().map(String::as_str));
    domains.find_map(|domain| {
        service(inputs, port, domain)
            .map(Claimant::Service)
            .or_else(|| foreign(inputs, port, domain))
    })
}

/// `*.b.c`, `*.c` and `*` of `a.b.c`.
fn wildcards(host: &str) -> Vec<String> {
    let dots = host.match_indices('.').filter(|(at, _)| *at > 0);
    let suffixes = dots.filter_map(|(at, _)| host.get(at..));
    let longer = suffixes.filter(|suffix| suffix.len() > 1);
    longer
        .map(|suffix| format!("*{suffix}"))
        .chain(["*".to_owned()])
        .collect()
}

/// The first service of the port, by name, that has this domain.
fn service<'a>(inputs: &Inputs<'a>, port: u16, domain: &str) -> Option<&'a Service> {
    let has = |service: &Service| {
        serves(service, port) && domains(inputs, service).iter().any(|d| d == domain)
    };
    let named = names(inputs, domain)
        .into_iter()
        .filter_map(|name| inputs.service_on_port(&name, port));
    let mut candidates: Vec<&Service> = named.map(AsRef::as_ref).collect();
    if let Ok(address) = domain.trim_matches(['[', ']']).parse::<IpAddr>() {
        let at = |service: &&'a Arc<Service>| service.addresses.iter().any(|a| a.ip == address);
        candidates.extend(inputs.services_on_port(port).filter(at).map(AsRef::as_ref));
    }
    candidates.retain(|service| has(service));
    candidates
        .into_iter()
        .min_by(|a, b| a.hostname.cmp(&b.hostname))
}

/// The hosts of services that could have this domain: see [`domains`].
fn names(inputs: &Inputs<'_>, domain: &str) -> Vec<Hostname> {
    let suffix = inputs.cluster_domain();
    let namespace = inputs.namespace();
    let mut names = vec![domain.to_owned()];
    match domain.strip_prefix("*.") {
        // Of a headless service.
        Some(headless) => names.push(headless.to_owned()),
        None => names.extend([
            format!("{domain}.{namespace}.svc.{suffix}"),
            format!("{domain}.svc.{suffix}"),
            format!("{domain}.{suffix}"),
        ]),
    }
    names
        .iter()
        .filter_map(|name| Hostname::new(name).ok())
        .collect()
}

/// The first VirtualService for this host, which is no service; such hosts are routed on one port.
fn foreign<'a>(inputs: &Inputs<'a>, port: u16, domain: &str) -> Option<Claimant<'a>> {
    if port != FOREIGN_PORT {
        return None;
    }
    let (name, routed) = inputs.foreign_virtual_service(domain, port)?;
    let has_routes = !action::routes(inputs, routed, port, At::Mesh).is_empty();
    has_routes.then_some(Claimant::Foreign(name, routed))
}
