//! What a user declares under our containers' names wins, field by field (strategic merge).

use k8s_openapi::DeepMerge;
use k8s_openapi::api::core::v1::{Container, PodSpec, Probe};
use meltemi_core::names::{INIT_CONTAINER, PROXY_CONTAINER};
use serde::{Deserialize, Serialize};

use crate::env;

/// The placeholder image of a container that waits for its template.
const AUTO: &str = "auto";
const ALWAYS: &str = "Always";

/// Containers of the user's that are named like ours; kept in `proxy.istio.io/overrides`, so that a second injection starts
/// from the same words.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Overrides {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) containers: Vec<Container>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) init_containers: Vec<Container>,
}

impl Overrides {
    /// Takes the declared containers out of a pod.
    pub(crate) fn take(spec: &mut PodSpec) -> Self {
        let init_containers = spec
            .init_containers
            .as_mut()
            .map(extract)
            .unwrap_or_default();
        if spec.init_containers.as_ref().is_some_and(Vec::is_empty) {
            spec.init_containers = None;
        }
        Self {
            containers: extract(&mut spec.containers),
            init_containers,
        }
    }

    /// Puts them where they were, at the end of their lists.
    pub(crate) fn put_back(self, spec: &mut PodSpec) {
        spec.containers.extend(self.containers);
        if !self.init_containers.is_empty() {
            let list = spec.init_containers.get_or_insert_default();
            list.extend(self.init_containers);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.init_containers.is_empty()
    }

    /// Whether the user declared a native sidecar.
    pub(crate) fn is_native(&self) -> bool {
        let always = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let mut proxies = named(&self.init_containers, PROXY_CONTAINER).filter(always);
        proxies.next().is_some()
    }

    /// Lays the declared containers of that name over the template's.
    pub(crate) fn apply(&self, mut template: Container) -> Container {
        let name = template.name.clone();
        let declared = named(&self.init_containers, &name).chain(named(&self.containers, &name));
        for container in declared {
            merge(&mut template, container.clone());
        }
        template
    }
}

fn extract(list: &mut Vec<Container>) -> Vec<Container> {
    list.extract_if(.., |container| {
        [PROXY_CONTAINER, INIT_CONTAINER].contains(&container.name.as_str())
    })
    .collect()
}

fn named<'a>(list: &'a [Container], name: &str) -> impl Iterator<Item = &'a Container> {
    list.iter().filter(move |container| container.name == name)
}

fn merge(template: &mut Container, mut declared: Container) {
    if declared.image.as_deref() == Some(AUTO) {
        declared.image = None;
        // What an API server fills in for an image without a tag, before it asks us: nobody's wish.
        declared.image_pull_policy = declared.image_pull_policy.filter(|policy| policy != ALWAYS);
    }
    // Where only one of several fields may be set, merging both sides would break the container.
    for variable in declared.env.take().into_iter().flatten() {
        env::set(template.env.get_or_insert_default(), variable);
    }
    make_room(
        &mut template.readiness_probe,
        declared.readiness_probe.as_ref(),
    );
    make_room(
        &mut template.liveness_probe,
        declared.liveness_probe.as_ref(),
    );
    make_room(&mut template.startup_probe, declared.startup_probe.as_ref());
    if let (Some(ours), Some(theirs)) = (&mut template.lifecycle, &declared.lifecycle) {
        if theirs.post_start.is_some() {
            ours.post_start = None;
        }
        if theirs.pre_stop.is_some() {
            ours.pre_stop = None;
        }
    }
    template.merge_from(declared);
}

/// Drops the handler of our probe when theirs brings one.
fn make_room(ours: &mut Option<Probe>, theirs: Option<&Probe>) {
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        return;
    };
    let brings = theirs.exec.is_some()
        || theirs.grpc.is_some()
        || theirs.http_get.is_some()
        || theirs.tcp_socket.is_some();
    if brings {
        ours.http_get = None;
    }
}
