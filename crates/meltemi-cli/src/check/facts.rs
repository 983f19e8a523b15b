//! Everything the checks look at, asked for once.

use jiff::Timestamp;
use meltemi_core::names::{ISTIO_SYSTEM, ISTIOD, label};
use meltemi_install::{Layer, Object, TAG, Tagged, Values, generate, tags};
use serde_json::{Value, json};

use super::objects;
use crate::command::CheckArgs;
use crate::manifest::refused;
use crate::{Access, AccessError, CliError, ClusterObjects, Io, control_plane, proxy_status};

/// What was asked, and how the cluster answered. A list that was refused is empty, and `refused` says so.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) now: Timestamp,
    /// The revision to check, if one is named.
    pub(super) revision: Option<String>,
    /// Where the command line says that the control plane is.
    pub(super) place: String,
    /// Of the API server: `v1.36.3`.
    pub(super) version: String,
    pub(super) refused: Vec<String>,
    /// What is to be installed, and rights without which it cannot be.
    pub(super) wanted: Vec<Object>,
    pub(super) denied: Vec<String>,
    pub(super) nodes: Vec<Value>,
    pub(super) namespaces: Vec<Value>,
    pub(super) pods: Vec<Value>,
    pub(super) definitions: Vec<Value>,
    /// Of control planes.
    pub(super) deployments: Vec<Value>,
    pub(super) services: Vec<Value>,
    pub(super) slices: Vec<Value>,
    pub(super) maps: Vec<Value>,
    pub(super) autoscalers: Vec<Value>,
    /// The authority's root in namespaces.
    pub(super) roots: Vec<Value>,
    pub(super) injectors: Vec<Value>,
    pub(super) validators: Vec<Value>,
    /// Versions of instances, by pod; proxies as these know them. `None`: nobody answered.
    pub(super) instances: Vec<(String, String)>,
    pub(super) proxies: Option<Vec<Value>>,
    /// A pod that asks for a sidecar, as the API server would make it, or why it would not; by revision.
    pub(super) injected: Vec<(String, Result<Value, String>)>,
    /// Why an object of Istio's would not be made.
    pub(super) validated: Option<String>,
}

/// One control plane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane<'a> {
    pub(super) revision: &'a str,
    pub(super) namespace: &'a str,
    pub(super) deployment: &'a Value,
}

impl Facts {
    /// # Errors
    /// The API server cannot be reached.
    pub(super) async fn gather(
        args: &CheckArgs,
        cluster: &dyn ClusterObjects,
        access: &dyn Access,
        io: &mut Io<'_>,
    ) -> Result<Self, CliError> {
        let mut facts = Self {
            now: io.now,
            revision: args.revision.clone(),
            place: cluster.control_plane_namespace().to_owned(),
            version: cluster.server_version().await?,
            ..Self::default()
        };
        let own = format!("app={ISTIOD}");
        let admission = "admissionregistration.k8s.io/v1";
        let definitions = "apiextensions.k8s.io/v1";
        let lists: [(&mut Vec<Value>, &'static str, &'static str, &str); 12] = [
            (&mut facts.nodes, "v1", "Node", ""),
            (&mut facts.namespaces, "v1", "Namespace", ""),
            (&mut facts.pods, "v1", "Pod", ""),
            (
                &mut facts.definitions,
                definitions,
                "CustomResourceDefinition",
                "",
            ),
            (&mut facts.deployments, "apps/v1", "Deployment", &own),
            (&mut facts.services, "v1", "Service", &own),
            (
                &mut facts.slices,
                "discovery.k8s.io/v1",
                "EndpointSlice",
                &own,
            ),
            (&mut facts.maps, "v1", "ConfigMap", &own),
            (
                &mut facts.autoscalers,
                "autoscaling/v2",
                "HorizontalPodAutoscaler",
                &own,
            ),
            (&mut facts.roots, "v1", "ConfigMap", "istio.io/config=true"),
            (
                &mut facts.injectors,
                admission,
                "MutatingWebhookConfiguration",
                "",
            ),
            (
                &mut facts.validators,
                admission,
                "ValidatingWebhookConfiguration",
                "",
            ),
        ];
        for (target, api_version, kind, labels) in lists {
            match cluster.labelled(api_version, kind, labels).await {
                Ok(found) => *target = found,
                Err(AccessError::Failed { message }) => facts.refused.push(message),
                Err(error) => return Err(error.into()),
            }
        }
        if args.pre {
            facts.ask_rights(cluster).await?;
        } else {
            facts.ask_control_planes(access, io).await?;
            facts.try_admission(cluster).await?;
        }
        Ok(facts)
    }

    async fn ask_rights(&mut self, cluster: &dyn ClusterObjects) -> Result<(), CliError> {
        let mut set = vec![format!("global.istioNamespace={}", self.place)];
        let revision = self.revision.iter();
        set.extend(revision.map(|revision| format!("revision={revision}")));
        let layers: Vec<Layer> = set.into_iter().map(Layer::Set).collect();
        let (values, _) = Values::read(&layers).map_err(|error| refused(&error))?;
        self.wanted = generate(&values).map_err(|error| refused(&error))?;
        let mut asked = Vec::new();
        for object in &self.wanted {
            let about = (object.api_version, object.kind, object.namespace.as_str());
            if asked.contains(&about) {
                continue;
            }
            asked.push(about);
            for verb in ["create", "patch"] {
                let review = review(verb, object);
                let answer = cluster.create(&review, false).await?;
                if answer["status"]["allowed"] != true {
                    let place = match object.namespace.as_str() {
                        "" => String::new(),
                        namespace => format!(" in namespace {namespace}"),
                    };
                    self.denied.push(format!("{verb} {}{place}", object.kind));
                }
            }
        }
        Ok(())
    }

    async fn ask_control_planes(
        &mut self,
        access: &dyn Access,
        io: &mut Io<'_>,
    ) -> Result<(), CliError> {
        let versions = control_plane::every("/version", access, io).await;
        let versions = versions.unwrap_or_default().into_iter();
        self.instances = versions
            .map(|(name, version)| (name, objects::text(&version, "/version").to_owned()))
            .collect();
        self.proxies = proxy_status::syncz(access, io).await.ok();
        Ok(())
    }

    /// Asks for what would become of a pod and of an object, and makes neither.
    async fn try_admission(&mut self, cluster: &dyn ClusterObjects) -> Result<(), CliError> {
        let planes: Vec<(String, String)> = self
            .planes()
            .iter()
            .map(|plane| (plane.revision.to_owned(), plane.namespace.to_owned()))
            .collect();
        for (revision, place) in planes {
            let answer = match cluster.create(&pod(&revision, &place), true).await {
                Ok(made) => Ok(made),
                Err(AccessError::Failed { message }) => Err(message),
                Err(error) => return Err(error.into()),
            };
            self.injected.push((revision, answer));
            let object = json!({
                "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
                "metadata": {"name": "meltemi-check", "namespace": place},
                "spec": {"selector": {"matchLabels": {"meltemi-check": "none"}}},
            });
            match cluster.create(&object, true).await {
                Ok(_) => {}
                Err(AccessError::Failed { message }) => self.validated = Some(message),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// The control planes to check.
    pub(super) fn planes(&self) -> Vec<Plane<'_>> {
        let planes = self.deployments.iter().map(|deployment| Plane {
            revision: objects::label(deployment, label::ISTIO_REV),
            namespace: objects::namespace(deployment),
            deployment,
        });
        let is_wanted = |plane: &Plane<'_>| {
            let is_asked = self
                .revision
                .as_deref()
                .is_none_or(|asked| asked == plane.revision);
            let is_here = self.place == ISTIO_SYSTEM || self.place == plane.namespace;
            is_asked && is_here
        };
        planes.filter(is_wanted).collect()
    }

    pub(super) fn tags(&self) -> Vec<Tagged> {
        let tagged = self.injectors.iter();
        let tagged = tagged.filter(|webhooks| !objects::label(webhooks, TAG).is_empty());
        let tagged: Vec<Value> = tagged.cloned().collect();
        tags(&tagged, &self.namespaces)
    }

    /// Pods that run and are not told to end.
    pub(super) fn running(&self) -> impl Iterator<Item = &Value> {
        self.pods.iter().filter(|pod| {
            objects::text(pod, "/status/phase") == "Running" && !objects::is_ending(pod)
        })
    }

    /// One of a control plane's ConfigMaps.
    pub(super) fn map(&self, plane: Plane<'_>, name: &str) -> Option<&Value> {
        let name = meltemi_core::names::of_revision(name, plane.revision);
        self.maps
            .iter()
            .find(|map| objects::name(map) == name && objects::namespace(map) == plane.namespace)
    }
}

/// Whether the user may do something with a kind.
fn review(verb: &str, object: &Object) -> Value {
    let (group, _) = object.api_version.split_once('/').unwrap_or(("", ""));
    let resource = format!("{}s", object.kind.to_lowercase());
    json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "metadata": {},
        "spec": {"resourceAttributes": {
            "verb": verb, "group": group, "resource": resource, "namespace": object.namespace,
        }},
    })
}

/// A pod that asks the control plane of a revision for a sidecar.
fn pod(revision: &str, namespace: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "meltemi-check", "namespace": namespace,
            "labels": {label::ISTIO_REV: revision},
        },
        "spec": {"containers": [{"name": "check", "image": "check"}]},
    })
}
