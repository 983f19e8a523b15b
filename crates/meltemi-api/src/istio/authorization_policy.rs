use serde::Deserialize;

use super::LabelSelector;

/// Who may call workloads, and how (`security.v1.AuthorizationPolicy`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Absent or empty: all workloads of the namespace, or of the mesh in the root namespace.
    pub selector: Option<LabelSelector>,
    /// The older form of one `target_refs`.
    pub target_ref: Option<PolicyTargetReference>,
    pub target_refs: Vec<PolicyTargetReference>,
    /// Any of them. Without one nothing matches: ALLOW then denies every request.
    pub rules: Vec<AuthorizationRule>,
    pub action: AuthorizationAction,
    /// Of CUSTOM.
    pub provider: Option<AuthorizationProvider>,
}

impl AuthorizationPolicy {
    /// The references, in either form.
    pub fn targets(&self) -> impl Iterator<Item = &PolicyTargetReference> {
        self.target_ref.iter().chain(&self.target_refs)
    }

    /// Reads the annotation `istio.io/dry-run`, as Go reads a truth value.
    pub fn parse_dry_run(text: &str) -> Option<bool> {
        match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            _ => None,
        }
    }

    /// Whether it applies to all workloads of its namespace.
    pub fn is_namespace_wide(&self) -> bool {
        let selector = self.selector.as_ref();
        self.targets().next().is_none()
            && selector.is_none_or(|selector| selector.match_labels.is_empty())
    }
}

/// What a match leads to (`AuthorizationPolicy.Action`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AuthorizationAction {
    #[default]
    Allow,
    Deny,
    /// Tells of a match, and decides nothing.
    Audit,
    /// An authorizer outside of the mesh decides.
    Custom,
}

impl AuthorizationAction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

/// The authorizer of CUSTOM, by its name in MeshConfig (`AuthorizationPolicy.ExtensionProvider`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationProvider {
    pub name: String,
}

/// An object that a policy is for (`type.v1beta1.PolicyTargetReference`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PolicyTargetReference {
    pub group: String,
    pub kind: String,
    pub name: String,
    /// Only the policy's own.
    pub namespace: String,
}

/// Matches if any `from`, any `to` and all of `when` do; an empty list matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AuthorizationRule {
    pub from: Vec<RuleFrom>,
    pub to: Vec<RuleTo>,
    pub when: Vec<Condition>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuleFrom {
    pub source: Option<Source>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RuleTo {
    pub operation: Option<Operation>,
}

/// Who calls: all fields that are set match (`security.v1.Source`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Source {
    /// `<trust domain>/ns/<namespace>/sa/<service account>`.
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    /// `<issuer>/<subject>` of a token.
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    /// `<namespace>/<service account>`; the policy's own namespace where none is written.
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    /// Of the connection's peer.
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    /// Of the client, as `x-forwarded-for` has it where that is trusted.
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// What is called: all fields that are set match (`security.v1.Operation`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    /// Also templates with `{*}` for one segment and `{**}` for the rest.
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

impl Operation {
    /// Whether a path is a template rather than a text with a `*`.
    pub fn is_path_template(path: &str) -> bool {
        path.contains("{*}") || path.contains("{**}")
    }

    /// What is wrong with a template, if anything (Istio reference, `Operation.paths`; Envoy `UriTemplateMatchConfig`).
    pub fn path_template_problem(path: &str) -> Option<&'static str> {
        if !Self::is_path_template(path) {
            return None;
        }
        let rest = path.replace("{**}", "\u{1}").replace("{*}", "\u{2}");
        let is_literal =
            |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=/\u{1}\u{2}".contains(c);
        let after_rest = rest.split_once('\u{1}').map_or("", |(_, after)| after);
        let is_open = |text: &str| text.contains(['\u{1}', '\u{2}']);
        let mut segments = rest.rsplit('/');
        let last = segments.next().unwrap_or_default();
        // The last may end in a text, as in /{*}.png
        let last = last.strip_prefix(['\u{1}', '\u{2}']).unwrap_or(last);
        let is_whole = |segment: &str| !is_open(segment) || segment.chars().count() == 1;
        if !rest.starts_with('/') {
            Some("a template begins with a slash")
        } else if !rest.chars().all(is_literal) {
            Some("a template has no other braces, no * of its own, no query and no spaces")
        } else if is_open(last) || !segments.all(is_whole) {
            Some("{*} and {**} stand alone between slashes")
        } else if is_open(after_rest) {
            Some("nothing is open after {**}, which takes the rest")
        } else {
            None
        }
    }
}

/// A demand on an attribute (`security.v1.Condition`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Condition {
    pub key: String,
    pub values: Vec<String>,
    pub not_values: Vec<String>,
}

/// The attribute that a condition is about (Istio reference, "Authorization Policy Conditions").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute<'a> {
    /// `request.headers[name]`.
    RequestHeader(&'a str),
    SourceIp,
    RemoteIp,
    SourceNamespace,
    SourcePrincipal,
    SourceServiceAccount,
    SourceTrustDomain,
    RequestPrincipal,
    RequestAudiences,
    RequestPresenter,
    /// `request.auth.claims[a][b]`.
    RequestClaim(Vec<&'a str>),
    DestinationIp,
    DestinationPort,
    ConnectionSni,
}

impl<'a> Attribute<'a> {
    /// The attributes that are written without brackets.
    pub const NAMES: [(&'static str, Attribute<'static>); 12] = [
        ("source.ip", Attribute::SourceIp),
        ("remote.ip", Attribute::RemoteIp),
        ("source.namespace", Attribute::SourceNamespace),
        ("source.principal", Attribute::SourcePrincipal),
        ("source.serviceAccount", Attribute::SourceServiceAccount),
        ("source.trustDomain", Attribute::SourceTrustDomain),
        ("request.auth.principal", Attribute::RequestPrincipal),
        ("request.auth.audiences", Attribute::RequestAudiences),
        ("request.auth.presenter", Attribute::RequestPresenter),
        ("destination.ip", Attribute::DestinationIp),
        ("destination.port", Attribute::DestinationPort),
        ("connection.sni", Attribute::ConnectionSni),
    ];

    /// Reads a key; none for what is no attribute.
    pub fn parse(key: &'a str) -> Option<Self> {
        if let Some(name) = key.strip_prefix("request.headers") {
            let [name] = brackets(name)?[..] else {
                return None;
            };
            return Some(Self::RequestHeader(name));
        }
        if let Some(path) = key.strip_prefix("request.auth.claims") {
            return brackets(path).map(Self::RequestClaim);
        }
        let mut names = Self::NAMES.into_iter();
        names.find(|(name, _)| *name == key).map(|(_, own)| own)
    }

    /// Whether only a request has it, and no mere connection.
    pub fn is_of_request(&self) -> bool {
        matches!(
            self,
            Self::RequestHeader(_)
                | Self::RequestPrincipal
                | Self::RequestAudiences
                | Self::RequestPresenter
                | Self::RequestClaim(_)
        )
    }
}

/// The texts in `[a][b]`, none of them empty.
fn brackets(text: &str) -> Option<Vec<&str>> {
    let inner = text.strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<&str> = inner.split("][").collect();
    let is_name = |name: &&str| !name.is_empty() && !name.contains(['[', ']']);
    names.iter().all(is_name).then_some(names)
}

/// How a value is written in a policy: exact, with a `*` at one end, or `*` alone for any value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValuePattern<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Suffix(&'a str),
    Present,
}

impl<'a> ValuePattern<'a> {
    pub fn parse(text: &'a str) -> Self {
        if text == "*" {
            Self::Present
        } else if let Some(suffix) = text.strip_prefix('*') {
            Self::Suffix(suffix)
        } else if let Some(prefix) = text.strip_suffix('*') {
            Self::Prefix(prefix)
        } else {
            Self::Exact(text)
        }
    }

    /// What is compared.
    pub fn text(self) -> &'a str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Present => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_name_attributes() {
        for (key, expected) in [
            ("source.ip", Some(Attribute::SourceIp)),
            (
                "request.headers[X-Role]",
                Some(Attribute::RequestHeader("X-Role")),
            ),
            (
                "request.auth.claims[a][b.c]",
                Some(Attribute::RequestClaim(vec!["a", "b.c"])),
            ),
            ("request.headers", None),
            ("request.headers[]", None),
            ("request.headers[a][b]", None),
            ("request.headers[a", None),
            ("request.auth.claims[a][]", None),
            ("request.auth.claims[a]]", None),
            ("request.auth.claims[a]x[b]", None),
            ("source.IP", None),
            ("experimental.envoy.filters.x[y]", None),
        ] {
            assert_eq!(Attribute::parse(key), expected, "{key}");
        }
    }

    #[test]
    fn templates_are_what_envoy_takes() {
        for good in [
            "/a",
            "/a*",
            "/{*}",
            "/{**}",
            "/a/{*}/b/{**}",
            "/a/{**}/b",
            "/%20/{*}",
            "/{*}.png",
        ] {
            assert_eq!(Operation::path_template_problem(good), None, "{good}");
        }
        for bad in [
            "{*}",
            "/a{*}",
            "/{*}a/b",
            "/{*}a{*}",
            "/{**}/{*}",
            "/{**}/{**}",
            "/{*}/*",
            "/{x}/{*}",
            "/{x=*}/{*}",
            "/{*}?a",
            "/{*}/a b",
            "/{*}{**}",
        ] {
            assert!(Operation::path_template_problem(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_star_stands_at_one_end() {
        use ValuePattern as P;
        for (text, expected) in [
            ("a", P::Exact("a")),
            ("a*", P::Prefix("a")),
            ("*a", P::Suffix("a")),
            ("*", P::Present),
            // Istio reads the first star.
            ("*a*", P::Suffix("a*")),
            ("a*b", P::Exact("a*b")),
        ] {
            assert_eq!(P::parse(text), expected, "{text}");
        }
    }
}
