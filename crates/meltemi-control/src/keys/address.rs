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

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 section 2.5.5.2), or behind NAT64 (RFC 6052).
fn embedded(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => match v6.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [a, b] = high.to_be_bytes();
                let [c, d] = low.to_be_bytes();
                Ipv4Addr::new(a, b, c, d).into()
            }
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
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
                || v6 == AWS_METADATA
        }
    }
}

/// `fd00:ec2::254`.
const AWS_METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

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
        ] {
            check(&policy, address, false);
        }
        for address in [
            "10.96.0.10",
            "192.168.1.1",
            "142.250.1.1",
            "2a00:1450::1",
            "fd00::1",
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
