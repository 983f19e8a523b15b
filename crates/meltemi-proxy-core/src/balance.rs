//! Chooses an endpoint: priority, then health and panic, then locality, then the cluster's algorithm.
//!
//! A [`LoadBalancer`] is built when endpoints or their ejections change, and is immutable; what changes per request (active
//! requests, turns, randomness) is an argument.

mod consistent;

use std::sync::Arc;

use crate::runtime::{
    Cluster, ClusterLoadAssignment, Endpoint, Health, LbPolicy, LocalityEndpoints,
};
use consistent::Table;

/// What a pick depends on beyond the endpoints.
#[expect(missing_debug_implementations, reason = "holds closures of the caller")]
pub struct Pick<'a> {
    /// Uniform 64-bit numbers.
    pub random: &'a mut dyn FnMut() -> u64,
    /// A counter that the caller advances for every pick of the cluster (round robin).
    pub turn: u64,
    /// Of the request, for consistent hashing; without one the choice is random.
    pub hash: Option<u64>,
    /// Active requests of an endpoint (least request).
    pub active: &'a dyn Fn(&Endpoint) -> u32,
    /// Endpoints that were tried before, or that are closed to new streams.
    pub avoid: &'a dyn Fn(&Endpoint) -> bool,
    /// How often to choose again when the choice is to be avoided; then it is taken anyway. Envoy's
    /// `host_selection_retry_max_attempts`.
    pub attempts: u32,
}

/// The endpoints of a cluster, ready to choose from.
#[derive(Debug, Clone)]
pub struct LoadBalancer {
    policy: LbPolicy,
    /// With their share of the load in percent; the shares add up to 100, or nothing can be picked.
    priorities: Vec<(u32, HostSet)>,
    is_empty: bool,
}

/// The endpoints of one priority that take load.
#[derive(Debug, Clone)]
struct HostSet {
    /// One locality, or several with weights.
    groups: Vec<(u64, Group)>,
}

#[derive(Debug, Clone)]
struct Group {
    hosts: Vec<Arc<Endpoint>>,
    /// Prefix sums of the weights; empty if all are equal.
    cumulative: Vec<u64>,
    table: Option<Table>,
}

impl LoadBalancer {
    /// Builds from an assignment; `is_ejected` is what outlier detection found. `None` from a pick later means `UH`.
    pub fn new(
        cluster: &Cluster,
        assignment: &ClusterLoadAssignment,
        is_ejected: &dyn Fn(&Endpoint) -> bool,
    ) -> Self {
        let is_available = |endpoint: &Endpoint| {
            matches!(endpoint.health, Health::Healthy) && !is_ejected(endpoint)
        };
        let is_degraded = |endpoint: &Endpoint| {
            matches!(endpoint.health, Health::Degraded) && !is_ejected(endpoint)
        };
        let count = assignment
            .localities
            .iter()
            .map(|l| l.priority + 1)
            .max()
            .unwrap_or(0);
        let of_priority = |priority| {
            assignment
                .localities
                .iter()
                .filter(move |l| l.priority == priority)
                .collect::<Vec<_>>()
        };
        let factor = assignment.overprovisioning_factor_percent;
        let stats: Vec<Availability> = (0..count)
            .map(|priority| {
                Availability::of(&of_priority(priority), factor, &is_available, &is_degraded)
            })
            .collect();
        let plan = plan(&stats, cluster.panic_threshold_percent);
        let priorities = plan
            .into_iter()
            .zip(0_u32..)
            .flat_map(|(share, priority)| {
                let localities = of_priority(priority);
                let build = |share: u32, chosen: &dyn Fn(&Endpoint) -> bool| {
                    (share > 0).then(|| (share, HostSet::new(cluster, &localities, factor, chosen)))
                };
                let everyone: &dyn Fn(&Endpoint) -> bool = &|_| true;
                let healthy = build(
                    share.healthy,
                    if share.panics {
                        everyone
                    } else {
                        &is_available
                    },
                );
                let degraded = build(
                    share.degraded,
                    if share.panics { everyone } else { &is_degraded },
                );
                healthy.into_iter().chain(degraded).collect::<Vec<_>>()
            })
            .collect();
        Self {
            policy: cluster.lb,
            priorities,
            is_empty: assignment.endpoints().next().is_none(),
        }
    }

    /// Whether there are no endpoints at all, healthy or not.
    pub fn is_empty(&self) -> bool {
        self.is_empty
    }

    /// Chooses an endpoint; `None` if no endpoint may take load.
    pub fn pick(&self, pick: &mut Pick<'_>) -> Option<&Arc<Endpoint>> {
        let mut choice = None;
        for attempt in 0..=pick.attempts {
            choice = self.choose(pick, u64::from(attempt));
            if choice.is_none_or(|endpoint| !(pick.avoid)(endpoint)) {
                break;
            }
        }
        choice
    }

    fn choose(&self, pick: &mut Pick<'_>, attempt: u64) -> Option<&Arc<Endpoint>> {
        // Envoy: a request's hash also decides priority and locality, so that it sticks.
        let hash = match (&self.policy, pick.hash) {
            (LbPolicy::RingHash(_) | LbPolicy::Maglev(_), Some(hash)) => {
                Some(hash ^ attempt.wrapping_neg())
            }
            _ => None,
        };
        let set = weighted(
            &self.priorities,
            |(share, _)| u64::from(*share),
            hash.unwrap_or_else(|| (pick.random)()),
        )?;
        let group = weighted(
            &set.1.groups,
            |(weight, _)| *weight,
            hash.unwrap_or_else(|| (pick.random)()),
        )?;
        group.1.choose(self.policy, hash, attempt, pick)
    }
}

/// How much of a priority works.
struct Availability {
    hosts: u64,
    healthy: u64,
    /// Percent, overprovisioning counted in, at most 100.
    health: u32,
    degraded_health: u32,
}

impl Availability {
    fn of(
        localities: &[&LocalityEndpoints],
        factor: u32,
        is_available: &dyn Fn(&Endpoint) -> bool,
        is_degraded: &dyn Fn(&Endpoint) -> bool,
    ) -> Self {
        let count = |test: &dyn Fn(&Endpoint) -> bool| {
            let hosts = localities.iter().flat_map(|l| &l.endpoints);
            hosts.filter(|endpoint| test(endpoint)).count() as u64
        };
        let (hosts, healthy, degraded) =
            (count(&|_| true), count(is_available), count(is_degraded));
        Self {
            hosts,
            healthy,
            health: availability(healthy, hosts, factor),
            degraded_health: availability(degraded, hosts, factor),
        }
    }

    /// Envoy `isHostSetInPanic`.
    fn is_in_panic(&self, threshold_percent: f64) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "endpoint counts are small")]
        let percent = if self.hosts == 0 {
            0.0
        } else {
            100.0 * self.healthy as f64 / self.hosts as f64
        };
        percent < threshold_percent
    }
}

fn availability(working: u64, all: u64, factor: u32) -> u32 {
    let percent = (working * u64::from(factor)).checked_div(all).unwrap_or(0);
    u32::try_from(percent.min(100)).unwrap_or(100)
}

/// What a priority gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Share {
    healthy: u32,
    degraded: u32,
    /// All of its endpoints take load, whatever their health.
    panics: bool,
}

/// Spreads the load over priorities (Envoy "Priority levels", "Degraded endpoints", "Panic threshold"): healthy endpoints from
/// the first priority on as far as they carry, then degraded ones; what cannot be carried is spread anew, and priorities
/// below the panic threshold then use all their endpoints.
fn plan(stats: &[Availability], panic_threshold_percent: f64) -> Vec<Share> {
    let total = stats
        .iter()
        .map(|s| s.health + s.degraded_health)
        .sum::<u32>()
        .min(100);
    if total == 0 {
        return plan_total_panic(stats, panic_threshold_percent);
    }
    let mut left = 100;
    let mut take = |health: u32| {
        let share = (health * 100 / total).min(left);
        left -= share;
        share
    };
    let mut shares: Vec<Share> = stats
        .iter()
        .map(|s| Share {
            healthy: take(s.health),
            ..Share::default()
        })
        .collect();
    for (share, s) in shares.iter_mut().zip(stats) {
        share.degraded = take(s.degraded_health);
        share.panics = total < 100 && s.is_in_panic(panic_threshold_percent);
    }
    // Rounding leaves a rest, which the first priority in use gets.
    if let Some(first) = shares.iter_mut().find(|share| share.healthy > 0) {
        first.healthy += left;
    } else if let Some(first) = shares.iter_mut().find(|share| share.degraded > 0) {
        first.degraded += left;
    }
    shares
}

/// Nothing works: by the number of endpoints, or nothing where panic is switched off.
fn plan_total_panic(stats: &[Availability], panic_threshold_percent: f64) -> Vec<Share> {
    let all: u64 = stats.iter().map(|s| s.hosts).sum();
    let share = |s: &Availability| {
        let percent = (s.hosts * 100).checked_div(all).unwrap_or(0);
        // At least one percent each: rounding must not starve a small priority altogether.
        u32::try_from(percent)
            .unwrap_or(100)
            .max(u32::from(s.hosts > 0))
    };
    let give = |s: &Availability| {
        if s.is_in_panic(panic_threshold_percent) {
            Share {
                healthy: share(s),
                degraded: 0,
                panics: true,
            }
        } else {
            Share::default()
        }
    };
    stats.iter().map(give).collect()
}

impl HostSet {
    fn new(
        cluster: &Cluster,
        localities: &[&LocalityEndpoints],
        factor: u32,
        chosen: &dyn Fn(&Endpoint) -> bool,
    ) -> Self {
        let of = |locality: &LocalityEndpoints| -> Vec<_> {
            locality
                .endpoints
                .iter()
                .filter(|endpoint| chosen(endpoint))
                .cloned()
                .collect()
        };
        let weights = || {
            localities
                .iter()
                .map(|locality| locality.weight.unwrap_or(0))
        };
        if !cluster.locality_weighted || weights().all(|weight| weight == 0) {
            let hosts = localities
                .iter()
                .flat_map(|locality| of(locality))
                .collect();
            return Self {
                groups: vec![(1, Group::new(cluster.lb, hosts))],
            };
        }
        let group = |locality: &&LocalityEndpoints| {
            let hosts = of(locality);
            let health = availability(hosts.len() as u64, locality.endpoints.len() as u64, factor);
            let weight = u64::from(locality.weight.unwrap_or(0)) * u64::from(health);
            (weight, Group::new(cluster.lb, hosts))
        };
        Self {
            groups: localities.iter().map(group).collect(),
        }
    }
}

impl Group {
    fn new(policy: LbPolicy, hosts: Vec<Arc<Endpoint>>) -> Self {
        let is_even = hosts
            .windows(2)
            .all(|pair| pair[0].weight == pair[1].weight);
        let mut sum = 0;
        let sums = hosts.iter().map(|host| {
            sum += u64::from(host.weight);
            sum
        });
        let cumulative = if is_even { Vec::new() } else { sums.collect() };
        Self {
            table: Table::new(policy, &hosts),
            cumulative,
            hosts,
        }
    }

    fn choose(
        &self,
        policy: LbPolicy,
        hash: Option<u64>,
        attempt: u64,
        pick: &mut Pick<'_>,
    ) -> Option<&Arc<Endpoint>> {
        match policy {
            LbPolicy::RoundRobin => self.at(spread(pick.turn.wrapping_add(attempt), self.slots())),
            LbPolicy::Random | LbPolicy::ClusterProvided => self.at((pick.random)()),
            LbPolicy::LeastRequest { choices } => self.least_request(choices, pick),
            LbPolicy::RingHash(_) | LbPolicy::Maglev(_) => {
                let hash = hash.unwrap_or_else(|| (pick.random)());
                let position = self.table.as_ref()?.find(hash)?;
                self.hosts.get(position)
            }
        }
    }

    /// Of `choices` random endpoints, the one with the fewest active requests for its weight.
    fn least_request(&self, choices: u32, pick: &mut Pick<'_>) -> Option<&Arc<Endpoint>> {
        let mut best: Option<(&Arc<Endpoint>, u64)> = None;
        for _ in 0..choices {
            let candidate = self.at((pick.random)())?;
            let active = u64::from((pick.active)(candidate));
            // Compares active / weight without division: uneven weights are already in the odds of being a candidate.
            if best.is_none_or(|(_, least)| active < least) {
                best = Some((candidate, active));
            }
        }
        best.map(|(endpoint, _)| endpoint)
    }

    fn slots(&self) -> u64 {
        self.cumulative
            .last()
            .copied()
            .unwrap_or(self.hosts.len() as u64)
    }

    /// The endpoint at a slot; an endpoint has as many as its weight.
    fn at(&self, number: u64) -> Option<&Arc<Endpoint>> {
        let slot = number.checked_rem(self.slots())?;
        if self.cumulative.is_empty() {
            return self.hosts.get(usize::try_from(slot).ok()?);
        }
        self.hosts
            .get(self.cumulative.partition_point(|sum| *sum <= slot))
    }
}

/// Visits all slots once per round; heavy endpoints do not get their turns in a row where slots outnumber endpoints.
fn spread(turn: u64, slots: u64) -> u64 {
    if slots < 3 {
        return turn;
    }
    let mut stride = slots * 5 / 8;
    while gcd(stride, slots) != 1 {
        stride += 1;
    }
    turn.wrapping_rem(slots) * stride
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn weighted<T>(items: &[T], weight: impl Fn(&T) -> u64, random: u64) -> Option<&T> {
    if let [only] = items {
        return Some(only);
    }
    let total: u64 = items.iter().map(&weight).sum();
    let mut rest = random.checked_rem(total)?;
    items.iter().find(|item| {
        let weight = weight(item);
        let is_here = rest < weight;
        rest = rest.saturating_sub(weight);
        is_here
    })
}

#[cfg(test)]
mod tests;
