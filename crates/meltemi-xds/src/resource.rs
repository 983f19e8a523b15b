//! Consistent sets of resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_proto::{Resource, ResourceMap};

use crate::types::TypeKey;

/// Everything one proxy may ask for, consistent in itself. Immutable once published: a change is a new snapshot that
/// shares the maps of the types that did not change, which is how a session sees at once what it need not compare.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    version: String,
    types: BTreeMap<TypeKey, Arc<ResourceMap>>,
    answers: Option<u64>,
}

impl Snapshot {
    /// The version is shown to people (`system_version_info`, sync status) and never compared.
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            types: BTreeMap::new(),
            answers: None,
        }
    }

    /// Says that only names asked for up to `order` were looked for: the absence of a later one means nothing yet. A
    /// snapshot for which this is not said is complete.
    #[must_use]
    pub fn answering(mut self, order: u64) -> Self {
        self.answers = Some(order);
        self
    }

    pub(crate) fn answers(&self, order: u64) -> bool {
        self.answers.is_none_or(|answered| order <= answered)
    }

    /// Replaces the resources of a type.
    #[must_use]
    pub fn with_type(mut self, type_url: &str, resources: Arc<ResourceMap>) -> Self {
        self.types.insert(TypeKey::new(type_url), resources);
        self
    }

    /// Replaces the resources of a type, naming each by its own name.
    #[must_use]
    pub fn with_resources(
        self,
        type_url: &str,
        resources: impl IntoIterator<Item = Arc<Resource>>,
    ) -> Self {
        let named = resources
            .into_iter()
            .map(|r| (Arc::clone(&r.name), r))
            .collect();
        self.with_type(type_url, Arc::new(named))
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn resources(&self, type_url: &str) -> Option<&Arc<ResourceMap>> {
        self.resources_of(&TypeKey::new(type_url))
    }

    pub(crate) fn resources_of(&self, key: &TypeKey) -> Option<&Arc<ResourceMap>> {
        self.types.get(key)
    }

    /// Every type, in push order.
    pub fn types(&self) -> impl Iterator<Item = (&str, &Arc<ResourceMap>)> {
        self.types.iter().map(|(key, map)| (key.url.as_str(), map))
    }
}
