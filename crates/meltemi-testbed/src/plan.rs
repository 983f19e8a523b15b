//! Who has which name and address. Every network here is a namespace's, so the numbers collide with nothing.

use std::net::Ipv4Addr;

/// The range of ClusterIPs.
pub(crate) const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The ClusterIP of the Service `kubernetes`: the first of the range, as the API server wants it.
pub(crate) const API_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The ClusterIP of cluster DNS.
pub(crate) const DNS_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
pub(crate) const DOMAIN: &str = "cluster.local";
/// All pods of all nodes.
pub(crate) const POD_RANGE: &str = "10.244.0.0/16";
/// The supervisor's address on the switch that joins the nodes.
pub(crate) const SWITCH: Ipv4Addr = Ipv4Addr::new(10, 240, 0, 1);
pub(crate) const API_PORT: u16 = 6443;

/// More nodes than a test needs, and few enough for the address scheme.
const NODES_LIMIT: u8 = 20;

/// The nodes of a cluster. The first one also runs the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    nodes: u8,
}

impl Plan {
    /// # Errors
    /// There is no node, or more than the addresses allow.
    pub fn new(nodes: u8) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=NODES_LIMIT).contains(&nodes),
            "a cluster has 1 to {NODES_LIMIT} nodes, not {nodes}"
        );
        Ok(Self { nodes })
    }

    pub(crate) fn len(self) -> u8 {
        self.nodes
    }

    pub(crate) fn nodes(self) -> impl Iterator<Item = Node> {
        (1..=self.nodes).map(|number| Node { number })
    }

    pub(crate) fn first(self) -> Node {
        Node { number: 1 }
    }

    /// Where the control plane listens, as the nodes see it.
    pub(crate) fn api_server(self) -> String {
        format!("https://{}:{API_PORT}", self.first().address())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    number: u8,
}

impl Node {
    pub(crate) fn name(self) -> String {
        format!("n{}", self.number)
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 240, 0, 10 + self.number)
    }

    pub(crate) fn pod_range(self) -> String {
        format!("10.244.{}.0/24", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_names_addresses_and_pod_ranges_of_their_own() {
        let nodes: Vec<_> = Plan::new(2).unwrap().nodes().collect();
        assert_eq!(nodes[0].name(), "n1");
        assert_eq!(nodes[1].address(), Ipv4Addr::new(10, 240, 0, 12));
        assert_eq!(nodes[1].pod_range(), "10.244.2.0/24");
    }

    #[test]
    fn a_cluster_without_nodes_is_refused() {
        assert!(Plan::new(0).is_err());
        assert!(Plan::new(21).is_err());
    }
}
