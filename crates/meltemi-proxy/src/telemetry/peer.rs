//! Istio's peer metadata: who the other workload is, as it says itself in `x-envoy-peer-metadata`.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use meltemi_core::names::label;
use meltemi_proto::google::protobuf::{Struct, Value, value::Kind};
use meltemi_proxy_core::runtime::WorkloadMetadata;
use prost::Message as _;

/// Longest header that is decoded; longer ones are taken as absent.
const LIMIT_BYTES: usize = 16 * 1024;

/// One workload's values of the `source_*` or `destination_*` labels; empty means unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Workload {
    pub(crate) name: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) cluster: Arc<str>,
    pub(crate) app: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) canonical_name: Arc<str>,
    pub(crate) canonical_revision: Arc<str>,
}

impl Workload {
    pub(crate) fn from_struct(metadata: &Struct) -> Self {
        let text = |fields: &Struct, name: &str| match fields
            .fields
            .get(name)
            .and_then(|v| v.kind.as_ref())
        {
            Some(Kind::StringValue(text)) => text.clone(),
            _ => String::new(),
        };
        let empty = Struct::default();
        let labels = match metadata.fields.get("LABELS") {
            Some(Value {
                kind: Some(Kind::StructValue(labels)),
            }) => labels,
            _ => &empty,
        };
        let first = |names: &[&str], default: String| {
            let found = names
                .iter()
                .map(|name| text(labels, name))
                .find(|value| !value.is_empty());
            Arc::<str>::from(found.unwrap_or(default))
        };
        let name = text(metadata, "WORKLOAD_NAME");
        Self {
            namespace: text(metadata, "NAMESPACE").into(),
            cluster: text(metadata, "CLUSTER_ID").into(),
            app: first(&[label::APP], String::new()),
            version: first(&[label::VERSION], String::new()),
            canonical_name: first(
                &[label::CANONICAL_NAME, label::K8S_APP_NAME, label::APP],
                name.clone(),
            ),
            canonical_revision: first(
                &[
                    label::CANONICAL_REVISION,
                    label::K8S_APP_VERSION,
                    label::VERSION,
                ],
                "latest".to_owned(),
            ),
            name: name.into(),
        }
    }

    /// What the control plane says of an endpoint, for peers that say nothing themselves.
    pub(crate) fn from_endpoint(workload: &WorkloadMetadata) -> Self {
        Self {
            name: workload.workload.clone(),
            namespace: workload.namespace.clone(),
            cluster: workload.cluster_id.clone(),
            app: workload.canonical_name.clone(),
            version: workload.canonical_revision.clone(),
            canonical_name: workload.canonical_name.clone(),
            canonical_revision: workload.canonical_revision.clone(),
        }
    }

    pub(crate) fn decode(header: &[u8]) -> Option<Self> {
        if header.len() > LIMIT_BYTES {
            return None;
        }
        let bytes = STANDARD.decode(header).ok()?;
        Struct::decode(&*bytes)
            .ok()
            .map(|metadata| Self::from_struct(&metadata))
    }
}

/// This workload, with the header values it introduces itself with.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) workload: Arc<Workload>,
    pub(crate) header: HeaderValue,
    pub(crate) id: HeaderValue,
    pub(crate) metadata: Struct,
}

impl Own {
    pub(crate) fn new(metadata: Struct, node_id: &str) -> Self {
        let encoded = STANDARD.encode(metadata.encode_to_vec());
        let value = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
        };
        Self {
            workload: Arc::new(Workload::from_struct(&metadata)),
            header: value(&encoded),
            id: value(node_id),
            metadata,
        }
    }
}

/// Peers that one connection remembers: requests of a downstream spread over the endpoints of a service.
const MEMO_LIMIT: usize = 16;

/// Remembers the peers of a connection, so that what they say of themselves is decoded once.
#[derive(Debug, Default)]
pub(crate) struct PeerMemo(parking_lot::Mutex<Vec<(HeaderValue, Arc<Workload>)>>);

impl PeerMemo {
    pub(crate) fn resolve(&self, header: &HeaderValue) -> Option<Arc<Workload>> {
        let mut memo = self.0.lock();
        if let Some((_, workload)) = memo.iter().find(|(known, _)| known == header) {
            return Some(workload.clone());
        }
        let workload = Arc::new(Workload::decode(header.as_bytes())?);
        if memo.len() == MEMO_LIMIT {
            memo.remove(0);
        }
        memo.push((header.clone(), workload.clone()));
        Some(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::{self, tests::POD};

    #[test]
    fn what_one_side_says_the_other_understands() {
        let mut vars = POD.to_vec();
        vars.extend([
            ("ISTIO_META_WORKLOAD_NAME", "reviews-v1"),
            ("ISTIO_META_CLUSTER_ID", "c1"),
        ]);
        let mut bootstrap = bootstrap::tests::from(&vars).unwrap();
        bootstrap.labels = [("app", "reviews"), ("version", "v1")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        let own = Own::new(bootstrap::peer_metadata(&bootstrap), &bootstrap.node_id());
        let peer = PeerMemo::default().resolve(&own.header).unwrap();
        assert_eq!(peer, own.workload);
        assert_eq!(
            (&*peer.name, &*peer.namespace, &*peer.cluster),
            ("reviews-v1", "default", "c1")
        );
        assert_eq!(
            (&*peer.canonical_name, &*peer.canonical_revision, &*peer.app),
            ("reviews", "v1", "reviews")
        );
    }

    #[test]
    fn peers_by_turns_are_decoded_once_and_few_are_remembered() {
        let header = |name: &str| {
            let mut bootstrap = bootstrap::tests::from(&POD).unwrap();
            bootstrap.labels.insert("app".to_owned(), name.to_owned());
            Own::new(bootstrap::peer_metadata(&bootstrap), name).header
        };
        let memo = PeerMemo::default();
        let (a, b) = (header("a"), header("b"));
        let first = memo.resolve(&a).unwrap();
        memo.resolve(&b).unwrap();
        assert!(Arc::ptr_eq(&first, &memo.resolve(&a).unwrap()));
        for i in 0..MEMO_LIMIT {
            memo.resolve(&header(&format!("c{i}"))).unwrap();
        }
        assert_eq!(memo.0.lock().len(), MEMO_LIMIT);
        assert!(!Arc::ptr_eq(&first, &memo.resolve(&a).unwrap()));
    }

    #[test]
    fn nonsense_is_no_peer() {
        for header in ["", "%%%", "AAAA"] {
            let peer = Workload::decode(header.as_bytes());
            assert!(peer.is_none_or(|peer| peer.name.is_empty()), "{header}");
        }
    }
}
