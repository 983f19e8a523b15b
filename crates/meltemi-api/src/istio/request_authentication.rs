use std::time::Duration;

use meltemi_core::Labels;
use serde::Deserialize;

use super::LabelSelector;

/// Which tokens a workload's clients may show (`security.v1.RequestAuthentication`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RequestAuthentication {
    /// Absent or empty: all workloads of the namespace, or of the mesh in the root namespace.
    pub selector: Option<LabelSelector>,
    pub target_ref: Option<TargetRef>,
    pub target_refs: Vec<TargetRef>,
    pub jwt_rules: Vec<JwtRule>,
}

impl RequestAuthentication {
    pub fn targets(&self) -> impl Iterator<Item = &TargetRef> {
        self.target_ref.iter().chain(&self.target_refs)
    }

    /// Whether it is for a workload of its namespace with these labels, or, from the root namespace, of any.
    pub fn selects(&self, labels: &Labels) -> bool {
        if self.targets().next().is_some() {
            return self.targets().any(|target| target.selects(labels));
        }
        self.selector
            .as_ref()
            .is_none_or(|selector| selector.match_labels.selects(labels))
    }
}

/// An object of the Gateway API, or another that stands for workloads (`type.v1beta1.PolicyTargetReference`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TargetRef {
    pub group: String,
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

/// The label of the pods of a Gateway of the Gateway API.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

impl TargetRef {
    /// Other kinds stand for waypoints, which no workload of ours is.
    pub fn is_gateway(&self) -> bool {
        self.kind == "Gateway" && self.group == "gateway.networking.k8s.io"
    }

    fn selects(&self, labels: &Labels) -> bool {
        self.is_gateway() && labels.get(GATEWAY_NAME) == Some(self.name.as_str())
    }
}

/// The tokens of one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JwtRule {
    pub issuer: String,
    pub audiences: Vec<String>,
    /// Where the keys are published; neither this nor `jwks`: where the issuer's discovery document says.
    pub jwks_uri: String,
    pub jwks: String,
    pub from_headers: Vec<JwtHeader>,
    pub from_params: Vec<String>,
    pub from_cookies: Vec<String>,
    pub output_payload_to_header: String,
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    pub forward_original_token: bool,
    #[serde(with = "super::duration")]
    pub timeout: Option<Duration>,
    pub space_delimited_claims: Vec<String>,
    pub presence: Presence,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct JwtHeader {
    pub name: String,
    pub prefix: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ClaimToHeader {
    pub header: String,
    /// With dots between the names of objects within objects.
    pub claim: String,
}

/// Whether a request without a token passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Presence {
    #[default]
    Optional,
    Required,
}

/// The claim that a VirtualService names in place of a header, outermost first: `@request.auth.claims.a.b`, or with brackets
/// where a name has dots in it, `@request.auth.claims[a.b][c]`. `None`: it is a header, or no name at all.
pub fn claim_path(header: &str) -> Option<Vec<String>> {
    let rest = header.strip_prefix("@request.auth.claims")?;
    let names: Vec<&str> = match rest.strip_prefix('.') {
        Some(dotted) => dotted.split('.').collect(),
        None => {
            let inside = rest.strip_prefix('[')?.strip_suffix(']')?;
            inside.split("][").collect()
        }
    };
    let is_name = |name: &&str| !name.is_empty() && !name.contains(['[', ']']);
    names
        .iter()
        .all(is_name)
        .then(|| names.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_have_names_with_dots_or_in_brackets() {
        let check = |header: &str, expected: Option<&[&str]>| {
            let found = claim_path(header);
            let found = found
                .as_ref()
                .map(|path| path.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!(found.as_deref(), expected, "{header}");
        };
        check("@request.auth.claims.groups", Some(&["groups"]));
        check("@request.auth.claims.a.b", Some(&["a", "b"]));
        check("@request.auth.claims[a.b][c]", Some(&["a.b", "c"]));
        check("@request.auth.claims", None);
        check("@request.auth.claims.", None);
        check("@request.auth.claims[a", None);
        check("@request.auth.claims.a[b]", None);
        check("@request.auth.principal", None);
        check("x-groups", None);
    }
}
