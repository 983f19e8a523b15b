//! What the client holds and has asked for. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use meltemi_proto::google::rpc::Status as RpcStatus;
use meltemi_proto::type_url;

use super::Rejection;
use super::interest::{Interest, Wanted};
use crate::Resource;
use crate::limits::bounded_detail;
use crate::types::TypeKey;

/// `google.rpc.Code.INVALID_ARGUMENT`, the code of a NACK.
const INVALID_ARGUMENT: i32 = 3;

/// Survives connections; [`State::reconnect`] forgets what belonged to the last one.
#[derive(Debug, Default)]
pub(crate) struct State {
    types: BTreeMap<TypeKey, TypeState>,
}

#[derive(Debug, Default)]
struct TypeState {
    /// Versions of the resources that the application accepted last.
    held: BTreeMap<Arc<str>, Box<str>>,
    /// What the server was asked for on this connection; `None` before the type's first request.
    asked: Option<Wanted>,
}

/// The part of a response that concerns the application.
#[derive(Debug, PartialEq)]
pub(crate) struct Received {
    pub(crate) key: TypeKey,
    pub(crate) nonce: String,
    pub(crate) added: Vec<Resource>,
    pub(crate) removed: Vec<String>,
    /// Problems found before the application saw anything.
    pub(crate) malformed: Vec<Rejection>,
}

impl State {
    pub(crate) fn reconnect(&mut self) {
        for state in self.types.values_mut() {
            state.asked = None;
        }
    }

    /// The requests that make the server's idea of our subscriptions the wanted one, in push order.
    pub(crate) fn requests(&mut self, interest: &Interest) -> Vec<DeltaDiscoveryRequest> {
        interest
            .iter()
            .filter_map(|(key, wanted)| {
                let state = self.types.entry(key.clone()).or_default();
                state.request(key, wanted)
            })
            .collect()
    }

    /// Sorts a response out: what is not (or no longer) subscribed is dropped, what is malformed is rejected.
    pub(crate) fn receive(
        &self,
        interest: &Interest,
        response: DeltaDiscoveryResponse,
    ) -> Received {
        let key = TypeKey::new(&response.type_url);
        let wanted = interest.get(&key);
        let covers = |name: &str| wanted.is_some_and(|wanted| wanted.covers(name));
        let mut added = Vec::new();
        let mut malformed = Vec::new();
        let mut seen = BTreeSet::new();
        let mut removed = response.removed_resources;
        for resource in response.resources {
            let WireResource {
                name,
                aliases,
                version,
                resource,
                ..
            } = resource;
            // What was asked for under another name comes under that one too (Envoy, `Resource.aliases`).
            let names: BTreeSet<String> = std::iter::once(name).chain(aliases).collect();
            let names: Vec<String> = names.into_iter().filter(|name| covers(name)).collect();
            let bodies = std::iter::repeat_n(resource, names.len());
            for (name, body) in names.into_iter().zip(bodies) {
                let reason = match body {
                    // VHDS: "empty resources for aliases that it could not resolve".
                    None if key.url == type_url::VIRTUAL_HOST => {
                        removed.push(name);
                        continue;
                    }
                    None => "resource: missing",
                    Some(body) if body.type_url != key.url => {
                        "resource.type_url: not that of the response"
                    }
                    Some(_) if !seen.insert(name.clone()) => "name: twice in one response",
                    Some(body) => {
                        added.push(Resource {
                            name: name.into(),
                            version: version.as_str().into(),
                            body,
                        });
                        continue;
                    }
                };
                malformed.push(Rejection {
                    name,
                    reason: reason.to_owned(),
                });
            }
        }
        removed.retain(|name| covers(name));
        Received {
            removed,
            key,
            nonce: response.nonce,
            added,
            malformed,
        }
    }

    /// Remembers what was accepted and answers the response: ACK, or NACK with every rejected name.
    pub(crate) fn judge(
        &mut self,
        key: &TypeKey,
        nonce: String,
        versions: Vec<(Arc<str>, Arc<str>)>,
        removed: &[String],
        rejected: &[Rejection],
    ) -> DeltaDiscoveryRequest {
        let refused: BTreeSet<&str> = rejected.iter().map(|r| r.name.as_str()).collect();
        let state = self.types.entry(key.clone()).or_default();
        for (name, version) in versions {
            if !refused.contains(&*name) {
                state.hold(&name, &version);
            } else if state.held.contains_key(&name) {
                // The last good version, or a part of this one: on the next stream it is to be sent again.
                state.hold(&name, UNSURE);
            }
        }
        for name in removed
            .iter()
            .filter(|name| !refused.contains(name.as_str()))
        {
            state.held.remove(name.as_str());
        }
        DeltaDiscoveryRequest {
            type_url: key.url.clone(),
            response_nonce: nonce,
            error_detail: nack(rejected),
            ..Default::default()
        }
    }
}

/// The version of what may not be what the server takes it for; no server has it.
const UNSURE: &str = "?";

impl TypeState {
    /// Notes a version, under the same string that the name was asked for by.
    fn hold(&mut self, name: &str, version: &str) {
        let asked = self.asked.as_ref();
        let asked = asked.and_then(|asked| asked.names.get_key_value(name));
        let key = asked.map_or_else(|| name.into(), |(key, _)| key.clone());
        self.held.insert(key, version.into());
    }

    fn request(&mut self, key: &TypeKey, wanted: &Wanted) -> Option<DeltaDiscoveryRequest> {
        let first = self.asked.is_none();
        let asked = self.asked.replace(wanted.clone()).unwrap_or_default();
        if !wanted.wildcard {
            self.held.retain(|name, _| wanted.names.contains_key(name));
        }
        let is_new = |(name, times): &(&Arc<str>, &u64)| asked.names.get(*name) != Some(times);
        let new_names = wanted.names.iter().filter(is_new);
        let mut subscribe: Vec<String> = new_names.map(|(name, _)| name.to_string()).collect();
        if wanted.wildcard && !asked.wildcard {
            subscribe.push(TypeKey::WILDCARD.to_owned());
        }
        let dropped = |name: &&Arc<str>| !wanted.names.contains_key(*name);
        let unsubscribe: Vec<String> = asked
            .names
            .keys()
            .filter(dropped)
            .map(ToString::to_string)
            .collect();
        if subscribe.is_empty() && unsubscribe.is_empty() {
            // A first request without names would ask for everything.
            if first {
                self.asked = None;
            }
            return None;
        }
        let held = self.held.iter().filter(|_| first);
        let held = held.map(|(name, version)| (name.to_string(), version.to_string()));
        Some(DeltaDiscoveryRequest {
            type_url: key.url.clone(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            initial_resource_versions: held.collect(),
            ..Default::default()
        })
    }
}

/// `name: field path: reason` of every rejected resource, one a line.
fn nack(rejected: &[Rejection]) -> Option<RpcStatus> {
    if rejected.is_empty() {
        return None;
    }
    let line = |r: &Rejection| format!("{}: {}", r.name, r.reason);
    let lines: Vec<String> = rejected.iter().map(line).collect();
    Some(RpcStatus {
        code: INVALID_ARGUMENT,
        message: bounded_detail(lines.join("\n")),
        details: Vec::new(),
    })
}

#[cfg(test)]
mod tests;
