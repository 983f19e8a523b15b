use meltemi_core::FieldPath;

use super::Check;
use crate::istio::PeerAuthentication;

pub(super) fn check(policy: &PeerAuthentication, spec: &FieldPath, check: &mut Check<'_>) {
    let ports = spec.field("portLevelMtls");
    if !policy.port_level_mtls.is_empty() && policy.is_namespace_wide() {
        check.error_hint(
            &ports,
            "port settings need a selector",
            "add selector.matchLabels, or set mtls.mode for all ports",
        );
    }
    if policy.port_level_mtls.contains_key(&0) {
        check.error(&ports.key("0"), "a port is between 1 and 65535, not 0");
    }
    if let Some(selector) = &policy.selector {
        check.selector(
            &spec.field("selector").field("matchLabels"),
            &selector.match_labels,
        );
    }
}
