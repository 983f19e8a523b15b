//! From samples to figures: medians for every peer, ratios to Envoy as medians of rounds, and targets.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::campaign::Sample;
use crate::metric::Metric;
use crate::peer::Peer;
use crate::stats::Estimate;

/// What a figure must be at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    /// Ours over Envoy's.
    Ratio(f64),
    /// What ours adds to no proxy at all, over what Envoy adds.
    AddedRatio(f64),
    /// Ours, in the metric's own unit.
    Value(f64),
}

const MIB: f64 = 1024.0 * 1024.0;

/// The targets of the proxy, by test and metric.
const GOALS: &[(&str, Metric, Goal)] = &[
    ("h1 1000/s", Metric::CpuPer1000, Goal::Ratio(0.45)),
    ("h1 saturated 64", Metric::CpuPer1000, Goal::Ratio(0.35)),
    ("h2 1000/s", Metric::CpuPer1000, Goal::Ratio(0.45)),
    ("grpc unary 1000/s", Metric::CpuPer1000, Goal::Ratio(0.45)),
    ("h2 saturated 64", Metric::CpuPer1000, Goal::Ratio(0.50)),
    (
        "grpc unary saturated 64",
        Metric::CpuPer1000,
        Goal::Ratio(0.50),
    ),
    ("h1 1000/s", Metric::P50, Goal::AddedRatio(0.50)),
    ("h1 1000/s", Metric::P99, Goal::AddedRatio(0.75)),
    ("tcp 1 stream", Metric::CpuPerGb, Goal::Ratio(0.90)),
    ("tcp 8 streams", Metric::CpuPerGb, Goal::Ratio(0.80)),
    ("handshake P-256", Metric::CpuPer1000, Goal::Ratio(0.75)),
    (
        "handshake RSA-2048 peer",
        Metric::CpuPer1000,
        Goal::Ratio(0.60),
    ),
    (
        "idle mTLS connections",
        Metric::BytesEach,
        Goal::Ratio(0.60),
    ),
    ("empty", Metric::ResidentBytes, Goal::Value(9.0 * MIB)),
    (
        "h1 saturated 64",
        Metric::ResidentBytes,
        Goal::Value(14.0 * MIB),
    ),
    ("cold start", Metric::Milliseconds, Goal::Value(50.0)),
    (
        "config 1000 services",
        Metric::CpuSeconds,
        Goal::Value(0.10),
    ),
    ("config 5000 services", Metric::CpuSeconds, Goal::Value(0.6)),
    (
        "config 5000 services",
        Metric::BytesEach,
        Goal::Value(4096.0),
    ),
    ("config on demand", Metric::GrowthBytes, Goal::Value(MIB)),
    ("h1 two workers", Metric::OverOneWorker, Goal::Value(1.15)),
    ("h2 two workers", Metric::OverOneWorker, Goal::Value(1.15)),
];

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) test: &'static str,
    pub(crate) metric: Metric,
    /// Medians of the rounds, by peer.
    pub(crate) values: BTreeMap<Peer, Estimate>,
    /// Ours over Envoy's, round by round.
    pub(crate) ours_to_envoy: Option<Estimate>,
    pub(crate) haproxy_to_envoy: Option<Estimate>,
    pub(crate) checks: Vec<Check>,
}

/// A target held against what was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) goal: Goal,
    pub(crate) measured: Estimate,
    pub(crate) verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Met,
    /// Above the target by less than the noise, or the noise is not known: one round shows none.
    Unclear,
    Missed,
}

impl Verdict {
    fn of(measured: Estimate, limit: f64) -> Self {
        if measured.median <= limit {
            Self::Met
        } else if measured.rounds < 2 || measured.median - measured.noise <= limit {
            Self::Unclear
        } else {
            Self::Missed
        }
    }
}

/// All figures, in the order in which the tests were made.
pub(crate) fn figures(samples: &[Sample]) -> Vec<Figure> {
    let mut tests: Vec<&'static str> = Vec::new();
    for sample in samples {
        if !tests.contains(&sample.test) {
            tests.push(sample.test);
        }
    }
    let of_test = |test: &'static str| {
        let metrics = samples.iter().filter(move |sample| sample.test == test);
        let metrics: BTreeSet<Metric> = metrics.map(|sample| sample.metric).collect();
        metrics
            .into_iter()
            .map(move |metric| figure(samples, test, metric))
    };
    tests.into_iter().flat_map(of_test).collect()
}

fn figure(samples: &[Sample], test: &'static str, metric: Metric) -> Figure {
    let series = Series::of(samples, test, metric);
    let values = Peer::ALL
        .into_iter()
        .filter_map(|peer| Some((peer, Estimate::of(&series.values(peer))?)))
        .collect();
    let checks = GOALS
        .iter()
        .filter(|goal| (goal.0, goal.1) == (test, metric))
        .filter_map(|(_, _, goal)| series.check(*goal))
        .collect();
    Figure {
        test,
        metric,
        values,
        ours_to_envoy: series.ratio(Peer::Ours),
        haproxy_to_envoy: series.ratio(Peer::Haproxy),
        checks,
    }
}

/// The values of one test and metric, by round and peer.
struct Series(BTreeMap<usize, BTreeMap<Peer, f64>>);

impl Series {
    fn of(samples: &[Sample], test: &str, metric: Metric) -> Self {
        let mut rounds: BTreeMap<usize, BTreeMap<Peer, f64>> = BTreeMap::new();
        for sample in samples
            .iter()
            .filter(|sample| sample.test == test && sample.metric == metric)
        {
            rounds
                .entry(sample.round)
                .or_default()
                .insert(sample.peer, sample.value);
        }
        Self(rounds)
    }

    fn values(&self, peer: Peer) -> Vec<f64> {
        self.0
            .values()
            .filter_map(|round| round.get(&peer).copied())
            .collect()
    }

    fn ratio(&self, peer: Peer) -> Option<Estimate> {
        self.by_round(|round| Some(round.get(&peer)? / round.get(&Peer::Envoy)?))
    }

    fn added(&self) -> Option<Estimate> {
        self.by_round(|round| {
            let direct = round.get(&Peer::Direct)?;
            Some((round.get(&Peer::Ours)? - direct) / (round.get(&Peer::Envoy)? - direct))
        })
    }

    fn by_round(&self, value: impl Fn(&BTreeMap<Peer, f64>) -> Option<f64>) -> Option<Estimate> {
        Estimate::of(&self.0.values().filter_map(value).collect::<Vec<_>>())
    }

    fn check(&self, goal: Goal) -> Option<Check> {
        let (measured, limit) = match goal {
            Goal::Ratio(limit) => (self.ratio(Peer::Ours)?, limit),
            Goal::AddedRatio(limit) => (self.added()?, limit),
            Goal::Value(limit) => (Estimate::of(&self.values(Peer::Ours))?, limit),
        };
        let verdict = Verdict::of(measured, limit);
        Some(Check {
            goal,
            measured,
            verdict,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(metric: Metric, test: &'static str, rounds: &[[f64; 3]]) -> Vec<Sample> {
        let sample = |round, peer, value| Sample {
            round,
            peer,
            test,
            metric,
            value,
        };
        let of_round = |(round, [direct, ours, envoy]): (usize, &[f64; 3])| {
            [
                sample(round, Peer::Direct, *direct),
                sample(round, Peer::Ours, *ours),
                sample(round, Peer::Envoy, *envoy),
            ]
        };
        rounds.iter().enumerate().flat_map(of_round).collect()
    }

    fn verdict(metric: Metric, test: &'static str, rounds: &[[f64; 3]]) -> Verdict {
        figures(&samples(metric, test, rounds))[0].checks[0].verdict
    }

    #[test]
    fn ratios_are_medians_of_rounds_not_ratios_of_medians() {
        let rounds = [[0.0, 1.0, 2.0], [0.0, 4.0, 5.0], [0.0, 3.0, 10.0]];
        let figure = &figures(&samples(Metric::CpuPer1000, "h1 1000/s", &rounds))[0];
        assert_eq!(figure.ours_to_envoy.map(|ratio| ratio.median), Some(0.5));
    }

    #[test]
    fn a_target_is_missed_only_beyond_the_noise() {
        let cpu = |rounds: &[[f64; 3]]| verdict(Metric::CpuPer1000, "h1 1000/s", rounds);
        assert_eq!(cpu(&[[0.0, 0.4, 1.0], [0.0, 0.44, 1.0]]), Verdict::Met);
        assert_eq!(cpu(&[[0.0, 0.44, 1.0], [0.0, 0.5, 1.0]]), Verdict::Unclear);
        assert_eq!(cpu(&[[0.0, 0.5, 1.0], [0.0, 0.52, 1.0]]), Verdict::Missed);
        assert_eq!(cpu(&[[0.0, 0.9, 1.0]]), Verdict::Unclear);
    }

    #[test]
    fn added_latency_is_what_comes_on_top_of_no_proxy() {
        let checks =
            &figures(&samples(Metric::P50, "h1 1000/s", &[[50.0, 250.0, 450.0]]))[0].checks;
        assert_eq!(checks[0].measured.median, 0.5);
    }
}
