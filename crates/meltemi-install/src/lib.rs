//! What an installation puts into a cluster: values in, Kubernetes objects out.
//!
//! ```text
//! values.yaml + files + --set -> Values -> objects (typed) -> Object -> YAML, or the order in which a client applies them
//!                                meltemi-api's types -> CRDs
//! ```
//! The names of the values are those of Istio's charts. This crate holds no Kubernetes client and reads no file.

mod values;

mod crd;
mod objects;

#[cfg(test)]
mod chart;

mod apply;
mod object;
mod order;
mod tag;

pub use apply::{Applied, Name, ROOT_MAPS, authority_secret, is_own_namespace, over};
pub use crd::definitions;
pub use object::{Object, yaml};
pub use objects::{generate, namespace};
pub use order::{Awaited, Purge, Waiting, awaited, prunable, sort_for_install, sort_for_removal};
pub use tag::{
    INJECTOR_KIND, TAG, TAG_KINDS, Tagged, Target, choosing, revision_labels, tag_objects,
    tag_webhooks, tags, yield_to_default_tag,
};
pub use values::{InstallError, Layer, Values};
