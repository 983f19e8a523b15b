//! The way to a mesh in a lab.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use http::StatusCode;
use meltemi_cli::{Access, AccessError, Answer, Method, Pod, Response};
use meltemi_core::names;
use meltemi_inject::InjectionSettings;
use meltemi_lab::client::{ClientError, LabClient};
use meltemi_lab::wire::Failure;

use super::{http_method, judged_kinds, list, pod, selector};

/// The environment variable that names the lab, as `--name` of `meltemi lab` does.
const LAB_NAME: &str = "MELTEMI_LAB";

pub(super) struct Lab(LabClient);

/// Whether the environment names one.
pub(super) fn is_named() -> bool {
    super::is_set(LAB_NAME)
}

impl Lab {
    pub(super) fn from_env() -> Self {
        let name = std::env::var(LAB_NAME).ok().filter(|name| !name.is_empty());
        Self(LabClient::new(name.as_deref().unwrap_or("default")))
    }
}

impl Lab {
    pub(super) async fn is_up(&self) -> bool {
        self.0.is_up().await
    }

    /// What this lab injects pods with: its mesh configuration, and the socket mark where it has a single uid.
    async fn settings(&self) -> Option<InjectionSettings> {
        let rootless = self.0.status().await.ok()?.rootless;
        let maps = self
            .0
            .objects("ConfigMap", Some(names::ISTIO_SYSTEM))
            .await
            .ok()?;
        Some(InjectionSettings {
            proxy_mark: rootless.then_some(names::PROXY_MARK),
            ..super::injection_settings(&maps)
        })
    }
}

impl Access for Lab {
    fn pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, AccessError>> {
        Box::pin(async {
            let pods = self.0.objects("Pod", None).await.map_err(failure)?;
            Ok(pods.iter().map(pod).collect())
        })
    }

    fn pod_http<'a>(
        &'a self,
        pod: &'a str,
        namespace: &'a str,
        port: u16,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>> {
        Box::pin(async move {
            let answered = self
                .0
                .pod_http(namespace, pod, port, http_method(method), path)
                .await;
            let what = format!("pod {pod} does not answer on port {port}");
            answer(answered, &what, "is it ready? See `meltemi lab status`")
        })
    }

    /// A lab has one.
    fn istiods_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Answer>, AccessError>> {
        Box::pin(async move {
            let answered = self.0.istiod_http(http_method(method), path).await;
            let hint = "`meltemi lab status` says how it is; the lab restarts it by itself";
            let answer = answer(answered, "the control plane does not answer", hint)?;
            Ok(vec![(names::ISTIOD.to_owned(), Ok(answer))])
        })
    }

    fn service_selector<'a>(
        &'a self,
        service: &'a str,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, String>>, AccessError>> {
        Box::pin(async move {
            let services = self.0.objects("Service", Some(namespace)).await;
            Ok(selector(&services.map_err(failure)?, service))
        })
    }

    fn objects(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(async {
            let mut items = Vec::new();
            for kind in judged_kinds() {
                let found = self.0.objects(kind.as_str(), None).await;
                items.extend(found.map_err(failure)?);
            }
            Ok(list(items))
        })
    }

    fn injection_settings<'a>(
        &'a self,
        _revision: &'a str,
    ) -> BoxFuture<'a, Option<InjectionSettings>> {
        Box::pin(self.settings())
    }
}

/// What was answered. Where nobody did the lab says so in the form of its own errors.
fn answer(
    answer: Result<(StatusCode, bytes::Bytes), ClientError>,
    nobody: &str,
    hint: &str,
) -> Result<Response, AccessError> {
    let (status, body) = answer.map_err(failure)?;
    if status == StatusCode::BAD_GATEWAY
        && let Ok(failure) = serde_json::from_slice::<Failure>(&body)
    {
        return Err(AccessError::Unreachable {
            message: format!("{nobody} ({})", failure.error),
            hint: hint.to_owned(),
        });
    }
    Ok(Response {
        status: status.as_u16(),
        body: body.to_vec(),
    })
}

fn failure(error: ClientError) -> AccessError {
    match error {
        ClientError::NotUp(name) => AccessError::Unreachable {
            message: format!("no lab \"{name}\" runs on this machine"),
            hint: "start one with `meltemi lab up`, or name another with MELTEMI_LAB".to_owned(),
        },
        error => AccessError::Failed {
            message: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_told_apart_from_an_answer() {
        let check = |status: StatusCode, body: &'static str| {
            answer(Ok((status, body.into())), "nobody", "wait").map(|response| response.status)
        };
        assert_eq!(check(StatusCode::OK, "{}").unwrap(), 200);
        assert_eq!(
            check(StatusCode::BAD_GATEWAY, "a proxy's own").unwrap(),
            502
        );
        let error = check(StatusCode::BAD_GATEWAY, "{\"error\": \"refused\"}").unwrap_err();
        assert_eq!(error.to_string(), "nobody (refused)");
    }
}
