//! "Did you mean" for words that are not known.

/// The known word that `word` most likely stands for, if one is near enough.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    // One edit for every three letters, and never a different word altogether.
    let limit = (word.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `did you mean "x"?`, else the whole list if it is short, else nothing.
pub(crate) fn hint(word: &str, known: &[&str]) -> String {
    match did_you_mean(word, known.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if known.is_empty() || known.len() > 12 => String::new(),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::did_you_mean;

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        let fields = ["trafficPolicy", "subsets", "host", "exportTo"];
        assert_eq!(did_you_mean("trafficPolciy", fields), Some("trafficPolicy"));
        assert_eq!(did_you_mean("TrafficPolicy", fields), Some("trafficPolicy"));
        assert_eq!(did_you_mean("hosts", fields), Some("host"));
        assert_eq!(did_you_mean("weight", fields), None);
        assert_eq!(did_you_mean("gateways", ["hosts", "http"]), None);
    }
}
