use std::collections::BTreeSet;

use ipnet::IpNet;
use meltemi_core::names::INBOUND_PASSTHROUGH_SOURCE;

use crate::settings::{Exemption, Ports, Ranges, SIDECAR_PORTS, Settings};

/// The one table that holds every rule; one `inet` table serves IPv4 and IPv6.
const TABLE: &str = "inet istio-proxy-nat";

/// Renders the rules as one nftables transaction that replaces earlier rules of ours, so that applying twice changes nothing.
///
/// ```text
/// prerouting -> ISTIO_INBOUND -> ISTIO_IN_REDIRECT -> inbound port
/// output     -> ISTIO_OUTPUT  -> ISTIO_REDIRECT    -> outbound port
///                             \> ISTIO_IN_REDIRECT    (the proxy calls its own pod by the pod's address)
/// ```
pub fn ruleset(settings: &Settings) -> String {
    let mut text = removal();
    let chains = [
        hook("prerouting", "ISTIO_INBOUND"),
        hook("output", "ISTIO_OUTPUT"),
        chain("ISTIO_INBOUND", &inbound(settings)),
        chain("ISTIO_IN_REDIRECT", &[redirect(settings.inbound_port)]),
        chain("ISTIO_OUTPUT", &outbound(settings)),
        chain("ISTIO_REDIRECT", &[redirect(settings.outbound_port)]),
    ];
    push_line(&mut text, &format!("table {TABLE} {{"));
    text.push_str(&chains.join("\n"));
    push_line(&mut text, "}");
    text
}

/// Renders the transaction that takes the rules away. It succeeds where there are none.
pub fn removal() -> String {
    // Declaring the table first makes the deletion succeed on every nft version; `destroy` needs 1.0.7.
    format!("table {TABLE} {{\n}}\ndelete table {TABLE}\n")
}

/// Order as in istio-iptables: interfaces, the tunnel, excluded ports, then what is captured.
fn inbound(settings: &Settings) -> Vec<String> {
    let mut rules: Vec<String> = settings
        .excluded_interfaces
        .iter()
        .map(|name| format!("iifname \"{name}\" return"))
        .collect();
    let mut excluded = settings.excluded_inbound_ports.clone();
    excluded.extend(SIDECAR_PORTS);
    excluded.insert(settings.tunnel_port);
    rules.push(format!("tcp dport {} return", port_set(&excluded)));
    match &settings.inbound_ports {
        Ports::All => rules.push("meta l4proto tcp jump ISTIO_IN_REDIRECT".to_owned()),
        Ports::Only(ports) if ports.is_empty() => {}
        Ports::Only(ports) => rules.push(format!(
            "tcp dport {} jump ISTIO_IN_REDIRECT",
            port_set(ports)
        )),
    }
    rules
}

/// Order as in istio-iptables; each rule's reason stands beside it because the order is the meaning.
fn outbound(settings: &Settings) -> Vec<String> {
    let mut rules: Vec<String> = settings
        .excluded_interfaces
        .iter()
        .map(|name| format!("oifname \"{name}\" return"))
        .collect();
    if !settings.excluded_outbound_ports.is_empty() {
        rules.push(format!(
            "tcp dport {} return",
            port_set(&settings.excluded_outbound_ports)
        ));
    }
    // Inbound passthrough: the proxy reaches the application from this source, and must not meet itself again.
    rules.push(format!(
        "oifname \"lo\" ip saddr {INBOUND_PASSTHROUGH_SOURCE} return"
    ));
    rules.push("oifname \"lo\" ip6 saddr ::6 return".to_owned());
    for exemption in &settings.exemptions {
        rules.extend(exempt(*exemption, settings.tunnel_port));
    }
    // Not only `lo` by name: a container may talk to loopback addresses over another route.
    rules.push("ip daddr 127.0.0.1 return".to_owned());
    rules.push("ip6 daddr ::1 return".to_owned());
    rules.extend(
        settings
            .excluded_outbound_ranges
            .iter()
            .map(|range| format!("{} return", daddr(range))),
    );
    rules.extend(captured(settings));
    rules
}

/// The three rules for one owner of the proxy's connections.
fn exempt(exemption: Exemption, tunnel_port: u16) -> Vec<String> {
    let (own, other) = match exemption {
        Exemption::Uid(uid) => (format!("meta skuid {uid}"), format!("meta skuid != {uid}")),
        Exemption::Gid(gid) => (format!("meta skgid {gid}"), format!("meta skgid != {gid}")),
        Exemption::Mark(mark) => (format!("meta mark {mark}"), format!("meta mark != {mark}")),
    };
    vec![
        // The pod calls its own Service: the proxy picked this very pod, which must enter as inbound traffic does.
        format!(
            "oifname \"lo\" ip daddr != 127.0.0.1 tcp dport != {tunnel_port} {own} jump ISTIO_IN_REDIRECT"
        ),
        format!(
            "oifname \"lo\" ip6 daddr != ::1 tcp dport != {tunnel_port} {own} jump ISTIO_IN_REDIRECT"
        ),
        // Containers of the pod talking to each other.
        format!("oifname \"lo\" {other} return"),
        // The proxy's own connections leave as they are.
        format!("{own} return"),
    ]
}

fn captured(settings: &Settings) -> Vec<String> {
    let everything = || "meta l4proto tcp jump ISTIO_REDIRECT".to_owned();
    let mut rules = Vec::new();
    match &settings.outbound_ports {
        Ports::All => return vec![everything()],
        Ports::Only(ports) if ports.is_empty() => {}
        Ports::Only(ports) => {
            rules.push(format!("tcp dport {} jump ISTIO_REDIRECT", port_set(ports)))
        }
    }
    match &settings.outbound_ranges {
        Ranges::All => rules.push(everything()),
        Ranges::Only(ranges) => rules.extend(
            ranges
                .iter()
                .map(|range| format!("meta l4proto tcp {} jump ISTIO_REDIRECT", daddr(range))),
        ),
    }
    rules
}

fn redirect(port: u16) -> String {
    format!("meta l4proto tcp redirect to :{port}")
}

fn daddr(range: &IpNet) -> String {
    match range {
        IpNet::V4(range) => format!("ip daddr {}", range.trunc()),
        IpNet::V6(range) => format!("ip6 daddr {}", range.trunc()),
    }
}

fn port_set(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("{{ {} }}", ports.join(", "))
}

/// A base chain. Only TCP enters: nothing else is ever redirected.
fn hook(name: &str, target: &str) -> String {
    let rules = [
        // -100 is `dstnat`, which older nft does not know by name at the output hook.
        format!("type nat hook {name} priority -100; policy accept;"),
        format!("meta l4proto tcp jump {target}"),
    ];
    chain(name, &rules)
}

fn chain(name: &str, rules: &[String]) -> String {
    let mut text = format!("\tchain {name} {{\n");
    for rule in rules {
        push_line(&mut text, &format!("\t\t{rule}"));
    }
    text.push_str("\t}\n");
    text
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests;
