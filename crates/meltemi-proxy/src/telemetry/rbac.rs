//! What RBAC filters decided, counted as Envoy counts it and labelled as Istio's bootstrap labels it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use meltemi_proxy_core::rbac::Verdict;
use meltemi_proxy_core::runtime::RbacFilter;
use parking_lot::Mutex;

use super::series::Counter;

/// The statistics of Istio's dry runs.
const DRY_RUN: &str = "istio_dry_run_";
/// Places that are told apart; they come from configuration.
const PLACES_LIMIT: usize = 4096;

/// The counters of one connection manager, or of all TCP chains, by what the filter's prefixes add.
#[derive(Debug, Default)]
pub(crate) struct RbacSeries {
    allowed: Counter,
    denied: Counter,
    shadow_allowed: Counter,
    shadow_denied: Counter,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct RbacFamily(Mutex<BTreeMap<Place, Arc<RbacSeries>>>);

/// `http.<connection manager>` or `tcp`, the prefix of enforced rules, that of a dry run.
type Place = (String, Arc<str>, Arc<str>);

impl RbacFamily {
    /// The counters of a filter among requests.
    pub(crate) fn of_requests(&self, stat_prefix: &str, filter: &RbacFilter) -> Arc<RbacSeries> {
        let rules = filter.stat_prefix.clone();
        self.get(format!("http.{stat_prefix}"), rules, filter)
    }

    /// The same among connections: the prefix is the filter's own, `tcp.` as Istio has it.
    pub(crate) fn of_connections(&self, filter: &RbacFilter) -> Arc<RbacSeries> {
        let prefix = filter.stat_prefix.trim_end_matches('.').to_owned();
        self.get(prefix, Arc::default(), filter)
    }

    fn get(&self, place: String, rules: Arc<str>, filter: &RbacFilter) -> Arc<RbacSeries> {
        let mut all = self.0.lock();
        let key = (place, rules, filter.shadow_prefix.clone());
        if let Some(known) = all.get(&key) {
            return known.clone();
        }
        if all.len() >= PLACES_LIMIT {
            // Counted by nobody, rather than without a bound.
            return Arc::default();
        }
        all.entry(key).or_default().clone()
    }

    /// Of a place `http.inbound_0.0.0.0_8080;` one family `envoy_http_inbound_0_0_0_0_8080_rbac` (Istio, "Dry Run").
    pub(crate) fn encode(&self, out: &mut String) {
        let mut families: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for ((place, rules, shadow), series) in &*self.0.lock() {
            let family = families.entry(family(place)).or_default();
            let enforced = rules.trim_end_matches(['.', '_']);
            for (result, counter) in [("allowed", &series.allowed), ("denied", &series.denied)] {
                let labels = match enforced {
                    "" => format!("authz_enforce_result=\"{result}\""),
                    prefix => format!("authz_enforce_result=\"{result}\",rules=\"{prefix}\""),
                };
                *family.entry(labels).or_default() += counter.get();
            }
            // Others choose what an authorizer is asked about: nothing is tried out there.
            let Some(action) = shadow.strip_prefix(DRY_RUN) else {
                continue;
            };
            let action = action.trim_end_matches('_');
            for (result, counter) in [
                ("allowed", &series.shadow_allowed),
                ("denied", &series.shadow_denied),
            ] {
                let labels =
                    format!("authz_dry_run_action=\"{action}\",authz_dry_run_result=\"{result}\"");
                *family.entry(labels).or_default() += counter.get();
            }
        }
        for (name, samples) in families {
            line(out, format_args!("# TYPE {name} counter"));
            for (labels, value) in samples {
                line(out, format_args!("{name}{{{labels}}} {value}"));
            }
        }
    }

    /// Envoy's own names: `http.inbound_0.0.0.0_8080;.rbac.istio_dry_run_deny_shadow_denied: 1`.
    pub(crate) fn plain(&self, out: &mut String) {
        let mut all: BTreeMap<String, u64> = BTreeMap::new();
        for ((place, rules, shadow), series) in &*self.0.lock() {
            let mut add = |prefix: &str, name: &str, counter: &Counter| {
                let name = format!("{place}.rbac.{prefix}{name}");
                *all.entry(name).or_default() += counter.get();
            };
            add(rules, "allowed", &series.allowed);
            add(rules, "denied", &series.denied);
            if !shadow.is_empty() {
                add(shadow, "shadow_allowed", &series.shadow_allowed);
                add(shadow, "shadow_denied", &series.shadow_denied);
            }
        }
        for (name, value) in all {
            line(out, format_args!("{name}: {value}"));
        }
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let result = writeln!(out, "{text}");
    debug_assert!(result.is_ok(), "a String takes every write");
}

fn family(place: &str) -> String {
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let place: String = place.trim_end_matches(';').chars().map(word).collect();
    format!("envoy_{place}_rbac")
}

impl RbacSeries {
    /// Counts what a filter said, and logs what it would have said; one without enforced rules enforces nothing.
    pub(crate) fn tell(
        &self,
        filter: &RbacFilter,
        enforced: Verdict<'_>,
        shadow: Option<Verdict<'_>>,
    ) {
        if filter.rules.is_some() {
            let counter = match enforced.is_allowed {
                true => &self.allowed,
                false => &self.denied,
            };
            counter.add(1);
        }
        if let Some(shadow) = shadow {
            let (verdict, counter) = match shadow.is_allowed {
                true => ("allowed", &self.shadow_allowed),
                false => ("denied", &self.shadow_denied),
            };
            counter.add(1);
            let policy = shadow.policy.map_or("none", |policy| policy);
            tracing::debug!("shadow {verdict}, matched policy {policy}");
        }
    }
}
