//! Turns generated resources into sendable ones, each once for all proxies that have it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use meltemi_xds::{Resource, ResourceMap, Snapshot};
use meltemi_xdsgen::{Generated, Kind};

/// Entries whose resources nobody holds are swept when there are more than this, and then at every doubling.
const SWEEP_MINIMUM: usize = 4096;

#[derive(Debug)]
pub(crate) struct Pool {
    resources: HashMap<(Kind, String, String), Weak<Resource>>,
    sweep_at: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            resources: HashMap::new(),
            sweep_at: SWEEP_MINIMUM,
        }
    }
}

impl Pool {
    /// The snapshot of what was generated. Types without a change share the map of `before`, by which a stream sees at
    /// once that it need not compare.
    pub(crate) fn snapshot(
        &mut self,
        version: &str,
        generated: &Generated,
        before: Option<&Snapshot>,
    ) -> Snapshot {
        self.sweep();
        Kind::ALL
            .into_iter()
            .fold(Snapshot::new(version), |snapshot, kind| {
                let before = before.and_then(|before| before.resources(kind.type_url()));
                let map = match before {
                    Some(before) if is_same(kind, generated, before) => Arc::clone(before),
                    _ => Arc::new(self.map(kind, generated)),
                };
                snapshot.with_type(kind.type_url(), map)
            })
    }

    fn map(&mut self, kind: Kind, generated: &Generated) -> ResourceMap {
        generated
            .of(kind)
            .iter()
            .map(|(name, resource)| (name.clone(), self.resource(resource)))
            .collect()
    }

    fn resource(&mut self, resource: &meltemi_xdsgen::Resource) -> Arc<Resource> {
        let key = (
            resource.kind,
            resource.name.clone(),
            resource.version.clone(),
        );
        let entry = self.resources.entry(key).or_default();
        entry.upgrade().unwrap_or_else(|| {
            let shared = Arc::new(Resource {
                name: resource.name.clone(),
                version: resource.version.clone(),
                body: resource.body.clone(),
            });
            *entry = Arc::downgrade(&shared);
            shared
        })
    }

    fn sweep(&mut self) {
        if self.resources.len() > self.sweep_at {
            self.resources
                .retain(|_, resource| resource.strong_count() > 0);
            self.sweep_at = (self.resources.len() * 2).max(SWEEP_MINIMUM);
        }
    }
}

fn is_same(kind: Kind, generated: &Generated, before: &ResourceMap) -> bool {
    let generated = generated.of(kind);
    generated.len() == before.len()
        && generated
            .iter()
            .zip(before)
            .all(|((name, a), (other, b))| name == other && a.version == b.version)
}
