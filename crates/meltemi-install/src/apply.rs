//! What applying an object means: what of the cluster's own stays, and what has changed.

use serde_json::Value;

use crate::Object;

/// Which object, in words an API server understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// `apps/v1`
    pub api_version: &'static str,
    pub kind: &'static str,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
}

impl Name {
    /// The name of an object that an API server listed.
    pub fn of_listed(api_version: &'static str, kind: &'static str, listed: &Value) -> Self {
        let text = |field: &str| {
            let value = listed["metadata"][field].as_str();
            value.unwrap_or_default().to_owned()
        };
        Self {
            api_version,
            kind,
            namespace: text("namespace"),
            name: text("name"),
        }
    }

    pub fn namespace(name: &str) -> Self {
        Self {
            api_version: "v1",
            kind: "Namespace",
            namespace: String::new(),
            name: name.to_owned(),
        }
    }
}

impl From<&Object> for Name {
    fn from(object: &Object) -> Self {
        Self {
            api_version: object.api_version,
            kind: object.kind,
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// What applying did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Created,
    Configured,
    Unchanged,
}

impl std::fmt::Display for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        })
    }
}

impl Applied {
    /// By the object before and after. Who owns a field, and how often an object was written, is not part of it: in a dry
    /// run these differ though nothing does.
    pub fn between(before: Option<&Value>, after: &Value) -> Self {
        let content = |object: &Value| {
            let mut object = object.clone();
            if let Some(meta) = object["metadata"].as_object_mut() {
                for bookkeeping in ["managedFields", "resourceVersion", "generation"] {
                    meta.remove(bookkeeping);
                }
            }
            if let Some(fields) = object.as_object_mut() {
                fields.remove("status");
            }
            object
        };
        match before {
            None => Self::Created,
            Some(before) if content(before) == content(after) => Self::Unchanged,
            Some(_) => Self::Configured,
        }
    }
}

/// An object to apply over what is there. A webhook that the control plane has made binding stays so: it was applied as
/// `Ignore` for the time before there is anybody to ask.
pub fn over(object: &Object, live: Option<&Value>) -> Value {
    let mut content = object.content.clone();
    let Some(live) = live.and_then(|live| live["webhooks"].as_array()) else {
        return content;
    };
    let is_bundled = |webhook: &&Value| {
        let bundle = webhook["clientConfig"]["caBundle"].as_str();
        bundle.is_some_and(|bundle| !bundle.is_empty())
    };
    for webhook in content["webhooks"].as_array_mut().into_iter().flatten() {
        let mut live = live.iter().filter(is_bundled);
        let same = live.find(|live| live["name"] == webhook["name"]);
        if let Some(policy) = same.and_then(|live| live.get("failurePolicy")) {
            webhook["failurePolicy"] = policy.clone();
        }
    }
    content
}

/// The key that the authority founded itself with, which no installation made. One that an administrator brought
/// (`cacerts`) is not ours.
pub fn authority_secret(namespace: &str) -> Name {
    Name {
        api_version: "v1",
        kind: "Secret",
        namespace: namespace.to_owned(),
        name: "istio-ca-secret".to_owned(),
    }
}

/// The authority's root as the control plane gives it to a namespace: kind and labels to list by; the name decides
/// (`CA_ROOT_CONFIG_MAP`).
pub const ROOT_MAPS: (&str, &str, &str) = ("v1", "ConfigMap", "istio.io/config=true");

/// Whether an installation made a namespace: one that was there before has none of our labels, and stays.
pub fn is_own_namespace(live: &Value) -> bool {
    let mut labels = crate::crd::shared_labels().into_iter();
    labels.all(|(name, value)| live["metadata"]["labels"][name] == *value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{Values, generate, namespace};

    #[test]
    fn only_what_differs_is_configured() {
        let before = json!({"metadata": {"name": "a", "managedFields": [1], "generation": 1}, "spec": 1, "status": 1});
        let same =
            json!({"metadata": {"name": "a", "managedFields": [2], "generation": 2}, "spec": 1});
        let other = json!({"metadata": {"name": "a"}, "spec": 2});
        assert_eq!(Applied::between(None, &same), Applied::Created);
        assert_eq!(Applied::between(Some(&before), &same), Applied::Unchanged);
        assert_eq!(Applied::between(Some(&before), &other), Applied::Configured);
    }

    #[test]
    fn a_webhook_that_became_binding_stays_binding() {
        let values = Values::read(&[]).unwrap().0;
        let objects = generate(&values).unwrap();
        let mut objects = objects.iter();
        let validator = objects
            .find(|object| object.kind == "ValidatingWebhookConfiguration")
            .unwrap();
        let policy = |live: Option<&Value>| {
            let content = over(validator, live);
            content["webhooks"][0]["failurePolicy"].clone()
        };
        assert_eq!(policy(None), "Ignore");
        let mut live = validator.content.clone();
        live["webhooks"][0]["failurePolicy"] = "Fail".into();
        assert_eq!(policy(Some(&live)), "Ignore", "nobody answers it yet");
        live["webhooks"][0]["clientConfig"]["caBundle"] = "eA==".into();
        assert_eq!(policy(Some(&live)), "Fail");
    }

    #[test]
    fn a_namespace_is_ours_if_an_installation_made_it() {
        let values = Values::read(&[]).unwrap().0;
        assert!(is_own_namespace(&namespace(&values).unwrap().content));
        let foreign = json!({"metadata": {"name": "istio-system", "labels": {"team": "a"}}});
        assert!(!is_own_namespace(&foreign));
    }
}
