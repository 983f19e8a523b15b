//! The delta variant: what changed, by name (Envoy, "Incremental xDS").
//!
//! | event | effect |
//! |---|---|
//! | first request of a type | subscribes; `initial_resource_versions` is what the client holds |
//! | names subscribed, again or anew | are owed, whatever version the client holds |
//! | name owed or subscribed, resource missing | `removed_resources` once: "does not exist"; stays subscribed |
//! | name not looked for yet (`Snapshot::answering`) | nothing, until a snapshot answers it |
//! | type opened, everything named is held already | `InSync`: nothing is sent |
//! | current nonce, no error | ACK: the next change of this type may be sent |
//! | current nonce, error | NACK: counts as sent; not sent again until it changes |
//! | other nonce | stale; its subscriptions still count |
//! | resource gone | removed; clusters and endpoints only after listeners and routes are in sync |
//!
//! What a client holds is a map that all sessions share, once it is in sync with it, and its own exceptions from then on: thousands
//! of names would otherwise be kept, and compared at every push, for each of many proxies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use meltemi_proto::type_url;
use tonic::Status;

use super::Event;
use super::stream::Session;
use crate::limits::{
    NAMES_PER_TYPE, RESPONSE_TARGET_BYTES, TYPES_PER_STREAM, VIRTUAL_HOSTS_PER_STREAM,
    bounded_detail,
};
use crate::resource::Snapshot;
use crate::types::TypeKey;
use crate::{Resource, ResourceMap};

/// What one delta client holds and is owed.
#[derive(Debug, Default)]
pub(super) struct DeltaSession {
    types: BTreeMap<TypeKey, TypeState>,
    nonces: u64,
    /// Requests that changed subscriptions.
    orders: u64,
    events: Vec<Event>,
    none: Arc<ResourceMap>,
}

#[derive(Debug, Default)]
struct TypeState {
    wildcard: bool,
    /// Each name with the order that it was asked for in.
    names: BTreeMap<Arc<str>, u64>,
    /// The resources that the client was last in sync with: of those it held what it asks for, and nothing else.
    base: Option<Arc<ResourceMap>>,
    /// What came after, or without, `base`: the version of what the client holds, `None` for what it was told not to exist.
    held: HashMap<Arc<str>, Option<Arc<str>>>,
    /// Sent on this stream before the type was opened that must follow by name.
    unfollowed: BTreeSet<Arc<str>>,
    /// Names to answer whatever the client holds.
    owed: BTreeSet<Arc<str>>,
    /// A wildcard subscription is answered even when there is nothing: clients wait for it.
    answer_owed: bool,
    /// The nonce of the response that the client has not yet acknowledged.
    outstanding: Option<String>,
    /// Something was sent on this stream, or need not be: the client's state is known.
    is_known: bool,
}

/// What a client lacks.
#[derive(Debug, Default)]
struct Changes {
    added: Vec<Arc<Resource>>,
    removed: BTreeSet<Arc<str>>,
    /// Removals are left out because something may still refer to them, or names because nobody looked for them yet.
    is_partial: bool,
}

impl Session for DeltaSession {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn take_node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn on_request(&mut self, request: Self::Request) -> Result<Option<Event>, Status> {
        let key = TypeKey::new(&request.type_url);
        if !self.types.contains_key(&key) {
            if self.types.len() >= TYPES_PER_STREAM {
                return Err(Status::resource_exhausted("too many resource types"));
            }
            let warmed = self.names_to_warm(&key);
            let state = TypeState::opened(&key, &request, &warmed, self.orders + 1);
            self.types.insert(key.clone(), state);
        } else if let Some(state) = self.types.get_mut(&key) {
            state.subscribe(&request.resource_names_subscribe, self.orders + 1);
        }
        self.tell_subscriptions(&request);
        let Some(state) = self.types.get_mut(&key) else {
            return Ok(None);
        };
        state.unsubscribe(&request.resource_names_unsubscribe);
        let limit = if key.url == type_url::VIRTUAL_HOST {
            VIRTUAL_HOSTS_PER_STREAM
        } else {
            NAMES_PER_TYPE
        };
        if state.names.len() > limit || state.held.len() > limit {
            return Err(Status::resource_exhausted("too many resource names"));
        }
        Ok(state.acknowledge(request))
    }

    fn next_response(&mut self, snapshot: &Snapshot) -> Option<(Self::Response, Event)> {
        let keys: Vec<TypeKey> = self.types.keys().cloned().collect();
        // Twice: the removals that the first round held back go once listeners and routes are found in sync.
        for key in keys.iter().chain(&keys) {
            let referrers_in_sync = self.referrers_in_sync(snapshot);
            let resources = snapshot.resources_of(key).unwrap_or(&self.none).clone();
            let Some(state) = self.types.get_mut(key) else {
                continue;
            };
            let hold_back = key.removed_last() && !referrers_in_sync;
            let answered = |order| snapshot.answers(order);
            if let Some(changes) = state.pending(&resources, hold_back, &answered) {
                return Some(self.send(key, changes, snapshot));
            }
            if state.turns_out_in_sync(&resources) {
                self.events.push(Event::InSync {
                    type_url: key.url.clone(),
                    version: snapshot.version().to_owned(),
                });
            }
        }
        None
    }

    fn is_answered(&self) -> bool {
        let mut types = self.types.values();
        types.all(|state| state.outstanding.is_none())
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

impl DeltaSession {
    fn tell_subscriptions(&mut self, request: &DeltaDiscoveryRequest) {
        let added = &request.resource_names_subscribe;
        let dropped = &request.resource_names_unsubscribe;
        if added.is_empty() && dropped.is_empty() {
            return;
        }
        self.orders += 1;
        self.events.push(Event::Subscribed {
            type_url: request.type_url.clone(),
            added: added.clone(),
            dropped: dropped.clone(),
            order: self.orders,
        });
    }

    /// Clusters sent on this stream, whose endpoints must follow though the client may hold them from before.
    fn names_to_warm(&mut self, opened: &TypeKey) -> BTreeSet<Arc<str>> {
        let mut types = self.types.iter_mut();
        let waiting = types.find(|(key, _)| key.warmed_by_name().as_ref() == Some(opened));
        waiting
            .map(|(_, state)| std::mem::take(&mut state.unfollowed))
            .unwrap_or_default()
    }

    fn referrers_in_sync(&self, snapshot: &Snapshot) -> bool {
        self.types
            .iter()
            .filter(|(key, _)| key.refers())
            .all(|(key, state)| {
                state.in_sync_with(snapshot.resources_of(key).unwrap_or(&self.none))
            })
    }

    fn send(
        &mut self,
        key: &TypeKey,
        changes: Changes,
        snapshot: &Snapshot,
    ) -> (DeltaDiscoveryResponse, Event) {
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        let sent = match self.types.get_mut(key) {
            Some(state) => state.record_sent(changes, &nonce),
            None => Changes::default(),
        };
        if let Some(follower) = key.warmed_by_name() {
            let names = sent.added.iter().map(|resource| &resource.name);
            if let Some(state) = self.types.get_mut(&follower) {
                state.owe(names);
            } else if let Some(state) = self.types.get_mut(key) {
                state.unfollowed.extend(names.cloned());
                state.unfollowed.retain(|name| !sent.removed.contains(name));
            }
        }
        let response = DeltaDiscoveryResponse {
            system_version_info: snapshot.version().to_owned(),
            resources: sent.added.iter().map(|r| wire_resource(r)).collect(),
            type_url: key.url.clone(),
            removed_resources: sent.removed.iter().map(ToString::to_string).collect(),
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
    fn opened(
        key: &TypeKey,
        request: &DeltaDiscoveryRequest,
        warmed: &BTreeSet<Arc<str>>,
        order: u64,
    ) -> Self {
        let held = |(name, version): (&String, &String)| {
            (Arc::from(name.as_str()), Some(version.as_str().into()))
        };
        let mut state = Self {
            held: request.initial_resource_versions.iter().map(held).collect(),
            ..Default::default()
        };
        if request.resource_names_subscribe.is_empty() && key.empty_means_all() {
            state.wildcard = true;
            state.answer_owed = true;
        }
        state.subscribe(&request.resource_names_subscribe, order);
        let held = &state.held;
        state
            .owed
            .retain(|name| !held.contains_key(name) || warmed.contains(name));
        state
    }

    fn subscribe(&mut self, names: &[String], order: u64) {
        for name in names {
            if name == TypeKey::WILDCARD {
                if !self.wildcard {
                    self.leave_base();
                }
                self.wildcard = true;
                self.answer_owed = true;
            } else {
                let name: Arc<str> = name.as_str().into();
                self.names.insert(Arc::clone(&name), order);
                self.owed.insert(name);
            }
        }
    }

    /// Keeps what is known of the names asked for; more is asked for from now on than `base` knows of.
    fn leave_base(&mut self) {
        let Some(base) = self.base.take() else { return };
        for name in self.names.keys() {
            let version = base.get(name).map(|resource| Arc::clone(&resource.version));
            self.held.entry(Arc::clone(name)).or_insert(version);
        }
    }

    fn unsubscribe(&mut self, names: &[String]) {
        for name in names {
            if name == TypeKey::WILDCARD {
                self.wildcard = false;
                let names = &self.names;
                self.held.retain(|name, _| names.contains_key(name));
            } else if let Some((name, _)) = self.names.remove_entry(name.as_str()) {
                self.owed.remove(&name);
                if self.wildcard {
                    // Still subscribed by the wildcard, and the client no longer knows what it holds.
                    self.owed.insert(name);
                } else {
                    self.held.remove(&name);
                }
            }
        }
    }

    fn acknowledge(&mut self, request: DeltaDiscoveryRequest) -> Option<Event> {
        let nonce = request.response_nonce;
        if nonce.is_empty() || self.outstanding.as_ref() != Some(&nonce) {
            return None;
        }
        self.outstanding = None;
        let type_url = request.type_url;
        Some(match request.error_detail {
            None => Event::Acked { type_url, nonce },
            Some(error) => Event::Nacked {
                type_url,
                nonce,
                detail: bounded_detail(error.message),
            },
        })
    }

    fn owe<'a>(&mut self, names: impl Iterator<Item = &'a Arc<str>>) {
        let subscribed = names.filter(|name| self.wildcard || self.names.contains_key(*name));
        let owed: Vec<Arc<str>> = subscribed.cloned().collect();
        self.owed.extend(owed);
    }

    fn is_subscribed(&self, name: &str) -> bool {
        self.wildcard || self.names.contains_key(name)
    }

    /// What the client knows of a name: nothing, that there is no such resource, or the version that it holds.
    fn known(&self, name: &str) -> Option<Option<&Arc<str>>> {
        if let Some(held) = self.held.get(name) {
            return Some(held.as_ref());
        }
        let base = self.base.as_ref().filter(|_| self.is_subscribed(name))?;
        Some(base.get(name).map(|resource| &resource.version))
    }

    fn in_sync_with(&self, resources: &Arc<ResourceMap>) -> bool {
        let compared = self.base.as_ref();
        self.outstanding.is_none()
            && self.owed.is_empty()
            && self.held.is_empty()
            && !self.answer_owed
            && compared.is_some_and(|base| Arc::ptr_eq(base, resources))
    }

    /// Whether the client is now known, for the first time and without having been sent anything, to hold what it
    /// asked for.
    fn turns_out_in_sync(&mut self, resources: &Arc<ResourceMap>) -> bool {
        let named = self.wildcard || !self.names.is_empty();
        let first = named && !self.is_known && self.in_sync_with(resources);
        self.is_known |= first;
        first
    }

    /// What to send now, if anything may be sent.
    fn pending(
        &mut self,
        resources: &Arc<ResourceMap>,
        hold_back: bool,
        answered: &dyn Fn(u64) -> bool,
    ) -> Option<Changes> {
        if self.outstanding.is_some() || self.in_sync_with(resources) {
            return None;
        }
        let changes = self.changes(resources, hold_back, answered);
        if changes.added.is_empty() && changes.removed.is_empty() && !self.answer_owed {
            if !changes.is_partial {
                self.owed.clear();
                self.held = HashMap::new();
                self.base = Some(Arc::clone(resources));
            }
            return None;
        }
        Some(changes)
    }

    fn changes(
        &self,
        resources: &ResourceMap,
        hold_back: bool,
        answered: &dyn Fn(u64) -> bool,
    ) -> Changes {
        let mut changes = Changes::default();
        for name in self.candidates(resources) {
            let is_owed = self.owed.contains(name);
            let known = self.known(name);
            match resources.get(name) {
                Some(resource) => {
                    let is_held = known == Some(Some(&resource.version));
                    if self.is_subscribed(name) && (is_owed || !is_held) {
                        changes.added.push(Arc::clone(resource));
                    }
                }
                None => {
                    let order = self.names.get(name);
                    let is_held = matches!(known, Some(Some(_)));
                    let is_open = order.is_some_and(|order| !answered(*order));
                    if is_open || is_held && hold_back {
                        changes.is_partial = true;
                    } else if is_held || order.is_some() && (is_owed || known.is_none()) {
                        changes.removed.insert(Arc::clone(name));
                    }
                }
            }
        }
        changes
    }

    /// The names of which the client may not know how they are, each once and in order.
    fn candidates<'a>(&'a self, resources: &'a ResourceMap) -> Vec<&'a Arc<str>> {
        let mut names = Vec::new();
        match &self.base {
            Some(base) => differing(base, resources, &mut names),
            None if self.wildcard => {
                names.extend(resources.keys());
                names.extend(self.names.keys());
            }
            None => names.extend(self.names.keys()),
        }
        names.extend(&self.owed);
        names.extend(self.held.keys());
        names.sort();
        names.dedup();
        names
    }

    /// Keeps the part of the changes that fits into one response, and remembers it as sent.
    fn record_sent(&mut self, mut changes: Changes, nonce: &str) -> Changes {
        changes.added.truncate(fitting(&changes.added));
        for resource in &changes.added {
            self.owed.remove(&resource.name);
            let version = Some(Arc::clone(&resource.version));
            self.held.insert(Arc::clone(&resource.name), version);
            // The name's text is kept once for all streams.
            if let Some(order) = self.names.remove(&resource.name) {
                self.names.insert(Arc::clone(&resource.name), order);
            }
        }
        for name in &changes.removed {
            self.owed.remove(name);
            self.held.insert(Arc::clone(name), None);
        }
        self.answer_owed = false;
        self.is_known = true;
        self.outstanding = Some(nonce.to_owned());
        changes
    }
}

/// The names whose resources differ between two maps, which share most of them.
fn differing<'a>(before: &'a ResourceMap, after: &'a ResourceMap, names: &mut Vec<&'a Arc<str>>) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    while let (Some((gone, old)), Some((come, new))) = (before.peek(), after.peek()) {
        if Arc::ptr_eq(old, new) {
            before.next();
            after.next();
            continue;
        }
        let order = gone.cmp(come);
        if order.is_le() {
            names.extend(before.next().map(|(name, _)| name));
        }
        if order.is_ge() {
            names.extend(after.next().map(|(name, _)| name));
        }
    }
    names.extend(before.chain(after).map(|(name, _)| name));
}

/// How many resources go into one response: at least one, then until the target size is reached.
fn fitting(resources: &[Arc<Resource>]) -> usize {
    let mut size_bytes = 0;
    let fits = |resource: &&Arc<Resource>| {
        let fits = size_bytes < RESPONSE_TARGET_BYTES;
        size_bytes += resource.name.len() + resource.body.value.len();
        fits
    };
    resources.iter().take_while(fits).count()
}

fn wire_resource(resource: &Resource) -> WireResource {
    WireResource {
        name: resource.name.to_string(),
        version: resource.version.to_string(),
        resource: Some(resource.body.clone()),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
