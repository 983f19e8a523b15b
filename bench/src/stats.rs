//! Medians, and how far single rounds lie from them.

/// A value with the spread of the rounds it was taken from.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    /// Half the distance between the second lowest and second highest round of five or more; of lowest and highest below.
    pub(crate) noise: f64,
    pub(crate) rounds: usize,
}

impl Estimate {
    /// Nothing without values.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let trim = usize::from(sorted.len() >= 5);
        let low = sorted.get(trim)?;
        let high = sorted.get(sorted.len() - 1 - trim)?;
        Some(Self {
            median: median(&sorted)?,
            noise: (high - low) / 2.0,
            rounds: sorted.len(),
        })
    }
}

fn median(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(sorted.len() / 2 - 1)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[f64], expected: Option<(f64, f64)>) {
        let got = Estimate::of(values).map(|estimate| (estimate.median, estimate.noise));
        assert_eq!(got, expected, "{values:?}");
    }

    #[test]
    fn medians_and_spreads() {
        check(&[], None);
        check(&[2.0], Some((2.0, 0.0)));
        check(&[4.0, 2.0], Some((3.0, 1.0)));
        check(&[9.0, 1.0, 2.0], Some((2.0, 4.0)));
        check(&[100.0, 1.0, 2.0, 3.0, -100.0], Some((2.0, 1.0)));
    }
}
