//! What was generated, kept for other proxies: a mesh has far fewer different answers than proxies.
//!
//! ```text
//! Round (mesh, changes) -> ProxyState -- unit, view --> Shelf: made for somebody who agrees in all that was read? -> Arc<Made>
//!                                                            otherwise made, once, and put there
//! ```
//! The shelf itself keeps nothing alive: what no proxy holds any more is gone.

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use meltemi_core::ObjectRef;
use meltemi_model::{ChangeSet, MeshSnapshot};
use meltemi_proto::{Resource, ResourceMap};
use twox_hash::XxHash3_64;

use crate::ProxyView;
use crate::inputs::Read;
use crate::origin::Origin;
use crate::resource::{self, Resources};
use crate::state::Unit;
use crate::view::Fields;

/// Entries that nobody holds are swept when there are more than this, and then at every doubling.
const SWEEP_MINIMUM: usize = 4096;

/// The output of a unit, and what it was made from.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) resources: Box<[resource::Made]>,
    source: Source,
}

/// The units that a proxy's configuration consists of, and what they were listed from.
#[derive(Debug)]
pub(crate) struct Inventory {
    /// In order, each once.
    pub(crate) units: Box<[Unit]>,
    source: Source,
}

/// What something was made from.
#[derive(Debug)]
pub(crate) struct Source {
    read: Read,
    view: Arc<ProxyView>,
    /// The names that a proxy on demand asked for.
    asked: Option<BTreeSet<String>>,
    /// A part of the mesh has changed since.
    is_stale: AtomicBool,
}

impl Source {
    pub(crate) fn new(read: Read, view: &Arc<ProxyView>, asked: Option<BTreeSet<String>>) -> Self {
        Self {
            read,
            view: Arc::clone(view),
            asked,
            is_stale: AtomicBool::new(false),
        }
    }

    /// Of what depends on the proxy alone.
    pub(crate) fn nothing(view: &Arc<ProxyView>) -> Self {
        Self::new(Read::default(), view, None)
    }

    /// Whether the same comes of another view.
    fn serves(&self, view: &ProxyView, asked: Option<&BTreeSet<String>>) -> bool {
        !self.is_stale() && self.asked.as_ref() == asked && self.view.agrees(view, self.read.fields)
    }

    fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }

    /// Whether it is made from a changed part; then nobody gets it any more.
    fn outdated_by(&self, changes: &ChangeSet) -> bool {
        let is_outdated = changes.touches_sorted(&self.read.parts);
        self.is_stale.fetch_or(is_outdated, Ordering::Relaxed) || is_outdated
    }
}

impl Made {
    pub(crate) fn new(resources: Vec<resource::Made>, source: Source) -> Self {
        Self {
            resources: resources.into(),
            source,
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.source.is_stale()
    }

    pub(crate) fn depends_on(&self, fields: Fields) -> bool {
        self.source.read.fields.intersects(fields)
    }

    /// The objects of users that it was made from.
    pub(crate) fn origins(&self) -> impl Iterator<Item = &ObjectRef> {
        self.source.read.origins.iter().flat_map(Origin::objects)
    }
}

impl Inventory {
    pub(crate) fn new(units: BTreeSet<Unit>, source: Source) -> Self {
        Self {
            units: units.into_iter().collect(),
            source,
        }
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.source.is_stale()
    }

    pub(crate) fn depends_on(&self, fields: Fields) -> bool {
        self.source.read.fields.intersects(fields)
    }
}

/// What proxies share.
#[derive(Debug, Default)]
pub struct Shelf {
    made: HashMap<Unit, Vec<Weak<Made>>>,
    inventories: Vec<Weak<Inventory>>,
    resources: HashMap<Arc<str>, Vec<Weak<Resource>>>,
    maps: HashMap<u64, Vec<Weak<ResourceMap>>>,
    sweep_at: usize,
}

impl Shelf {
    /// The mesh as it is now, and what changed in it since the last round. Every proxy takes part in every round.
    pub fn round<'a>(&'a mut self, mesh: &'a MeshSnapshot, changes: &ChangeSet) -> Round<'a> {
        self.sweep();
        if !changes.is_empty() {
            self.outdate(changes);
        }
        Round {
            shelf: self,
            mesh,
            steps: HashMap::new(),
        }
    }

    /// How many units there are for all proxies.
    #[cfg(test)]
    pub(crate) fn unit_count(&self) -> usize {
        let held =
            |all: &Vec<Weak<Made>>| all.iter().filter(|made| made.strong_count() > 0).count();
        self.made.values().map(held).sum()
    }

    fn outdate(&mut self, changes: &ChangeSet) {
        let is_current = |source: &Source| !source.outdated_by(changes);
        self.made.retain(|_, all| {
            all.retain(|made| made.upgrade().is_some_and(|made| is_current(&made.source)));
            !all.is_empty()
        });
        self.inventories.retain(|listed| {
            listed
                .upgrade()
                .is_some_and(|listed| is_current(&listed.source))
        });
    }

    fn sweep(&mut self) {
        let count = self.resources.len() + self.maps.len() + self.made.len();
        if count <= self.sweep_at.max(SWEEP_MINIMUM) {
            return;
        }
        sweep(&mut self.made);
        sweep(&mut self.resources);
        sweep(&mut self.maps);
        self.inventories.retain(|listed| listed.strong_count() > 0);
        self.sweep_at = (self.resources.len() + self.maps.len() + self.made.len()) * 2;
    }

    /// The resource that others have with the same content, or this one.
    fn shared(&mut self, resource: Arc<Resource>) -> Arc<Resource> {
        let all = self
            .resources
            .entry(Arc::clone(&resource.name))
            .or_default();
        let same = |other: &Arc<Resource>| {
            other.version == resource.version && other.body.type_url == resource.body.type_url
        };
        if let Some(found) = all.iter().filter_map(Weak::upgrade).find(same) {
            return found;
        }
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&resource));
        resource
    }

    /// The same of a whole type. Its resources are shared ones, so that equal means identical.
    fn shared_map(&mut self, map: Resources) -> Resources {
        let all = self.maps.entry(fingerprint(&map)).or_default();
        let is_same = |other: &Resources| {
            other.len() == map.len()
                && other
                    .values()
                    .zip(map.values())
                    .all(|(a, b)| Arc::ptr_eq(a, b))
        };
        if let Some(found) = all.iter().filter_map(Weak::upgrade).find(is_same) {
            return found;
        }
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&map));
        map
    }
}

fn fingerprint(map: &ResourceMap) -> u64 {
    let mut hasher = XxHash3_64::default();
    map.values()
        .for_each(|resource| Arc::as_ptr(resource).hash(&mut hasher));
    hasher.finish()
}

fn sweep<K: Eq + Hash, T>(entries: &mut HashMap<K, Vec<Weak<T>>>) {
    entries.retain(|_, all| {
        all.retain(|one| one.strong_count() > 0);
        !all.is_empty()
    });
    entries.shrink_to_fit();
}

/// A change of a type's resources, by identity: what there was, what goes, what comes.
type Step = (usize, Vec<usize>, Vec<usize>);

/// One application of changes to all proxies.
#[derive(Debug)]
pub struct Round<'a> {
    shelf: &'a mut Shelf,
    pub(crate) mesh: &'a MeshSnapshot,
    /// Steps that a proxy made already, with both ends: many proxies make the same one. Holding the resources that went
    /// keeps their identities from being given anew.
    steps: HashMap<Step, (Resources, Resources, Vec<Arc<Resource>>)>,
}

impl Round<'_> {
    pub(crate) fn unit(
        &mut self,
        unit: &Unit,
        view: &Arc<ProxyView>,
        asked: Option<&BTreeSet<String>>,
        make: impl FnOnce(&MeshSnapshot) -> Made,
    ) -> Arc<Made> {
        let on_shelf = self.shelf.made.get(unit).into_iter().flatten();
        let mut current = on_shelf.filter_map(Weak::upgrade);
        if let Some(found) = current.find(|made| made.source.serves(view, asked)) {
            return found;
        }
        let mut made = make(self.mesh);
        for (_, resource) in &mut made.resources {
            *resource = self.shelf.shared(Arc::clone(resource));
        }
        let made = Arc::new(made);
        let entry = self.shelf.made.entry(unit.clone()).or_default();
        entry.push(Arc::downgrade(&made));
        made
    }

    pub(crate) fn inventory(
        &mut self,
        view: &Arc<ProxyView>,
        make: impl FnOnce(&MeshSnapshot) -> Inventory,
    ) -> Arc<Inventory> {
        let mut current = self.shelf.inventories.iter().filter_map(Weak::upgrade);
        if let Some(found) = current.find(|listed| listed.source.serves(view, None)) {
            return found;
        }
        let listed = Arc::new(make(self.mesh));
        self.shelf.inventories.push(Arc::downgrade(&listed));
        listed
    }

    /// All resources of a type, the first of a name.
    pub(crate) fn map<'a>(
        &mut self,
        resources: impl Iterator<Item = &'a Arc<Resource>>,
    ) -> Resources {
        let mut map = ResourceMap::new();
        for resource in resources {
            map.entry(Arc::clone(&resource.name))
                .or_insert_with(|| Arc::clone(resource));
        }
        self.shelf.shared_map(Arc::new(map))
    }

    /// A type's resources without some and with others, the first of a name.
    pub(crate) fn step(
        &mut self,
        before: &Resources,
        gone: Vec<Arc<Resource>>,
        come: &[&Arc<Resource>],
    ) -> Resources {
        let address = |resource: &Arc<Resource>| Arc::as_ptr(resource).addr();
        let key = (
            Arc::as_ptr(before).addr(),
            gone.iter().map(address).collect(),
            come.iter().map(|resource| address(resource)).collect(),
        );
        if let Some((_, after, _)) = self.steps.get(&key) {
            return Arc::clone(after);
        }
        let mut map = before.as_ref().clone();
        for resource in &gone {
            map.remove(&resource.name);
        }
        for resource in come {
            map.entry(Arc::clone(&resource.name))
                .or_insert_with(|| Arc::clone(resource));
        }
        let after = self.shelf.shared_map(Arc::new(map));
        let ends = (Arc::clone(before), Arc::clone(&after), gone);
        self.steps.insert(key, ends);
        after
    }
}
