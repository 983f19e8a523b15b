//! One scrape for the application's and the sidecar's metrics.
//!
//! Prometheus cannot scrape the application under STRICT, so `prometheus.io/*` point at the sidecar, which merges what the
//! application serves; where that is travels in `ISTIO_PROMETHEUS_ANNOTATIONS`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub(crate) const ENV: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";
const MERGED_PATH: &str = "/stats/prometheus";

/// What the user's annotations said; empty fields were not there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Scrape {
    scrape: String,
    path: String,
    port: String,
}

/// Points the annotations at the sidecar; `None` where there is nothing of the application's to merge, or the user forbids
/// scraping with `prometheus.io/scrape: "false"`.
pub(crate) fn rewrite(
    annotations: &mut BTreeMap<String, String>,
    status_port: u16,
) -> Option<Scrape> {
    let said = |key| {
        Key::ALL_SPELLINGS
            .iter()
            .find_map(|spelling| annotations.get(&spelling(key)))
    };
    let get = |key| said(key).cloned().unwrap_or_default();
    let scrape = Scrape {
        scrape: get(Key::Scrape),
        path: get(Key::Path),
        port: get(Key::Port),
    };
    if scrape.scrape == "false" {
        return None;
    }
    clear(annotations);
    annotations.insert(slash(Key::Scrape), "true".to_owned());
    annotations.insert(slash(Key::Path), MERGED_PATH.to_owned());
    annotations.insert(slash(Key::Port), status_port.to_string());
    (scrape != Scrape::default()).then_some(scrape)
}

/// Takes back what [`rewrite`] did; `None` for a pod whose own annotations were empty.
pub(crate) fn restore(annotations: &mut BTreeMap<String, String>, scrape: Option<&Scrape>) {
    if annotations.get(&slash(Key::Path)).map(String::as_str) != Some(MERGED_PATH) {
        return;
    }
    clear(annotations);
    let Some(scrape) = scrape else { return };
    let pairs = [
        (Key::Scrape, &scrape.scrape),
        (Key::Path, &scrape.path),
        (Key::Port, &scrape.port),
    ];
    for (key, value) in pairs.into_iter().filter(|(_, value)| !value.is_empty()) {
        annotations.insert(slash(key), value.clone());
    }
}

#[derive(Clone, Copy)]
enum Key {
    Scrape,
    Path,
    Port,
}

impl Key {
    const ALL_SPELLINGS: [fn(Self) -> String; 2] = [slash, dash];

    fn as_str(self) -> &'static str {
        match self {
            Self::Scrape => "scrape",
            Self::Path => "path",
            Self::Port => "port",
        }
    }
}

fn slash(key: Key) -> String {
    format!("prometheus.io/{}", key.as_str())
}

fn dash(key: Key) -> String {
    format!("prometheus-io/{}", key.as_str())
}

fn clear(annotations: &mut BTreeMap<String, String>) {
    for key in [Key::Scrape, Key::Path, Key::Port] {
        for spelling in Key::ALL_SPELLINGS {
            annotations.remove(&spelling(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn moves_the_users_target_aside_and_back() {
        let before = map(&[
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/port", "9080"),
            ("other", "x"),
        ]);
        let mut annotations = before.clone();
        let scrape = rewrite(&mut annotations, 15020);
        assert_eq!(
            annotations,
            map(&[
                ("other", "x"),
                ("prometheus.io/path", "/stats/prometheus"),
                ("prometheus.io/port", "15020"),
                ("prometheus.io/scrape", "true"),
            ])
        );
        restore(&mut annotations, scrape.as_ref());
        assert_eq!(annotations, before);
    }

    #[test]
    fn nothing_to_merge_and_nothing_wanted() {
        let mut none = BTreeMap::new();
        assert_eq!(rewrite(&mut none, 15020), None);
        restore(&mut none, None);
        assert!(none.is_empty());
        let mut forbidden = map(&[("prometheus.io/scrape", "false")]);
        let before = forbidden.clone();
        assert_eq!(rewrite(&mut forbidden, 15020), None);
        restore(&mut forbidden, None);
        assert_eq!(forbidden, before);
    }
}
