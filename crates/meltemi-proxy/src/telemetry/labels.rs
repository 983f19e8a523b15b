//! The label set of Istio's standard metrics.

use std::fmt::Write as _;

use meltemi_pki::HandshakeInfo;
use meltemi_proxy_core::runtime::Cluster;

use super::peer::Workload;
use super::{destination_service, security};

/// Everything that tells two series apart.
#[derive(Debug)]
pub(crate) struct Attributes<'a> {
    /// `source` or `destination`.
    pub(crate) reporter: &'static str,
    pub(crate) source: Option<&'a Workload>,
    pub(crate) source_principal: Option<String>,
    pub(crate) destination: Option<&'a Workload>,
    pub(crate) destination_principal: Option<String>,
    pub(crate) service: Service<'a>,
    /// `http`, `grpc` or `tcp`.
    pub(crate) protocol: &'static str,
    /// Absent on TCP series.
    pub(crate) response: Option<Response<'a>>,
    pub(crate) response_flags: &'a str,
    /// `mutual_tls`, `none` or `unknown`.
    pub(crate) security: &'static str,
}

/// The two sides of a request or connection, as the proxy between them knows them.
pub(crate) struct Sides<'a> {
    /// Whether we stand beside the destination.
    pub(crate) inbound: bool,
    pub(crate) own: &'a Workload,
    pub(crate) downstream_peer: Option<&'a Workload>,
    pub(crate) downstream: Option<&'a HandshakeInfo>,
    pub(crate) upstream_peer: Option<&'a Workload>,
    pub(crate) upstream: Option<&'a HandshakeInfo>,
    pub(crate) cluster: Option<&'a Cluster>,
    pub(crate) cluster_name: Option<&'a str>,
    /// The name of the route.
    pub(crate) route: Option<&'a str>,
    /// What the client called the destination, where that may stand for a service that is not known
    /// (`disable_host_header_fallback` unset).
    pub(crate) host: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    /// Who called whom. We are one of the two; the other is who the handshake of its side proved.
    pub(crate) fn new(
        sides: &Sides<'a>,
        protocol: &'static str,
        response: Option<Response<'a>>,
        response_flags: &'a str,
    ) -> Self {
        let inbound = sides.inbound;
        let handshake = if inbound {
            sides.downstream
        } else {
            sides.upstream
        };
        let local = handshake
            .and_then(|handshake| handshake.local.as_ref())
            .map(ToString::to_string);
        let peer = handshake
            .and_then(|handshake| handshake.peer.as_ref())
            .map(|peer| peer.identity.to_string());
        let own = Some(sides.own);
        let (source, destination) = if inbound {
            (sides.downstream_peer, own)
        } else {
            (own, sides.upstream_peer)
        };
        let (source_principal, destination_principal) = if inbound {
            (peer, local)
        } else {
            (local, peer)
        };
        Self {
            reporter: if inbound { "destination" } else { "source" },
            source,
            source_principal,
            destination,
            destination_principal,
            service: destination_service(sides),
            protocol,
            response,
            response_flags,
            security: security(inbound, handshake),
        }
    }
}

/// The service that was called.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Service<'a> {
    pub(crate) host: &'a str,
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Response<'a> {
    pub(crate) code: u16,
    /// Empty for requests that are not gRPC.
    pub(crate) grpc_status: &'a str,
}

impl Attributes<'_> {
    /// Renders the labels in the text exposition format, without braces.
    pub(crate) fn render(&self) -> String {
        let mut out = String::with_capacity(1024);
        let nobody = Workload::default();
        let source = self.source.unwrap_or(&nobody);
        let destination = self.destination.unwrap_or(&nobody);
        label(&mut out, "reporter", self.reporter);
        label(&mut out, "source_workload", known(&source.name));
        label(
            &mut out,
            "source_canonical_service",
            known(&source.canonical_name),
        );
        label(
            &mut out,
            "source_canonical_revision",
            known(&source.canonical_revision),
        );
        label(
            &mut out,
            "source_workload_namespace",
            known(&source.namespace),
        );
        label(
            &mut out,
            "source_principal",
            known(self.source_principal.as_deref().unwrap_or_default()),
        );
        label(&mut out, "source_app", known(&source.app));
        label(&mut out, "source_version", known(&source.version));
        label(&mut out, "source_cluster", known(&source.cluster));
        label(&mut out, "destination_workload", known(&destination.name));
        label(
            &mut out,
            "destination_workload_namespace",
            known(&destination.namespace),
        );
        label(
            &mut out,
            "destination_principal",
            known(self.destination_principal.as_deref().unwrap_or_default()),
        );
        label(&mut out, "destination_app", known(&destination.app));
        label(&mut out, "destination_version", known(&destination.version));
        label(&mut out, "destination_service", known(self.service.host));
        label(
            &mut out,
            "destination_canonical_service",
            known(&destination.canonical_name),
        );
        label(
            &mut out,
            "destination_canonical_revision",
            known(&destination.canonical_revision),
        );
        label(
            &mut out,
            "destination_service_name",
            known(self.service.name),
        );
        label(
            &mut out,
            "destination_service_namespace",
            known(self.service.namespace),
        );
        label(&mut out, "destination_cluster", known(&destination.cluster));
        label(&mut out, "request_protocol", self.protocol);
        if let Some(response) = self.response {
            label(
                &mut out,
                "response_code",
                itoa::Buffer::new().format(response.code),
            );
            label(&mut out, "grpc_response_status", response.grpc_status);
        }
        label(
            &mut out,
            "response_flags",
            if self.response_flags.is_empty() {
                "-"
            } else {
                self.response_flags
            },
        );
        label(&mut out, "connection_security_policy", self.security);
        out
    }
}

fn known(value: &str) -> &str {
    if value.is_empty() { "unknown" } else { value }
}

/// Appends `name="value"`, with backslash, quote and line feed escaped (Prometheus text format).
pub(crate) fn label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                let result = write!(out, "\\\\u{:04x}", u32::from(c));
                debug_assert!(result.is_ok(), "a String takes every write");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_labels_that_dashboards_query() {
        let attributes = Attributes {
            reporter: "source",
            source: None,
            source_principal: None,
            destination: None,
            destination_principal: Some("spiffe://cluster.local/ns/a/sa/b".to_owned()),
            service: Service {
                host: "a.b.svc.cluster.local",
                name: "a",
                namespace: "b",
            },
            protocol: "http",
            response: Some(Response {
                code: 200,
                grpc_status: "",
            }),
            response_flags: "",
            security: "unknown",
        };
        let rendered = attributes.render();
        assert_eq!(rendered.matches("=\"").count(), 25);
        assert!(rendered.contains("destination_service=\"a.b.svc.cluster.local\""));
        assert!(rendered.ends_with("response_flags=\"-\",connection_security_policy=\"unknown\""));
    }

    #[test]
    fn values_cannot_break_out() {
        let mut out = String::new();
        label(&mut out, "a", "x\"} 1\nevil{\\");
        assert_eq!(out, "a=\"x\\\"} 1\\nevil{\\\\\"");
    }
}
