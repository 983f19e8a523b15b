//! `authz can`: whether a call is allowed, and what says so.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meltemi_api::istio::{MeshConfig, TlsMode};
use meltemi_api::{Kind, Object, ObjectKey, Resource, parse_message};
use meltemi_core::names::{ISTIO_SYSTEM, MESH_CONFIG_MAP};
use meltemi_core::{FieldPath, Identity};
use meltemi_inject::annotation::{GATEWAY_TEMPLATE, TEMPLATES};
use meltemi_model::{Mesh, MeshSnapshot, SecretsOf, Workload};
use meltemi_xdsgen::{ProxyView, Role};
use serde_json::{Value, json};

use super::Rule;
use super::call::{Call, Judgement, Said, Unjudged, judge};
use crate::analyze;
use crate::command::CanArgs;
use crate::output::structured;
use crate::target::among;
use crate::{Access, CliError, Io, Pod};

pub(super) async fn run(
    args: &CanArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let pods = access.pods().await?;
    let namespace = args.namespace.namespace.as_deref();
    let source = among(&pods, &args.source, namespace, access).await?;
    let destination = among(&pods, &args.destination, namespace, access).await?;
    if !destination.has_sidecar() {
        let message = format!(
            "{} has no proxy: nothing there enforces a policy",
            destination.id()
        );
        return Err(CliError::data(message, "Name a pod with a sidecar."));
    }
    let mesh = load(args, access, io).await?;
    let snapshot = mesh.snapshot();
    let (caller, called) = (
        workload(&snapshot, source)?,
        workload(&snapshot, destination)?,
    );
    let view = view(&mesh, called, destination)?;
    let port = port(args.port, &snapshot, called, &view)?;
    let identity = speaks_mutual_tls(args, source, called, &snapshot, port, view.role)
        .then(|| caller.identity.as_ref())
        .flatten();
    let host = args.host.clone();
    let host = host.unwrap_or_else(|| called_host(&snapshot, called, port));
    let call = Call {
        caller: identity,
        source: address(source)?,
        destination: SocketAddr::new(address(destination)?, port),
        method: &args.method,
        path: &args.path,
        host: &host,
        headers: &args.headers,
        token: args.jwt.as_deref(),
        now: now(io),
    };
    let judged = judge(&view, &snapshot, &call);
    if let Err(error @ (Unjudged::Malformed(_) | Unjudged::NoListener(_))) = &judged {
        return Err(CliError::data(error.to_string(), ""));
    }
    let answer = Answer {
        from: source.id(),
        to: format!("{}:{port}", destination.id()),
        request: format!("{} {}", args.method, args.path),
        caller: identity,
        judged,
        mesh: &mesh,
    };
    match structured(&answer.to_json(), args.output)? {
        Some(text) => io.print(&text)?,
        None => io.print(&answer.to_text())?,
    }
    match answer.is_allowed() {
        true => Ok(()),
        false => Err(CliError::Denied),
    }
}

/// Since 1970.
fn now(io: &Io<'_>) -> Duration {
    let seconds = u64::try_from(io.now.as_second()).unwrap_or_default();
    Duration::from_secs(seconds)
}

/// The running mesh with the files over it.
async fn load(args: &CanArgs, access: &dyn Access, io: &mut Io<'_>) -> Result<Mesh, CliError> {
    let live = analyze::running(Some(true), access, io).await?;
    let config = mesh_config(&live);
    let mut mesh = Mesh::new(config);
    mesh.set_secrets_of(SecretsOf::Unseen);
    mesh.apply(&analyze::changes(live));
    let namespace = args.namespace.namespace.as_deref().unwrap_or("default");
    let mut files = Vec::new();
    for path in &args.files {
        analyze::collect(path, 0, &mut files)?;
    }
    for file in files {
        let text = crate::kube_inject::read(&file, io)?;
        let parsed = meltemi_api::parse(&file.display().to_string(), &text, namespace);
        let mut errors = parsed.diagnostics.iter();
        if let Some(error) = errors.find(|d| d.severity == meltemi_core::Severity::Error) {
            let hint = format!("See all of it: {} analyze {}", io.called, file.display());
            return Err(CliError::data(error.to_string(), hint));
        }
        mesh.apply(&analyze::changes(parsed.objects));
    }
    Ok(mesh)
}

fn mesh_config(objects: &[Arc<Object>]) -> MeshConfig {
    let key = ObjectKey::new(Kind::ConfigMap, ISTIO_SYSTEM, MESH_CONFIG_MAP);
    let map = objects.iter().find(|object| object.key() == key);
    let text = map.and_then(|object| match &object.resource {
        Resource::ConfigMap(map) => map.data.as_ref()?.get("mesh"),
        _ => None,
    });
    let config = text.and_then(|text| parse_message::<MeshConfig>("mesh", text).0);
    config.unwrap_or_default()
}

fn address(pod: &Pod) -> Result<IpAddr, CliError> {
    let error = || {
        CliError::data(
            format!("{} has no address yet", pod.id()),
            "Wait until it is ready.",
        )
    };
    pod.address.parse().map_err(|_| error())
}

fn workload<'a>(mesh: &'a MeshSnapshot, pod: &Pod) -> Result<&'a Arc<Workload>, CliError> {
    mesh.workload(address(pod)?).ok_or_else(|| {
        CliError::data(
            format!("{} is none of the mesh's workloads yet", pod.id()),
            "Wait until it is ready.",
        )
    })
}

/// As the control plane would know the called proxy.
fn view(mesh: &Mesh, called: &Workload, pod: &Pod) -> Result<ProxyView, CliError> {
    let key = ObjectKey::new(Kind::Pod, &pod.namespace, &pod.name);
    let template = |object: &Arc<Object>| object.meta.annotations.get(TEMPLATES).cloned();
    let template = mesh.object(&key).and_then(template);
    let is_router = template.is_some_and(|template| template.trim() == GATEWAY_TEMPLATE);
    let view = ProxyView::new(
        address(pod)?,
        &called.namespace,
        &called.service_account,
        called.labels.clone(),
    );
    Ok(ProxyView {
        role: if is_router {
            Role::Router
        } else {
            Role::Sidecar
        },
        addresses: called.addresses.clone(),
        ..view
    })
}

/// The ports that services lead to, and their hosts.
fn served(mesh: &MeshSnapshot, called: &Workload) -> Vec<(u16, String)> {
    let mut served = Vec::new();
    for address in &called.addresses {
        for service in mesh.services_of(*address) {
            let endpoints = mesh.endpoints(&service.hostname);
            let own = endpoints.into_iter().flat_map(|all| &all.endpoints);
            let own = own.filter(|endpoint| {
                endpoint.address == meltemi_model::EndpointAddress::Ip(*address)
            });
            served.extend(own.map(|endpoint| (endpoint.port, service.hostname.to_string())));
        }
    }
    served.sort();
    served.dedup();
    served
}

fn port(
    asked: Option<u16>,
    mesh: &MeshSnapshot,
    called: &Workload,
    view: &ProxyView,
) -> Result<u16, CliError> {
    if let Some(port) = asked {
        return Ok(port);
    }
    let mut ports: Vec<u16> = served(mesh, called)
        .into_iter()
        .map(|(port, _)| port)
        .collect();
    ports.dedup();
    match ports[..] {
        [port] => Ok(port),
        _ => {
            let list: Vec<String> = ports.iter().map(ToString::to_string).collect();
            let message = format!("{} serves not one port but {}", view.namespace, ports.len());
            let message = message.replacen(&view.namespace, &called.name, 1);
            Err(CliError::usage(
                message,
                format!("Name one with --port: {}", list.join(", ")),
            ))
        }
    }
}

fn called_host(mesh: &MeshSnapshot, called: &Workload, port: u16) -> String {
    let mut served = served(mesh, called).into_iter();
    let host = served.find(|(own, _)| *own == port).map(|(_, host)| host);
    host.unwrap_or_else(|| called.name.clone())
}

/// Callers with a sidecar use mutual TLS wherever it is taken.
fn speaks_mutual_tls(
    args: &CanArgs,
    source: &Pod,
    called: &Workload,
    mesh: &MeshSnapshot,
    port: u16,
    role: Role,
) -> bool {
    let modes = mesh.workload_tls(&called.namespace, &called.labels);
    let takes = role == Role::Sidecar && modes.of_port(port).mode != TlsMode::Disable;
    !args.plain && source.has_sidecar() && called.accepts_mtls() && takes
}

struct Answer<'a> {
    from: String,
    to: String,
    request: String,
    caller: Option<&'a Identity>,
    judged: Result<Judgement, Unjudged>,
    mesh: &'a Mesh,
}

impl Answer<'_> {
    fn is_allowed(&self) -> bool {
        self.judged.as_ref().is_ok_and(Judgement::is_allowed)
    }

    /// What decided: a denial, else the last word of ALLOW.
    fn decided(&self) -> Option<&Said> {
        let said = &self.judged.as_ref().ok()?.enforced;
        let denial = said.iter().find(|said| !said.is_allowed);
        denial.or_else(|| said.iter().find(|said| said.action == "ALLOW"))
    }

    /// The rule by which an external authorizer is asked, too: what it says nobody knows before.
    fn asks(&self) -> Option<&Said> {
        self.judged.as_ref().ok()?.asks.as_ref()
    }

    /// `file:line` of a rule that came from a file.
    fn place(&self, rule: &Rule) -> Option<String> {
        let key = ObjectKey::new(
            Kind::AuthorizationPolicy,
            &rule.policy.namespace,
            &rule.policy.name,
        );
        let rules = FieldPath::new("spec").field("rules").index(rule.index);
        let place = self.mesh.object(&key)?.locate(&rules)?;
        Some(format!("{}:{}", place.file, place.line))
    }

    fn because(&self, said: &Said) -> String {
        let Some(name) = &said.rule else {
            return "no rule of an ALLOW policy matches".to_owned();
        };
        let Some(rule) = Rule::parse(name) else {
            return format!("rule {name}");
        };
        let action = if rule.is_custom {
            "CUSTOM"
        } else {
            said.action
        };
        let place = self.place(&rule);
        let place = place.map_or_else(String::new, |place| format!(" ({place})"));
        format!(
            "{} {}, spec.rules[{}], {action}{place}",
            rule.policy.kind,
            short(&rule),
            rule.index
        )
    }

    fn to_text(&self) -> String {
        let asks = self.asks();
        let verdict = match (self.is_allowed(), asks) {
            (true, None) => "ALLOW",
            (true, Some(_)) => "ALLOW if the authorizer does",
            (false, _) => "DENY",
        };
        let call = match &self.judged {
            Ok(judged) if judged.is_http => format!("{} ", self.request),
            _ => "a connection ".to_owned(),
        };
        let mut lines = vec![format!(
            "{verdict}: {call}from {} to {}",
            self.from, self.to
        )];
        lines.push(match (&self.judged, self.decided()) {
            (Err(error), _) => format!("  because: {error}"),
            (_, Some(said)) => format!("  because: {}", self.because(said)),
            (_, None) => "  because: no policy denies it, and there is none of ALLOW".to_owned(),
        });
        lines.extend(asks.map(|said| format!("  asks:    by {}", self.because(said))));
        lines.push(match self.caller {
            Some(identity) => format!("  caller:  {} (mutual TLS)", identity.principal()),
            None => "  caller:  unknown (plain text)".to_owned(),
        });
        let dry_runs = self.judged.iter().flat_map(|judged| &judged.dry_runs);
        lines.extend(dry_runs.map(|said| {
            let verdict = if said.is_allowed { "allow" } else { "deny" };
            format!("  dry run: would {verdict}: {}", self.because(said))
        }));
        lines.join("\n") + "\n"
    }

    fn to_json(&self) -> Value {
        let one = |said: &Said| {
            let rule = said.rule.as_deref().and_then(Rule::parse);
            json!({
                "action": said.action,
                "allowed": said.is_allowed,
                "policy": rule.as_ref().map(short),
                "rule": rule.as_ref().map(|rule| rule.index),
                "location": rule.as_ref().and_then(|rule| self.place(rule)),
            })
        };
        let dry_runs = self.judged.iter().flat_map(|judged| &judged.dry_runs);
        json!({
            "allowed": self.is_allowed(),
            "from": self.from,
            "to": self.to,
            "http": self.judged.as_ref().is_ok_and(|judged| judged.is_http),
            "caller": self.caller.map(Identity::principal),
            "decidedBy": self.decided().map(one),
            "asks": self.asks().map(one),
            "reason": self.judged.as_ref().err().map(ToString::to_string),
            "dryRuns": dry_runs.map(one).collect::<Vec<Value>>(),
        })
    }
}

/// `namespace/name`.
fn short(rule: &Rule) -> String {
    format!("{}/{}", rule.policy.namespace, rule.policy.name)
}
