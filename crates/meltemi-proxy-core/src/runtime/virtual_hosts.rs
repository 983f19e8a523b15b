use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::VirtualHost;
use crate::compile;

/// A virtual host of a route configuration. It was checked with its configuration; it stays encoded until it is first
/// used, because of the thousands that a large mesh has a workload uses a few.
#[derive(Clone)]
pub struct LazyVirtualHost {
    encoded: Bytes,
    direct_response_limit_bytes: usize,
    compiled: OnceLock<Option<Arc<VirtualHost>>>,
}

impl LazyVirtualHost {
    pub(crate) fn new(encoded: Bytes, direct_response_limit_bytes: usize) -> Self {
        Self {
            encoded,
            direct_response_limit_bytes,
            compiled: OnceLock::new(),
        }
    }

    /// The virtual host. There is one: what does not compile is refused with its configuration.
    pub fn get(&self) -> Option<&Arc<VirtualHost>> {
        let compile = || {
            compile::kept_virtual_host(self.encoded.clone(), self.direct_response_limit_bytes)
                .map(Arc::new)
        };
        self.compiled.get_or_init(compile).as_ref()
    }

    pub(crate) fn encoded(&self) -> &Bytes {
        &self.encoded
    }

    /// Whether the domain, in lower case, is one of its own.
    pub(crate) fn has_domain(&self, domain: &str) -> bool {
        let domains = self.get().map(|host| &host.domains);
        let mut domains = domains.into_iter().flatten();
        domains.any(|own| own.eq_ignore_ascii_case(domain))
    }
}

impl fmt::Debug for LazyVirtualHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
