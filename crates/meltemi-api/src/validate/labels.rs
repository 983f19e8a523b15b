//! Labels, by the syntax that Kubernetes' reference "Labels and Selectors" gives.

/// The longest name and value of a label, and the longest prefix of a name.
const LIMIT: usize = 63;
const PREFIX_LIMIT: usize = 253;

/// What is wrong with the key of a label, if anything: `[PREFIX/]NAME`.
pub fn key_problem(key: &str) -> Option<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let is_prefix = |prefix: &str| {
        let is_part = |part: &str| {
            is_word(part) && part.bytes().all(|c| !c.is_ascii_uppercase() && c != b'_')
        };
        prefix.len() <= PREFIX_LIMIT && prefix.split('.').all(is_part)
    };
    if prefix.is_some_and(|prefix| !is_prefix(prefix)) {
        return Some(format!(
            "the part of \"{key}\" before the slash is no DNS name"
        ));
    }
    (!is_word(name) || name.len() > LIMIT).then(|| {
        format!(
            "\"{key}\" is no key of a label: {RULE}, after a DNS name and a slash where it has one"
        )
    })
}

/// What is wrong with the value of a label, if anything; it may be empty.
pub fn value_problem(value: &str) -> Option<String> {
    (!value.is_empty() && (!is_word(value) || value.len() > LIMIT))
        .then(|| format!("\"{value}\" is no value of a label: {RULE}"))
}

const RULE: &str =
    "at most 63 letters, digits, \"-\", \"_\" and \".\", the first and last a letter or digit";

fn is_word(text: &str) -> bool {
    let is_edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let is_inner = |c: &u8| c.is_ascii_alphanumeric() || b"-_.".contains(c);
    is_edge(bytes.first()) && is_edge(bytes.last()) && bytes.iter().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_follow_kubernetes_rules() {
        for good in [
            "app",
            "istio.io/rev",
            "a_b.C-d",
            "topology.istio.io/network",
        ] {
            assert_eq!(key_problem(good), None);
        }
        for bad in ["", "a b", "-a", "a-", "/a", "a/", "a/b/c", "A_b/c"] {
            assert!(key_problem(bad).is_some(), "{bad}");
        }
        assert!(key_problem(&"a".repeat(64)).is_some());
        for good in ["", "enabled", "v1.2_x-y"] {
            assert_eq!(value_problem(good), None);
        }
        for bad in ["b c", "-", "a/b", "ä"] {
            assert!(value_problem(bad).is_some(), "{bad}");
        }
        assert!(value_problem(&"a".repeat(64)).is_some());
    }
}
