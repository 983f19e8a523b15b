//! The state-of-the-world variant: every response of a type holds all of it (Envoy, "Basic Protocol Overview").
//!
//! | event | effect |
//! |---|---|
//! | empty nonce, or first request of a type | subscription of a new stream: answered |
//! | current nonce, no error | ACK |
//! | current nonce, error | NACK: nothing is sent again until something changes |
//! | current nonce, names added | answered |
//! | other nonce | stale: ignored, the client repeats itself after the newer response |
//! | no names, type by name | unsubscribes |
//! | clusters sent | endpoints are sent again, or Envoy keeps changed clusters warming; listeners and routes alike |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use tonic::Status;

use super::Event;
use super::stream::Session;
use crate::limits::{NAMES_PER_TYPE, TYPES_PER_STREAM, bounded_detail};
use crate::resource::Snapshot;
use crate::types::TypeKey;
use crate::{Resource, ResourceMap};

/// What one state-of-the-world client was sent and is owed.
#[derive(Debug, Default)]
pub(super) struct SotwSession {
    types: BTreeMap<TypeKey, TypeState>,
    nonces: u64,
    none: Arc<ResourceMap>,
}

#[derive(Debug, Default)]
struct TypeState {
    wildcard: bool,
    names: BTreeSet<String>,
    /// The nonce of the last response.
    nonce: Option<String>,
    awaits_ack: bool,
    /// Answer even if nothing changed.
    owed: bool,
    /// Names and versions of the last response.
    sent: Option<Vec<(Arc<str>, Arc<str>)>>,
    synced: Option<Arc<ResourceMap>>,
}

impl Session for SotwSession {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn take_node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn on_request(&mut self, request: Self::Request) -> Result<Option<Event>, Status> {
        if request.resource_names.len() > NAMES_PER_TYPE {
            return Err(Status::resource_exhausted("too many resource names"));
        }
        let key = TypeKey::new(&request.type_url);
        if !self.types.contains_key(&key) && self.types.len() >= TYPES_PER_STREAM {
            return Err(Status::resource_exhausted("too many resource types"));
        }
        let empty_means_all = key.empty_means_all();
        let state = self.types.entry(key).or_default();
        Ok(state.on_request(request, empty_means_all))
    }

    fn is_answered(&self) -> bool {
        self.types.values().all(|state| !state.awaits_ack)
    }

    fn next_response(&mut self, snapshot: &Snapshot) -> Option<(Self::Response, Event)> {
        let keys: Vec<TypeKey> = self.types.keys().cloned().collect();
        for key in keys {
            let resources = snapshot.resources_of(&key).unwrap_or(&self.none);
            let Some(state) = self.types.get_mut(&key) else {
                continue;
            };
            if let Some(selected) = state.pending(resources) {
                return Some(self.send(&key, &selected, snapshot));
            }
        }
        None
    }
}

impl SotwSession {
    fn send(
        &mut self,
        key: &TypeKey,
        selected: &[Arc<Resource>],
        snapshot: &Snapshot,
    ) -> (DiscoveryResponse, Event) {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        if let Some(state) = self.types.get_mut(key) {
            state.record_sent(selected, &nonce);
        }
        if let Some(state) = key.warmed().and_then(|key| self.types.get_mut(&key)) {
            state.owed |= state.wildcard || !state.names.is_empty();
        }
        let response = DiscoveryResponse {
            version_info: snapshot.version().to_owned(),
            resources: selected.iter().map(|r| r.body.clone()).collect(),
            type_url: key.url.clone(),
            nonce: nonce.clone(),
            ..Default::default()
        };
        let event = Event::Sent {
            type_url: key.url.clone(),
            version: snapshot.version().to_owned(),
            nonce,
        };
        (response, event)
    }
}

impl TypeState {
    fn on_request(&mut self, request: DiscoveryRequest, empty_means_all: bool) -> Option<Event> {
        // The nonce of an earlier stream means nothing on this one.
        if request.response_nonce.is_empty() || self.nonce.is_none() {
            self.select(&request.resource_names, empty_means_all);
            self.owed = true;
            self.awaits_ack = false;
            return None;
        }
        if self.nonce.as_ref() != Some(&request.response_nonce) {
            return None;
        }
        let had = std::mem::take(&mut self.names);
        let had_all = self.wildcard;
        self.select(&request.resource_names, had_all && empty_means_all);
        let added = self.names.iter().any(|name| !had.contains(name));
        self.owed |= (self.wildcard && !had_all) || (added && !self.wildcard);
        if had != self.names {
            self.synced = None;
        }
        self.acknowledge(request)
    }

    fn select(&mut self, names: &[String], empty_means_all: bool) {
        let all = names.iter().any(|name| name == TypeKey::WILDCARD);
        self.wildcard = all || (names.is_empty() && empty_means_all);
        let named = names.iter().filter(|name| *name != TypeKey::WILDCARD);
        self.names = named.cloned().collect();
    }

    fn acknowledge(&mut self, request: DiscoveryRequest) -> Option<Event> {
        if !std::mem::take(&mut self.awaits_ack) {
            return None;
        }
        let (type_url, nonce) = (request.type_url, request.response_nonce);
        Some(match request.error_detail {
            None => Event::Acked { type_url, nonce },
            Some(error) => Event::Nacked {
                type_url,
                nonce,
                detail: bounded_detail(error.message),
            },
        })
    }

    fn pending(&mut self, resources: &Arc<ResourceMap>) -> Option<Vec<Arc<Resource>>> {
        let synced = self.synced.as_ref();
        let unchanged = synced.is_some_and(|synced| Arc::ptr_eq(synced, resources));
        if self.awaits_ack || (unchanged && !self.owed) {
            return None;
        }
        self.synced = Some(Arc::clone(resources));
        if !self.wildcard && self.names.is_empty() {
            self.owed = false;
            return None;
        }
        let selected = self.selected(resources);
        (self.owed || self.sent.as_ref() != Some(&versions(&selected))).then_some(selected)
    }

    fn selected(&self, resources: &ResourceMap) -> Vec<Arc<Resource>> {
        if self.wildcard {
            return resources.values().cloned().collect();
        }
        let named = self
            .names
            .iter()
            .filter_map(|name| resources.get(name.as_str()));
        named.cloned().collect()
    }

    fn record_sent(&mut self, selected: &[Arc<Resource>], nonce: &str) {
        self.sent = Some(versions(selected));
        self.owed = false;
        self.awaits_ack = true;
        self.nonce = Some(nonce.to_owned());
    }
}

fn versions(resources: &[Arc<Resource>]) -> Vec<(Arc<str>, Arc<str>)> {
    let version = |r: &Arc<Resource>| (Arc::clone(&r.name), Arc::clone(&r.version));
    resources.iter().map(version).collect()
}

#[cfg(test)]
mod tests;
