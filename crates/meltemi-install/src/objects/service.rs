use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::names::{ISTIOD, port};

use super::{access::texts, metadata, selector};
use crate::Values;

/// Port names are Istio's, which dashboards and scrape configurations contain. Differs from Istio: no `grpc-xds` on 15010,
/// which is not encrypted.
pub(super) fn service(values: &Values) -> Service {
    let ports = [
        ("https-dns", port::XDS_TLS, port::XDS_TLS),
        ("https-webhook", 443, port::WEBHOOK),
        ("http-monitoring", port::MONITORING, port::MONITORING),
    ];
    let mut metadata = metadata(values, ISTIOD);
    let annotations = &values.pilot.service_annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| texts(annotations));
    Service {
        metadata,
        spec: Some(ServiceSpec {
            ports: Some(
                ports
                    .into_iter()
                    .map(|(name, port, target)| ServicePort {
                        name: Some(name.to_owned()),
                        port: port.into(),
                        protocol: Some("TCP".to_owned()),
                        target_port: Some(IntOrString::Int(target.into())),
                        ..ServicePort::default()
                    })
                    .collect(),
            ),
            selector: Some(selector(values)),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
