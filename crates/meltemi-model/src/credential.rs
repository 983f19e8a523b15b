//! Secrets that hold certificates for the servers of gateways.

use std::collections::BTreeMap;
use std::fmt;

use meltemi_api::{Object, Resource};

/// The end of the name of a Secret that holds the authority of clients.
pub const AUTHORITY_SUFFIX: &str = "-cacert";

/// What a Secret says of certificates: of the type `kubernetes.io/tls` (`tls.crt`, `tls.key`, `ca.crt`) or generic (`cert`,
/// `key`, `cacert`). PEM texts as they stand there; who serves them judges them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    pub pair: Option<KeyPair>,
    pub authority: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    pub chain: Vec<u8>,
    pub key: Vec<u8>,
}

/// A certificate chain and its key, which nobody is to read in a log.
impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

/// Says what there is and nothing of it: what it holds is secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("pair", &self.pair.is_some())
            .field("authority", &self.authority.is_some())
            .finish()
    }
}

impl Credential {
    /// None where the Secret holds no certificates under these names: it is somebody else's.
    pub(crate) fn new(object: &Object) -> Option<Self> {
        let Resource::Secret(secret) = &object.resource else {
            return None;
        };
        let data = secret.data.as_ref()?;
        let of = |name: &str| {
            let value = data.get(name).map(|value| &value.0);
            value.filter(|value| !value.is_empty()).cloned()
        };
        let pair = |chain: &str, key: &str| {
            let (chain, key) = (of(chain)?, of(key)?);
            Some(KeyPair { chain, key })
        };
        let credential = Self {
            pair: pair("tls.crt", "tls.key").or_else(|| pair("cert", "key")),
            authority: of("cacert").or_else(|| of("ca.crt")),
        };
        let says_something = credential.pair.is_some() || credential.authority.is_some();
        says_something.then_some(credential)
    }
}

/// Credentials by the namespace and name of their Secret.
pub(crate) type Credentials = BTreeMap<(String, String), std::sync::Arc<Credential>>;
