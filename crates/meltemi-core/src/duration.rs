//! Durations as Go, and with it Kubernetes, Istio and every flag of ours, writes them.

use std::time::Duration;

/// Reads a duration in Go's syntax without a sign: `1h2m3.5s`.
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: f64 = 0.0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        nanos += number.parse::<f64>().ok()? * unit_nanos(unit)?;
        rest = tail;
    }
    // Proto durations end at 10,000 years.
    if text.is_empty() || nanos > 315_576_000_000e9 {
        return None;
    }
    Duration::try_from_secs_f64(nanos / 1e9).ok()
}

fn unit_nanos(unit: &str) -> Option<f64> {
    Some(match unit {
        "h" => 3600e9,
        "m" => 60e9,
        "s" => 1e9,
        "ms" => 1e6,
        "us" | "µs" => 1e3,
        "ns" => 1.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("0", Some(0)),
            ("500ms", Some(500)),
            ("1.5s", Some(1500)),
            ("24h0m0s", Some(86_400_000)),
            ("1h2m3.5s", Some(3_723_500)),
            ("5", None),
            ("", None),
            ("s", None),
            ("-5s", None),
            ("5d", None),
            ("99999999h", None),
        ] {
            assert_eq!(
                parse(text).map(|duration| duration.as_millis()),
                millis,
                "{text}"
            );
        }
    }
}
