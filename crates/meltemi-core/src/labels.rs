use std::collections::BTreeMap;

/// Labels of a Kubernetes object, or an equality selector over them.
#[derive(
    Clone,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(transparent)]
pub struct Labels(pub BTreeMap<String, String>);

impl Labels {
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether every pair of `self`, read as a selector, is among `labels`. An empty selector selects everything.
    pub fn selects(&self, labels: &Self) -> bool {
        self.0
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Labels {
    fn from(pairs: [(&str, &str); N]) -> Self {
        pairs.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selector_is_a_subset() {
        let labels = Labels::from([("app", "reviews"), ("version", "v1")]);
        assert!(Labels::default().selects(&labels));
        assert!(Labels::from([("app", "reviews")]).selects(&labels));
        assert!(!Labels::from([("app", "ratings")]).selects(&labels));
        assert!(!Labels::from([("zone", "")]).selects(&labels));
    }
}
