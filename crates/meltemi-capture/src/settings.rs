use std::collections::BTreeSet;

use ipnet::IpNet;
use meltemi_core::names::{PROXY_MARK, PROXY_UID, port};

/// The port of Istio's HBONE tunnel, which is never redirected.
const TUNNEL: u16 = 15008;
/// Ports of the sidecar itself, which are never redirected inbound (Istio "Ports used by Istio").
pub(crate) const SIDECAR_PORTS: [u16; 3] = [port::MERGED_STATS, port::READINESS, port::ENVOY_STATS];

/// What of a pod's traffic goes through its proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where captured outbound connections go, 15001 by default.
    pub outbound_port: u16,
    /// Where captured inbound connections go, 15006 by default.
    pub inbound_port: u16,
    /// The tunnel port, 15008 by default; never redirected.
    pub tunnel_port: u16,
    /// Whose connections are the proxy's own. All of them count.
    pub exemptions: Vec<Exemption>,
    pub inbound_ports: Ports,
    pub excluded_inbound_ports: BTreeSet<u16>,
    pub outbound_ranges: Ranges,
    pub excluded_outbound_ranges: Vec<IpNet>,
    /// Captured even when `outbound_ranges` does not hold the destination.
    pub outbound_ports: Ports,
    pub excluded_outbound_ports: BTreeSet<u16>,
    /// Interfaces whose traffic is left alone in both directions.
    pub excluded_interfaces: Vec<String>,
}

/// How the proxy's own connections are told from the application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exemption {
    Uid(u32),
    Gid(u32),
    /// A socket mark, for user namespaces where only one id can be mapped.
    Mark(u32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    All,
    /// Empty: none.
    Only(BTreeSet<u16>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    All,
    /// Empty: none.
    Only(Vec<IpNet>),
}

impl Default for Settings {
    /// Everything is captured but the traffic of uid and gid 1337 (Istio's injection defaults).
    fn default() -> Self {
        Self {
            outbound_port: port::OUTBOUND,
            inbound_port: port::INBOUND,
            tunnel_port: TUNNEL,
            exemptions: vec![Exemption::Uid(PROXY_UID), Exemption::Gid(PROXY_UID)],
            inbound_ports: Ports::All,
            excluded_inbound_ports: BTreeSet::new(),
            outbound_ranges: Ranges::All,
            excluded_outbound_ranges: Vec::new(),
            outbound_ports: Ports::Only(BTreeSet::new()),
            excluded_outbound_ports: BTreeSet::new(),
            excluded_interfaces: Vec::new(),
        }
    }
}

impl Settings {
    /// The defaults, with the proxy exempted by its socket mark instead of its uid.
    pub fn exempt_by_mark() -> Self {
        Self {
            exemptions: vec![Exemption::Mark(PROXY_MARK)],
            ..Self::default()
        }
    }
}
