//! How far the objects of users have come: what is wrong with each, and how many of the proxies that have it in their
//! configuration run it as it is now.

mod merge;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use meltemi_api::status::{Proxies, Standing};
use meltemi_api::{Kind, ObjectKey};
use meltemi_core::{Diagnostic, ObjectRef};
use meltemi_model::Mesh;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::hub::Command;
use crate::replicas::{Asking, Replica};
use merge::{Merged, OWN};

/// Between looks at other replicas while proxies of theirs have not answered.
const OTHERS_INTERVAL: Duration = Duration::from_millis(500);

/// What one proxy was made of, and how far it is.
pub(crate) struct Answer<'a> {
    pub(crate) name: &'a str,
    pub(crate) origins: Box<dyn Fn() -> Box<dyn Iterator<Item = &'a ObjectRef> + 'a> + 'a>,
    pub(crate) refusal: Option<String>,
    /// Whether it has answered what a push brought.
    pub(crate) has: Box<dyn Fn(u64) -> bool + 'a>,
}

/// The push that brought each object of a user's as it is now, and whether everybody has answered it.
#[derive(Debug, Default)]
pub(crate) struct Pushed(BTreeMap<ObjectKey, (u64, bool)>);

impl Pushed {
    pub(crate) fn note(&mut self, key: ObjectKey, push: u64) {
        self.0.insert(key, (push, false));
    }

    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }

    /// How far the objects are. Proxies are counted for those that not everybody had when it was last asked, or for all.
    pub(crate) fn standings<'a>(
        &mut self,
        mesh: &Mesh,
        all: bool,
        proxies: impl Iterator<Item = Answer<'a>>,
        diagnostics: &[Diagnostic],
    ) -> Vec<Standing> {
        let mut standings: BTreeMap<ObjectRef, Standing> = BTreeMap::new();
        let mut counts: HashMap<ObjectRef, (u64, Proxies)> = HashMap::new();
        for (key, (push, is_done)) in &self.0 {
            let generation = mesh.object(key).map(|object| object.meta.generation);
            let object = key.reference();
            if all || !is_done {
                counts.insert(object.clone(), (*push, Proxies::default()));
            }
            standings.insert(object.clone(), Standing::new(object, generation));
        }
        if !counts.is_empty() {
            proxies.for_each(|proxy| count(&proxy, &mut counts));
        }
        for (key, (_, is_done)) in &mut self.0 {
            let object = key.reference();
            let counted = counts.remove(&object).map(|(_, proxies)| proxies);
            *is_done = counted.as_ref().map_or(*is_done, Proxies::are_done);
            if let Some(standing) = standings.get_mut(&object) {
                standing.proxies = counted;
            }
        }
        for diagnostic in diagnostics {
            let object = diagnostic.object.as_ref();
            let Some(object) = object.filter(|object| is_istio(&object.kind)) else {
                continue;
            };
            // Of an object that was never good nothing else is known.
            let unknown = || Standing::new(object.clone(), None);
            let standing = standings.entry(object.clone()).or_insert_with(unknown);
            standing.problems.push(diagnostic.clone());
        }
        standings.into_values().collect()
    }
}

/// Adds a proxy to the counts of the objects that its configuration was made from.
fn count(proxy: &Answer<'_>, counts: &mut HashMap<ObjectRef, (u64, Proxies)>) {
    let mut seen = HashSet::new();
    for origin in (proxy.origins)() {
        if let Some((push, proxies)) = counts.get_mut(origin)
            && seen.insert(origin)
        {
            note(proxies, proxy, *push);
        }
    }
}

fn note(proxies: &mut Proxies, proxy: &Answer<'_>, push: u64) {
    match &proxy.refusal {
        Some(reason) => proxies.add_refusing(proxy.name, reason),
        None if (proxy.has)(push) => proxies.add_running(),
        None => proxies.add_waiting(proxy.name),
    }
}

fn is_istio(kind: &str) -> bool {
    let mut kinds = Kind::ALL.iter();
    kinds.any(|known| known.is_istio() && known.as_str() == kind)
}

/// What one replica knows, and which others there are.
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) standings: Vec<Standing>,
    pub(crate) replicas: BTreeSet<Replica>,
}

/// Follows the objects of users.
#[derive(Debug)]
pub struct StandingReader {
    hub: mpsc::Sender<Command>,
    news: Arc<Notify>,
    asking: Asking,
    merged: Merged,
    /// Other replicas have proxies that have not answered yet.
    awaits_others: bool,
}

impl StandingReader {
    pub(crate) fn new(hub: mpsc::Sender<Command>, news: Arc<Notify>, asking: Asking) -> Self {
        Self {
            hub,
            news,
            asking,
            merged: Merged::default(),
            awaits_others: false,
        }
    }

    /// Returns when something may have changed since the last call.
    pub async fn changed(&self) {
        tokio::select! {
            () = self.news.notified() => {}
            () = tokio::time::sleep(OTHERS_INTERVAL), if self.awaits_others => {}
        }
    }

    /// As they are now; `None` once the control plane stops. Proxies, those of other replicas too, are counted where there
    /// is news, or for `all`.
    pub async fn read(&mut self, all: bool) -> Option<Vec<Standing>> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Standings { all, reply };
        self.hub.send(command).await.ok()?;
        let known = answer.await.ok()?;
        let names: BTreeSet<String> = known.replicas.iter().map(|one| one.name.clone()).collect();
        let mut news = self.merged.keep(&names);
        news.extend(self.merged.take(OWN, Some(&known.standings)));
        let asked = known.replicas.iter().map(|replica| {
            let all = all || !self.merged.knows(&replica.name);
            let asking = &self.asking;
            async move { (replica, asking.ask(replica, all).await) }
        });
        let answers: Vec<_> = futures_util::future::join_all(asked).await;
        for (replica, answer) in answers {
            if let Err(error) = &answer {
                tracing::debug!(replica = replica.name, %error, "another replica does not answer");
            }
            let told = answer.ok();
            news.extend(self.merged.take(&replica.name, told.as_deref()));
        }
        let merged = self.merged.merge(known.standings, &news);
        let is_open = |standing: &Standing| {
            let proxies = standing.proxies.as_ref();
            proxies.is_some_and(|proxies| !proxies.are_done())
        };
        self.awaits_others = !names.is_empty() && merged.iter().any(is_open);
        Some(merged)
    }
}

#[cfg(test)]
mod tests {
    use meltemi_api::Change;

    use super::*;

    fn mesh() -> Mesh {
        let yaml = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: shop, generation: 3}\nspec: {hosts: [a], http: [{route: [{destination: {host: a}}]}]}\n";
        let mut mesh = Mesh::default();
        let parsed = meltemi_api::parse("in.yaml", yaml, "default");
        let changes: Vec<Change> = parsed.objects.into_iter().map(Change::Upsert).collect();
        mesh.apply(&changes);
        mesh
    }

    fn answer<'a>(
        name: &'a str,
        origin: &'a ObjectRef,
        has: u64,
        refusal: Option<&str>,
    ) -> Answer<'a> {
        Answer {
            name,
            origins: Box::new(move || Box::new(std::iter::repeat_n(origin, 2))),
            refusal: refusal.map(str::to_owned),
            has: Box::new(move |push| has >= push),
        }
    }

    #[test]
    fn an_object_is_run_by_those_who_have_answered_its_push() {
        let mesh = mesh();
        let key = ObjectKey::new(Kind::VirtualService, "shop", "a");
        let (object, other) = (
            key.reference(),
            ObjectRef::new("VirtualService", "shop", "b"),
        );
        let mut pushed = Pushed::default();
        pushed.note(key, 5);
        let mut ask = |all: bool, has: u64, refusal: Option<&str>| {
            let proxies = [
                answer("has.shop", &object, 5, None),
                answer("later.shop", &object, has, None),
                answer("no.shop", &object, 5, refusal),
                answer("elsewhere.shop", &other, 9, None),
            ];
            let problem = Diagnostic::error("X", "wrong").object(object.clone());
            let broken = Diagnostic::error("Y", "unreadable").object(other.clone());
            let pod = Diagnostic::error("Z", "odd").object(ObjectRef::new("Pod", "shop", "p"));
            pushed.standings(&mesh, all, proxies.into_iter(), &[problem, broken, pod])
        };
        let all = ask(false, 4, Some("listener: bad"));
        let [known, unknown] = &all[..] else {
            panic!("{all:?}")
        };
        assert_eq!((known.generation, known.problems.len()), (Some(3), 1));
        assert_eq!(
            known.proxies,
            Some(Proxies {
                concerned: 3,
                running: 1,
                waiting: vec!["later.shop".to_owned()],
                refusing: vec!["no.shop: listener: bad".to_owned()],
            })
        );
        assert_eq!((unknown.generation, unknown.problems.len()), (None, 1));

        let running = |all: Vec<Standing>| all[0].proxies.as_ref().map(|proxies| proxies.running);
        assert_eq!(running(ask(false, 5, None)), Some(3));
        assert_eq!(running(ask(false, 5, None)), None, "everybody has it");
        assert_eq!(running(ask(true, 5, None)), Some(3));
    }
}
