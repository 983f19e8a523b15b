//! What all replicas know, from what each told last.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use meltemi_api::status::{Proxies, Standing};
use meltemi_core::ObjectRef;

/// The counts of one replica, and the generation that they are of.
type Counts = HashMap<ObjectRef, (Option<i64>, Proxies)>;

/// The last counts of every replica; this one's own under no name.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    counts: BTreeMap<String, Counts>,
    /// Those that did not answer when they were last asked.
    silent: BTreeSet<String>,
}

/// This replica among the others.
pub(crate) const OWN: &str = "";

impl Merged {
    /// Whether a replica has told of everything once.
    pub(crate) fn knows(&self, replica: &str) -> bool {
        self.counts.contains_key(replica) && !self.silent.contains(replica)
    }

    /// Replicas that are no more have no proxies; those were others' a moment later.
    pub(crate) fn keep(&mut self, replicas: &BTreeSet<String>) -> BTreeSet<ObjectRef> {
        let is_gone = |name: &String| name != OWN && !replicas.contains(name);
        let gone: Vec<String> = self
            .counts
            .keys()
            .filter(|name| is_gone(name))
            .cloned()
            .collect();
        self.silent.retain(|name| replicas.contains(name));
        let counts = gone.iter().filter_map(|name| self.counts.remove(name));
        counts.flat_map(Counts::into_keys).collect()
    }

    /// Takes what a replica tells; `None`: it does not answer. The objects of which it is news.
    pub(crate) fn take(&mut self, replica: &str, told: Option<&[Standing]>) -> BTreeSet<ObjectRef> {
        let Some(told) = told else {
            self.silent.insert(replica.to_owned());
            return BTreeSet::new();
        };
        self.silent.remove(replica);
        let counts = self.counts.entry(replica.to_owned()).or_default();
        let mut news = BTreeSet::new();
        for standing in told {
            if let Some(proxies) = &standing.proxies {
                let count = (standing.generation, proxies.clone());
                counts.insert(standing.object.clone(), count);
                news.insert(standing.object.clone());
            }
        }
        news
    }

    /// The objects as this replica sees them, with the proxies of all where there is news.
    pub(crate) fn merge(&self, own: Vec<Standing>, news: &BTreeSet<ObjectRef>) -> Vec<Standing> {
        let merge = |mut standing: Standing| {
            standing.proxies = news
                .contains(&standing.object)
                .then(|| self.proxies(&standing.object, standing.generation));
            standing
        };
        own.into_iter().map(merge).collect()
    }

    fn proxies(&self, object: &ObjectRef, generation: Option<i64>) -> Proxies {
        let mut all = Proxies::default();
        for (replica, counts) in &self.counts {
            match counts.get(object) {
                Some((of, proxies)) if *of == generation => all.add(proxies.clone()),
                // It has not seen this version yet, nor have its proxies.
                Some((_, proxies)) if proxies.concerned > 0 => {
                    all.add_waiting(&format!("the proxies of {replica}"));
                }
                _ => {}
            }
        }
        for replica in &self.silent {
            all.add_waiting(&format!("{replica}, which does not answer"));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(generation: i64, running: usize, waiting: usize) -> Standing {
        let object = ObjectRef::new("VirtualService", "shop", "a");
        let mut standing = Standing::new(object, Some(generation));
        let mut proxies = Proxies::default();
        (0..running).for_each(|_| proxies.add_running());
        (0..waiting).for_each(|_| proxies.add_waiting("w.shop"));
        standing.proxies = Some(proxies);
        standing
    }

    #[test]
    fn the_proxies_of_all_replicas_are_added() {
        let mut merged = Merged::default();
        let own = vec![standing(2, 3, 0)];
        let mut news = merged.take(OWN, Some(&own));
        news.extend(merged.take("b", Some(&[standing(2, 1, 1)])));
        let all = merged.merge(own.clone(), &news);
        let counts = |all: &[Standing]| {
            let proxies = all[0].proxies.as_ref()?;
            Some((proxies.concerned, proxies.running))
        };
        assert_eq!(counts(&all), Some((5, 4)));
        assert_eq!(counts(&merged.merge(own.clone(), &BTreeSet::new())), None);

        // Another replica is behind, then away, then gone.
        let news = merged.take("b", Some(&[standing(1, 2, 0)]));
        assert_eq!(counts(&merged.merge(own.clone(), &news)), Some((4, 3)));
        merged.take("b", None);
        assert!(!merged.knows("b"));
        assert_eq!(counts(&merged.merge(own.clone(), &news)), Some((5, 3)));
        let news = merged.keep(&BTreeSet::new());
        assert_eq!(counts(&merged.merge(own, &news)), Some((3, 3)));
    }
}
