//! The volumes of a sidecar and where it mounts them (Istio's sidecar template).

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource,
    ObjectFieldSelector, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use meltemi_core::names::{CA_ROOT_CONFIG_MAP, TOKEN_AUDIENCE};

/// Seconds a projected token is valid; the kubelet renews it at 80 %.
const TOKEN_LIFETIME_SECONDS: i64 = 43_200;

pub(crate) fn volumes() -> Vec<Volume> {
    let named = |name: &str| Volume {
        name: name.to_owned(),
        ..Volume::default()
    };
    let empty = |name: &str, medium: Option<&str>| Volume {
        empty_dir: Some(EmptyDirVolumeSource {
            medium: medium.map(str::to_owned),
            size_limit: None,
        }),
        ..named(name)
    };
    vec![
        empty("workload-socket", None),
        empty("credential-socket", None),
        empty("workload-certs", None),
        empty("istio-envoy", Some("Memory")),
        empty("istio-data", None),
        Volume {
            downward_api: Some(DownwardAPIVolumeSource {
                default_mode: None,
                items: Some(vec![
                    pod_info("labels", "metadata.labels"),
                    pod_info("annotations", "metadata.annotations"),
                ]),
            }),
            ..named("istio-podinfo")
        },
        Volume {
            projected: Some(token()),
            ..named("istio-token")
        },
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: CA_ROOT_CONFIG_MAP.to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..named("istiod-ca-cert")
        },
    ]
}

pub(crate) fn mounts() -> Vec<VolumeMount> {
    [
        ("workload-socket", "/var/run/secrets/workload-spiffe-uds"),
        ("credential-socket", "/var/run/secrets/credential-uds"),
        (
            "workload-certs",
            "/var/run/secrets/workload-spiffe-credentials",
        ),
        ("istiod-ca-cert", "/var/run/secrets/istio"),
        ("istio-data", "/var/lib/istio/data"),
        ("istio-envoy", "/etc/istio/proxy"),
        ("istio-token", "/var/run/secrets/tokens"),
        ("istio-podinfo", "/etc/istio/pod"),
    ]
    .into_iter()
    .map(|(name, path)| VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    })
    .collect()
}

fn pod_info(path: &str, field: &str) -> DownwardAPIVolumeFile {
    DownwardAPIVolumeFile {
        path: path.to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: None,
            field_path: field.to_owned(),
        }),
        ..DownwardAPIVolumeFile::default()
    }
}

fn token() -> ProjectedVolumeSource {
    let token = ServiceAccountTokenProjection {
        audience: Some(TOKEN_AUDIENCE.to_owned()),
        expiration_seconds: Some(TOKEN_LIFETIME_SECONDS),
        path: "istio-token".to_owned(),
    };
    ProjectedVolumeSource {
        default_mode: None,
        sources: Some(vec![VolumeProjection {
            service_account_token: Some(token),
            ..VolumeProjection::default()
        }]),
    }
}
