//! Which of several replicas does what one must do: the holder of a Lease.
//!
//! Clocks of replicas are not compared: who waits measures by its own clock how long the Lease has stayed as it is.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::bounded;

/// How long a holder that is not heard of keeps the Lease.
const DURATION: Duration = Duration::from_secs(15);
/// A holder that could not renew for so long does nothing more, well before somebody else begins.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(2);

/// A Lease that this replica tries to hold until it is dropped or given back.
#[derive(Debug)]
pub struct Leadership {
    held: watch::Receiver<bool>,
    release: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Leadership {
    /// `replica`: a name that no other replica has.
    pub fn seek(client: Client, namespace: &str, name: &'static str, replica: String) -> Self {
        let (sender, held) = watch::channel(false);
        let (release, released) = oneshot::channel();
        let candidate = Candidate {
            api: Api::namespaced(client, namespace),
            name,
            replica,
            seen: None,
        };
        Self {
            held,
            release,
            task: tokio::spawn(candidate.run(sender, released)),
        }
    }

    /// Follows whether the Lease is held.
    pub(crate) fn held(&self) -> watch::Receiver<bool> {
        self.held.clone()
    }

    /// Gives the Lease back, so that nobody has to wait for its end.
    pub async fn release(self) {
        drop(self.release);
        // It has only its last words to say, and those have a bound.
        drop(self.task.await);
    }
}

struct Candidate {
    api: Api<Lease>,
    name: &'static str,
    replica: String,
    /// The Lease as it is since that time.
    seen: Option<(LeaseSpec, Instant)>,
}

impl Candidate {
    async fn run(mut self, held: watch::Sender<bool>, mut released: oneshot::Receiver<()>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut renewed_at: Option<Instant> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = &mut released => break,
            }
            let asked_at = Instant::now();
            match self.attempt().await {
                Ok(true) => renewed_at = Some(asked_at),
                Ok(false) => renewed_at = None,
                Err(error) => tracing::debug!(lease = self.name, %error, "asking for the lease"),
            }
            let holds = renewed_at.is_some_and(|at| at.elapsed() < RENEW_DEADLINE);
            let changed = held.send_if_modified(|held| std::mem::replace(held, holds) != holds);
            if changed {
                tracing::info!(lease = self.name, holds, "leadership");
            }
        }
        if *held.borrow()
            && let Err(error) = self.give_back().await
        {
            tracing::debug!(lease = self.name, %error, "giving the lease back");
        }
    }

    async fn give_back(&self) -> kube::Result<()> {
        let Some(mut lease) = bounded(self.api.get_opt(self.name)).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_ref() == Some(&self.replica) {
            spec.holder_identity = Some(String::new());
            bounded(self.api.replace(self.name, &PostParams::default(), &lease)).await?;
        }
        Ok(())
    }

    /// Whether the Lease is held now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let found = bounded(self.api.get_opt(self.name)).await?;
        let now = Instant::now();
        let spec = found.as_ref().and_then(|lease| lease.spec.clone());
        let spec = spec.unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.seen = Some((spec.clone(), now));
        }
        let since = self.seen.as_ref().map_or(now, |(_, since)| *since);
        if !may_hold(&spec, &self.replica, now.duration_since(since)) {
            return Ok(false);
        }
        let spec = held_by(spec, &self.replica, Timestamp::now());
        let written = match found {
            Some(lease) => {
                let lease = Lease {
                    spec: Some(spec),
                    ..lease
                };
                // Refused when somebody else was quicker: the resource version is another one then.
                bounded(self.api.replace(self.name, &PostParams::default(), &lease)).await
            }
            None => {
                let lease = Lease {
                    metadata: ObjectMeta {
                        name: Some(self.name.to_owned()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(spec),
                };
                bounded(self.api.create(&PostParams::default(), &lease)).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn may_hold(spec: &LeaseSpec, replica: &str, unchanged_for: Duration) -> bool {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    let duration = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    holder.is_empty() || holder == replica || unchanged_for > duration
}

fn held_by(before: LeaseSpec, replica: &str, now: Timestamp) -> LeaseSpec {
    let is_new = before.holder_identity.as_deref() != Some(replica);
    let now = MicroTime(now);
    LeaseSpec {
        holder_identity: Some(replica.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if is_new {
            Some(now.clone())
        } else {
            before.acquire_time
        },
        renew_time: Some(now),
        lease_transitions: Some(before.lease_transitions.unwrap_or_default() + i32::from(is_new)),
        ..before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_is_free_ours_or_forgotten() {
        let held = held_by(LeaseSpec::default(), "a", Timestamp::UNIX_EPOCH);
        assert!(may_hold(&LeaseSpec::default(), "b", Duration::ZERO));
        assert!(may_hold(&held, "a", Duration::ZERO));
        assert!(!may_hold(&held, "b", DURATION));
        assert!(may_hold(&held, "b", DURATION + Duration::from_secs(1)));
    }

    #[test]
    fn a_change_of_holders_is_counted_and_a_renewal_is_not() {
        let first = held_by(LeaseSpec::default(), "a", Timestamp::UNIX_EPOCH);
        let later = Timestamp::from_second(9).unwrap();
        let renewed = held_by(first.clone(), "a", later);
        assert_eq!(renewed.lease_transitions, first.lease_transitions);
        assert_eq!(renewed.acquire_time, first.acquire_time);
        assert_eq!(renewed.renew_time, Some(MicroTime(later)));
        let taken = held_by(renewed, "b", later);
        assert_eq!(taken.lease_transitions, Some(2));
        assert_eq!(taken.acquire_time, Some(MicroTime(later)));
    }
}
