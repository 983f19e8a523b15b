//! The table on the terminal, which is Markdown as well.

use crate::figures::{Check, Figure, Goal, Verdict};
use crate::metric::Metric;
use crate::peer::Peer;
use crate::stats::Estimate;

const HEAD: [&str; 9] = [
    "test",
    "figure",
    "direct",
    "ours",
    "Envoy",
    "HAProxy",
    "ours/Envoy",
    "HAProxy/Envoy",
    "target",
];

pub(crate) fn table(figures: &[Figure]) -> String {
    let mut rows: Vec<[String; 9]> = vec![HEAD.map(str::to_owned)];
    rows.extend(figures.iter().map(row));
    let mut widths = [0; 9];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        text += &line(row, &widths);
        if index == 0 {
            let rule = widths.map(|width| "-".repeat(width));
            text += &line(&rule, &widths);
        }
    }
    text
}

fn line(cells: &[String; 9], widths: &[usize; 9]) -> String {
    let cells: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect();
    format!("| {} |\n", cells.join(" | "))
}

fn row(figure: &Figure) -> [String; 9] {
    let value = |peer: Peer| {
        let estimate = figure.values.get(&peer);
        estimate.map_or_else(
            || "-".to_owned(),
            |estimate| figure.metric.write(estimate.median),
        )
    };
    let checks: Vec<String> = figure
        .checks
        .iter()
        .map(|check| target(figure.metric, check))
        .collect();
    [
        figure.test.to_owned(),
        figure.metric.label().to_owned(),
        value(Peer::Direct),
        value(Peer::Ours),
        value(Peer::Envoy),
        value(Peer::Haproxy),
        ratio(figure.ours_to_envoy),
        ratio(figure.haproxy_to_envoy),
        checks.join("; "),
    ]
}

fn ratio(estimate: Option<Estimate>) -> String {
    match estimate {
        Some(Estimate { median, noise, .. }) => format!("{median:.2} ±{noise:.2}"),
        None => "-".to_owned(),
    }
}

fn target(metric: Metric, check: &Check) -> String {
    let Estimate { median, noise, .. } = check.measured;
    let text = match check.goal {
        Goal::Ratio(limit) => format!("<= {limit:.2}"),
        Goal::AddedRatio(limit) => format!("added <= {limit:.2}: {median:.2} ±{noise:.2}"),
        Goal::Value(limit) => format!("<= {} ±{}", metric.write(limit), metric.write(noise)),
    };
    let verdict = match check.verdict {
        Verdict::Met => "met",
        Verdict::Unclear => "within the noise",
        Verdict::Missed => "MISSED",
    };
    format!("{text} {verdict}")
}
