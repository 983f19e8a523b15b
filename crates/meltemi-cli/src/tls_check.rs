//! `authn tls-check`: is traffic from this pod to that service encrypted?
//!
//! ```text
//! istiod /debug/authenticationz -> rows: what the policies say          (shown, never judged by)
//! source /tls, /tls/probe       -> per endpoint: what a handshake did \
//! destination /tls              -> per endpoint: what its proxy does  --> verdict
//! ```
//! A stock Envoy has no `/tls`: as the source it is judged by its counters ([`stock`]), as the destination by its listeners.

mod evidence;
mod print;
mod rows;
mod stock;
pub(crate) mod verdict;

use serde_json::{Value, json};

use crate::command::TlsCheckArgs;
use crate::output::structured;
use crate::target::among;
use crate::{Access, CliError, Io, Pod};
use evidence::Evidence;
use rows::Row;
use verdict::{Endpoint, Mode, verdict};

/// One service port: the policies' words, and what is.
#[derive(Clone, Debug)]
struct Finding {
    row: Row,
    evidence: Vec<Evidence>,
}

pub(crate) async fn run(
    args: &TlsCheckArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let Some(target) = &args.pod else {
        let hint = format!(
            "Name the calling pod and the service it calls: {} authn tls-check ratings-v1 ratings.default.svc.cluster.local",
            io.called
        );
        return Err(CliError::usage("tls-check requires pod name", hint));
    };
    let pods = access.pods().await?;
    let namespace = args.namespace.namespace.as_deref();
    let source = among(&pods, target, namespace, access).await?;
    if !source.has_sidecar() {
        return without_sidecar(source, io);
    }
    let rows = rows::load(source, access, io).await?;
    let rows = rows::select(rows, args.service.as_deref(), &source.namespace)?;
    let probe = args.service.is_some() && !args.no_probe;
    let findings = evidence::collect(rows, source, &pods, probe, access).await?;
    let mode = args.service.is_some().then(|| overall(&findings));
    match structured(&to_json(&findings), args.output)? {
        Some(text) => io.print(&text),
        None => print::table(&findings, mode.as_ref(), io),
    }
}

fn without_sidecar(source: &Pod, io: &mut Io<'_>) -> Result<(), CliError> {
    io.note(&format!(
        "Pod {} has no sidecar: whatever it sends leaves as it is.",
        source.id()
    ))?;
    io.print(&format!(
        "MODE: {}",
        Mode::Plaintext("no sidecar at the source".to_owned())
    ))
}

/// The verdict over every endpoint of every port; one that several subsets share counts once.
fn overall(findings: &[Finding]) -> Mode {
    let evidence = findings.iter().flat_map(|finding| &finding.evidence);
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for endpoint in evidence.map(Evidence::endpoint) {
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    verdict(&endpoints)
}

impl Finding {
    fn mode(&self) -> Mode {
        let endpoints: Vec<_> = self.evidence.iter().map(Evidence::endpoint).collect();
        verdict(&endpoints)
    }
}

/// The old command's elements, with what is added to each.
fn to_json(findings: &[Finding]) -> Value {
    let element = |finding: &Finding| {
        let mut element = finding.row.to_json();
        element["mode"] = json!(finding.mode().to_string());
        element["endpoints"] = finding.evidence.iter().map(Evidence::to_json).collect();
        element
    };
    findings.iter().map(element).collect()
}

#[cfg(test)]
mod tests;
