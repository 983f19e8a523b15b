//! Resources and consistent sets of them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use meltemi_proto::google::protobuf::Any;
use twox_hash::XxHash3_128;

use crate::types::TypeKey;

/// One named resource, encoded once and shared by everyone it is sent to.
#[derive(Clone, PartialEq)]
pub struct Resource {
    pub name: String,
    /// Changes if and only if the body does.
    pub version: String,
    pub body: Any,
}

/// Names it without its body, which may be secret.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Resource {
    /// Versions the resource by its content. Protobuf maps have no fixed order when encoded: encode a resource again
    /// only when it has changed, or it gets a new version and is pushed for nothing.
    pub fn new(name: impl Into<String>, body: Any) -> Self {
        let mut hasher = XxHash3_128::with_seed(0);
        hasher.write(body.type_url.as_bytes());
        hasher.write(&body.value);
        Self {
            name: name.into(),
            version: format!("{:032x}", hasher.finish_128()),
            body,
        }
    }
}

/// The resources of one type, by name.
pub type ResourceMap = BTreeMap<String, Arc<Resource>>;

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
        let named = resources.into_iter().map(|r| (r.name.clone(), r)).collect();
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
