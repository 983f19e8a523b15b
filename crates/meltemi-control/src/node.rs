//! What a proxy says of itself: node id and metadata (Istio's bootstrap).

use std::collections::BTreeMap;
use std::net::IpAddr;

use meltemi_core::names::ON_DEMAND;
use meltemi_core::{Identity, Labels, Locality};
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::google::protobuf::Struct;
use meltemi_proto::google::protobuf::value::Kind;
use meltemi_xdsgen::{Flavour, ProxyView, Role};

/// Addresses that a node may list.
const ADDRESS_LIMIT: usize = 16;

/// A connected proxy, for people and for generation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProxyNode {
    /// `pod.namespace`, the name in `proxy-status`.
    pub(crate) name: String,
    pub(crate) proxy_type: String,
    pub(crate) cluster_id: String,
    pub(crate) version: String,
    pub(crate) view: ProxyView,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NodeError {
    #[error("the node id \"{0}\" is not <type>~<IP>~<pod>.<namespace>~<domain>")]
    Id(String),
    #[error("\"{0}\" is not a proxy of this mesh: sidecar or router expected")]
    Type(String),
    #[error("\"{0}\" is not an IP address")]
    Address(String),
    #[error("the node is of {field} \"{claimed}\", its credentials are of {proven}")]
    Identity {
        field: &'static str,
        claimed: String,
        proven: Identity,
    },
}

impl ProxyNode {
    /// Reads a node and holds its claims against the identity that was proven (Istio's `ENABLE_XDS_IDENTITY_CHECK`).
    pub(crate) fn new(
        node: &Node,
        identity: &Identity,
        cluster_id: &str,
    ) -> Result<Self, NodeError> {
        let malformed = || NodeError::Id(node.id.clone());
        let parts: Vec<&str> = node.id.split('~').collect();
        let [proxy_type, address, name, domain] = parts[..] else {
            return Err(malformed());
        };
        let role = match proxy_type {
            "sidecar" => Role::Sidecar,
            "router" => Role::Router,
            other => return Err(NodeError::Type(other.to_owned())),
        };
        let (_, id_namespace) = name.rsplit_once('.').ok_or_else(malformed)?;
        let metadata = Fields(node.metadata.as_ref());
        let namespace = metadata.text("NAMESPACE").unwrap_or(id_namespace);
        let service_account = metadata
            .text("SERVICE_ACCOUNT")
            .unwrap_or(&identity.service_account);
        for (field, claimed, proven) in [
            ("namespace", id_namespace, &identity.namespace),
            ("namespace", namespace, &identity.namespace),
            (
                "service account",
                service_account,
                &identity.service_account,
            ),
        ] {
            if claimed != proven {
                return Err(NodeError::Identity {
                    field,
                    claimed: claimed.to_owned(),
                    proven: identity.clone(),
                });
            }
        }
        let flavour = flavour(node);
        Ok(Self {
            name: name.to_owned(),
            proxy_type: proxy_type.to_owned(),
            cluster_id: metadata.text("CLUSTER_ID").unwrap_or(cluster_id).to_owned(),
            version: metadata
                .text("ISTIO_VERSION")
                .unwrap_or_default()
                .to_owned(),
            view: ProxyView {
                addresses: addresses(address, metadata.text("INSTANCE_IPS"))?,
                namespace: namespace.to_owned(),
                labels: metadata.labels("LABELS"),
                service_account: service_account.to_owned(),
                locality: locality(node),
                sidecar: None,
                flavour,
                role,
                // A stock Envoy has no way to ask for listeners as it needs them, and a gateway listens before anybody comes:
                // they get the full set.
                on_demand: flavour == Flavour::Meltemi
                    && role == Role::Sidecar
                    && metadata.flag(ON_DEMAND),
                dns_domain: domain.to_owned(),
                http10: metadata.flag("HTTP10"),
            },
        })
    }
}

/// The address of the id first, then those of the metadata.
fn addresses(first: &str, others: Option<&str>) -> Result<Vec<IpAddr>, NodeError> {
    let others = others.unwrap_or_default().split(',').map(str::trim);
    let mut addresses = Vec::new();
    for text in [first]
        .into_iter()
        .chain(others.filter(|text| !text.is_empty()))
    {
        let address = text
            .parse()
            .map_err(|_| NodeError::Address(text.to_owned()))?;
        if !addresses.contains(&address) && addresses.len() < ADDRESS_LIMIT {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

fn locality(node: &Node) -> Locality {
    node.locality
        .as_ref()
        .map_or_else(Locality::default, |locality| Locality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.sub_zone.clone(),
        })
}

/// Our proxy names itself; whatever else speaks xDS gets what a stock Envoy understands.
fn flavour(node: &Node) -> Flavour {
    match node.user_agent_name.as_str() {
        "meltemi" => Flavour::Meltemi,
        _ => Flavour::Envoy,
    }
}

/// Node metadata by name.
struct Fields<'a>(Option<&'a Struct>);

impl<'a> Fields<'a> {
    fn kind(&self, name: &str) -> Option<&'a Kind> {
        self.0?.fields.get(name)?.kind.as_ref()
    }

    /// A text that is not empty.
    fn text(&self, name: &str) -> Option<&'a str> {
        match self.kind(name)? {
            Kind::StringValue(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> bool {
        match self.kind(name) {
            Some(Kind::BoolValue(value)) => *value,
            Some(Kind::StringValue(text)) => matches!(text.as_str(), "1" | "true"),
            _ => false,
        }
    }

    fn labels(&self, name: &str) -> Labels {
        let Some(Kind::StructValue(labels)) = self.kind(name) else {
            return Labels::default();
        };
        let texts: BTreeMap<String, String> = labels
            .fields
            .iter()
            .filter_map(|(key, value)| match value.kind.as_ref()? {
                Kind::StringValue(text) => Some((key.clone(), text.clone())),
                _ => None,
            })
            .collect();
        Labels::from(texts)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use meltemi_core::TrustDomain;
    use meltemi_proto::google::protobuf::Value;

    pub(crate) fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
        let fields = metadata.iter().map(|(key, text)| {
            let kind = Some(Kind::StringValue((*text).to_owned()));
            ((*key).to_owned(), Value { kind })
        });
        Node {
            id: id.to_owned(),
            user_agent_name: "meltemi".to_owned(),
            metadata: Some(Struct {
                fields: fields.collect(),
            }),
            ..Node::default()
        }
    }

    fn identity() -> Identity {
        Identity::new(TrustDomain::default(), "shop", "web").unwrap()
    }

    #[test]
    fn a_sidecars_node_is_read() {
        let node = node(
            "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local",
            &[
                ("NAMESPACE", "shop"),
                ("SERVICE_ACCOUNT", "web"),
                ("INSTANCE_IPS", "10.0.0.1,fd00::1"),
                ("HTTP10", "1"),
                (ON_DEMAND, "true"),
            ],
        );
        let read = ProxyNode::new(&node, &identity(), "Kubernetes").unwrap();
        assert_eq!(
            (read.name.as_str(), read.proxy_type.as_str()),
            ("web-1.shop", "sidecar")
        );
        assert_eq!(read.view.addresses.len(), 2);
        assert!(read.view.http10);
        assert_eq!(read.view.flavour, Flavour::Meltemi);
        assert!(read.view.on_demand);
        let stock = Node {
            user_agent_name: "envoy".to_owned(),
            ..node
        };
        let stock_node = stock;
        let stock = ProxyNode::new(&stock_node, &identity(), "Kubernetes").unwrap();
        assert!(!stock.view.on_demand);
        let router = Node {
            id: "router~10.0.0.1~web-1.shop~shop.svc.cluster.local".to_owned(),
            user_agent_name: "meltemi".to_owned(),
            ..stock_node
        };
        let router = ProxyNode::new(&router, &identity(), "Kubernetes").unwrap();
        assert_eq!(
            (router.view.role, router.view.on_demand),
            (Role::Router, false)
        );
        assert_eq!(read.cluster_id, "Kubernetes");
    }

    #[test]
    fn claims_beyond_the_credentials_are_refused() {
        let refused = |id: &str, metadata: &[(&str, &str)]| {
            ProxyNode::new(&node(id, metadata), &identity(), "")
                .unwrap_err()
                .to_string()
        };
        let good = "sidecar~10.0.0.1~web-1.shop~shop.svc.cluster.local";
        assert!(refused("sidecar~10.0.0.1~web-1.bank~x", &[]).contains("namespace \"bank\""));
        assert!(refused(good, &[("NAMESPACE", "bank")]).contains("namespace \"bank\""));
        assert!(refused(good, &[("SERVICE_ACCOUNT", "root")]).contains("service account \"root\""));
        assert!(refused("web", &[]).contains("is not <type>"));
        assert!(refused("ztunnel~10.0.0.1~a.shop~x", &[]).contains("sidecar or router expected"));
        assert!(refused("sidecar~here~a.shop~x", &[]).contains("not an IP"));
    }
}
