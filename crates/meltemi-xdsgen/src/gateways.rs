//! What a proxy at the edge serves: the servers of the Gateways that select it, merged, with the VirtualServices that are bound
//! to them.
//!
//! ```text
//! Gateways --select, merge--> ports -> listeners -> chains by server name -> routes -> clusters of destinations
//!                                          \-> secrets of this proxy's namespace
//! ```

mod listeners;
mod routes;
mod secrets;
mod tcp;

use std::collections::BTreeSet;

use meltemi_core::Hostname;
use meltemi_core::names::port;
use meltemi_model::{BoundServer, Merged, MeshVirtualService, gateway_name};

use crate::inputs::Inputs;

pub(crate) use listeners::listeners;
pub(crate) use routes::routes;
pub(crate) use secrets::{authority_name, certificate_name, secrets};

/// Ports of the proxy itself, which no server can have.
const OWN_PORTS: [u16; 4] = [
    port::ADMIN,
    port::MERGED_STATS,
    port::READINESS,
    port::ENVOY_STATS,
];

/// Where routes are obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At<'a> {
    /// By sidecars.
    Mesh,
    /// By the servers of a Gateway, `namespace/name`.
    Gateway(&'a str),
}

impl At<'_> {
    /// Whether a match that lists `gateways` is for this place; without any it is for every place that its object, of
    /// `namespace`, is bound to.
    pub(crate) fn is_among(self, gateways: &[String], namespace: &str) -> bool {
        let is_here = |gateway: &String| match self {
            Self::Mesh => gateway == meltemi_model::MESH,
            Self::Gateway(name) => {
                gateway != meltemi_model::MESH && gateway_name(gateway, namespace) == name
            }
        };
        gateways.is_empty() || gateways.iter().any(is_here)
    }
}

/// The servers of the Gateways that select the proxy, by port.
pub(crate) fn merged<'a>(inputs: &Inputs<'a>) -> Merged<'a> {
    let mut merged =
        meltemi_model::merge(inputs.gateways(), |number| inputs.listening_port(number));
    merged.ports.retain(|port| !OWN_PORTS.contains(&port.port));
    merged
}

/// The VirtualServices that a server obeys, each with the hosts that they have in common.
fn bound<'a, 'm>(
    inputs: &Inputs<'m>,
    server: &'a BoundServer<'m>,
) -> Vec<(&'m MeshVirtualService, Vec<&'a Hostname>)>
where
    'm: 'a,
{
    let all = inputs.virtual_services_at(&server.gateway.name);
    all.into_iter()
        .filter_map(|routed| {
            let routed: &'m MeshVirtualService = routed;
            let namespace = routed.namespace();
            let common = meltemi_model::common_hosts(&server.hosts, &routed.hosts, namespace);
            (!common.is_empty()).then_some((routed, common))
        })
        .collect()
}

/// The services that the routes of the proxy's servers lead to.
///
/// Differs from Istio, where a gateway holds every exported service unless `PILOT_FILTER_GATEWAY_CLUSTER_CONFIG` is set: a
/// cluster that no route names is of no use to it.
pub(crate) fn destinations(inputs: &Inputs<'_>, merged: &Merged<'_>) -> BTreeSet<Hostname> {
    let mut hosts = BTreeSet::new();
    for server in merged.ports.iter().flat_map(|port| &port.servers) {
        for (routed, _) in bound(inputs, server) {
            let named = routed.spec.destinations();
            hosts.extend(named.filter_map(|destination| {
                crate::routes::destination_host(inputs, destination, routed.namespace())
            }));
        }
    }
    hosts
}
