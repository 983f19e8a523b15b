//! Finds the listener for an original destination.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::runtime::Listener;

/// All listeners of a proxy, by address.
#[derive(Debug, Clone, Default)]
pub struct ListenerTable {
    listeners: Vec<Arc<Listener>>,
    by_address: HashMap<SocketAddr, Arc<Listener>>,
}

impl ListenerTable {
    pub fn new(listeners: impl IntoIterator<Item = Arc<Listener>>) -> Self {
        let listeners: Vec<_> = listeners.into_iter().collect();
        let by_address = listeners
            .iter()
            .flat_map(|listener| {
                listener
                    .addresses()
                    .map(move |address| (address, Arc::clone(listener)))
            })
            .collect();
        Self {
            listeners,
            by_address,
        }
    }

    /// The listener that a `use_original_dst` listener hands a connection to: the one at the exact address, or at the
    /// wildcard address of the same family and port. `None`: the accepting listener (Istio's `virtualOutbound`) keeps it.
    pub fn find(&self, original_dst: SocketAddr) -> Option<&Arc<Listener>> {
        let original_dst = SocketAddr::new(original_dst.ip().to_canonical(), original_dst.port());
        self.by_address
            .get(&original_dst)
            .or_else(|| self.by_address.get(&wildcard_of(original_dst)))
    }

    /// The listeners that own a socket.
    pub fn bound(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners
            .iter()
            .filter(|listener| listener.bind_to_port)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.iter()
    }
}

fn wildcard_of(address: SocketAddr) -> SocketAddr {
    let any = match address.ip() {
        IpAddr::V4(_) => IpAddr::from([0_u8; 4]),
        IpAddr::V6(_) => IpAddr::from([0_u8; 16]),
    };
    SocketAddr::new(any, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::listener;

    #[test]
    fn exact_then_wildcard_then_nothing() {
        let table = ListenerTable::new(
            [
                "10.96.0.10:53",
                "0.0.0.0:9080",
                "10.96.0.7:9080",
                "[::]:9080",
            ]
            .map(|a| Arc::new(listener(a))),
        );
        for (destination, expected) in [
            ("10.96.0.10:53", Some("10.96.0.10:53")),
            ("10.96.0.7:9080", Some("10.96.0.7:9080")),
            ("10.96.0.8:9080", Some("0.0.0.0:9080")),
            ("[::ffff:10.96.0.7]:9080", Some("10.96.0.7:9080")),
            ("[fd00::1]:9080", Some("[::]:9080")),
            ("10.96.0.11:53", None),
        ] {
            let found = table.find(destination.parse().unwrap());
            assert_eq!(found.map(|l| &*l.name), expected, "{destination}");
        }
    }
}
