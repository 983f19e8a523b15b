//! `mtls status`: who really talks to whom, how, and what would break if plain text were refused.
//!
//! ```text
//! every sidecar's /tls -- downstream: who came in, and what the port admits -> an edge, judged
//!                      `- upstream:   where it went that has no sidecar     -> an edge that STRICT does not touch
//! ```

mod edge;

use anstyle::AnsiColor;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::command::MtlsStatusArgs;
use crate::output::structured;
use crate::proxy_config::admin_json;
use crate::table::Table;
use crate::target::among;
use crate::{Access, CliError, Io, Method, Pod};
use edge::{Edge, UnderStrict};

/// Proxies that are asked at a time.
const ASKED_AT_ONCE: usize = 16;

pub(crate) async fn run(
    args: &MtlsStatusArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let pods = access.pods().await?;
    let namespace = args.namespace.namespace.as_deref();
    let only = match &args.pod {
        Some(target) => Some(among(&pods, target, namespace, access).await?.id()),
        None => None,
    };
    let asked = pods.iter().filter(|pod| pod.has_sidecar() && pod.ready);
    let answers = asked.map(|pod| async move {
        let answer = admin_json(pod, Method::Get, "/tls", access).await;
        (pod, answer)
    });
    let answers: Vec<(&Pod, Result<Value, CliError>)> = futures_util::stream::iter(answers)
        .buffered(ASKED_AT_ONCE)
        .collect()
        .await;
    let mut edges = Vec::new();
    let mut silent = Vec::new();
    for (pod, answer) in answers {
        match answer {
            Ok(answer) => edges.extend(edge::of_proxy(pod, &answer, &pods)),
            Err(error) => silent.push((pod.id(), error.to_string())),
        }
    }
    edges.retain(|edge| match (&only, args.all_namespaces) {
        (Some(pod), _) => edge.touches(pod),
        (None, true) => true,
        (None, false) => edge.is_in(namespace.unwrap_or("default")),
    });
    edges.sort_by_key(Edge::order);
    for (pod, error) in &silent {
        io.note(&format!("Not asked: {pod}: {error}"))?;
    }
    match structured(&to_json(&edges, &silent), args.output)? {
        Some(text) => io.print(&text),
        None if edges.is_empty() => io.note(
            "No connection was seen. Edges show up once there is traffic; -A looks at every namespace.",
        ),
        None => {
            io.print(&table(&edges))?;
            let summary = summary(&edges, io);
            io.print(&summary)
        }
    }
}

fn table(edges: &[Edge]) -> String {
    let mut table = Table::new([
        "SOURCE",
        "DESTINATION",
        "TRAFFIC",
        "CALLER",
        "CALLED",
        "CONNECTIONS",
        "UNDER STRICT",
    ]);
    for edge in edges {
        table.row([
            edge.source.as_str(),
            &format!("{}:{}", edge.destination, edge.port),
            edge.traffic(),
            edge.caller.as_deref().unwrap_or("-"),
            edge.called.as_deref().unwrap_or("-"),
            &edge.connections.to_string(),
            edge.under_strict.text(),
        ]);
    }
    table.render()
}

fn summary(edges: &[Edge], io: &Io<'_>) -> String {
    let count = |is: &dyn Fn(&Edge) -> bool| edges.iter().filter(|edge| is(edge)).count();
    let encrypted = count(&|edge| edge.is_mtls());
    let breaking = count(&|edge| edge.under_strict == UnderStrict::Breaks);
    let seen = format!(
        "\n{} edges seen: {encrypted} with mutual TLS, {} without. ",
        edges.len(),
        edges.len() - encrypted
    );
    let verdict = match breaking {
        0 => io.paint(AnsiColor::Green, "STRICT would break none of them."),
        1 => io.paint(AnsiColor::Red, "STRICT would break 1 of them."),
        many => io.paint(
            AnsiColor::Red,
            &format!("STRICT would break {many} of them."),
        ),
    };
    seen + &verdict
}

fn to_json(edges: &[Edge], silent: &[(String, String)]) -> Value {
    let silent = silent
        .iter()
        .map(|(pod, error)| json!({"pod": pod, "error": error}));
    json!({
        "edges": edges.iter().map(Edge::to_json).collect::<Vec<Value>>(),
        "notAsked": silent.collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests;
