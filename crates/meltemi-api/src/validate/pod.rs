//! What an API server asks of pods and pod templates, beyond their types.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::{Diagnostic, FieldPath};

use super::{Check, is_dns_label, repeated};

/// A Job's pods end, so that they cannot be restarted always.
const JOB_RESTART: [&str; 2] = ["Never", "OnFailure"];

pub(super) fn check(spec: Option<&PodSpec>, path: &FieldPath, is_job: bool, check: &mut Check<'_>) {
    let containers = path.field("containers");
    let Some(spec) = spec.filter(|spec| !spec.containers.is_empty()) else {
        check.error_hint(
            &containers,
            "a pod has at least one container",
            "add one with a name and an image",
        );
        return;
    };
    let restart = path.field("restartPolicy");
    if is_job {
        let is_written = spec.restart_policy.is_some();
        one_of(
            &restart,
            spec.restart_policy.as_deref(),
            &JOB_RESTART,
            check,
        );
        if !is_written {
            check.error_hint(
                &restart,
                "a Job says when its pods are restarted",
                "write Never or OnFailure",
            );
        }
    } else {
        let known = ["Always", "OnFailure", "Never"];
        one_of(&restart, spec.restart_policy.as_deref(), &known, check);
    }
    let known = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    one_of(
        &path.field("dnsPolicy"),
        spec.dns_policy.as_deref(),
        &known,
        check,
    );
    let volumes: Vec<&str> = spec
        .volumes
        .iter()
        .flatten()
        .map(|volume| volume.name.as_str())
        .collect();
    for index in repeated(volumes.iter()) {
        check.error_hint(
            &path.field("volumes").index(index).field("name"),
            "another volume has that name",
            "give each its own",
        );
    }
    let volumes: BTreeSet<&str> = volumes.into_iter().collect();
    let mut names = BTreeSet::new();
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, all) in [
        ("initContainers", init),
        ("containers", spec.containers.as_slice()),
    ] {
        for (index, one) in all.iter().enumerate() {
            let path = path.field(list).index(index);
            if !names.insert(one.name.as_str()) {
                check.error_hint(
                    &path.field("name"),
                    "another container of the pod has that name",
                    "give each its own",
                );
            }
            container(one, &path, &volumes, check);
        }
    }
}

fn container(
    container: &Container,
    path: &FieldPath,
    volumes: &BTreeSet<&str>,
    check: &mut Check<'_>,
) {
    if !is_dns_label(&container.name) {
        check.error_hint(
            &path.field("name"),
            format!("\"{}\" is not the name of a container", container.name),
            "write lower-case letters, digits and dashes, at most 63",
        );
    }
    if container.image.as_deref().is_none_or(str::is_empty) {
        check.error_hint(
            &path.field("image"),
            "a container has an image",
            "write its name; with a command any name will do in a lab",
        );
    }
    let known = ["Always", "IfNotPresent", "Never"];
    let policy = container.image_pull_policy.as_deref();
    one_of(&path.field("imagePullPolicy"), policy, &known, check);
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        if !volumes.contains(mount.name.as_str()) {
            let known: Vec<&str> = volumes.iter().copied().collect();
            let hint = match crate::suggest::hint(&mount.name, &known) {
                hint if hint.is_empty() => "add it to the pod's volumes".to_owned(),
                hint => hint,
            };
            check.error_hint(
                &path.field("volumeMounts").index(index).field("name"),
                format!("the pod has no volume \"{}\"", mount.name),
                hint,
            );
        }
    }
    let ports = container.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        let path = path.field("ports").index(index);
        let number = u32::try_from(port.container_port).unwrap_or(0);
        check.port(&path.field("containerPort"), number);
        let known = ["TCP", "UDP", "SCTP"];
        one_of(
            &path.field("protocol"),
            port.protocol.as_deref(),
            &known,
            check,
        );
    }
    for (field, one) in [
        ("startupProbe", &container.startup_probe),
        ("readinessProbe", &container.readiness_probe),
        ("livenessProbe", &container.liveness_probe),
    ] {
        if let Some(one) = one {
            probe(one, &path.field(field), ports, check);
        }
    }
}

fn probe(probe: &Probe, path: &FieldPath, ports: &[ContainerPort], check: &mut Check<'_>) {
    let http = probe.http_get.as_ref();
    let tcp = probe.tcp_socket.as_ref();
    let ways = [
        probe.exec.is_some(),
        http.is_some(),
        tcp.is_some(),
        probe.grpc.is_some(),
    ];
    if ways.into_iter().filter(|way| *way).count() != 1 {
        check.error_hint(
            path,
            "a probe has one way to ask",
            "set one of exec, httpGet, tcpSocket and grpc",
        );
    }
    let asked = [
        ("httpGet", http.map(|http| &http.port)),
        ("tcpSocket", tcp.map(|tcp| &tcp.port)),
    ];
    for (way, port) in asked {
        let path = path.field(way).field("port");
        match port {
            Some(IntOrString::Int(port)) => check.port(&path, u32::try_from(*port).unwrap_or(0)),
            Some(IntOrString::String(name)) => named_port(name, &path, ports, check),
            None => {}
        }
    }
}

fn named_port(name: &str, path: &FieldPath, ports: &[ContainerPort], check: &mut Check<'_>) {
    let names: Vec<&str> = ports
        .iter()
        .filter_map(|port| port.name.as_deref())
        .collect();
    if names.contains(&name) {
        return;
    }
    let hint = match crate::suggest::hint(name, &names) {
        hint if hint.is_empty() => {
            "write the number, or name a port of the container so".to_owned()
        }
        hint => hint,
    };
    // Kubernetes takes it, and the probe never succeeds.
    let message = format!("the container has no port named \"{name}\": the probe will fail");
    check.add(path, Diagnostic::warning("MEL0011", message).hint(hint));
}

/// A field that knows a few words; nothing stands for the default.
pub(super) fn one_of(field: &FieldPath, word: Option<&str>, known: &[&str], check: &mut Check<'_>) {
    let Some(word) = word.filter(|word| !known.contains(word) && !word.is_empty()) else {
        return;
    };
    let hint = crate::suggest::hint(word, known);
    check.error_hint(field, format!("unknown value \"{word}\""), hint);
}
