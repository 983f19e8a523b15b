//! One object of the mesh's configuration, its name and what changes it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use meltemi_core::{FieldPath, Labels, ObjectRef, SourceLocation};

use crate::{Source, istio, k8s, pod};

/// One object as the control plane and the lab hold it. Equality ignores where it was written.
#[derive(Clone, Debug)]
pub struct Object {
    pub meta: Meta,
    pub resource: Resource,
    /// Where it was written; absent for objects that came from no file.
    pub source: Option<Arc<Source>>,
}

impl Object {
    pub fn kind(&self) -> Kind {
        self.resource.kind()
    }

    pub fn key(&self) -> ObjectKey {
        ObjectKey::new(self.kind(), &self.meta.namespace, &self.meta.name)
    }

    pub fn reference(&self) -> ObjectRef {
        self.key().reference()
    }

    /// The place of a field in the file that defined this object, or of its nearest ancestor that is written.
    pub fn locate(&self, field: &FieldPath) -> Option<SourceLocation> {
        self.source.as_ref().map(|source| source.locate(field))
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.meta == other.meta && self.resource == other.resource
    }
}

/// The part of an object's metadata that decides anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    pub name: String,
    /// Empty for cluster-scoped objects; filled in with the default namespace for others.
    pub namespace: String,
    pub labels: Labels,
    pub annotations: BTreeMap<String, String>,
    /// `metadata.creationTimestamp`. Objects without one count as younger than all that have one.
    pub created: Option<Timestamp>,
    pub uid: String,
    pub generation: i64,
}

impl Meta {
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// Orders objects of equal rank as Istio does: by creation time, then name, then namespace.
    pub fn by_age(a: &Self, b: &Self) -> std::cmp::Ordering {
        let rank = |meta: &Self| (meta.created.is_none(), meta.created);
        rank(a)
            .cmp(&rank(b))
            .then_with(|| (&a.name, &a.namespace).cmp(&(&b.name, &b.namespace)))
    }
}

/// Names one object among all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    pub kind: Kind,
    /// Empty for cluster-scoped kinds.
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self {
            kind,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    pub fn reference(&self) -> ObjectRef {
        ObjectRef::new(self.kind.as_str(), &self.namespace, &self.name)
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reference().fmt(f)
    }
}

/// One change of the configuration; transports deliver them in batches that belong together.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Upsert(Arc<Object>),
    Delete(ObjectKey),
}

impl Change {
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Upsert(object) => object.key(),
            Self::Delete(key) => key.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Cluster,
    Namespaced,
}

/// Declares [`Kind`] and [`Resource`] from one table: kind, type, API group, served versions, scope.
macro_rules! kinds {
    ($($kind:ident($type:ty) $group:literal [$($version:literal),+] $scope:ident;)+) => {
        /// A kind of object that the system acts on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Kind {
            $($kind,)+
        }

        impl Kind {
            pub const ALL: &'static [Self] = &[$(Self::$kind,)+];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => stringify!($kind),)+
                }
            }

            /// The API group, empty for Kubernetes' core group.
            pub fn group(self) -> &'static str {
                match self {
                    $(Self::$kind => $group,)+
                }
            }

            /// The served versions, the newest first. All have one schema.
            pub fn versions(self) -> &'static [&'static str] {
                match self {
                    $(Self::$kind => &[$($version,)+],)+
                }
            }

            pub fn scope(self) -> Scope {
                match self {
                    $(Self::$kind => Scope::$scope,)+
                }
            }
        }

        /// The content of an object. For Istio's kinds it is the `spec`.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Resource {
            $($kind(Box<$type>),)+
        }

        impl Resource {
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)+
                }
            }
        }

        $(impl From<$type> for Resource {
            fn from(content: $type) -> Self {
                Self::$kind(Box::new(content))
            }
        })+
    };
}

kinds! {
    Namespace(k8s::Namespace) "" ["v1"] Cluster;
    ServiceAccount(k8s::ServiceAccount) "" ["v1"] Namespaced;
    ConfigMap(k8s::ConfigMap) "" ["v1"] Namespaced;
    Secret(k8s::Secret) "" ["v1"] Namespaced;
    Service(k8s::Service) "" ["v1"] Namespaced;
    Pod(pod::Pod) "" ["v1"] Namespaced;
    Node(pod::Node) "" ["v1"] Cluster;
    EndpointSlice(k8s::EndpointSlice) "discovery.k8s.io" ["v1"] Namespaced;
    Deployment(k8s::Deployment) "apps" ["v1"] Namespaced;
    StatefulSet(k8s::StatefulSet) "apps" ["v1"] Namespaced;
    ReplicaSet(k8s::ReplicaSet) "apps" ["v1"] Namespaced;
    Job(k8s::Job) "batch" ["v1"] Namespaced;
    PeerAuthentication(istio::PeerAuthentication) "security.istio.io" ["v1", "v1beta1"] Namespaced;
    AuthorizationPolicy(istio::AuthorizationPolicy) "security.istio.io" ["v1", "v1beta1"] Namespaced;
    RequestAuthentication(istio::RequestAuthentication) "security.istio.io" ["v1", "v1beta1"] Namespaced;
    DestinationRule(istio::DestinationRule) "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] Namespaced;
    VirtualService(istio::VirtualService) "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] Namespaced;
    Gateway(istio::Gateway) "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] Namespaced;
    Sidecar(istio::Sidecar) "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] Namespaced;
    ServiceEntry(istio::ServiceEntry) "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] Namespaced;
    WorkloadEntry(istio::WorkloadEntry) "networking.istio.io" ["v1", "v1beta1", "v1alpha3"] Namespaced;
}

impl Kind {
    /// Istio's kinds, whose [`Resource`] is the `spec` alone.
    pub fn is_istio(self) -> bool {
        self.group().ends_with(".istio.io")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
