//! Gateways: which servers a proxy at the edge serves, and who may bind routes to their hosts.

mod merge;

use std::sync::Arc;

use meltemi_api::istio::{Gateway, Server};
use meltemi_api::{Object, Resource};
use meltemi_core::{Hostname, Labels, ObjectRef};

pub use merge::{BoundServer, Dropped, Merged, MergedPort, PortKind, Why, merge};

/// The reserved name that stands for all sidecars.
pub const MESH: &str = "mesh";

/// A Gateway object.
#[derive(Clone, Debug)]
pub struct MeshGateway {
    pub object: Arc<Object>,
    pub origin: ObjectRef,
    pub spec: Gateway,
    /// `namespace/name`, as VirtualServices bind to it.
    pub name: String,
}

impl PartialEq for MeshGateway {
    fn eq(&self, other: &Self) -> bool {
        self.object == other.object
    }
}

impl MeshGateway {
    pub(crate) fn new(object: &Arc<Object>) -> Option<Self> {
        let Resource::Gateway(spec) = &object.resource else {
            return None;
        };
        Some(Self {
            object: Arc::clone(object),
            origin: object.reference(),
            spec: spec.as_ref().clone(),
            name: format!("{}/{}", object.meta.namespace, object.meta.name),
        })
    }

    pub fn namespace(&self) -> &str {
        &self.object.meta.namespace
    }

    /// Whether proxies with these labels serve it; without a selector all do.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.spec.selector.selects(labels)
    }

    /// The hosts of one of its servers. Those that are no names were told of and are left out.
    pub fn hosts(&self, server: &Server) -> Vec<ServerHost> {
        let hosts = server.hosts.iter();
        hosts
            .filter_map(|host| ServerHost::parse(host, self.namespace()))
            .collect()
    }
}

/// A host that a server is for, and the namespace whose VirtualServices may bind to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHost {
    /// None: any.
    pub namespace: Option<String>,
    pub host: Hostname,
}

impl ServerHost {
    /// Reads `dns`, `namespace/dns`, `./dns` (the Gateway's own namespace) or `*/dns`.
    fn parse(text: &str, own_namespace: &str) -> Option<Self> {
        let (namespace, name) = match text.split_once('/') {
            None | Some(("*", _)) => (None, text.strip_prefix("*/").unwrap_or(text)),
            Some((".", name)) => (Some(own_namespace), name),
            Some((namespace, name)) => (Some(namespace), name),
        };
        Some(Self {
            namespace: namespace.map(str::to_owned),
            host: Hostname::new(name).ok()?,
        })
    }

    pub fn admits(&self, namespace: &str) -> bool {
        self.namespace.as_deref().is_none_or(|own| own == namespace)
    }
}

/// The hosts for which a VirtualService of `namespace` is obeyed by a server: of each pair that has a common part the narrower
/// one.
pub fn common_hosts<'a>(
    server: &'a [ServerHost],
    routed: &'a [Hostname],
    namespace: &str,
) -> Vec<&'a Hostname> {
    let mut common: Vec<&Hostname> = Vec::new();
    let admitting = server.iter().filter(|own| own.admits(namespace));
    for own in admitting {
        for host in routed {
            let narrower = if host.covers(&own.host) {
                &own.host
            } else if own.host.covers(host) {
                host
            } else {
                continue;
            };
            if !common.contains(&narrower) {
                common.push(narrower);
            }
        }
    }
    common
}

/// The Gateway that a VirtualService of `namespace` means, as `namespace/name`: `name` is in its own namespace, `./name` too,
/// and of the old form `name.namespace.svc...` the second part names it.
pub fn gateway_name(written: &str, namespace: &str) -> String {
    match written.split_once('/') {
        Some((".", name)) => format!("{namespace}/{name}"),
        Some(_) => written.to_owned(),
        None => match written.split_once('.') {
            None => format!("{namespace}/{written}"),
            Some((name, rest)) => {
                let namespace = rest.split('.').next().unwrap_or_default();
                format!("{namespace}/{name}")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_gateways_are_completed() {
        for (written, expected) in [
            ("edge", "shop/edge"),
            ("./edge", "shop/edge"),
            ("istio-system/edge", "istio-system/edge"),
            ("edge.istio-system", "istio-system/edge"),
            ("edge.istio-system.svc.cluster.local", "istio-system/edge"),
        ] {
            assert_eq!(gateway_name(written, "shop"), expected);
        }
    }

    /// Hosts of a server in `edge`, hosts of a VirtualService in `shop`, what they have in common.
    #[test]
    fn hosts_meet_in_the_narrower_one() {
        for (server, routed, expected) in [
            (&["*"][..], &["a.com"][..], &["a.com"][..]),
            (&["a.com"], &["*"], &["a.com"]),
            (&["*.com"], &["a.com", "b.org"], &["a.com"]),
            (&["a.com", "b.com"], &["*.com"], &["a.com", "b.com"]),
            (&["*.a.com"], &["*.com"], &["*.a.com"]),
            (&["*.a.com"], &["a.com"], &[]),
            (&["a.com"], &["b.com"], &[]),
            (&["a.com", "*"], &["a.com"], &["a.com"]),
            (&["shop/a.com"], &["a.com"], &["a.com"]),
            (&["*/a.com"], &["a.com"], &["a.com"]),
            (&["./a.com"], &["a.com"], &[]),
            (&["bank/a.com"], &["a.com"], &[]),
            (&["bank/*", "shop/*.com"], &["a.com", "b.org"], &["a.com"]),
        ] {
            let server: Vec<ServerHost> = server
                .iter()
                .map(|host| ServerHost::parse(host, "edge").unwrap())
                .collect();
            let routed: Vec<Hostname> = routed
                .iter()
                .map(|host| Hostname::new(host).unwrap())
                .collect();
            let common = common_hosts(&server, &routed, "shop");
            let common: Vec<&str> = common.into_iter().map(Hostname::as_str).collect();
            assert_eq!(common, expected, "{server:?} {routed:?}");
        }
    }
}
