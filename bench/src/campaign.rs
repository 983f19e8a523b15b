//! The rounds: every peer through every group, the peers one right after the other so that what disturbs the machine
//! disturbs them alike.

use crate::figures::figures;
use crate::measure;
use crate::metric::Metric;
use crate::peer::{Fleet, Peer};
use crate::plan::{Group, Pace};
use crate::rig::Rig;

/// One measured value.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) peer: Peer,
    pub(crate) test: &'static str,
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

/// Runs all rounds. Tests that fail, and peers that do not start, are told in `failures`; the run goes on.
pub(crate) fn run(
    rig: &Rig,
    fleet: &Fleet<'_>,
    groups: &[Group],
    pace: Pace,
    failures: &mut Vec<String>,
) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut peers = fleet.peers();
    for round in 0..pace.rounds {
        for group in groups {
            for peer in &peers {
                progress(round, pace.rounds, *peer, group);
                if *peer == Peer::Direct && !group.has_direct() {
                    continue;
                }
                let measured = measure::group(rig, fleet, *peer, group, pace.window, failures);
                let measured = measured.unwrap_or_else(|error| {
                    failures.push(format!(
                        "{} with {:?}: {error:#}",
                        peer.name(),
                        group.protocol
                    ));
                    Vec::new()
                });
                samples.extend(measured.into_iter().map(|(test, metric, value)| Sample {
                    round,
                    peer: *peer,
                    test,
                    metric,
                    value,
                }));
            }
        }
        // Each round begins with another peer.
        peers.rotate_left(1);
        eprintln!(
            "round {} of {}: {} figures",
            round + 1,
            pace.rounds,
            figures(&samples).len()
        );
    }
    samples
}

fn progress(round: usize, rounds: usize, peer: Peer, group: &Group) {
    let names: Vec<&str> = group.tests.iter().map(|test| test.name).collect();
    eprintln!(
        "[{}/{rounds}] {}: {}",
        round + 1,
        peer.name(),
        names.join(", ")
    );
}
