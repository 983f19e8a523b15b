//! Chains whose signatures were found good. Peers make connection after connection with one certificate, and checking
//! signatures anew is most of what verifying a chain costs.

use std::collections::VecDeque;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;

use crate::{Usage, Validity};

/// Chains remembered at most; the oldest makes room.
const LIMIT: usize = 64;

/// What one set of roots has vouched for. Roots never change, so a verdict ends only with the validity of a certificate.
#[derive(Debug, Default)]
pub(crate) struct Verified(Mutex<VecDeque<Chain>>);

#[derive(Debug)]
struct Chain {
    usage: Usage,
    leaf: CertificateDer<'static>,
    intermediates: Vec<CertificateDer<'static>>,
    /// When all its certificates are valid, the root too.
    validity: Validity,
}

impl Verified {
    /// Whether exactly these certificates were verified for this use, and all of them are valid now.
    pub(crate) fn contains(
        &self,
        usage: Usage,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> bool {
        self.0.lock().iter().any(|chain| {
            chain.usage == usage
                && chain.leaf == *leaf
                && chain.intermediates == intermediates
                && chain.validity.contains(now)
        })
    }

    pub(crate) fn remember(
        &self,
        usage: Usage,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        validity: Validity,
    ) {
        let owned = |der: &CertificateDer<'_>| der.clone().into_owned();
        let chain = Chain {
            usage,
            leaf: owned(leaf),
            intermediates: intermediates.iter().map(owned).collect(),
            validity,
        };
        let mut chains = self.0.lock();
        if chains.len() == LIMIT {
            chains.pop_front();
        }
        chains.push_back(chain);
    }
}

/// A copy of some roots has yet to vouch for anything.
impl Clone for Verified {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What was verified is no part of what is trusted.
impl PartialEq for Verified {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Verified {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_the_same_chain_for_the_same_use_while_it_is_valid() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let validity = Validity {
            not_before: now - hour,
            not_after: now + hour,
        };
        let [leaf, issuer, other] = [1_u8, 2, 3].map(|byte| CertificateDer::from(vec![byte; 9]));
        let chain = [issuer.clone()];
        let verified = Verified::default();
        verified.remember(Usage::ClientAuth, &leaf, &chain, validity);
        let knows = |usage, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>], at| {
            verified.contains(usage, leaf, rest, at)
        };
        assert!(knows(Usage::ClientAuth, &leaf, &chain, now));
        assert!(!knows(Usage::ServerAuth, &leaf, &chain, now));
        assert!(!knows(Usage::ClientAuth, &other, &chain, now));
        let rests: [&[CertificateDer<'_>]; 3] =
            [&[], std::slice::from_ref(&leaf), &[issuer, other.clone()]];
        for rest in rests {
            assert!(!knows(Usage::ClientAuth, &leaf, rest, now));
        }
        assert!(!knows(Usage::ClientAuth, &leaf, &chain, now + 2 * hour));
        assert!(!knows(Usage::ClientAuth, &leaf, &chain, now - 2 * hour));
        let copy = verified.clone();
        assert!(!copy.contains(Usage::ClientAuth, &leaf, &chain, now));
        for byte in 0..LIMIT {
            let more = CertificateDer::from(byte.to_be_bytes().to_vec());
            verified.remember(Usage::ClientAuth, &more, &[], validity);
        }
        assert!(!knows(Usage::ClientAuth, &leaf, &chain, now), "the oldest");
        assert_eq!(verified.0.lock().len(), LIMIT);
    }
}
