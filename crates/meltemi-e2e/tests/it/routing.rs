//! Canaries, A/B by header, and how fast a change is live.

use std::time::{Duration, SystemTime};

use meltemi_e2e::{Lab, eventually, istio};

const CLIENT: (&str, &str) = ("deploy/productpage-v1", "productpage");
const REVIEWS: &str = "http://reviews:9080/reviews/0";

/// `reviews-v2-57d8c9-x7k2p` is version `v2`.
fn version(pod: &str) -> String {
    pod.split('-').nth(1).unwrap_or("?").to_owned()
}

#[test]
fn weights_and_headers_choose_the_version() {
    let lab = Lab::bookinfo("routing", &[]);
    lab.apply_file(&istio("bookinfo/networking/destination-rule-all-mtls.yaml"));
    lab.apply_file(&istio(
        "bookinfo/networking/virtual-service-reviews-90-10.yaml",
    ));
    let summary = lab
        .load(
            CLIENT.0,
            CLIENT.1,
            &[
                "--requests",
                "1000",
                "--connections",
                "4",
                "--count-json",
                "podname",
                REVIEWS,
            ],
        )
        .finish();
    summary.assert_none_failed(1000);
    let counts = summary.counts(version);
    assert!(
        (860..=940).contains(counts.get("v1").unwrap_or(&0)),
        "{counts:?}"
    );
    assert_eq!(counts.values().sum::<u64>(), 1000);

    lab.apply_file(&istio(
        "bookinfo/networking/virtual-service-reviews-test-v2.yaml",
    ));
    for (header, expected) in [("end-user: jason", "v2"), ("end-user: jane", "v1")] {
        let flags = [
            "--requests",
            "100",
            "--header",
            header,
            "--count-json",
            "podname",
            REVIEWS,
        ];
        let counts = lab
            .load(CLIENT.0, CLIENT.1, &flags)
            .finish()
            .counts(version);
        assert_eq!(counts.get(expected), Some(&100), "{header}: {counts:?}");
    }
}

/// From the rename of a file in the configuration folder to the proxy's own configuration.
#[test]
fn a_changed_weight_is_live_within_milliseconds() {
    let lab = Lab::bookinfo("live", &[]);
    lab.apply_file(&istio("bookinfo/networking/destination-rule-all-mtls.yaml"));
    let status = lab.meltemi(&["lab", "status", "-o", "json"]).json();
    let folder = status["config_dir"]
        .as_str()
        .expect("status names the configuration folder")
        .to_owned();
    // What else the machine does at that moment counts along: one quiet series of three must do.
    let series = (0..3).map(|_| p99_of_changes(&lab, &folder));
    let limit = Duration::from_millis(50);
    let mut seen = Vec::new();
    let holds = series.inspect(|p99| seen.push(*p99)).any(|p99| p99 < limit);
    assert!(holds, "p99 of each series: {seen:?}");
}

/// Of 100 changes, as `applied_at` tells.
fn p99_of_changes(lab: &Lab, folder: &str) -> Duration {
    let mut delays: Vec<Duration> = (0..100)
        .map(|round| {
            let weight = 10 + round % 80;
            let file = format!("{folder}/weight-test.yaml");
            let temporary = format!("{folder}/.weight-test.tmp");
            std::fs::write(&temporary, weighted(weight))
                .expect("the configuration folder is writable");
            let start = SystemTime::now();
            std::fs::rename(&temporary, &file).expect("a rename inside one folder");
            let live = eventually("the new weight is in the proxy", || applied_at(lab, weight));
            live.duration_since(start).unwrap_or_default()
        })
        .collect();
    delays.sort();
    println!(
        "changed weight live: median {:?}, p99 {:?}",
        delays[50], delays[98]
    );
    delays[98]
}

fn weighted(weight: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: reviews\n  namespace: default\nspec:\n  \
         hosts: [reviews]\n  http:\n  - route:\n    - destination: {{host: reviews, subset: v1}}\n      weight: {weight}\n    \
         - destination: {{host: reviews, subset: v2}}\n      weight: {}\n",
        100 - weight
    )
}

/// When the proxy took the route whose first destination has this weight: the time that its own dump gives.
fn applied_at(lab: &Lab, weight: u32) -> Option<SystemTime> {
    let dump = lab.admin(CLIENT.0, "config_dump");
    let sections = dump["configs"].as_array()?;
    let routes = sections
        .iter()
        .filter_map(|section| section["dynamic_route_configs"].as_array())
        .flatten();
    let entry = routes.into_iter().find(|entry| {
        let hosts = entry["route_config"]["virtual_hosts"].as_array();
        hosts.into_iter().flatten().any(|host| {
            host["routes"][0]["route"]["weighted_clusters"]["clusters"][0]["weight"] == weight
        })
    })?;
    let at: jiff::Timestamp = entry["last_updated"].as_str()?.parse().ok()?;
    Some(SystemTime::from(at))
}
