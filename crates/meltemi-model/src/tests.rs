//! Objects in, answers out.

mod analysis;
mod incremental;
mod lookup;

use meltemi_api::{Change, Kind, ObjectKey, parse};
use meltemi_core::{Hostname, Labels, Severity};

use crate::{ChangeSet, Mesh};

/// Two Services of one port each; `reviews` has a meshed pod of two versions, `legacy` one without a sidecar.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: default}
spec:
  clusterIP: 10.96.0.1
  selector: {app: reviews}
  ports: [{name: http, port: 9080, targetPort: web}]
---
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: default}
spec:
  clusterIP: 10.96.0.2
  ports: [{name: tcp-db, port: 5432}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: reviews-x, namespace: default, labels: {kubernetes.io/service-name: reviews}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
- {addresses: [10.244.0.1], targetRef: {kind: Pod, name: reviews-v1}, conditions: {ready: true}}
- {addresses: [10.244.0.2], targetRef: {kind: Pod, name: reviews-v2}, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: legacy-x, namespace: default, labels: {kubernetes.io/service-name: legacy}}
addressType: IPv4
ports: [{name: tcp-db, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.244.0.9], targetRef: {kind: Pod, name: legacy}}
"#;

fn pod(name: &str, ip: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default, labels: {{{labels}}}}}\n\
         spec: {{serviceAccountName: sa-{name}, containers: [{{name: app, image: a, ports: [{{name: web, containerPort: 8080}}]}}]}}\n\
         status: {{phase: Running, podIP: {ip}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

fn shop() -> String {
    let sidecar = "security.istio.io/tlsMode: istio, app: reviews";
    [
        SHOP.to_owned(),
        pod(
            "reviews-v1",
            "10.244.0.1",
            &format!("{sidecar}, version: v1"),
        ),
        pod(
            "reviews-v2",
            "10.244.0.2",
            &format!("{sidecar}, version: v2"),
        ),
        pod("legacy", "10.244.0.9", "app: legacy"),
    ]
    .concat()
}

fn changes(yaml: &str) -> Vec<Change> {
    let parsed = parse("test.yaml", yaml, "default");
    let errors: Vec<_> = parsed
        .diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    parsed.objects.into_iter().map(Change::Upsert).collect()
}

fn apply(mesh: &mut Mesh, yaml: &str) -> ChangeSet {
    mesh.apply(&changes(yaml))
}

fn delete(mesh: &mut Mesh, kind: Kind, name: &str) -> ChangeSet {
    mesh.apply(&[Change::Delete(ObjectKey::new(kind, "default", name))])
}

fn mesh(yaml: &str) -> Mesh {
    let mut mesh = Mesh::default();
    apply(&mut mesh, yaml);
    mesh
}

fn host(name: &str) -> Hostname {
    Hostname::resolve(name, "default", "cluster.local").unwrap()
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Labels {
    Labels::from(pairs)
}
