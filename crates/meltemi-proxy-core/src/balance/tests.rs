use std::collections::BTreeMap;

use meltemi_core::Locality;

use super::*;
use crate::runtime::{EndpointAddress, MaglevSettings, RingHashFunction, RingHashSettings};
use crate::testing::cluster;

fn endpoint(id: u8, weight: u32, health: Health) -> Arc<Endpoint> {
    let address = EndpointAddress::Socket(([10, 0, 0, id], 80).into());
    Arc::new(Endpoint {
        health,
        weight,
        ..Endpoint::at(address)
    })
}

fn locality(
    priority: u32,
    weight: Option<u32>,
    endpoints: Vec<Arc<Endpoint>>,
) -> LocalityEndpoints {
    LocalityEndpoints {
        locality: Arc::new(Locality::default()),
        weight,
        priority,
        endpoints,
    }
}

fn balancer(cluster: &Cluster, localities: Vec<LocalityEndpoints>) -> LoadBalancer {
    let assignment = ClusterLoadAssignment {
        cluster_name: "c".into(),
        localities,
        overprovisioning_factor_percent: 140,
        drop_overloads: Vec::new(),
    };
    LoadBalancer::new(cluster, &assignment, &|_| false)
}

fn id(endpoint: &Endpoint) -> u8 {
    match endpoint.socket_addr().unwrap().ip() {
        std::net::IpAddr::V4(ip) => ip.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    }
}

/// Counts 10,000 picks by the last octet, with numbers from a small generator.
fn picks(balancer: &LoadBalancer, active: &dyn Fn(&Endpoint) -> u32) -> BTreeMap<u8, u32> {
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let mut counts = BTreeMap::new();
    for turn in 0..10_000 {
        let mut pick = Pick {
            random: &mut random,
            turn,
            hash: None,
            active,
            avoid: &|_| false,
            attempts: 1,
        };
        if let Some(endpoint) = balancer.pick(&mut pick) {
            *counts.entry(id(endpoint)).or_default() += 1;
        }
    }
    counts
}

fn with(lb: LbPolicy) -> Cluster {
    Cluster { lb, ..cluster("c") }
}

fn near(found: u32, expected: u32) -> bool {
    found.abs_diff(expected) < 300
}

#[test]
fn round_robin_is_exact_also_with_weights() {
    let hosts = vec![
        endpoint(1, 1, Health::Healthy),
        endpoint(2, 3, Health::Healthy),
        endpoint(3, 1, Health::Unhealthy),
    ];
    let counts = picks(
        &balancer(&with(LbPolicy::RoundRobin), vec![locality(0, None, hosts)]),
        &|_| 0,
    );
    assert_eq!(counts, BTreeMap::from([(1, 2500), (2, 7500)]));
}

#[test]
fn least_request_prefers_the_idle() {
    let hosts = vec![
        endpoint(1, 1, Health::Healthy),
        endpoint(2, 1, Health::Healthy),
    ];
    let balancer = balancer(
        &with(LbPolicy::LeastRequest { choices: 2 }),
        vec![locality(0, None, hosts)],
    );
    let counts = picks(&balancer, &|endpoint| if id(endpoint) == 1 { 5 } else { 0 });
    assert!(near(counts[&1], 2500), "{counts:?}");
}

/// Envoy's table of priority loads: with 140 % overprovisioning, 71 % healthy carries all; 50 % leaves 30 %.
#[test]
fn load_spills_to_the_next_priority() {
    let p0 = |healthy: u8| {
        (0..10)
            .map(|i| {
                endpoint(
                    i,
                    1,
                    if i < healthy {
                        Health::Healthy
                    } else {
                        Health::Unhealthy
                    },
                )
            })
            .collect()
    };
    let p1 = || vec![endpoint(100, 1, Health::Healthy)];
    let share = |healthy| {
        let localities = vec![locality(0, None, p0(healthy)), locality(1, None, p1())];
        picks(&balancer(&with(LbPolicy::Random), localities), &|_| 0)
            .get(&100)
            .copied()
            .unwrap_or(0)
    };
    assert_eq!(share(8), 0);
    assert!(near(share(5), 3000), "{}", share(5));
    assert_eq!(share(0), 10_000);
}

#[test]
fn panic_uses_everyone_unless_it_is_off() {
    let hosts = || {
        vec![
            endpoint(1, 1, Health::Healthy),
            endpoint(2, 1, Health::Unhealthy),
            endpoint(3, 1, Health::Unhealthy),
        ]
    };
    let mut random = with(LbPolicy::Random);
    let counts = picks(&balancer(&random, vec![locality(0, None, hosts())]), &|_| 0);
    assert_eq!(counts.len(), 3);
    random.panic_threshold_percent = 0.0;
    let counts = picks(&balancer(&random, vec![locality(0, None, hosts())]), &|_| 0);
    assert_eq!(counts, BTreeMap::from([(1, 10_000)]));
    let dead = vec![endpoint(2, 1, Health::Unhealthy)];
    let none = balancer(&random, vec![locality(0, None, dead)]);
    assert!(picks(&none, &|_| 0).is_empty() && !none.is_empty());
    assert!(balancer(&random, Vec::new()).is_empty());
}

#[test]
fn localities_by_weight_and_health() {
    let cluster = Cluster {
        locality_weighted: true,
        ..with(LbPolicy::Random)
    };
    let localities = vec![
        locality(0, Some(3), vec![endpoint(1, 1, Health::Healthy)]),
        locality(0, Some(1), vec![endpoint(2, 1, Health::Healthy)]),
        locality(0, Some(9), vec![]),
    ];
    let counts = picks(&balancer(&cluster, localities), &|_| 0);
    assert!(near(counts[&1], 7500), "{counts:?}");
}

#[test]
fn avoided_endpoints_are_chosen_last() {
    let hosts = vec![
        endpoint(1, 1, Health::Healthy),
        endpoint(2, 1, Health::Healthy),
    ];
    let balancer = balancer(&with(LbPolicy::RoundRobin), vec![locality(0, None, hosts)]);
    let mut zero = || 0;
    let mut pick = |avoid: &dyn Fn(&Endpoint) -> bool| {
        let mut pick = Pick {
            random: &mut zero,
            turn: 0,
            hash: None,
            active: &|_| 0,
            avoid,
            attempts: 5,
        };
        balancer.pick(&mut pick).map(|endpoint| id(endpoint))
    };
    assert_eq!(pick(&|endpoint| id(endpoint) == 1), Some(2));
    assert!(pick(&|_| true).is_some());
}

fn by_hash(policy: LbPolicy, ids: &[u8]) -> Vec<u8> {
    let hosts = ids
        .iter()
        .map(|id| endpoint(*id, 1, Health::Healthy))
        .collect();
    let balancer = balancer(&with(policy), vec![locality(0, None, hosts)]);
    let mut zero = || 0;
    let hashes = (0..2000_u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let picked = hashes.map(|hash| {
        let mut pick = Pick {
            random: &mut zero,
            turn: 0,
            hash: Some(hash),
            active: &|_| 0,
            avoid: &|_| false,
            attempts: 1,
        };
        id(balancer.pick(&mut pick).unwrap())
    });
    picked.collect()
}

/// Removing one of five endpoints moves about its share and no more.
#[test]
fn consistent_hashing_is_even_and_stable() {
    let ring = RingHashSettings {
        minimum_size: 1024,
        maximum_size: 8 << 20,
        function: RingHashFunction::XxHash64,
        use_hostname: false,
    };
    let maglev = MaglevSettings {
        table_size: 65_537,
        use_hostname: false,
    };
    // A ring of fewer endpoints has more points of each, which take some hashes over.
    for (policy, limit) in [
        (LbPolicy::RingHash(ring), 300),
        (LbPolicy::Maglev(maglev), 60),
    ] {
        let (all, fewer) = (
            by_hash(policy, &[1, 2, 3, 4, 5]),
            by_hash(policy, &[1, 2, 3, 4]),
        );
        for id in 1..=5 {
            let share = all.iter().filter(|picked| **picked == id).count();
            assert!((300..500).contains(&share), "{policy:?} {id}: {share}");
        }
        let moved = all
            .iter()
            .zip(&fewer)
            .filter(|(a, b)| a != b && **a != 5)
            .count();
        assert!(moved < limit, "{policy:?} moved {moved}");
    }
}
