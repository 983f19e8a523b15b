//! The authority's root: in namespaces, in webhooks, and for how long it is good.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use meltemi_core::names::{CA_ROOT_CONFIG_MAP, ISTIOD};
use serde_json::Value;

use super::facts::Facts;
use super::objects::{id, is_ending, list, name, namespace, text};
use super::{Check, Finding, Section, webhooks};
use crate::proxy_config::certificates::certificates;

pub(super) const SECTION: Section = Section {
    title: "Certificates",
    checks: &[
        Check {
            id: "root-published",
            what: "the authority's root is in the control plane's namespace",
            is_fatal: false,
            judge: published,
        },
        Check {
            id: "root-valid",
            what: "the root is valid for a month at least",
            is_fatal: false,
            judge: valid,
        },
        Check {
            id: "root-everywhere",
            what: "every namespace has the same root",
            is_fatal: false,
            judge: everywhere,
        },
        Check {
            id: "webhooks-bundled",
            what: "every webhook has a CA bundle that is valid",
            is_fatal: false,
            judge: bundled,
        },
        Check {
            id: "webhooks-trust",
            what: "every webhook trusts the authority that runs",
            is_fatal: false,
            judge: trusting,
        },
    ],
};

const ROOT: &str = "/data/root-cert.pem";
/// Namespaces that are given no root: Kubernetes' own hold no workloads of a mesh.
const SKIPPED: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];
/// Roots are renewed long before.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The roots that control planes gave to their own namespaces.
fn own_roots(facts: &Facts) -> Vec<&Value> {
    let planes = facts.planes();
    let roots = facts.roots.iter();
    let own = roots.filter(|root| {
        let mut planes = planes.iter();
        name(root) == CA_ROOT_CONFIG_MAP && planes.any(|plane| plane.namespace == namespace(root))
    });
    own.collect()
}

fn published(facts: &Facts) -> Vec<Finding> {
    let roots = own_roots(facts);
    let mut places: Vec<&str> = facts.planes().iter().map(|plane| plane.namespace).collect();
    places.dedup();
    let lacking = places.into_iter().filter(|place| {
        let mut roots = roots.iter();
        !roots.any(|root| namespace(root) == *place)
    });
    lacking
        .map(|place| {
            Finding::error(
                format!("ConfigMap {place}/{CA_ROOT_CONFIG_MAP} is not there"),
                format!("kubectl -n {place} logs -l app={ISTIOD}"),
            )
        })
        .collect()
}

fn valid(facts: &Facts) -> Vec<Finding> {
    let roots = own_roots(facts).into_iter();
    roots
        .flat_map(|root| {
            let what = format!("ConfigMap {}", id(root));
            expiring(&what, text(root, ROOT).as_bytes(), facts.now)
        })
        .collect()
}

/// What is wrong with the certificates of a bundle.
fn expiring(what: &str, pem: &[u8], now: Timestamp) -> Vec<Finding> {
    let fix = format!(
        "renew the authority: its Secret is istio-ca-secret, or cacerts if you brought your own; then kubectl rollout restart deployment/{ISTIOD}"
    );
    let certificates = certificates(pem);
    if certificates.is_empty() {
        return vec![Finding::error(format!("{what} holds no certificate"), fix)];
    }
    let expiring = certificates.iter().filter_map(|certificate| {
        let (since, until) = (certificate.not_before, certificate.not_after);
        if now < since {
            let reason = format!("{what} is valid from {since} only");
            Some(Finding::error(reason, "set the clocks of the nodes"))
        } else if until <= now {
            Some(Finding::error(
                format!("{what} has expired at {until}"),
                fix.clone(),
            ))
        } else if until.duration_since(now) < SOON {
            Some(Finding::warning(
                format!("{what} expires at {until}"),
                fix.clone(),
            ))
        } else {
            None
        }
    });
    expiring.collect()
}

fn everywhere(facts: &Facts) -> Vec<Finding> {
    let own = own_roots(facts);
    let Some(own) = own.first() else {
        return Vec::new();
    };
    let namespaces = facts.namespaces.iter();
    let namespaces =
        namespaces.filter(|found| !SKIPPED.contains(&name(found)) && !is_ending(found));
    let mut findings = Vec::new();
    for found in namespaces {
        let place = name(found);
        let mut roots = facts.roots.iter();
        let given = roots.find(|root| name(root) == CA_ROOT_CONFIG_MAP && namespace(root) == place);
        let reason = match given {
            None => "has none: pods there cannot start with a sidecar",
            Some(given) if text(given, ROOT) != text(own, ROOT) => {
                "has another one: sidecars there do not trust the control plane"
            }
            Some(_) => continue,
        };
        findings.push(Finding::error(
            format!("namespace {place} {reason}"),
            format!("kubectl -n {} logs -l app={ISTIOD}", namespace(own)),
        ));
    }
    findings
}

/// Webhooks of control planes, with their bundles.
fn bundles(facts: &Facts) -> Vec<(String, Vec<u8>)> {
    let all = webhooks::ours(&facts.injectors).chain(webhooks::ours(&facts.validators));
    all.flat_map(|configuration| {
        list(configuration, "/webhooks").map(|webhook| {
            let what = format!(
                "webhook {} of {}",
                text(webhook, "/name"),
                name(configuration)
            );
            let bundle = STANDARD.decode(text(webhook, "/clientConfig/caBundle"));
            (what, bundle.unwrap_or_default())
        })
    })
    .collect()
}

fn bundled(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (what, bundle) in bundles(facts) {
        if bundle.is_empty() {
            findings.push(Finding::error(
                format!("{what} has none: the API server cannot call it"),
                format!("kubectl -n {} logs -l app={ISTIOD}", facts.place),
            ));
        } else {
            findings.extend(expiring(&what, &bundle, facts.now));
        }
    }
    findings
}

fn trusting(facts: &Facts) -> Vec<Finding> {
    let roots = own_roots(facts);
    let is_root = |bundle: &[u8]| {
        let mut roots = roots.iter();
        roots.any(|root| text(root, ROOT).trim().as_bytes() == bundle.trim_ascii())
    };
    let bundles = bundles(facts).into_iter();
    // Without a root to compare with, that is what is to be said.
    let strangers =
        bundles.filter(|(_, bundle)| !roots.is_empty() && !bundle.is_empty() && !is_root(bundle));
    strangers
        .map(|(what, _)| {
            Finding::error(
                format!("{what} trusts another one"),
                format!(
                    "kubectl -n {} rollout restart deployment/{ISTIOD}",
                    facts.place
                ),
            )
        })
        .collect()
}
