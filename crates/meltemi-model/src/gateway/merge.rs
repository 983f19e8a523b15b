//! Several Gateways on the ports of one proxy (Istio, `MergeGateways`). What comes first counts: servers are taken in the order
//! of their Gateways' age, and one that does not fit what is there already is dropped.
//!
//! | on the port already | plain HTTP | TLS | TCP |
//! |---|---|---|---|
//! | plain HTTP | joins: one set of virtual hosts | dropped | dropped |
//! | TLS | dropped | joins, unless a server name is taken | dropped |
//! | TCP | dropped | dropped | dropped |

use meltemi_api::istio::{Server, ServerTlsMode};
use meltemi_core::Hostname;

use super::{MeshGateway, ServerHost};
use crate::Protocol;

/// What a port of a gateway is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// Requests in plain text.
    Http,
    /// Connections told apart by server name, whether TLS ends here or not.
    Tls,
    /// Connections of one destination.
    Tcp,
}

/// A port that a proxy listens on, with the servers that share it.
#[derive(Debug)]
pub struct MergedPort<'a> {
    pub port: u16,
    /// Empty: all addresses.
    pub bind: &'a str,
    pub kind: PortKind,
    /// The oldest Gateway's first.
    pub servers: Vec<BoundServer<'a>>,
}

/// A server of a Gateway on a port of a proxy.
#[derive(Debug)]
pub struct BoundServer<'a> {
    pub gateway: &'a MeshGateway,
    pub server: &'a Server,
    /// Its place in the Gateway.
    pub index: usize,
    /// Where the proxy listens, which the gateway's Service may map to from the server's own number.
    pub port: u16,
    pub hosts: Vec<ServerHost>,
}

#[derive(Debug, Default)]
pub struct Merged<'a> {
    pub ports: Vec<MergedPort<'a>>,
    pub dropped: Vec<Dropped<'a>>,
}

/// A server that is not served.
#[derive(Debug)]
pub struct Dropped<'a> {
    pub gateway: &'a MeshGateway,
    pub index: usize,
    /// The Gateway that came first.
    pub by: &'a MeshGateway,
    pub why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The port is of another kind.
    Port,
    /// The server name is taken.
    Host(Hostname),
}

impl BoundServer<'_> {
    pub fn protocol(&self) -> Protocol {
        protocol(self.server)
    }

    /// The number that the Gateway gives, by which routes know the port.
    pub fn number(&self) -> u16 {
        number(self.server).unwrap_or_default()
    }

    pub fn mode(&self) -> Option<ServerTlsMode> {
        self.server.tls.as_ref().map(|tls| tls.mode)
    }

    pub fn redirects_to_https(&self) -> bool {
        let tls = self.server.tls.as_ref();
        self.protocol().is_http() && tls.is_some_and(|tls| tls.https_redirect)
    }

    /// The name of its routes: `http.<port>`, one for all plain-text servers of a port, and
    /// `https.<number>.<port name>.<gateway>.<namespace>`; none where requests are not looked into.
    pub fn route_name(&self) -> Option<String> {
        let bind = match self.server.bind.as_str() {
            "" => String::new(),
            bind => format!(".{bind}"),
        };
        if self.protocol().is_http() {
            return Some(format!("http.{}{bind}", self.port));
        }
        let ends_tls = self.mode().is_some_and(ServerTlsMode::terminates);
        let meta = &self.gateway.object.meta;
        (self.protocol() == Protocol::Https && ends_tls).then(|| {
            format!(
                "https.{}.{}.{}.{}{bind}",
                self.number(),
                self.server.port.name,
                meta.name,
                meta.namespace
            )
        })
    }

    /// The server names of its connections, each once.
    pub fn server_names(&self) -> Vec<&Hostname> {
        let mut names: Vec<&Hostname> = Vec::new();
        for own in &self.hosts {
            if !names.contains(&&own.host) {
                names.push(&own.host);
            }
        }
        names
    }
}

fn protocol(server: &Server) -> Protocol {
    Protocol::from_word(&server.port.protocol).unwrap_or(Protocol::Tcp)
}

fn number(server: &Server) -> Option<u16> {
    u16::try_from(server.port.number).ok().filter(|n| *n > 0)
}

fn kind(server: &Server) -> PortKind {
    let protocol = protocol(server);
    if protocol.is_http() {
        PortKind::Http
    } else if server.tls.is_some() {
        PortKind::Tls
    } else {
        PortKind::Tcp
    }
}

/// Merges the servers of Gateways, the oldest first. `listen` tells on which port the proxy listens for a server's number.
pub fn merge<'a>(
    gateways: impl IntoIterator<Item = &'a MeshGateway>,
    listen: impl Fn(u16) -> u16,
) -> Merged<'a> {
    let mut merged = Merged::default();
    for gateway in gateways {
        for (index, server) in gateway.spec.servers.iter().enumerate() {
            let mode = server.tls.as_ref().map(|tls| tls.mode);
            let Some(number) = number(server) else {
                continue;
            };
            if mode == Some(ServerTlsMode::AutoPassthrough) {
                continue; // Told of by validation.
            }
            let bound = BoundServer {
                gateway,
                server,
                index,
                port: listen(number),
                hosts: gateway.hosts(server),
            };
            merged.take(bound);
        }
    }
    merged
}

impl<'a> Merged<'a> {
    fn take(&mut self, bound: BoundServer<'a>) {
        let (bind, kind) = (bound.server.bind.as_str(), kind(bound.server));
        let same = |port: &&mut MergedPort<'_>| port.port == bound.port && port.bind == bind;
        let Some(port) = self.ports.iter_mut().find(same) else {
            self.ports.push(MergedPort {
                port: bound.port,
                bind,
                kind,
                servers: vec![bound],
            });
            return;
        };
        match port.refusal(&bound, kind) {
            None => port.servers.push(bound),
            Some((by, why)) => self.dropped.push(Dropped {
                gateway: bound.gateway,
                index: bound.index,
                by,
                why,
            }),
        }
    }
}

impl<'a> MergedPort<'a> {
    fn refusal(&self, bound: &BoundServer<'_>, kind: PortKind) -> Option<(&'a MeshGateway, Why)> {
        let first = self.servers.first()?.gateway;
        if self.kind != kind || kind == PortKind::Tcp {
            return Some((first, Why::Port));
        }
        if kind == PortKind::Http {
            return None;
        }
        let names = bound.server_names();
        self.servers.iter().find_map(|other| {
            let taken = other.server_names();
            let name = names.iter().find(|name| taken.contains(name))?;
            Some((other.gateway, Why::Host((*name).clone())))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meltemi_api::parse;

    use super::*;

    fn gateways(yaml: &str) -> Vec<MeshGateway> {
        let documents = yaml.split("---").enumerate().map(|(i, servers)| {
            format!(
                "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: g{i}, namespace: edge}}\nspec: {{servers: [{servers}]}}\n"
            )
        });
        let text = documents.collect::<Vec<_>>().join("---\n");
        let parsed = parse("t", &text, "default");
        assert!(parsed.rejected.is_empty(), "{:?}", parsed.diagnostics);
        let objects: Vec<Arc<_>> = parsed.objects;
        objects.iter().filter_map(MeshGateway::new).collect()
    }

    /// Servers of Gateways, the oldest first -> ports with their servers, and what is dropped.
    fn check(yaml: &str, expected: &[&str]) {
        let gateways = gateways(yaml);
        let merged = merge(&gateways, |number| match number {
            80 => 8080,
            other => other,
        });
        let name = |gateway: &MeshGateway, index| format!("{}.{index}", gateway.object.meta.name);
        let mut told: Vec<String> = Vec::new();
        for port in &merged.ports {
            let servers = port.servers.iter();
            let servers: Vec<String> = servers.map(|s| name(s.gateway, s.index)).collect();
            told.push(format!(
                "{}:{} {:?} {}",
                port.bind,
                port.port,
                port.kind,
                servers.join(" ")
            ));
        }
        for dropped in &merged.dropped {
            let by = &dropped.by.object.meta.name;
            told.push(format!(
                "- {} {:?} {by}",
                name(dropped.gateway, dropped.index),
                dropped.why
            ));
        }
        assert_eq!(told, expected, "{yaml}");
    }

    const HTTP: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";

    fn server(number: u16, protocol: &str, hosts: &str, rest: &str) -> String {
        format!(
            "{{port: {{number: {number}, name: p, protocol: {protocol}}}, hosts: [{hosts}]{rest}}}"
        )
    }

    #[test]
    fn plain_http_joins_plain_http() {
        check(HTTP, &[":8080 Http g0.0"]);
        check(&format!("{HTTP}---{HTTP}"), &[":8080 Http g0.0 g1.0"]);
        let grpc = server(80, "GRPC", "a.b", "");
        check(&format!("{HTTP}---{grpc}"), &[":8080 Http g0.0 g1.0"]);
        // Another number that leads to the same port.
        let direct = server(8080, "HTTP2", "a.b", "");
        check(&format!("{HTTP}---{direct}"), &[":8080 Http g0.0 g1.0"]);
    }

    #[test]
    fn other_protocols_do_not_share_a_port() {
        let tcp = server(80, "TCP", "'*'", "");
        let tls = server(80, "HTTPS", "a.b", ", tls: {mode: PASSTHROUGH}");
        for (first, second, kind) in [
            (HTTP, tcp.as_str(), "Http"),
            (HTTP, &tls, "Http"),
            (&tcp, HTTP, "Tcp"),
            (&tcp, &tcp, "Tcp"),
            (&tcp, &tls, "Tcp"),
            (&tls, HTTP, "Tls"),
            (&tls, &tcp, "Tls"),
        ] {
            check(
                &format!("{first}---{second}"),
                &[&format!(":8080 {kind} g0.0"), "- g1.0 Port g0"],
            );
        }
        // On another address it is another port.
        let bound = server(80, "TCP", "'*'", ", bind: 10.0.0.1");
        check(
            &format!("{HTTP}---{bound}"),
            &[":8080 Http g0.0", "10.0.0.1:8080 Tcp g1.0"],
        );
    }

    #[test]
    fn server_names_tell_tls_servers_apart() {
        let of = |hosts: &str, mode: &str| {
            server(443, "HTTPS", hosts, &format!(", tls: {{mode: {mode}}}"))
        };
        let simple = |hosts: &str| of(hosts, "SIMPLE, credentialName: c");
        check(
            &[
                simple("a.com"),
                of("b.com", "PASSTHROUGH"),
                simple("'*.com'"),
            ]
            .join("---"),
            &[":443 Tls g0.0 g1.0 g2.0"],
        );
        check(
            &[simple("a.com, b.com"), of("c.com, b.com", "PASSTHROUGH")].join("---"),
            &[":443 Tls g0.0", "- g1.0 Host(Hostname(\"b.com\")) g0"],
        );
        check(
            &[simple("shop/a.com"), simple("bank/a.com")].join("---"),
            &[":443 Tls g0.0", "- g1.0 Host(Hostname(\"a.com\")) g0"],
        );
        check(&of("a.com", "AUTO_PASSTHROUGH"), &[]);
    }

    #[test]
    fn routes_are_named_as_istio_names_them() {
        let check = |server: &str, expected: Option<&str>| {
            let gateways = gateways(server);
            let merged = merge(&gateways, |number| number + 8000);
            let name = merged.ports[0].servers[0].route_name();
            assert_eq!(name.as_deref(), expected, "{server}");
        };
        check(HTTP, Some("http.8080"));
        check(
            &server(80, "HTTP", "a.b", ", bind: 10.0.0.1"),
            Some("http.8080.10.0.0.1"),
        );
        let tls = |protocol, mode: &str| {
            let tls = format!(", tls: {{mode: {mode}, credentialName: c}}");
            server(443, protocol, "a.b", &tls)
        };
        check(&tls("HTTPS", "SIMPLE"), Some("https.443.p.g0.edge"));
        check(&tls("HTTPS", "PASSTHROUGH"), None);
        check(&tls("TLS", "SIMPLE"), None);
        check(&server(9000, "TCP", "a.b", ""), None);
    }
}
