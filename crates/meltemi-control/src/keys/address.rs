//! Where keys may be fetched from: a URL in an object must not make the control plane talk to its own machine or to the
//! cloud's (server-side request forgery).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Which addresses are connected to.
#[derive(Clone, Debug, Default)]
pub(crate) struct AddressPolicy {
    /// Besides those that are never good.
    pub(crate) blocked: Vec<IpNet>,
    /// In spite of all that.
    pub(crate) allowed: Vec<IpNet>,
}

impl AddressPolicy {
    pub(crate) fn admits(&self, address: IpAddr) -> bool {
        let address = embedded(address);
        let is_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        is_in(&self.allowed) || !(is_special(address) || is_in(&self.blocked))
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped or compatible (RFC 4291 section 2.5.5), behind NAT64 (RFC 6052, and
/// RFC 8215 with the address after 48 or after 96 bits), or behind 6to4 (RFC 3056).
fn embedded(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if v6.is_loopback() || v6.is_unspecified() => v6.into(),
        IpAddr::V6(v6) => match v6.octets() {
            [0, 0x64, 0xff, 0x9b, 0, 1, a, b, 0, c, d, 0, 0, 0, 0, 0]
            | [0, 0x64, 0xff, 0x9b, 0, 1, _, _, _, _, _, _, a, b, c, d]
            | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
            | [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
            | [0x20, 0x02, a, b, c, d, ..] => Ipv4Addr::new(a, b, c, d).into(),
            _ => v6.into(),
        },
        v4 => v4,
    }
}

/// This machine, the link, and what is no machine at all.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.octets()[0] == 0
                || v4.octets()[0] >= 240
                || METADATA_V4.contains(&v4)
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || METADATA_V6.contains(&v6)
        }
    }
}

/// Of Alibaba Cloud, Azure and Oracle Cloud; others' are link-local.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// Of AWS and Google Cloud.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_own_addresses_are_refused_in_every_spelling() {
        let mut policy = AddressPolicy::default();
        let check = |policy: &AddressPolicy, address: &str, expected| {
            assert_eq!(
                policy.admits(address.parse().unwrap()),
                expected,
                "{address}"
            );
        };
        for address in [
            "127.0.0.1",
            "127.8.9.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "2002:7f00:1::1",
            "::127.0.0.1",
        ] {
            check(&policy, address, false);
        }
        for address in [
            "10.96.0.10",
            "192.168.1.1",
            "142.250.1.1",
            "2a00:1450::1",
            "fd00::1",
            "64:ff9b:1::8efa:101",
            "2002:8efa:101::1",
        ] {
            check(&policy, address, true);
        }
        policy.blocked.push("10.0.0.0/8".parse().unwrap());
        policy.allowed.push("10.96.0.0/12".parse().unwrap());
        policy.allowed.push("127.0.0.1/32".parse().unwrap());
        check(&policy, "10.1.1.1", false);
        check(&policy, "10.96.0.10", true);
        check(&policy, "127.0.0.1", true);
        check(&policy, "127.0.0.2", false);
    }
}
