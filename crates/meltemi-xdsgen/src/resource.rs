use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use meltemi_proto::google::protobuf::Any;
use prost::{Message, Name};
use twox_hash::XxHash3_128;

use crate::canonical::canonical;

/// The types that this crate generates, in the order they are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Cluster,
    Endpoints,
    /// Of gateways: before the listeners that present them.
    Secret,
    Listener,
    Route,
    /// Of proxies that ask on demand: the others have theirs inside of route configurations.
    VirtualHost,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Cluster,
        Self::Endpoints,
        Self::Secret,
        Self::Listener,
        Self::Route,
        Self::VirtualHost,
    ];

    pub fn of_type(type_url: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.type_url() == type_url)
    }

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }
}

/// One generated resource, encoded once and shared by every snapshot that holds it.
#[derive(Clone, PartialEq)]
pub struct Resource {
    pub kind: Kind,
    pub name: String,
    /// The hash of the body: equal resources have equal versions, across proxies, pushes and restarts.
    pub version: String,
    pub body: Any,
}

/// Names it without its body, which may be secret.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("kind", &self.kind)
            .field("name", &self.name)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

impl Resource {
    pub(crate) fn new<M: Message + Name>(kind: Kind, name: &str, message: &M) -> Self {
        let value = canonical(kind.type_url(), &message.encode_to_vec());
        Self {
            kind,
            name: name.to_owned(),
            version: format!("{:032x}", XxHash3_128::oneshot(&value)),
            body: Any {
                type_url: kind.type_url().to_owned(),
                value,
            },
        }
    }
}

/// Resources of one type by name.
pub type Resources = BTreeMap<String, Arc<Resource>>;

/// Everything one proxy needs, per type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub clusters: Resources,
    pub endpoints: Resources,
    pub secrets: Resources,
    pub listeners: Resources,
    pub routes: Resources,
    pub virtual_hosts: Resources,
}

impl Generated {
    pub fn of(&self, kind: Kind) -> &Resources {
        match kind {
            Kind::Cluster => &self.clusters,
            Kind::Endpoints => &self.endpoints,
            Kind::Secret => &self.secrets,
            Kind::Listener => &self.listeners,
            Kind::Route => &self.routes,
            Kind::VirtualHost => &self.virtual_hosts,
        }
    }

    pub(crate) fn of_mut(&mut self, kind: Kind) -> &mut Resources {
        match kind {
            Kind::Cluster => &mut self.clusters,
            Kind::Endpoints => &mut self.endpoints,
            Kind::Secret => &mut self.secrets,
            Kind::Listener => &mut self.listeners,
            Kind::Route => &mut self.routes,
            Kind::VirtualHost => &mut self.virtual_hosts,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        Kind::ALL
            .into_iter()
            .flat_map(|kind| self.of(kind).values())
    }
}
