use std::fmt::Write as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{Metadata, Resource};
use serde::Serialize;
use serde_json::Value;

use crate::InstallError;

/// One object to apply: its names, and what an API server is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// `apps/v1`
    pub api_version: &'static str,
    pub kind: &'static str,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
    pub content: Value,
}

impl Object {
    pub(crate) fn of<T>(object: &T) -> Result<Self, InstallError>
    where
        T: Resource + Metadata<Ty = ObjectMeta> + Serialize,
    {
        let meta = object.metadata();
        Ok(Self {
            api_version: T::API_VERSION,
            kind: T::KIND,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            content: serde_json::to_value(object)?,
        })
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// The objects as one YAML stream.
///
/// # Errors
/// An object does not serialise.
pub fn yaml(objects: &[Object]) -> Result<String, serde_saphyr::ser_error::Error> {
    let mut stream = String::new();
    for object in objects {
        let text = serde_saphyr::to_string(&object.content)?;
        // Writing to a String cannot fail.
        write!(stream, "---\n{}\n", text.trim_end()).ok();
    }
    Ok(stream)
}
