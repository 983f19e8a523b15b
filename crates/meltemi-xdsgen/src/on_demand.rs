//! What a proxy asks for by name, as units of generation.
//!
//! | type | names |
//! |---|---|
//! | listener | `<ip>_<port>`, `0.0.0.0_<port>`, `virtualInbound`, `virtualOutbound` |
//! | route configuration | `<port>`, which leaves its virtual hosts to VHDS; `<host>:<port>` |
//! | virtual host | `<route configuration>/<authority>` (Envoy, "VHDS: virtual host resource naming convention") |
//! | cluster, load assignment | `outbound|<port>|<subset>|<host>`, `inbound|<port>||` |
//!
//! What stands for every proxy (its own listeners and clusters) is made unasked. A name of no such shape is nothing
//! that exists.

use std::collections::{BTreeMap, BTreeSet};

use meltemi_core::{ClusterName, Direction, Hostname};

use crate::resource::Kind;
use crate::state::Unit;

/// Names by type URL.
pub type Asked = BTreeMap<String, BTreeSet<String>>;

/// The name of the virtual host resource for an authority.
pub fn virtual_host_name(route_config_name: &str, authority: &str) -> String {
    format!("{route_config_name}/{authority}")
}

/// The names asked for, by the unit that makes them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    by_unit: BTreeMap<Unit, BTreeSet<String>>,
    none: BTreeSet<String>,
}

impl Wanted {
    pub(crate) fn new(asked: &Asked) -> Self {
        let mut wanted = Self::default();
        for (type_url, names) in asked {
            let Some(kind) = Kind::of_type(type_url) else {
                continue;
            };
            for name in names {
                if let Some(unit) = unit(kind, name) {
                    wanted.by_unit.entry(unit).or_default().insert(name.clone());
                }
            }
        }
        wanted
    }

    pub(crate) fn units(&self) -> impl Iterator<Item = &Unit> {
        self.by_unit.keys()
    }

    pub(crate) fn names(&self, unit: &Unit) -> &BTreeSet<String> {
        self.by_unit.get(unit).unwrap_or(&self.none)
    }
}

fn unit(kind: Kind, name: &str) -> Option<Unit> {
    match kind {
        Kind::Cluster => outbound_host(name).map(Unit::Clusters),
        Kind::Endpoints => outbound_host(name).map(Unit::Endpoints),
        // Gateways have theirs, which ask for nothing by name.
        Kind::Secret => None,
        Kind::Listener => Some(Unit::Listeners(port_after('_', name)?)),
        Kind::Route => Some(Unit::Routes(
            name.parse().ok().or_else(|| port_after(':', name))?,
        )),
        Kind::VirtualHost => {
            let (port, authority) = name.split_once('/')?;
            Some(Unit::VirtualHost(port.parse().ok()?, authority.to_owned()))
        }
    }
}

fn outbound_host(name: &str) -> Option<Hostname> {
    let name: ClusterName = name.parse().ok()?;
    let host = Hostname::new(&name.host).ok()?;
    (name.direction == Direction::Outbound).then_some(host)
}

fn port_after(separator: char, name: &str) -> Option<u16> {
    name.rsplit_once(separator)?.1.parse().ok()
}
