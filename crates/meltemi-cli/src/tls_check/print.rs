use anstyle::AnsiColor;

use super::Finding;
use super::evidence::{Evidence, server_text};
use super::rows::Row;
use super::verdict::{Client, Mode};
use crate::table::Table;
use crate::{CliError, Io};

/// The old command's table, the evidence, the verdict.
pub(super) fn table(
    findings: &[Finding],
    mode: Option<&Mode>,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let mut table = Table::new([
        "HOST:PORT",
        "STATUS",
        "SERVER",
        "CLIENT",
        "AUTHN POLICY",
        "DESTINATION RULE",
    ]);
    for Finding { row, .. } in findings {
        let host = format!("{}:{}", row.host, row.port);
        table.row([
            &host,
            &row.status,
            &row.server,
            &row.client,
            &row.authentication_policy,
            &row.destination_rule,
        ]);
    }
    let mut text = table.render();
    for finding in findings {
        text += &evidence(finding);
    }
    io.print(&text)?;
    let Some(mode) = mode else {
        return io.note("Name a service for fresh handshakes and a verdict.");
    };
    if findings.iter().any(disagrees) {
        let note = "The policies say otherwise: the proxies have not applied them yet, or another policy decides.";
        io.print(&format!("\nNOTE: {note}"))?;
    }
    for finding in findings {
        if matches!(finding.mode(), Mode::Conflict(_)) {
            io.print(&format!("\nREMEDY: {}", remedy(&finding.row)))?;
        }
    }
    let color = match mode {
        Mode::MutualTls(_) => AnsiColor::Green,
        Mode::Tls(_) | Mode::Mixed(_) | Mode::Unknown(_) => AnsiColor::Yellow,
        Mode::Plaintext(_) | Mode::Conflict(_) => AnsiColor::Red,
    };
    let line = io.paint(color, &format!("MODE: {mode}"));
    io.print(&format!("\n{line}"))
}

/// Names the objects of which one has to change.
fn remedy(row: &Row) -> String {
    let named = |kind: &str, name: &str, without: &str| match name {
        "" | "-" => without.to_owned(),
        name => format!("{kind} {name}"),
    };
    format!(
        "for {}:{} make {} and {} agree",
        row.host,
        row.port,
        named(
            "DestinationRule",
            &row.destination_rule,
            "the caller's settings (no DestinationRule applies)"
        ),
        named(
            "PeerAuthentication",
            &row.authentication_policy,
            "what the destination accepts (no PeerAuthentication applies)"
        ),
    )
}

/// Whether an endpoint's proxy does not do what the row says of it.
fn disagrees(finding: &Finding) -> bool {
    let said = finding.row.server.as_str();
    ["STRICT", "PERMISSIVE", "DISABLE"].contains(&said)
        && finding
            .evidence
            .iter()
            .any(|evidence| server_text(&evidence.server) != said)
}

fn evidence(finding: &Finding) -> String {
    if finding.evidence.is_empty() {
        return String::new();
    }
    let mut text = format!("\nEndpoints of {}:{}\n", finding.row.host, finding.row.port);
    for evidence in &finding.evidence {
        text += &endpoint(evidence);
    }
    text
}

fn endpoint(evidence: &Evidence) -> String {
    let pod = evidence.pod.as_deref().unwrap_or("not a pod");
    let accepts = match server_text(&evidence.server) {
        "NONE" => "no sidecar",
        mode => mode,
    };
    let mut text = format!(
        "  {} ({pod}), inbound {accepts}\n",
        evidence.text("endpoint")
    );
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text += &format!("    {name:<16}{value}\n");
        }
    };
    if matches!(evidence.endpoint().client, Client::Failed(_)) {
        // Whatever else is known is of a connection that was; shown as such, or it reads as if it were up.
        line("connection", "failed");
        line("error", evidence.text("last_error"));
        line("last good", evidence.text("last_handshake"));
        return text;
    }
    line("connection", connection(evidence.text("mode")));
    line("source", evidence.text("local_identity"));
    line("destination", evidence.text("peer_identity"));
    let parts = [
        evidence.text("tls_version"),
        evidence.text("key_exchange"),
        evidence.text("cipher"),
    ];
    let tls: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    line("TLS", &tls.join(", "));
    line("ALPN", evidence.text("alpn"));
    line("last handshake", evidence.text("last_handshake"));
    line("proof", evidence.text("proof"));
    line("error", evidence.text("last_error"));
    text
}

fn connection(mode: &str) -> &str {
    match mode {
        "mtls" => "mTLS",
        "tls" => "TLS",
        other => other,
    }
}
