use std::fmt;
use std::str::FromStr;

/// The longest SPIFFE ID accepted, in bytes (SPIFFE-ID section 2.3).
const SPIFFE_ID_LIMIT_BYTES: usize = 2048;

/// A SPIFFE trust domain such as `cluster.local` (SPIFFE-ID section 2.1): lower-case letters, digits, `.`, `-`, `_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// # Errors
    /// The name is empty, longer than 255 bytes or holds a character outside `[a-z0-9._-]`.
    pub fn new(name: &str) -> Result<Self, IdentityError> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-_".contains(&c);
        if name.is_empty() || name.len() > 255 || !name.bytes().all(allowed) {
            return Err(IdentityError::TrustDomain(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Istio's default trust domain, `cluster.local`.
impl Default for TrustDomain {
    fn default() -> Self {
        Self("cluster.local".to_owned())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a workload is: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>` (Istio's SPIFFE ID layout).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    pub trust_domain: TrustDomain,
    pub namespace: String,
    pub service_account: String,
}

impl Identity {
    /// # Errors
    /// A part is empty or holds a character that a SPIFFE path segment may not (SPIFFE-ID section 2.2).
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        for segment in [namespace, service_account] {
            if !is_segment(segment) {
                return Err(IdentityError::Segment(segment.to_owned()));
            }
        }
        Ok(Self {
            trust_domain,
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        })
    }

    /// The principal as AuthorizationPolicy writes it: without `spiffe://`.
    pub fn principal(&self) -> String {
        format!(
            "{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(id: &str) -> Result<Self, IdentityError> {
        if id.len() > SPIFFE_ID_LIMIT_BYTES {
            return Err(IdentityError::TooLong(id.len()));
        }
        let malformed = || IdentityError::Malformed(id.to_owned());
        let rest = id.strip_prefix("spiffe://").ok_or_else(malformed)?;
        let mut segments = rest.split('/');
        let mut next = || segments.next().ok_or_else(malformed);
        let (trust_domain, ns, namespace, sa, service_account) =
            (next()?, next()?, next()?, next()?, next()?);
        if ns != "ns" || sa != "sa" || segments.next().is_some() {
            return Err(malformed());
        }
        Self::new(TrustDomain::new(trust_domain)?, namespace, service_account)
    }
}

/// A SPIFFE path segment: letters, digits, `.`, `-`, `_`; neither empty nor a dot segment.
fn is_segment(segment: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b".-_".contains(&c);
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("trust domain \"{0}\" is not lower-case letters, digits, dots, dashes and underscores")]
    TrustDomain(String),
    #[error("\"{0}\" is not a SPIFFE path segment")]
    Segment(String),
    #[error("\"{0}\" is not spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Malformed(String),
    #[error("a SPIFFE ID has at most 2048 bytes, this one has {0}")]
    TooLong(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let text = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
        let id: Identity = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(
            id.principal(),
            "cluster.local/ns/default/sa/bookinfo-reviews"
        );
    }

    #[test]
    fn refuses_what_spiffe_forbids() {
        for bad in [
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/default/sa/",
            "spiffe://cluster.local/ns/default/sa/a/",
            "spiffe://cluster.local/ns/../sa/a",
            "spiffe://cluster.local/ns/de%66ault/sa/a",
            "spiffe://Cluster.local/ns/default/sa/a",
            "spiffe://user@cluster.local/ns/default/sa/a",
            "spiffe://cluster.local:80/ns/default/sa/a",
            "https://cluster.local/ns/default/sa/a",
        ] {
            assert!(bad.parse::<Identity>().is_err(), "{bad}");
        }
        let long = format!("spiffe://cluster.local/ns/default/sa/{}", "a".repeat(2048));
        assert!(long.parse::<Identity>().is_err());
    }
}
