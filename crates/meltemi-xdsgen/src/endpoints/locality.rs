//! Which places a client prefers: shares of places, or priorities by how near they are (Istio reference,
//! LocalityLoadBalancerSetting).

use meltemi_api::istio::{Distribute, LocalityLbSetting};
use meltemi_core::Locality;
use meltemi_core::names::label;
use meltemi_model::{Endpoint, Resolution, TOPOLOGY_SUBZONE};
use meltemi_proto::envoy::config::endpoint::v3::LocalityLbEndpoints;

use crate::clusters::Target;
use crate::inputs::Inputs;
use crate::wire;

const CLUSTER: &str = "topology.istio.io/cluster";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// More than the ranks of places: 0 for the same sub-zone, zone, region, another region, one that is not failed over to.
const PLACES: u32 = 5;

/// What a cluster's endpoints are ordered by.
pub(crate) enum Preference<'a> {
    None,
    /// Each place gets its share, whatever fails; places without one get nothing.
    Shares(&'a Distribute),
    Nearest(&'a LocalityLbSetting),
}

impl<'a> Preference<'a> {
    /// The DestinationRule's setting counts before the mesh's. Without outlier detection nobody could tell that what is near
    /// has failed, and everything would stay there: then places are all alike.
    pub(crate) fn of(inputs: &Inputs<'a>, target: &Target<'a>) -> Self {
        let policy = target.policy();
        let own = policy.load_balancer;
        let own = own.and_then(|balancer| balancer.locality_lb_setting.as_ref());
        let setting = own.unwrap_or_else(|| &inputs.config().locality_lb_setting);
        // A cluster of one name has one endpoint, wherever it is; one that keeps the address has none.
        let is_of_places = matches!(
            target.resolution(),
            Resolution::Endpoints | Resolution::StrictDns
        );
        if setting.enabled == Some(false) || !is_of_places {
            return Self::None;
        }
        if !setting.distribute.is_empty() {
            let mut all = setting.distribute.iter();
            let from_here = |one: &&Distribute| covers(&one.from, inputs.locality());
            return all.find(from_here).map_or(Self::None, Self::Shares);
        }
        match policy.outlier_detection {
            Some(_) => Self::Nearest(setting),
            None => Self::None,
        }
    }

    /// Whether the localities of the cluster have weights that count.
    pub(crate) fn is_weighted(&self) -> bool {
        matches!(self, Self::Shares(_))
    }

    /// How near an endpoint is, 0 being the nearest.
    pub(super) fn rank(&self, inputs: &Inputs<'_>, endpoint: &Endpoint) -> u32 {
        let Self::Nearest(setting) = self else {
            return 0;
        };
        let by_labels = first_miss(inputs, &setting.failover_priority, endpoint);
        if !setting.failover_priority.is_empty() && setting.failover.is_empty() {
            return by_labels;
        }
        by_labels * PLACES + distance(inputs.locality(), &endpoint.locality, setting)
    }

    /// Gives each place its share, divided among localities by their endpoints' weights; the others are left out.
    pub(super) fn distribute(&self, localities: &mut Vec<LocalityLbEndpoints>) {
        let Self::Shares(distribute) = self else {
            return;
        };
        let place_of = |group: &LocalityLbEndpoints| {
            let locality = group.locality.as_ref()?;
            let locality = Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            };
            let mut places = distribute.to.iter();
            places.find(|(place, _)| covers(place, &locality))
        };
        let weight_of = |group: &LocalityLbEndpoints| {
            let weight = group.load_balancing_weight.as_ref();
            weight.map_or(1, |weight| u64::from(weight.value))
        };
        localities.retain(|group| place_of(group).is_some());
        let shares: Vec<u32> = localities
            .iter()
            .filter_map(|group| {
                let (place, share) = place_of(group)?;
                let of_place = |other: &&LocalityLbEndpoints| {
                    place_of(other).is_some_and(|(own, _)| own == place)
                };
                let sum: u64 = localities.iter().filter(of_place).map(weight_of).sum();
                let weight = (weight_of(group) * u64::from(*share)).div_ceil(sum.max(1));
                Some(u32::try_from(weight).unwrap_or(u32::MAX))
            })
            .collect();
        for (group, share) in localities.iter_mut().zip(shares) {
            group.load_balancing_weight = wire::u32_value(share);
        }
    }
}

/// Whether a place such as `region/zone/*` covers a locality; what is left out is any.
fn covers(place: &str, locality: &Locality) -> bool {
    let parts = [&locality.region, &locality.zone, &locality.sub_zone];
    place
        .split('/')
        .zip(parts)
        .all(|(wanted, own)| wanted == "*" || wanted == own)
}

/// How far apart two places are. With a rule for the client's region, other regions than its goal come last.
fn distance(here: &Locality, there: &Locality, setting: &LocalityLbSetting) -> u32 {
    if here.region != there.region {
        let mut rules = setting.failover.iter();
        return match rules.find(|rule| rule.from == here.region) {
            Some(rule) if rule.to != there.region => 4,
            _ => 3,
        };
    }
    match (here.zone == there.zone, here.sub_zone == there.sub_zone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// Of labels, the most important first, the number from the end of the first in which client and endpoint differ; 0 if they
/// agree in all. `key=value` asks for a value instead of the client's.
fn first_miss(inputs: &Inputs<'_>, labels: &[String], endpoint: &Endpoint) -> u32 {
    let differs = |label: &String| {
        let (key, wanted) = match label.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (label.as_str(), own_label(inputs, label)),
        };
        wanted != endpoint_label(inputs, key, endpoint)
    };
    let missed = labels.iter().position(differs);
    let rank = missed.map_or(0, |at| labels.len() - at);
    u32::try_from(rank).unwrap_or(u32::MAX / PLACES)
}

fn own_label<'a>(inputs: &Inputs<'a>, key: &str) -> Option<&'a str> {
    let node = match key {
        HOSTNAME => inputs.own_workload().map(|own| own.node.as_str()),
        _ => None,
    };
    of_place(inputs, key, inputs.locality(), node).or_else(|| inputs.labels().get(key))
}

fn endpoint_label<'a>(inputs: &Inputs<'a>, key: &str, endpoint: &'a Endpoint) -> Option<&'a str> {
    let node = endpoint.workload.as_ref().map(|workload| &*workload.node);
    of_place(inputs, key, &endpoint.locality, node).or_else(|| endpoint.labels.get(key))
}

/// Labels that places have, whatever the workload's own say (Istio, `AugmentLabels`).
fn of_place<'a>(
    inputs: &Inputs<'a>,
    key: &str,
    locality: &'a Locality,
    node: Option<&'a str>,
) -> Option<&'a str> {
    let value: &str = match key {
        label::TOPOLOGY_REGION => &locality.region,
        label::TOPOLOGY_ZONE => &locality.zone,
        TOPOLOGY_SUBZONE => &locality.sub_zone,
        CLUSTER => inputs.cluster_id(),
        HOSTNAME => node.unwrap_or_default(),
        _ => "",
    };
    (!value.is_empty()).then_some(value)
}
