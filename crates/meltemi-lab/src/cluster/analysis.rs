//! What is wrong between objects, told to the one who applies them.

use std::sync::Arc;

use meltemi_api::{Change, Kind, Object, ObjectKey};
use meltemi_core::Diagnostic;
use meltemi_model::{Mesh, analyze};

use crate::store::Store;

/// The kinds that rules between objects speak of.
const KINDS: [Kind; 18] = [
    Kind::Namespace,
    Kind::Service,
    Kind::Pod,
    Kind::Deployment,
    Kind::StatefulSet,
    Kind::ReplicaSet,
    Kind::Job,
    Kind::EndpointSlice,
    Kind::ServiceEntry,
    Kind::Sidecar,
    Kind::WorkloadEntry,
    Kind::VirtualService,
    Kind::Gateway,
    Kind::Secret,
    Kind::DestinationRule,
    Kind::PeerAuthentication,
    Kind::AuthorizationPolicy,
    Kind::RequestAuthentication,
];

/// Judges the applied objects among all others. Only rules of Istio's kinds and selectors of Services can be wrong, so
/// that applying anything else costs nothing.
pub(crate) fn between(store: &Store, applied: &[Arc<Object>]) -> Vec<Diagnostic> {
    let is_judged = |kind: Kind| kind.is_istio() || kind == Kind::Service;
    if !applied.iter().any(|object| is_judged(object.kind())) {
        return Vec::new();
    }
    let keys: Vec<ObjectKey> = applied.iter().map(|object| object.key()).collect();
    let mut changes: Vec<Change> = store
        .all()
        .filter(|(key, _)| KINDS.contains(&key.kind) && !keys.contains(key))
        .flat_map(|(key, object)| {
            // A store holds what was parsed before: there is nothing new to say about it.
            meltemi_api::parse("", &object.to_string(), &key.namespace).objects
        })
        .map(Change::Upsert)
        .collect();
    changes.extend(
        applied
            .iter()
            .map(|object| Change::Upsert(Arc::clone(object))),
    );
    let mut mesh = Mesh::default();
    mesh.apply(&changes);
    let is_about_applied = |diagnostic: &Diagnostic| {
        let object = diagnostic.object.as_ref();
        object.is_some_and(|object| keys.iter().any(|key| key.reference() == *object))
    };
    analyze(&mesh)
        .into_iter()
        .filter(is_about_applied)
        .collect()
}
