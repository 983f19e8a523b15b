//! What the protocol itself says about resource types.

use meltemi_proto::type_url;

/// The order of a push: what is referred to goes before what refers to it, so that no route names a cluster that is
/// not there yet (Envoy, "Eventual consistency considerations"). Other types follow by name.
const PUSH_ORDER: [&str; 6] = [
    type_url::CLUSTER,
    type_url::ENDPOINT,
    type_url::LISTENER,
    type_url::ROUTE,
    type_url::VIRTUAL_HOST,
    type_url::SECRET,
];

/// A type URL that sorts in push order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeKey {
    rank: usize,
    pub(crate) url: String,
}

impl TypeKey {
    pub(crate) fn new(url: &str) -> Self {
        let rank = PUSH_ORDER.iter().position(|known| *known == url);
        Self {
            rank: rank.unwrap_or(PUSH_ORDER.len()),
            url: url.to_owned(),
        }
    }

    /// The name under which a client asks for everything.
    pub(crate) const WILDCARD: &'static str = "*";

    /// Whether a first request without names asks for everything. Types that are only ever named by another
    /// resource have no such request: there, no names means nothing, as Istio reads it.
    pub(crate) fn empty_means_all(&self) -> bool {
        let by_name = [
            type_url::ENDPOINT,
            type_url::ROUTE,
            type_url::VIRTUAL_HOST,
            type_url::SECRET,
        ];
        !by_name.contains(&self.url.as_str())
    }

    /// The type whose resources a client waits for, under the same name, when a resource of this type changes: Envoy
    /// keeps a changed cluster warming until its endpoints are sent again, even unchanged ones. Relies on endpoints
    /// being named as their cluster, which is so in Istio.
    pub(crate) fn warmed_by_name(&self) -> Option<Self> {
        (self.url == type_url::CLUSTER).then(|| Self::new(type_url::ENDPOINT))
    }

    /// The type that a state-of-the-world client waits for when this type changes.
    pub(crate) fn warmed(&self) -> Option<Self> {
        match self.url.as_str() {
            type_url::CLUSTER => Some(Self::new(type_url::ENDPOINT)),
            type_url::LISTENER => Some(Self::new(type_url::ROUTE)),
            _ => None,
        }
    }

    /// Whether removals wait until listeners and routes no longer refer to what is removed.
    pub(crate) fn removed_last(&self) -> bool {
        [type_url::CLUSTER, type_url::ENDPOINT].contains(&self.url.as_str())
    }

    /// Whether resources of this type may refer to those that are removed last.
    pub(crate) fn refers(&self) -> bool {
        [type_url::LISTENER, type_url::ROUTE, type_url::VIRTUAL_HOST].contains(&self.url.as_str())
    }
}
