use super::*;
use crate::runtime::FilterChainMatch;
use crate::testing::{filter_chain, listener};

fn plain(destination: &str) -> ConnectionFacts<'static> {
    ConnectionFacts {
        destination: destination.parse().unwrap(),
        source: "10.244.0.9:40000".parse().unwrap(),
        direct_source: "10.244.0.9".parse().unwrap(),
        server_name: None,
        transport: TransportProtocol::RawBuffer,
        application_protocols: &[],
    }
}

fn check(chains: &[(&str, FilterChainMatch)], facts: &ConnectionFacts<'_>, expected: &str) {
    let mut listener = listener("0.0.0.0:15006");
    listener.filter_chains = chains
        .iter()
        .map(|(name, m)| filter_chain(name, m.clone()))
        .collect();
    listener.default_filter_chain = Some(filter_chain("default", FilterChainMatch::default()));
    let found = match_filter_chain(&listener, facts).unwrap();
    assert_eq!(&*found.name, expected, "{facts:?}");
}

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|net| net.parse().unwrap()).collect()
}

fn on_port(port: u16) -> FilterChainMatch {
    FilterChainMatch {
        destination_port: Some(port),
        ..FilterChainMatch::default()
    }
}

#[test]
fn a_matching_port_is_never_left_for_a_portless_chain() {
    let chains = [
        (
            "tls on 80",
            FilterChainMatch {
                transport_protocol: Some(TransportProtocol::Tls),
                ..on_port(80)
            },
        ),
        ("any", FilterChainMatch::default()),
    ];
    check(&chains, &plain("10.0.0.1:81"), "any");
    check(&chains, &plain("10.0.0.1:80"), "default");
}

#[test]
fn the_longest_prefix_wins_and_is_final() {
    let range = |list: &[&str]| FilterChainMatch {
        prefix_ranges: nets(list),
        ..FilterChainMatch::default()
    };
    let chains = [
        ("wide", range(&["10.0.0.0/8"])),
        (
            "narrow",
            FilterChainMatch {
                source_ports: vec![1],
                ..range(&["10.1.0.0/16", "192.168.0.0/24"])
            },
        ),
        ("host", range(&["10.2.3.4/32"])),
    ];
    check(&chains, &plain("10.3.0.1:1"), "wide");
    check(&chains, &plain("10.2.3.4:1"), "host");
    check(&chains, &plain("10.1.0.1:1"), "default");
    check(&chains, &plain("11.0.0.1:1"), "default");
}

#[test]
fn server_names_exact_then_longest_wildcard() {
    let names = |exact: &[&str], suffixes: &[&str]| FilterChainMatch {
        server_names: ServerNames {
            exact: exact.iter().map(|n| (*n).into()).collect(),
            suffixes: suffixes.iter().map(|n| (*n).into()).collect(),
        },
        ..FilterChainMatch::default()
    };
    let chains = [
        ("com", names(&[], &[".com"])),
        ("example", names(&[], &[".example.com"])),
        ("exact", names(&["www.example.com"], &[])),
        ("none", FilterChainMatch::default()),
    ];
    let with = |name: &'static str| ConnectionFacts {
        server_name: Some(name),
        ..plain("10.0.0.1:443")
    };
    for (name, expected) in [
        ("WWW.example.com", "exact"),
        ("a.www.example.com", "example"),
        ("example.com", "com"),
        ("org", "none"),
    ] {
        check(&chains, &with(name), expected);
    }
    check(&chains, &plain("10.0.0.1:443"), "none");
}

/// The five chains of Istio's PERMISSIVE port with automatic protocol (istio-behaviour 3.4).
#[test]
fn istio_permissive_inbound() {
    use TransportProtocol::{RawBuffer, Tls};
    let tls = |protocols: &[&str]| FilterChainMatch {
        transport_protocol: Some(Tls),
        application_protocols: protocols.iter().map(|p| (*p).into()).collect(),
        ..on_port(9080)
    };
    let raw = |protocols: &[&str]| FilterChainMatch {
        transport_protocol: Some(RawBuffer),
        application_protocols: protocols.iter().map(|p| (*p).into()).collect(),
        ..on_port(9080)
    };
    let chains = [
        (
            "mtls http",
            tls(&["istio-http/1.0", "istio-http/1.1", "istio-h2"]),
        ),
        ("http", raw(&["http/1.1", "h2c"])),
        ("mtls tcp", tls(&["istio-peer-exchange", "istio"])),
        ("tcp", raw(&[])),
        ("tls passthrough", tls(&[])),
    ];
    let facts = |transport, application_protocols| ConnectionFacts {
        transport,
        application_protocols,
        ..plain("10.0.0.1:9080")
    };
    check(
        &chains,
        &facts(Tls, &["istio-http/1.1", "istio", "http/1.1"]),
        "mtls http",
    );
    check(
        &chains,
        &facts(Tls, &["istio-peer-exchange", "istio"]),
        "mtls tcp",
    );
    check(&chains, &facts(Tls, &["istio", "istio-h2"]), "mtls tcp");
    check(&chains, &facts(Tls, &["h2", "http/1.1"]), "tls passthrough");
    check(&chains, &facts(Tls, &[]), "tls passthrough");
    check(&chains, &facts(RawBuffer, &["http/1.1"]), "http");
    check(&chains, &facts(RawBuffer, &["h2c"]), "http");
    check(&chains, &facts(RawBuffer, &[]), "tcp");
}

/// STRICT: a plaintext client finds no chain of the port and does not reach the catch-all.
#[test]
fn strict_refuses_plaintext() {
    let strict = FilterChainMatch {
        transport_protocol: Some(TransportProtocol::Tls),
        ..on_port(9080)
    };
    let mut listener = listener("0.0.0.0:15006");
    listener.filter_chains = vec![
        filter_chain("strict", strict),
        filter_chain("catchall", FilterChainMatch::default()),
    ];
    assert!(match_filter_chain(&listener, &plain("10.0.0.1:9080")).is_none());
}

#[test]
fn sources() {
    let chains = [
        (
            "local",
            FilterChainMatch {
                source_type: SourceType::SameIpOrLoopback,
                ..FilterChainMatch::default()
            },
        ),
        (
            "from net",
            FilterChainMatch {
                source_prefix_ranges: nets(&["10.244.0.0/24"]),
                source_type: SourceType::External,
                ..FilterChainMatch::default()
            },
        ),
        (
            "port",
            FilterChainMatch {
                source_prefix_ranges: nets(&["10.244.0.9/32"]),
                source_type: SourceType::External,
                source_ports: vec![40000],
                ..FilterChainMatch::default()
            },
        ),
    ];
    check(&chains, &plain("10.0.0.1:1"), "port");
    check(&chains, &plain("10.244.0.9:1"), "local");
    let other = ConnectionFacts {
        source: "10.244.0.8:1".parse().unwrap(),
        ..plain("10.0.0.1:1")
    };
    check(&chains, &other, "from net");
}
