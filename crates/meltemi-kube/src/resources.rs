//! What is watched, and where the API server has it.

use std::sync::Arc;

use kube::Client;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use meltemi_api::{Kind, ObjectKey};
use serde_json::Value;

use crate::bounded;

/// One watch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watched {
    pub(crate) kind: Kind,
    /// Only objects of this namespace.
    pub(crate) namespace: Option<Arc<str>>,
}

impl Watched {
    pub(crate) fn covers(&self, key: &ObjectKey) -> bool {
        let own = self.namespace.as_deref();
        key.kind == self.kind && own.is_none_or(|own| own == key.namespace)
    }
}

/// What the configuration of proxies depends on, with the control plane in `namespace`. Workloads are not watched: pods say
/// whose they are.
pub(crate) fn watched(namespace: &str) -> Vec<Watched> {
    let whole = |kind| Watched {
        kind,
        namespace: None,
    };
    let istio = Kind::ALL.iter().copied().filter(|kind| kind.is_istio());
    let kubernetes = [
        Kind::Namespace,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::Pod,
        Kind::Node,
    ];
    // The mesh configuration and the injector's.
    let own = Watched {
        kind: Kind::ConfigMap,
        namespace: Some(namespace.into()),
    };
    let all = kubernetes.into_iter().chain(istio).map(whole);
    all.chain([own]).collect()
}

/// Where the API server has a kind: in the newest version that it serves. `None`: in none.
pub(crate) async fn served(client: &Client, kind: Kind) -> kube::Result<Option<ApiResource>> {
    if kind.group().is_empty() {
        return Ok(versions(kind).next());
    }
    for resource in versions(kind) {
        let listed = bounded(client.list_api_group_resources(&resource.api_version));
        match listed.await {
            Ok(list) if list.resources.iter().any(|one| one.kind == kind.as_str()) => {
                return Ok(Some(resource));
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// An object with its kind, which the members of a list do not have of their own.
pub(crate) fn json(resource: &ApiResource, object: DynamicObject) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    value["apiVersion"] = resource.api_version.clone().into();
    value["kind"] = resource.kind.clone().into();
    value
}

/// A kind in each of its versions, the newest first.
fn versions(kind: Kind) -> impl Iterator<Item = ApiResource> {
    kind.versions().iter().map(move |version| {
        ApiResource::from_gvk(&GroupVersionKind::gvk(kind.group(), version, kind.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_are_those_of_the_api() {
        let newest = |kind| versions(kind).next().unwrap();
        let plural = |kind| newest(kind).plural;
        assert_eq!(plural(Kind::ServiceEntry), "serviceentries");
        assert_eq!(plural(Kind::EndpointSlice), "endpointslices");
        assert_eq!(plural(Kind::PeerAuthentication), "peerauthentications");
        assert_eq!(
            newest(Kind::VirtualService).api_version,
            "networking.istio.io/v1"
        );
    }

    #[test]
    fn every_istio_kind_is_watched_and_config_maps_of_one_namespace() {
        let all = watched("mesh");
        for kind in Kind::ALL.iter().filter(|kind| kind.is_istio()) {
            assert!(all.iter().any(|watched| watched.kind == *kind), "{kind}");
        }
        let maps: Vec<_> = all.iter().filter(|w| w.kind == Kind::ConfigMap).collect();
        assert!(matches!(
            maps[..],
            [Watched {
                namespace: Some(_),
                ..
            }]
        ));
        assert!(all.iter().all(|w| w.kind != Kind::Secret));
    }
}
