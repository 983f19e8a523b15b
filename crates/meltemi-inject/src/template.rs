//! The two containers of a sidecar, or the one of a gateway, before the user's own words about them.

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, ExecAction, HTTPGetAction, Lifecycle, LifecycleHandler,
    PodSpec, Probe, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::names::{INIT_CONTAINER, PROXY_CONTAINER, PROXY_UID, port};

use crate::options::{Options, Template};
use crate::{InjectionSettings, Workload, env, volumes};

/// The container that redirects the pod's traffic (`istio-iptables`), as root with the two capabilities that needs.
pub(crate) fn init(options: &Options, settings: &InjectionSettings) -> Container {
    let env = env::init(options, settings);
    Container {
        name: INIT_CONTAINER.to_owned(),
        image: Some(options.init_image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        args: Some(capture_args(options)),
        env: (!env.is_empty()).then_some(env),
        resources: Some(options.resources.requirements()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: Some(vec!["NET_ADMIN".to_owned(), "NET_RAW".to_owned()]),
                drop: Some(vec!["ALL".to_owned()]),
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(false),
            run_as_group: Some(0),
            run_as_non_root: Some(false),
            run_as_user: Some(0),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// The proxy itself, uid 1337, without any capability.
pub(crate) fn proxy(
    spec: &PodSpec,
    workload: &Workload,
    options: &Options,
    settings: &InjectionSettings,
) -> Container {
    let mut mounts = volumes::mounts();
    mounts.extend(options.mounts.iter().cloned());
    let identity = i64::from(PROXY_UID);
    Container {
        name: PROXY_CONTAINER.to_owned(),
        image: Some(options.image.clone()),
        image_pull_policy: settings.image_pull_policy.clone(),
        args: Some(proxy_args(options, settings)),
        env: Some(env::proxy(spec, workload, options, settings)),
        lifecycle: lifecycle(options),
        ports: Some(vec![ContainerPort {
            container_port: i32::from(port::ENVOY_STATS),
            name: Some("http-envoy-prom".to_owned()),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        readiness_probe: readiness(options),
        startup_probe: startup(options),
        resources: Some(options.resources.requirements()),
        restart_policy: options.native.then(|| "Always".to_owned()),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: Some(Capabilities {
                add: None,
                drop: Some(vec!["ALL".to_owned()]),
            }),
            privileged: Some(false),
            read_only_root_filesystem: Some(true),
            run_as_group: Some(identity),
            run_as_non_root: Some(true),
            run_as_user: Some(identity),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn capture_args(options: &Options) -> Vec<String> {
    let capture = &options.capture;
    let excluded_inbound = [
        port::ENVOY_STATS.to_string(),
        port::READINESS.to_string(),
        capture.exclude_inbound_ports.clone(),
        options.status_port.to_string(),
    ];
    let excluded_inbound = excluded_inbound.map(|part| part.trim_matches(',').to_owned());
    let excluded_inbound: Vec<String> = excluded_inbound
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let outbound = port::OUTBOUND.to_string();
    let inbound = port::INBOUND.to_string();
    let uid = PROXY_UID.to_string();
    let always = [
        ("-p", outbound.as_str()),
        ("-z", &inbound),
        ("-u", &uid),
        ("-m", options.interception.as_str()),
        ("-i", &capture.include_outbound_ranges),
        ("-x", &capture.exclude_outbound_ranges),
        ("-b", &capture.include_inbound_ports),
        ("-d", &excluded_inbound.join(",")),
    ];
    let if_set = [
        ("-q", capture.include_outbound_ports.as_str()),
        ("-o", &capture.exclude_outbound_ports),
        ("-c", &capture.exclude_interfaces),
    ];
    let if_set = if_set.into_iter().filter(|(_, value)| !value.is_empty());
    let pairs = always.into_iter().chain(if_set);
    let flags = pairs.flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]);
    let log = format!("--log_output_level={}", options.agent_log_level);
    std::iter::once("istio-iptables".to_owned())
        .chain(flags)
        .chain([log])
        .collect()
}

fn proxy_args(options: &Options, settings: &InjectionSettings) -> Vec<String> {
    vec![
        "proxy".to_owned(),
        match options.template {
            Template::Sidecar => "sidecar".to_owned(),
            Template::Gateway => "router".to_owned(),
        },
        "--domain".to_owned(),
        format!("$(POD_NAMESPACE).svc.{}", settings.cluster_domain),
        format!("--proxyLogLevel={}", options.log_level),
        format!("--proxyComponentLogLevel={}", options.component_log_level),
        format!("--log_output_level={}", options.agent_log_level),
    ]
}

/// A native sidecar outlives the application, so it drains when told to stop; a classic one that the application must wait
/// for holds the kubelet in its postStart.
fn lifecycle(options: &Options) -> Option<Lifecycle> {
    if options.native {
        let port = format!("--debug-port={}", options.status_port);
        return Some(Lifecycle {
            pre_stop: Some(agent(&["request", &port, "POST", "drain"])),
            ..Lifecycle::default()
        });
    }
    options.hold_application.then(|| Lifecycle {
        post_start: Some(agent(&["wait"])),
        ..Lifecycle::default()
    })
}

fn agent(args: &[&str]) -> LifecycleHandler {
    let command = std::iter::once("pilot-agent").chain(args.iter().copied());
    LifecycleHandler {
        exec: Some(ExecAction {
            command: Some(command.map(str::to_owned).collect()),
        }),
        ..LifecycleHandler::default()
    }
}

fn readiness(options: &Options) -> Option<Probe> {
    let readiness = options.readiness?;
    Some(Probe {
        initial_delay_seconds: Some(readiness.initial_delay_seconds),
        period_seconds: Some(readiness.period_seconds),
        failure_threshold: Some(readiness.failure_threshold),
        ..ready()
    })
}

fn startup(options: &Options) -> Option<Probe> {
    options.readiness.map(|_| Probe {
        initial_delay_seconds: Some(0),
        period_seconds: Some(1),
        failure_threshold: Some(600),
        ..ready()
    })
}

fn ready() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz/ready".to_owned()),
            port: IntOrString::Int(i32::from(port::READINESS)),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(3),
        ..Probe::default()
    }
}
