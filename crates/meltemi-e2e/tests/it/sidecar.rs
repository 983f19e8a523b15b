//! What dies is restarted, as by a kubelet.

use meltemi_e2e::{Lab, eventually};

const CLIENT: (&str, &str) = ("deploy/productpage-v1", "productpage");

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
