use std::collections::{BTreeMap, BTreeSet};

use meltemi_core::Hostname;
use meltemi_model::{BoundServer, Merged, MergedPort, PortKind};
use meltemi_proto::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteConfiguration, RouteMatch, VirtualHost, route, route_match,
    virtual_host::TlsRequirementType,
};

use super::{At, bound};
use crate::inputs::Inputs;
use crate::routes::{action, configuration, everything, virtual_host};

/// RFC 9110 section 15.5.20: the client may ask again on a connection of its own.
const MISDIRECTED: u32 = 421;

/// The route configurations of all servers that look into requests.
pub(crate) fn routes(inputs: &Inputs<'_>, merged: &Merged<'_>) -> Vec<RouteConfiguration> {
    let ports = merged.ports.iter();
    ports.flat_map(|port| of_port(inputs, port)).collect()
}

fn of_port(inputs: &Inputs<'_>, port: &MergedPort<'_>) -> Vec<RouteConfiguration> {
    let mut by_name: BTreeMap<String, Vec<&BoundServer<'_>>> = BTreeMap::new();
    for server in &port.servers {
        if let Some(name) = server.route_name() {
            by_name.entry(name).or_default().push(server);
        }
    }
    by_name
        .into_iter()
        .map(|(name, servers)| {
            let mut hosts = Hosts::default();
            for server in &servers {
                hosts.add_server(inputs, server);
            }
            let number = servers.first().map_or(port.port, |server| server.number());
            let mut hosts = hosts.finish(number);
            if port.kind == PortKind::Tls {
                hosts.extend(misdirected(port, &servers, &hosts, number));
            }
            configuration(&name, hosts)
        })
        .collect()
}

/// Virtual hosts by their only domain, in the order of their servers and VirtualServices.
#[derive(Default)]
struct Hosts {
    hosts: Vec<(Hostname, VirtualHost)>,
    /// The VirtualServices whose routes a host has, by `namespace/name`.
    merged: BTreeSet<(Hostname, String)>,
}

impl Hosts {
    /// Routes of several VirtualServices for one host are joined, those of the oldest first.
    fn add_server(&mut self, inputs: &Inputs<'_>, server: &BoundServer<'_>) {
        let at = At::Gateway(&server.gateway.name);
        let number = server.number();
        for (routed, common) in bound(inputs, server) {
            let routes = action::routes(inputs, routed, number, at);
            if routes.is_empty() {
                continue;
            }
            let object = routed.object.reference().to_string();
            for name in common {
                if self.merged.insert((name.clone(), object.clone())) {
                    let host = self.host(name, number);
                    host.routes.extend(routes.iter().cloned());
                }
                if server.redirects_to_https() {
                    self.redirect(name, number);
                }
            }
        }
        if server.redirects_to_https() {
            for own in &server.hosts {
                self.redirect(&own.host, number);
            }
        }
    }

    fn redirect(&mut self, name: &Hostname, number: u16) {
        self.host(name, number).require_tls = TlsRequirementType::All.into();
    }

    fn host(&mut self, name: &Hostname, number: u16) -> &mut VirtualHost {
        let position = self.hosts.iter().position(|(known, _)| known == name);
        let position = position.unwrap_or_else(|| {
            let mut host = virtual_host(name, number);
            host.domains = vec![name.to_string()];
            self.hosts.push((name.clone(), host));
            self.hosts.len() - 1
        });
        &mut self.hosts[position].1
    }

    /// Without any host every request is answered 404.
    fn finish(self, number: u16) -> Vec<VirtualHost> {
        let hosts = self.hosts.into_iter();
        let mut hosts: Vec<VirtualHost> = hosts
            .map(|(_, mut host)| {
                // Of joined routes, one that takes everything must not hide another's.
                host.routes.sort_by_key(takes_everything);
                host
            })
            .collect();
        if hosts.is_empty() {
            hosts.push(VirtualHost {
                name: format!("blackhole:{number}"),
                domains: vec!["*".to_owned()],
                ..VirtualHost::default()
            });
        }
        hosts
    }
}

fn takes_everything(route: &Route) -> bool {
    let Some(matches) = &route.r#match else {
        return true;
    };
    let any = RouteMatch {
        case_sensitive: matches.case_sensitive,
        path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
        ..RouteMatch::default()
    };
    *matches == any
}

/// Requests for what another server of the port is for: a client may send them on this connection where one certificate is for
/// both (RFC 9113 section 9.1.1), and must not be served without that server's demands.
///
/// Differs from Istio, which answers 404.
fn misdirected(
    port: &MergedPort<'_>,
    own: &[&BoundServer<'_>],
    hosts: &[VirtualHost],
    number: u16,
) -> Option<VirtualHost> {
    let own_names: Vec<&Hostname> = own.iter().flat_map(|own| own.server_names()).collect();
    let others = port.servers.iter().flat_map(BoundServer::server_names);
    let taken: BTreeSet<&str> = hosts
        .iter()
        .flat_map(|host| host.domains.iter().map(String::as_str))
        .collect();
    let domains: BTreeSet<String> = others
        .filter(|name| !own_names.contains(name) && !taken.contains(name.as_str()))
        .map(Hostname::to_string)
        .collect();
    let answer = route::Action::DirectResponse(DirectResponseAction {
        status: MISDIRECTED,
        ..DirectResponseAction::default()
    });
    (!domains.is_empty()).then(|| VirtualHost {
        name: format!("misdirected:{number}"),
        domains: domains.into_iter().collect(),
        routes: vec![Route {
            name: "misdirected".to_owned(),
            r#match: Some(everything()),
            action: Some(answer),
            ..Route::default()
        }],
        ..VirtualHost::default()
    })
}
