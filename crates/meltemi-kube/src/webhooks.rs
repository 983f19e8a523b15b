//! What the API server asks before it makes an object: `/inject` for pods, `/validate` for Istio's objects.

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use k8s_openapi::api::core::v1::Pod;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use meltemi_core::{Diagnostic, Severity};

use crate::injector::{Injected, Injector};

/// The longest review read: etcd takes objects of 1.5 MiB, and an update holds two.
const BODY_LIMIT_BYTES: usize = 4 << 20;

type Review = AdmissionReview<DynamicObject>;

/// Istio's paths; what follows `/inject/` is environment that is not used.
pub fn webhooks(injector: Injector) -> Router {
    Router::new()
        .route("/inject", post(inject))
        .route("/inject/{*rest}", post(inject))
        .route("/validate", post(validate))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(injector)
}

async fn inject(State(injector): State<Injector>, Json(review): Json<Review>) -> Json<Review> {
    answer(review, |request| injected(&injector, request))
}

async fn validate(Json(review): Json<Review>) -> Json<Review> {
    answer(review, validated)
}

type Request = AdmissionRequest<DynamicObject>;

fn answer(review: Review, decide: impl FnOnce(&Request) -> AdmissionResponse) -> Json<Review> {
    let response = match TryInto::<Request>::try_into(review) {
        Ok(request) => decide(&request),
        Err(error) => AdmissionResponse::invalid(error),
    };
    Json(response.into_review())
}

fn injected(injector: &Injector, request: &Request) -> AdmissionResponse {
    let response = AdmissionResponse::from(request);
    let Some(object) = &request.object else {
        return response;
    };
    let unreadable = |error: serde_json::Error| format!("the pod cannot be read: {error}");
    let written = match serde_json::to_value(object) {
        Ok(written) => written,
        Err(error) => return response.deny(unreadable(error)),
    };
    let pod = match serde_json::from_value::<Pod>(written.clone()) {
        Ok(pod) => pod,
        Err(error) => return response.deny(unreadable(error)),
    };
    let namespace = request.namespace.as_deref().unwrap_or("default");
    let name = pod
        .metadata
        .name
        .as_ref()
        .or(pod.metadata.generate_name.as_ref());
    let name = name.cloned().unwrap_or_default();
    match injector.inject(&written, &pod, namespace) {
        Injected::Unchanged(reason) => {
            tracing::debug!(namespace, pod = name, reason, "not injected");
            response
        }
        Injected::Refused(why) => {
            tracing::warn!(namespace, pod = name, why, "injection refused");
            response.deny(why)
        }
        Injected::Patched { patch, warnings } => {
            let denied = response.clone();
            match response.with_patch(patch) {
                Ok(mut response) => {
                    response.warnings = (!warnings.is_empty()).then_some(warnings);
                    response
                }
                Err(error) => denied.deny(error),
            }
        }
    }
}

fn validated(request: &Request) -> AdmissionResponse {
    let mut response = AdmissionResponse::from(request);
    let is_written = matches!(request.operation, Operation::Create | Operation::Update);
    let Some(object) = request.object.as_ref().filter(|_| is_written) else {
        return response;
    };
    let object = match serde_json::to_value(object) {
        Ok(object) => object,
        Err(error) => return response.deny(format!("the object cannot be read: {error}")),
    };
    let parsed = meltemi_api::parse_json(object);
    let (errors, others): (Vec<Diagnostic>, Vec<Diagnostic>) = parsed
        .diagnostics
        .into_iter()
        .partition(|found| found.severity == Severity::Error);
    let warnings: Vec<String> = others
        .iter()
        .filter(|found| found.severity == Severity::Warning)
        .map(ToString::to_string)
        .collect();
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    if errors.is_empty() {
        return response;
    }
    let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
    response.deny(errors.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(kind: &str, object: &Value) -> Request {
        let review = json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "u", "kind": {"group": "", "version": "v1", "kind": kind},
            "resource": {"group": "", "version": "v1", "resource": "x"},
            "name": "", "namespace": "shop", "operation": "CREATE", "userInfo": {}, "object": object}});
        serde_json::from_value::<Review>(review)
            .unwrap()
            .try_into()
            .unwrap()
    }

    #[test]
    fn a_pod_is_patched() {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "a-"},
            "spec": {"containers": [{"name": "app", "image": "app"}]}});
        let injector = Injector::new(meltemi_inject::InjectionSettings::default(), "istio-system");
        let response = injected(&injector, &request("Pod", &pod));
        assert!(response.allowed && response.patch.is_some());
        let broken = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {}, "spec": {"containers": "none"}});
        assert!(!injected(&injector, &request("Pod", &broken)).allowed);
    }

    #[test]
    fn an_object_with_mistakes_is_refused_with_all_of_them() {
        let policy = |spec: Value| {
            json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
                "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})
        };
        let judge = |spec: Value| validated(&request("PeerAuthentication", &policy(spec)));
        assert!(judge(json!({"mtls": {"mode": "STRICT"}})).allowed);
        let refused = judge(
            json!({"mtls": {"mode": "STRICTER"}, "portLevelMtls": {"80": {"mode": "STRICT"}}}),
        );
        assert!(!refused.allowed);
        for part in ["spec.mtls.mode", "STRICTER"] {
            assert!(
                refused.result.message.contains(part),
                "{}",
                refused.result.message
            );
        }
    }
}
