//! Results side by side, as a table or as JSON.

use std::fmt::Write as _;

use serde::Serialize;

/// What a proxy did with a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// It did what is required of it.
    pub ok: bool,
    pub text: String,
}

impl Outcome {
    pub fn good(text: impl Into<String>) -> Self {
        Self {
            ok: true,
            text: text.into(),
        }
    }

    pub fn bad(text: impl Into<String>) -> Self {
        Self {
            ok: false,
            text: text.into(),
        }
    }

    fn cell(&self) -> String {
        format!("{} {}", if self.ok { "ok " } else { "BAD" }, self.text)
    }
}

/// A case and what each proxy did with it.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub group: &'static str,
    pub case: String,
    /// The section of an RFC, or the row of our catalogue.
    pub rule: String,
    /// What is required.
    pub required: String,
    pub ours: Outcome,
    pub envoy: Option<Outcome>,
    /// Why ours is known not to do it.
    pub known: Option<&'static str>,
}

impl Row {
    /// Ours does not do what is required, and nobody has said why; or it does although somebody has.
    fn is_missed(&self) -> bool {
        self.ours.ok == self.known.is_some()
    }
}

/// Passed and all, of one group.
#[derive(Clone, Debug, Serialize)]
pub struct Tally {
    pub group: &'static str,
    pub cases: usize,
    pub ours: usize,
    /// Of the rest, those that have a reason.
    pub known: usize,
    pub envoy: Option<usize>,
}

/// Everything that a run has shown.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub rows: Vec<Row>,
    pub summary: Vec<Tally>,
}

impl Report {
    /// Joins what the two proxies did with the same cases, in the same order.
    pub fn add(&mut self, cases: Vec<Case>, ours: Vec<Outcome>, envoy: Option<Vec<Outcome>>) {
        let mut envoy = envoy.map(Vec::into_iter);
        for (case, ours) in cases.into_iter().zip(ours) {
            self.rows.push(Row {
                group: case.group,
                case: case.name,
                rule: case.rule,
                required: case.required,
                ours,
                envoy: envoy.as_mut().and_then(Iterator::next),
                known: case.known,
            });
        }
    }

    /// Counts.
    pub fn summarise(&mut self) {
        self.summary.clear();
        for row in &self.rows {
            let at = self.summary.iter().position(|t| t.group == row.group);
            let at = at.unwrap_or_else(|| {
                self.summary.push(Tally {
                    group: row.group,
                    cases: 0,
                    ours: 0,
                    known: 0,
                    envoy: None,
                });
                self.summary.len() - 1
            });
            let tally = &mut self.summary[at];
            tally.cases += 1;
            tally.ours += usize::from(row.ours.ok);
            tally.known += usize::from(row.known.is_some());
            if let Some(envoy) = &row.envoy {
                *tally.envoy.get_or_insert(0) += usize::from(envoy.ok);
            }
        }
    }

    /// The cases in which ours did not do what is required, but for those that have a reason; and reasons that no longer hold.
    pub fn missed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.is_missed())
    }

    /// The rows as a table; `all` also those in which both did well.
    pub fn table(&self, all: bool) -> String {
        let shown: Vec<[String; 6]> = self
            .rows
            .iter()
            .filter(|row| all || !row.ours.ok || row.envoy.as_ref().is_some_and(|e| !e.ok))
            .map(|row| {
                let envoy = row
                    .envoy
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), Outcome::cell);
                [
                    row.group.to_owned(),
                    row.case.clone(),
                    row.rule.clone(),
                    row.required.clone(),
                    row.ours.cell(),
                    envoy,
                ]
            })
            .collect();
        let mut out = String::new();
        let titles = ["GROUP", "CASE", "RULE", "REQUIRED", "MELTEMI", "ENVOY"].map(str::to_owned);
        let width = |at: usize| {
            let cells = shown
                .iter()
                .chain([&titles])
                .map(|row| row[at].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths = [0, 1, 2, 3, 4, 5].map(width);
        for row in [&titles].into_iter().chain(&shown) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                // Writing into a string does not fail.
                let _written = write!(line, "{cell:width$}  ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
        out
    }

    pub fn summary_text(&self) -> String {
        let mut out = String::new();
        for tally in &self.summary {
            let envoy = tally
                .envoy
                .map_or_else(|| "not run".to_owned(), |passed| format!("{passed}"));
            // Writing into a string does not fail.
            let _written = writeln!(
                out,
                "{:<12} {:>4} cases: meltemi {} and {} known, envoy {envoy}",
                tally.group, tally.cases, tally.ours, tally.known
            );
        }
        for row in self.rows.iter() {
            if let Some(reason) = row.known {
                let _written = writeln!(out, "known: {} {}: {reason}", row.group, row.case);
            }
        }
        out
    }
}

/// What a row says of its case.
#[derive(Clone, Debug)]
pub struct Case {
    pub group: &'static str,
    pub name: String,
    pub rule: String,
    pub required: String,
    /// Why our proxy is known not to do it: what would have to change elsewhere first.
    pub known: Option<&'static str>,
}
