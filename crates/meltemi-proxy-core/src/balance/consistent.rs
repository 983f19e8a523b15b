//! Ring hash and Maglev tables, as Envoy builds them.

use std::sync::Arc;

use twox_hash::XxHash64;

use crate::runtime::{Endpoint, LbPolicy, MaglevSettings, RingHashSettings};

/// A lookup table from hashes to positions of endpoints.
#[derive(Debug, Clone)]
pub(super) enum Table {
    /// Sorted by hash.
    Ring(Vec<(u64, usize)>),
    Maglev(Vec<usize>),
}

impl Table {
    /// `None` for policies without a table.
    pub(super) fn new(policy: LbPolicy, hosts: &[Arc<Endpoint>]) -> Option<Self> {
        match policy {
            LbPolicy::RingHash(settings) => Some(Self::Ring(ring(settings, hosts))),
            LbPolicy::Maglev(settings) => Some(Self::Maglev(maglev(settings, hosts))),
            _ => None,
        }
    }

    pub(super) fn find(&self, hash: u64) -> Option<usize> {
        match self {
            Self::Ring(ring) => {
                let at = ring.partition_point(|(point, _)| *point < hash);
                ring.get(at)
                    .or_else(|| ring.first())
                    .map(|(_, position)| *position)
            }
            Self::Maglev(table) => {
                let slot = hash.checked_rem(table.len() as u64)?;
                table.get(usize::try_from(slot).ok()?).copied()
            }
        }
    }
}

fn key(endpoint: &Endpoint, use_hostname: bool) -> String {
    match &endpoint.hash_key {
        Some(key) => key.to_string(),
        None if use_hostname => endpoint.hostname.to_string(),
        None => endpoint.address.to_string(),
    }
}

/// Each endpoint puts points `xxHash64("<key>_<i>")` on the ring, in proportion to its weight and at least so many in all as
/// the minimum size asks.
#[expect(
    clippy::cast_precision_loss,
    reason = "Envoy computes with doubles; sizes are below 2^23"
)]
fn ring(settings: RingHashSettings, hosts: &[Arc<Endpoint>]) -> Vec<(u64, usize)> {
    let total: f64 = hosts.iter().map(|host| f64::from(host.weight)).sum();
    let Some(least) = hosts
        .iter()
        .map(|host| f64::from(host.weight) / total)
        .reduce(f64::min)
    else {
        return Vec::new();
    };
    let scale =
        ((least * settings.minimum_size as f64).ceil() / least).min(settings.maximum_size as f64);
    let mut points = Vec::new();
    let (mut current, mut target) = (0.0, 0.0);
    for (position, host) in hosts.iter().enumerate() {
        let key = key(host, settings.use_hostname);
        target += scale * f64::from(host.weight) / total;
        let mut i = 0_u64;
        while current < target {
            points.push((
                XxHash64::oneshot(0, format!("{key}_{i}").as_bytes()),
                position,
            ));
            i += 1;
            current += 1.0;
        }
    }
    points.sort_unstable();
    points
}

/// Maglev (section 3.4 of the paper): endpoints take turns, as often as their weight says, at the next free slot of their own
/// permutation of the table.
#[expect(
    clippy::cast_precision_loss,
    reason = "Envoy computes with doubles; sizes are below 2^23"
)]
fn maglev(settings: MaglevSettings, hosts: &[Arc<Endpoint>]) -> Vec<usize> {
    let size = settings.table_size;
    let Some(most) = hosts
        .iter()
        .map(|host| f64::from(host.weight))
        .reduce(f64::max)
    else {
        return Vec::new();
    };
    struct Turn {
        offset: u64,
        skip: u64,
        next: u64,
        weight: f64,
        target: f64,
    }
    let turn = |host: &Arc<Endpoint>| {
        let key = key(host, settings.use_hostname);
        Turn {
            offset: XxHash64::oneshot(0, key.as_bytes()) % size,
            skip: XxHash64::oneshot(1, key.as_bytes()) % (size - 1).max(1) + 1,
            next: 0,
            weight: f64::from(host.weight),
            target: 0.0,
        }
    };
    let mut turns: Vec<Turn> = hosts.iter().map(turn).collect();
    let mut table: Vec<Option<usize>> = vec![None; usize::try_from(size).unwrap_or(0)];
    let mut free = table.len();
    let mut round = 1_u64;
    while free > 0 {
        for (position, turn) in turns.iter_mut().enumerate() {
            if free == 0 {
                break;
            }
            if (round as f64) * turn.weight < turn.target {
                continue;
            }
            turn.target += most;
            loop {
                let slot =
                    usize::try_from((turn.offset + turn.skip * turn.next) % size).unwrap_or(0);
                turn.next += 1;
                if table[slot].is_none() {
                    table[slot] = Some(position);
                    break;
                }
            }
            free -= 1;
        }
        round += 1;
    }
    table.into_iter().flatten().collect()
}
