//! Routes that depend on claims, and whether anything verifies them.

use meltemi_api::Object;
use meltemi_api::istio::{VirtualService, claim_path};
use meltemi_core::{Diagnostic, FieldPath, Severity};

use super::report;
use super::selection::Pods;
use crate::{MeshGateway, MeshSnapshot, gateway_name};

/// Claims are known where a gateway verifies tokens: elsewhere a route that depends on them matches nothing.
pub(super) fn claims(
    mesh: &MeshSnapshot,
    pods: &Pods,
    object: &Object,
    spec: &VirtualService,
    found: &mut Vec<Diagnostic>,
) {
    let path = FieldPath::new("spec").field("http");
    for (i, http) in spec.http.iter().enumerate() {
        for (j, matches) in http.matches.iter().enumerate() {
            let at = path.index(i).field("match").index(j);
            for (field, said) in [
                ("headers", &matches.headers),
                ("withoutHeaders", &matches.without_headers),
            ] {
                for name in said.keys().filter(|name| claim_path(name).is_some()) {
                    let gateways = match matches.gateways.is_empty() {
                        true => &spec.gateways,
                        false => &matches.gateways,
                    };
                    let problem = problem(mesh, pods, object, gateways, name);
                    let field = at.field(field).key(name);
                    found.extend(problem.map(|(message, hint)| {
                        let code = "IST0149";
                        report(object, Severity::Error, code, field, message, hint)
                    }));
                }
            }
        }
    }
}

fn problem(
    mesh: &MeshSnapshot,
    pods: &Pods,
    object: &Object,
    gateways: &[String],
    name: &str,
) -> Option<(String, String)> {
    let namespace = &object.meta.namespace;
    let named = gateways
        .iter()
        .map(|written| gateway_name(written, namespace));
    let known: Vec<&MeshGateway> = named
        .filter_map(|name| mesh.gateways().find(|gateway| gateway.name == name))
        .map(AsRef::as_ref)
        .collect();
    if known.is_empty() {
        let message =
            format!("the route depends on a claim ({name}), which is known at gateways only");
        let hint = "bind the VirtualService to a Gateway: gateways".to_owned();
        // One that is bound to a Gateway that is not there is told of that.
        let is_of_mesh = gateways.is_empty() || gateways.iter().any(|name| name == crate::MESH);
        return is_of_mesh.then_some((message, hint));
    }
    known.into_iter().find_map(|gateway| {
        let mut serving = pods.with(&gateway.spec.selector);
        let verifies = |(namespace, labels)| {
            let mut all = mesh.request_authentications(namespace, labels);
            all.any(|(_, policy)| !policy.jwt_rules.is_empty())
        };
        serving.find(|pod| !verifies(*pod)).map(|(namespace, _)| {
            let message = format!(
                "the virtual service uses the JWT claim based routing (key: {name}) but found no request authentication for the gateway ({}) in {namespace}",
                gateway.name
            );
            let hint = format!("apply a RequestAuthentication for the gateway's pods in {namespace}");
            (message, hint)
        })
    })
}
