//! The chart: for every cost, ours and HAProxy's as a share of Envoy's.

use crate::figures::{Figure, Goal};
use crate::stats::Estimate;

const ROW: usize = 34;
const TOP: usize = 56;
const LEFT: usize = 270;
/// Pixels of a ratio of 1.
const UNIT: f64 = 400.0;
/// Bars end here.
const LONGEST: f64 = 1.5;
const OURS: &str = "#1f77b4";
const HAPROXY: &str = "#b0b0b0";

/// An SVG picture.
pub(crate) fn chart(figures: &[Figure]) -> String {
    let figures: Vec<&Figure> = figures
        .iter()
        .filter(|figure| figure.metric.is_cost() && figure.ours_to_envoy.is_some())
        .collect();
    let (width, height) = (LEFT + 640, TOP + figures.len() * ROW + 20);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"14\">Cost as a share of Envoy's in the same run (less is better)</text>\n"
    );
    for (x, colour, name) in [(0, OURS, "ours"), (70, HAPROXY, "HAProxy")] {
        let x = LEFT + x;
        put(
            &mut svg,
            format_args!(
                "<rect x=\"{x}\" y=\"30\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"41\">{name}</text>",
                x + 17
            ),
        );
    }
    put(
        &mut svg,
        format_args!(
            "<text x=\"{}\" y=\"41\" fill=\"#c00\">| target</text>",
            LEFT + 150
        ),
    );
    for tenths in [0.0, 0.25, 0.5, 0.75, 1.0, 1.25] {
        put(
            &mut svg,
            format_args!(
                "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#ddd\"/><text x=\"{x:.0}\" y=\"{}\" fill=\"#777\" text-anchor=\"middle\">{tenths}</text>",
                height - 16,
                height - 4,
                x = at(tenths)
            ),
        );
    }
    for (index, figure) in figures.iter().enumerate() {
        row(&mut svg, TOP + index * ROW, figure);
    }
    svg + "</svg>\n"
}

fn row(svg: &mut String, y: usize, figure: &Figure) {
    put(
        svg,
        format_args!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}: {}</text>",
            LEFT - 8,
            y + 18,
            figure.test,
            figure.metric.label()
        ),
    );
    bar(svg, y + 3, OURS, figure.ours_to_envoy);
    bar(svg, y + 16, HAPROXY, figure.haproxy_to_envoy);
    for check in &figure.checks {
        if let Goal::Ratio(limit) = check.goal {
            put(
                svg,
                format_args!(
                    "<line x1=\"{x:.0}\" x2=\"{x:.0}\" y1=\"{y}\" y2=\"{}\" stroke=\"#c00\" stroke-width=\"2\"/>",
                    y + 30,
                    x = at(limit)
                ),
            );
        }
    }
}

fn put(svg: &mut String, element: std::fmt::Arguments<'_>) {
    svg.push_str(&element.to_string());
    svg.push('\n');
}

fn bar(svg: &mut String, y: usize, colour: &str, ratio: Option<Estimate>) {
    let Some(Estimate { median, .. }) = ratio else {
        return;
    };
    let width = at(median) - at(0.0);
    put(
        svg,
        format_args!(
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.0}\" height=\"11\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{}\" font-size=\"10\">{median:.2}</text>",
            at(median) + 4.0,
            y + 10
        ),
    );
}

#[allow(clippy::cast_precision_loss, reason = "a small constant")]
fn at(ratio: f64) -> f64 {
    LEFT as f64 + ratio.clamp(0.0, LONGEST) * UNIT
}
