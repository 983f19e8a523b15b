use std::collections::BTreeMap;

use serde::Deserialize;

use super::LabelSelector;

/// Which connections a workload accepts (`security.v1.PeerAuthentication`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PeerAuthentication {
    /// Absent or empty: all workloads of the namespace, or of the mesh in the root namespace.
    pub selector: Option<LabelSelector>,
    pub mtls: Option<MutualTls>,
    /// By workload port, not service port; needs a selector.
    pub port_level_mtls: BTreeMap<u16, MutualTls>,
}

impl PeerAuthentication {
    /// Whether it applies to all workloads of its namespace.
    pub fn is_namespace_wide(&self) -> bool {
        self.selector
            .as_ref()
            .is_none_or(|selector| selector.match_labels.is_empty())
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MutualTls {
    pub mode: TlsMode,
}

/// What the server side accepts (`PeerAuthentication.MutualTLS.Mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TlsMode {
    /// Inherits from the next wider policy.
    #[default]
    Unset,
    Disable,
    Permissive,
    Strict,
}

impl TlsMode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unset => "UNSET",
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}
