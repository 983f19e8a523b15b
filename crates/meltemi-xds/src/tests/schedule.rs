//! Random schedules of updates, rejections, lost connections and changed subscriptions must converge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use meltemi_proto::type_url::{CLUSTER, ENDPOINT, LISTENER, ROUTE};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::harness::{Contents, Mesh, snapshot};

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const ALL: [&str; 2] = [CLUSTER, LISTENER];
const BY_NAME: [&str; 2] = [ENDPOINT, ROUTE];

/// What the control plane has, and what the client wants.
struct World {
    random: StdRng,
    generation: u32,
    resources: BTreeMap<(&'static str, &'static str), u32>,
    wanted: BTreeSet<(&'static str, &'static str)>,
}

impl World {
    fn change_some(&mut self) {
        for type_url in ALL.into_iter().chain(BY_NAME) {
            for name in NAMES {
                match self.random.random_range(0..4) {
                    0 => self.resources.remove(&(type_url, name)),
                    1 => {
                        self.generation += 1;
                        self.resources.insert((type_url, name), self.generation)
                    }
                    _ => None,
                };
            }
        }
    }

    fn publish(&self, mesh: &Mesh) {
        let specs: Vec<_> = self
            .resources
            .iter()
            .map(|((t, n), g)| (*t, *n, *g))
            .collect();
        mesh.publish(snapshot(&specs));
    }

    fn change_subscription(&mut self, mesh: &mut Mesh) {
        let key = (
            BY_NAME[self.random.random_range(0..BY_NAME.len())],
            NAMES[self.random.random_range(0..NAMES.len())],
        );
        if self.wanted.contains(&key) && self.random.random_bool(0.6) {
            self.wanted.remove(&key);
            mesh.client.unsubscribe(key.0, [key.1]);
            mesh.app.forget(key.0, key.1);
        } else {
            self.wanted.insert(key);
            mesh.client.subscribe(key.0, [key.1]);
        }
    }

    fn reject_some(&mut self, mesh: &mut Mesh) {
        for generation in self.generation..self.generation + 20 {
            if self.random.random_bool(0.3) {
                let name = NAMES[self.random.random_range(0..NAMES.len())];
                mesh.app.reject.insert((name.to_owned(), generation));
            }
        }
    }

    async fn act(&mut self, mesh: &mut Mesh) {
        match self.random.random_range(0..10) {
            0..=3 => {
                self.change_some();
                self.publish(mesh);
            }
            4 | 5 => self.change_subscription(mesh),
            6 => self.reject_some(mesh),
            7 => mesh.drop_connections(),
            _ => {
                let millis = self.random.random_range(0..2000);
                mesh.apply_for(Duration::from_millis(millis)).await;
            }
        }
    }

    /// What the client must hold in the end.
    fn expected(&self) -> Contents {
        let wanted = |key: &&(&'static str, &'static str)| {
            ALL.contains(&key.0) || self.wanted.contains(*key)
        };
        let keys = self.resources.keys().filter(wanted);
        keys.map(|key| ((key.0.to_owned(), key.1.to_owned()), self.resources[key]))
            .collect()
    }
}

/// Gives the number of connections it took.
async fn converges(seed: u64) -> u64 {
    let mut mesh = Mesh::start();
    let mut world = World {
        random: StdRng::seed_from_u64(seed),
        generation: 0,
        resources: BTreeMap::new(),
        wanted: BTreeSet::new(),
    };
    for type_url in ALL {
        mesh.client.subscribe_all(type_url);
    }
    for _ in 0..60 {
        world.act(&mut mesh).await;
    }
    // The last word: every resource in a version that nobody rejects.
    world.generation += 100;
    mesh.app.reject.clear();
    for version in world.resources.values_mut() {
        world.generation += 1;
        *version = world.generation;
    }
    world.publish(&mesh);
    mesh.until_applied(&world.expected()).await;
    // And it stays so: nothing of an earlier state is still under way.
    mesh.apply_for(Duration::from_secs(60)).await;
    assert_eq!(mesh.app.applied, world.expected(), "seed {seed}");
    mesh.updates.state().borrow().connections
}

#[tokio::test(start_paused = true)]
async fn random_schedules_converge() {
    let mut connections = 0;
    for seed in 0..40 {
        connections += converges(seed).await;
    }
    assert!(connections > 80, "the schedules hardly ever reconnected");
}
