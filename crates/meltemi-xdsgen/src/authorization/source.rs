//! Who calls, as principals.

use meltemi_api::istio::{Attribute, MeshConfig, Source, ValuePattern};
use meltemi_core::TrustDomain;
use meltemi_core::names::CLUSTER_DOMAIN;
use meltemi_model::ServiceAddress;
use meltemi_proto::envoy::config::rbac::v3::{
    Principal,
    principal::{Authenticated, Identifier},
};
use meltemi_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use super::operation::header;
use super::rule::{Demands, IntoTerm as _, Term as _};
use super::{claims, operation};
use crate::wire;

const SPIFFE: &str = "spiffe://";

/// The mesh's trust domain and its other names.
pub(super) struct Domains(Vec<String>);

impl Domains {
    pub(super) fn of(config: &MeshConfig) -> Self {
        let aliases = config.trust_domain_aliases.iter();
        let aliases = aliases.filter(|alias| TrustDomain::new(alias).is_ok());
        Self(
            [&config.trust_domain]
                .into_iter()
                .chain(aliases)
                .cloned()
                .collect(),
        )
    }

    /// A principal under every name of the mesh, if it names one of them, or `cluster.local`, which stands for any
    /// (Istio, "Trust Domain Migration").
    fn principals(&self, principal: &str) -> Vec<String> {
        let unchanged = || vec![principal.to_owned()];
        let parts: Vec<&str> = principal.split('/').collect();
        let ([domain, rest @ ..], 5) = (&parts[..], parts.len()) else {
            return unchanged();
        };
        let is_open = |own: &String| match ValuePattern::parse(domain) {
            ValuePattern::Suffix(end) => own.ends_with(end),
            _ => own == domain,
        };
        let is_ours = *domain == CLUSTER_DOMAIN || self.0.iter().any(is_open);
        if *domain == "*" || !is_ours {
            return unchanged();
        }
        let mut out: Vec<String> = Vec::new();
        for own in &self.0 {
            let principal = match is_open(own) {
                true => principal.to_owned(),
                false => format!("{own}/{}", rest.join("/")),
            };
            if !out.contains(&principal) {
                out.push(principal);
            }
        }
        out
    }

    /// A trust domain and, if it is the mesh's, its other names.
    fn names<'a>(&'a self, domain: &'a str) -> Vec<&'a str> {
        if self.0.iter().any(|own| own == domain) {
            return self.0.iter().map(String::as_str).collect();
        }
        vec![domain]
    }
}

/// Writes what a policy of a namespace says of callers.
pub(super) struct Writer<'a> {
    pub(super) namespace: &'a str,
    pub(super) domains: &'a Domains,
}

impl Writer<'_> {
    pub(super) fn demand(&self, source: &Source, demands: &mut Demands<Principal>) {
        let lists: [(Attribute<'_>, &[String], &[String]); 7] = [
            (
                Attribute::SourcePrincipal,
                &source.principals,
                &source.not_principals,
            ),
            (
                Attribute::RequestPrincipal,
                &source.request_principals,
                &source.not_request_principals,
            ),
            (
                Attribute::SourceServiceAccount,
                &source.service_accounts,
                &source.not_service_accounts,
            ),
            (
                Attribute::SourceNamespace,
                &source.namespaces,
                &source.not_namespaces,
            ),
            (
                Attribute::SourceTrustDomain,
                &source.trust_domains,
                &source.not_trust_domains,
            ),
            (
                Attribute::RemoteIp,
                &source.remote_ip_blocks,
                &source.not_remote_ip_blocks,
            ),
            (
                Attribute::SourceIp,
                &source.ip_blocks,
                &source.not_ip_blocks,
            ),
        ];
        for (attribute, values, not_values) in lists {
            self.condition(&attribute, values, not_values, demands);
        }
    }

    /// What is demanded of an attribute of the caller; nothing of any other.
    pub(super) fn condition(
        &self,
        attribute: &Attribute<'_>,
        values: &[String],
        not_values: &[String],
        demands: &mut Demands<Principal>,
    ) {
        match attribute {
            Attribute::SourcePrincipal => {
                demands.add(values, not_values, |value| Some(self.principal(value)));
            }
            Attribute::SourceServiceAccount => {
                demands.add(values, not_values, |value| {
                    Some(self.service_account(value))
                });
            }
            Attribute::SourceNamespace => {
                demands.add(values, not_values, |value| Some(namespace(value)));
            }
            Attribute::SourceTrustDomain => {
                demands.add(values, not_values, |value| Some(self.trust_domain(value)));
            }
            Attribute::SourceIp => demands.add(values, not_values, |value| {
                range(value).map(|range| Identifier::DirectRemoteIp(range).into_term())
            }),
            Attribute::RemoteIp => demands.add(values, not_values, |value| {
                range(value).map(|range| Identifier::RemoteIp(range).into_term())
            }),
            Attribute::RequestHeader(name) => demands.add_of_request(values, not_values, |value| {
                Some(Identifier::Header(header(name, value)).into_term())
            }),
            Attribute::RequestPrincipal => {
                demands.add_of_request(values, not_values, |value| Some(claims::principal(value)));
            }
            Attribute::RequestAudiences => {
                demands.add_whole_of_request(values, not_values, |values| {
                    Some(claims::claim(&["aud"], values))
                })
            }
            Attribute::RequestPresenter => {
                demands.add_whole_of_request(values, not_values, |values| {
                    Some(claims::claim(&["azp"], values))
                })
            }
            Attribute::RequestClaim(path) => {
                demands.add_whole_of_request(values, not_values, |values| {
                    Some(claims::claim(path, values))
                })
            }
            Attribute::DestinationIp | Attribute::DestinationPort | Attribute::ConnectionSni => {}
        }
    }

    fn principal(&self, value: &str) -> Principal {
        let written = self.domains.principals(value);
        let mut terms: Vec<Principal> = written.iter().map(|value| one_principal(value)).collect();
        match terms.len() {
            1 => terms.remove(0),
            _ => Principal::any_of(terms),
        }
    }

    /// `namespace/account`, or an account of the policy's own namespace.
    fn service_account(&self, value: &str) -> Principal {
        let (namespace, account) = value.split_once('/').unwrap_or((self.namespace, value));
        identity(MatchPattern::Suffix(format!(
            "/ns/{namespace}/sa/{account}"
        )))
    }

    fn trust_domain(&self, value: &str) -> Principal {
        let starting = |start: String| authenticated(MatchPattern::Prefix(start));
        match ValuePattern::parse(value) {
            ValuePattern::Present => starting(SPIFFE.to_owned()),
            ValuePattern::Prefix(start) => starting(format!("{SPIFFE}{start}")),
            ValuePattern::Suffix(end) => identity(MatchPattern::Contains(format!("{end}/ns/"))),
            ValuePattern::Exact(domain) => {
                let names = self.domains.names(domain).into_iter();
                let terms = names.map(|name| starting(format!("{SPIFFE}{name}/")));
                Principal::any_of(terms.collect())
            }
        }
    }
}

fn one_principal(value: &str) -> Principal {
    match ValuePattern::parse(value) {
        ValuePattern::Present => Identifier::Authenticated(Authenticated {
            principal_name: Some(operation::string(value)),
        })
        .into_term(),
        ValuePattern::Prefix(start) => {
            authenticated(MatchPattern::Prefix(format!("{SPIFFE}{start}")))
        }
        ValuePattern::Suffix(end) => identity(MatchPattern::Suffix(end.to_owned())),
        ValuePattern::Exact(name) => authenticated(MatchPattern::Exact(format!("{SPIFFE}{name}"))),
    }
}

/// Differs from Istio, which puts names into a regular expression: there `team.a` is `teamxa` too. An identity is
/// `spiffe://<domain>/ns/<namespace>/sa/<account>`, and no part of it has a slash.
fn namespace(value: &str) -> Principal {
    match ValuePattern::parse(value) {
        ValuePattern::Present => identity(MatchPattern::Contains("/ns/".to_owned())),
        ValuePattern::Exact(name) => identity(MatchPattern::Contains(format!("/ns/{name}/sa/"))),
        ValuePattern::Prefix(start) => identity(MatchPattern::Contains(format!("/ns/{start}"))),
        ValuePattern::Suffix(end) => identity(MatchPattern::Contains(format!("{end}/sa/"))),
    }
}

/// A SPIFFE identity in which something is found: other names of a certificate may hold any text.
fn identity(matcher: MatchPattern) -> Principal {
    let is_identity = authenticated(MatchPattern::Prefix(SPIFFE.to_owned()));
    Principal::all_of(vec![is_identity, authenticated(matcher)])
}

fn authenticated(matcher: MatchPattern) -> Principal {
    Identifier::Authenticated(Authenticated {
        principal_name: Some(wire::pattern(matcher)),
    })
    .into_term()
}

fn range(text: &str) -> Option<meltemi_proto::envoy::config::core::v3::CidrRange> {
    let range = ServiceAddress::parse(text)?;
    Some(wire::cidr(range.ip, range.prefix_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Istio, "Trust Domain Migration".
    #[test]
    fn principals_are_meant_under_every_name_of_the_mesh() {
        let config = MeshConfig {
            trust_domain: "new-td".to_owned(),
            trust_domain_aliases: vec!["old-td".to_owned(), "Bad".to_owned()],
            ..MeshConfig::default()
        };
        let domains = Domains::of(&config);
        for (principal, expected) in [
            (
                "old-td/ns/a/sa/b",
                &["new-td/ns/a/sa/b", "old-td/ns/a/sa/b"][..],
            ),
            (
                "new-td/ns/a/sa/b",
                &["new-td/ns/a/sa/b", "old-td/ns/a/sa/b"],
            ),
            (
                "cluster.local/ns/a/sa/b",
                &["new-td/ns/a/sa/b", "old-td/ns/a/sa/b"],
            ),
            ("*-td/ns/a/sa/b", &["*-td/ns/a/sa/b"]),
            (
                "*ew-td/ns/a/sa/b",
                &["*ew-td/ns/a/sa/b", "old-td/ns/a/sa/b"],
            ),
            ("*/ns/a/sa/b", &["*/ns/a/sa/b"]),
            ("other/ns/a/sa/b", &["other/ns/a/sa/b"]),
            ("old-td/ns/a/*", &["old-td/ns/a/*"]),
            ("*", &["*"]),
        ] {
            assert_eq!(domains.principals(principal), expected, "{principal}");
        }
        assert_eq!(domains.names("old-td"), ["new-td", "old-td"]);
        assert_eq!(domains.names("cluster.local"), ["cluster.local"]);
    }
}
