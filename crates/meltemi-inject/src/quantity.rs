/// Whether `text` is a non-negative Kubernetes quantity: a decimal number with an optional binary, decimal or exponent suffix
/// (Kubernetes API reference, `resource.Quantity`).
pub(crate) fn is_quantity(text: &str) -> bool {
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let digits = number.bytes().filter(u8::is_ascii_digit).count();
    let exponent = || {
        let rest = suffix.strip_prefix(['e', 'E'])?;
        let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
        (!rest.is_empty() && rest.bytes().all(|c| c.is_ascii_digit())).then_some(())
    };
    let known = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    digits > 0
        && number.bytes().filter(|c| *c == b'.').count() <= 1
        && (known.contains(&suffix) || exponent().is_some())
}

#[cfg(test)]
mod tests {
    use super::is_quantity;

    #[test]
    fn knows_kubernetes_quantities() {
        for good in ["1", "100m", "0.5", "128Mi", "2e3", "1E-2", "1E", ".5"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "Mi", "-1", "1 Gi", "1.2.3", "100MB", "1e", "lots"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
