use std::sync::Arc;

use meltemi_proto::google::protobuf::Any;
use meltemi_proto::{Resource, ResourceMap};
use prost::{Message, Name};

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

/// A message as a resource. Equal messages have equal bytes, and so equal versions.
pub(crate) fn resource<M: Message + Name>(kind: Kind, name: &str, message: &M) -> Made {
    let body = Any {
        type_url: kind.type_url().to_owned(),
        value: canonical(kind.type_url(), &message.encode_to_vec()),
    };
    (kind, Arc::new(Resource::new(name, body)))
}

/// A resource, and what it is.
pub(crate) type Made = (Kind, Arc<Resource>);

/// Resources of one type by name, shared by all that hold the same.
pub type Resources = Arc<ResourceMap>;

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
