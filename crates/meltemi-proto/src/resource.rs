//! A named message of configuration, as discovery moves it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use twox_hash::XxHash3_128;

use crate::google::protobuf::Any;

/// One named resource, encoded once and shared by everyone it is sent to.
#[derive(Clone, PartialEq)]
pub struct Resource {
    pub name: Arc<str>,
    /// Changes if and only if the body does: equal resources have equal versions, across proxies, pushes and restarts.
    pub version: Arc<str>,
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
    pub fn new(name: impl AsRef<str>, body: Any) -> Self {
        let mut hasher = XxHash3_128::with_seed(0);
        hasher.write(body.type_url.as_bytes());
        hasher.write(&body.value);
        Self {
            name: name.as_ref().into(),
            version: format!("{:032x}", hasher.finish_128()).into(),
            body,
        }
    }
}

/// The resources of one type, by name.
pub type ResourceMap = BTreeMap<Arc<str>, Arc<Resource>>;
