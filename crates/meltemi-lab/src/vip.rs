//! Service addresses as nftables text (pure): each picks among the ready endpoints, per connection.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};

/// One port of one Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Vip {
    pub(crate) address: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

const TABLE: &str = "ip meltemi-services";

/// Renders the transaction that makes `services` the whole set. A Service without endpoints gets no rule: its address is
/// local to the node, where nobody listens, so a connection is refused.
pub(crate) fn ruleset(services: &BTreeMap<Vip, Vec<SocketAddrV4>>) -> String {
    let mut text = format!("table {TABLE} {{\n}}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for hook in ["prerouting", "output"] {
        let rules =
            format!("type nat hook {hook} priority -100; policy accept;\n\t\tjump services");
        text.push_str(&chain(hook, &rules));
    }
    text.push_str(&chain(
        "postrouting",
        &format!(
            "type nat hook postrouting priority 100; policy accept;{}",
            hairpins(services)
        ),
    ));
    let rules: Vec<String> = services
        .iter()
        .filter_map(|(vip, endpoints)| rule(vip, endpoints))
        .collect();
    text.push_str(&chain("services", &rules.join("\n\t\t")));
    text.push_str("}\n");
    text
}

fn rule(vip: &Vip, endpoints: &[SocketAddrV4]) -> Option<String> {
    let protocol = match vip.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let target = match endpoints {
        [] => return None,
        [one] => one.to_string(),
        many => {
            let map: Vec<String> = many
                .iter()
                .enumerate()
                .map(|(i, to)| format!("{i} : {} . {}", to.ip(), to.port()))
                .collect();
            format!(
                "numgen random mod {} map {{ {} }}",
                many.len(),
                map.join(", ")
            )
        }
    };
    Some(format!(
        "ip daddr {} {protocol} dport {} dnat to {target}",
        vip.address, vip.port
    ))
}

/// A pod that reaches itself through its Service would answer itself directly; the node steps in between.
fn hairpins(services: &BTreeMap<Vip, Vec<SocketAddrV4>>) -> String {
    let mut pods: Vec<Ipv4Addr> = services
        .values()
        .flatten()
        .map(|endpoint| *endpoint.ip())
        .collect();
    pods.sort_unstable();
    pods.dedup();
    if pods.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> = pods.iter().map(|pod| format!("{pod} . {pod}")).collect();
    format!(
        "\n\t\tip saddr . ip daddr {{ {} }} masquerade",
        pairs.join(", ")
    )
}

fn chain(name: &str, body: &str) -> String {
    format!("\tchain {name} {{\n\t\t{body}\n\t}}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vip(last: u8, port: u16, protocol: Protocol) -> Vip {
        Vip {
            address: Ipv4Addr::new(10, 96, 0, last),
            protocol,
            port,
        }
    }

    #[test]
    fn picks_among_endpoints_and_leaves_empty_services_to_the_node() {
        let pod = |last| SocketAddrV4::new(Ipv4Addr::new(10, 244, 0, last), 9080);
        let services = BTreeMap::from([
            (vip(20, 80, Protocol::Tcp), vec![pod(2), pod(3)]),
            (vip(21, 53, Protocol::Udp), vec![pod(4)]),
            (vip(22, 80, Protocol::Tcp), Vec::new()),
        ]);
        let text = ruleset(&services);
        let rules: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| line.contains("addr"))
            .collect();
        assert_eq!(
            rules,
            [
                "ip saddr . ip daddr { 10.244.0.2 . 10.244.0.2, 10.244.0.3 . 10.244.0.3, 10.244.0.4 . 10.244.0.4 } masquerade",
                "ip daddr 10.96.0.20 tcp dport 80 dnat to numgen random mod 2 map { 0 : 10.244.0.2 . 9080, 1 : 10.244.0.3 . 9080 }",
                "ip daddr 10.96.0.21 udp dport 53 dnat to 10.244.0.4:9080",
            ]
        );
    }

    #[test]
    fn replaces_what_was_there() {
        assert!(
            ruleset(&BTreeMap::new())
                .starts_with("table ip meltemi-services {\n}\ndelete table ip meltemi-services\n")
        );
    }
}
