//! `proxy-config`: what a proxy works with, in istioctl's columns. Reads Envoy-shaped admin answers, so it serves our proxy
//! and a stock Envoy alike.

mod bootstrap;
pub(crate) mod certificates;
mod clusters;
pub(crate) mod dump;
mod endpoints;
mod listeners;
mod log;
mod routes;

use serde_json::Value;

use crate::command::PodArgs;
use crate::output::structured;
use crate::table::Table;
use crate::target::resolve;
use crate::{Access, CliError, Format, Io, Method, Pod, ProxyConfigCommand, Response};
use dump::Dump;
use meltemi_core::names::port;

pub(crate) async fn run(
    command: ProxyConfigCommand,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    match command {
        ProxyConfigCommand::Cluster(args) => {
            let dump = load(&args.pod, access, io).await?;
            let rows = clusters::select(&dump, &args);
            show(&rows, args.pod.output, io, clusters::table)
        }
        ProxyConfigCommand::Listener(args) => {
            let dump = load(&args.pod, access, io).await?;
            let rows = listeners::select(&dump, &args);
            show(&rows, args.pod.output, io, listeners::table)
        }
        ProxyConfigCommand::Route(args) => {
            let dump = load(&args.pod, access, io).await?;
            let rows = routes::select(&dump, args.name.as_deref());
            show(&rows, args.pod.output, io, routes::table)
        }
        ProxyConfigCommand::Endpoint(args) => {
            let answer = endpoints::load(&args.pod, access, io).await?;
            endpoints::run(&answer, &args, io)
        }
        ProxyConfigCommand::Secret(args) => {
            let dump = load(&args, access, io).await?;
            match structured(&dump.secrets_section(), args.output)? {
                Some(text) => io.print(&text),
                None => io.print(&certificates::table(&dump.secrets(), io.now)),
            }
        }
        ProxyConfigCommand::Ecds(args) => {
            let dump = load(&args, access, io).await?;
            show(&dump.extension_configs(), args.output, io, ecds_table)
        }
        ProxyConfigCommand::Bootstrap(args) => {
            let dump = load(&args, access, io).await?;
            bootstrap::run(&dump, &args, io)
        }
        ProxyConfigCommand::All(args) => all(&args, access, io).await,
        ProxyConfigCommand::Log(args) => log::run(&args, access, io).await,
    }
}

async fn all(args: &PodArgs, access: &dyn Access, io: &mut Io<'_>) -> Result<(), CliError> {
    let dump = load(args, access, io).await?;
    if let Some(text) = structured(dump.value(), args.output)? {
        return io.print(&text);
    }
    let tables = [
        clusters::table(&dump.clusters()),
        listeners::table(&dump.listeners()),
        routes::table(&dump.routes()),
        certificates::table(&dump.secrets(), io.now),
        endpoints::table(&endpoints::of_dump(&dump)),
    ];
    io.print(&tables.join("\n"))
}

fn ecds_table(filters: &[&Value]) -> String {
    let mut table = Table::new(["ECDS NAME", "TYPE"]);
    for filter in filters {
        let kind = dump::text(filter, "/typedConfig/@type");
        let kind = kind.rsplit('/').next().unwrap_or(kind);
        table.row([dump::text(filter, "/name"), kind]);
    }
    table.render()
}

/// Resources as a table, or as a list of what the proxy holds.
fn show(
    rows: &[&Value],
    format: Format,
    io: &mut Io<'_>,
    table: impl FnOnce(&[&Value]) -> String,
) -> Result<(), CliError> {
    let list = Value::Array(rows.iter().map(|row| (*row).clone()).collect());
    match structured(&list, format)? {
        Some(text) => io.print(&text),
        None => io.print(&table(rows)),
    }
}

pub(crate) async fn load(
    args: &PodArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<Dump, CliError> {
    let json = fetch(args, "/config_dump?include_eds", access, io).await?;
    Dump::new(json)
}

/// The answer to an admin request, or the file that holds one.
async fn fetch(
    args: &PodArgs,
    path: &str,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<Value, CliError> {
    if let Some(file) = &args.file {
        let text = crate::kube_inject::read(file, io)?;
        return serde_json::from_str(&text).map_err(|error| {
            let hint = "Save one with: meltemi proxy-config all POD -o json";
            CliError::data(format!("{} is no JSON: {error}", file.display()), hint)
        });
    }
    let pod = pod(args, access).await?;
    admin_json(&pod, Method::Get, path, access).await
}

async fn pod(args: &PodArgs, access: &dyn Access) -> Result<Pod, CliError> {
    let Some(target) = &args.pod else {
        return Err(CliError::usage(
            "name a pod",
            "Such as productpage-v1, or a file with -f.",
        ));
    };
    resolve(target, args.namespace.namespace.as_deref(), access).await
}

/// An answer of a proxy's admin interface.
pub(crate) async fn admin(
    pod: &Pod,
    method: Method,
    path: &str,
    access: &dyn Access,
) -> Result<Response, CliError> {
    if !pod.has_sidecar() {
        return Err(CliError::data(
            format!("pod {} has no sidecar", pod.id()),
            "Label its namespace istio-injection=enabled and restart it, or inject it with kube-inject.",
        ));
    }
    let request = access.pod_http(&pod.name, &pod.namespace, port::ADMIN, method, path);
    let response = request.await.map_err(|error| CliError::Unreachable {
        message: format!("the proxy of pod {} cannot be asked: {error}", pod.id()),
        hint: format!(
            "See whether it runs, and its log: logs {} -n {} -c istio-proxy",
            pod.name, pod.namespace
        ),
    })?;
    if response.status / 100 != 2 {
        let text = String::from_utf8_lossy(&response.body);
        let message = format!(
            "the proxy of pod {} answered {} to {path}: {}",
            pod.id(),
            response.status,
            text.trim()
        );
        return Err(CliError::answer(message));
    }
    Ok(response)
}

pub(crate) async fn admin_json(
    pod: &Pod,
    method: Method,
    path: &str,
    access: &dyn Access,
) -> Result<Value, CliError> {
    let response = admin(pod, method, path, access).await?;
    serde_json::from_slice(&response.body).map_err(|error| {
        CliError::answer(format!(
            "the proxy of pod {} answered {path} with no JSON: {error}",
            pod.id()
        ))
    })
}

#[cfg(test)]
mod tests;
