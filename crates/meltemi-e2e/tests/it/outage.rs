//! Parts die; requests do not.

use meltemi_e2e::{Lab, eventually};

const CLIENT: (&str, &str) = ("deploy/productpage-v1", "productpage");

#[test]
fn a_dead_control_plane_costs_no_request() {
    let lab = Lab::bookinfo("istiod", &[]);
    let load = lab.load(
        CLIENT.0,
        CLIENT.1,
        &[
            "--rps",
            "200",
            "--duration",
            "30s",
            "--connections",
            "8",
            "http://reviews:9080/reviews/0",
        ],
    );
    lab.meltemi(&["lab", "kill", "control-plane", "--for", "15s"])
        .ok();
    load.finish().assert_none_failed(5_800);
    eventually("every proxy is SYNCED again", || {
        let status = lab.meltemi(&["proxy-status", "-v", "1"]);
        let rows = status
            .stdout
            .lines()
            .skip(1)
            .filter(|row| row.contains("SYNCED") && !row.contains("STALE"))
            .count();
        (status.status == 0 && rows == 6).then_some(())
    });
}

#[test]
fn a_dead_sidecar_is_restarted() {
    let lab = Lab::bookinfo("sidecar", &[]);
    lab.meltemi(&["lab", "kill", "deploy/ratings-v1", "-c", "istio-proxy"])
        .ok();
    eventually("ratings is ready again with a restart counted", || {
        let pods = lab.pods("default");
        let ratings = pods.iter().find(|pod| {
            pod["metadata"]["name"]
                .as_str()
                .is_some_and(|name| name.starts_with("ratings"))
        })?;
        let statuses = ["containerStatuses", "initContainerStatuses"];
        let all = statuses
            .iter()
            .filter_map(|key| ratings["status"][key].as_array())
            .flatten();
        let proxy = all
            .into_iter()
            .find(|status| status["name"] == "istio-proxy")?;
        (proxy["restartCount"].as_u64() >= Some(1) && proxy["ready"] == true).then_some(())
    });
    eventually("ratings answers", || {
        (lab.curl(CLIENT.0, CLIENT.1, &["http://ratings:9080/ratings/0"])
            .1
            == "200")
            .then_some(())
    });
}
