//! Settings of locality load balancing, in DestinationRules and the mesh configuration.

use meltemi_core::{Diagnostic, FieldPath};

use crate::istio::{Distribute, LocalityLbSetting};

/// What is wrong with them, each with its field.
pub(super) fn problems(setting: &LocalityLbSetting, path: &FieldPath) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let fails_over = !setting.failover.is_empty() || !setting.failover_priority.is_empty();
    if !setting.distribute.is_empty() && fails_over {
        found.push(error(
            path,
            "distribute stands without failover and failoverPriority",
            "remove one of them: shares are kept whether endpoints fail or not",
        ));
    }
    for (index, distribute) in setting.distribute.iter().enumerate() {
        let path = path.field("distribute").index(index);
        distribute_problems(distribute, &path, &mut found);
    }
    for (index, failover) in setting.failover.iter().enumerate() {
        let path = path.field("failover").index(index);
        if failover.from == failover.to {
            let message = "a region does not fail over to itself";
            found.push(error(&path, message, "name another region"));
        }
        for (name, region) in [("from", &failover.from), ("to", &failover.to)] {
            if region.is_empty() || region.contains(['/', '*']) {
                let message = format!("\"{region}\" is no region");
                let hint = "regions fail over, without zone and without *";
                found.push(error(&path.field(name), message, hint));
            }
        }
    }
    found
}

fn distribute_problems(distribute: &Distribute, path: &FieldPath, found: &mut Vec<Diagnostic>) {
    let form = "write region, region/zone or region/zone/subzone; * stands alone at the end";
    if !is_place(&distribute.from) {
        let message = format!("\"{}\" is no place", distribute.from);
        found.push(error(&path.field("from"), message, form));
    }
    let to = path.field("to");
    for (place, weight) in &distribute.to {
        let field = to.key(place);
        if !is_place(place) {
            found.push(error(&field, format!("\"{place}\" is no place"), form));
        }
        if !(1..=100).contains(weight) {
            let message = format!("a share is between 1 and 100, not {weight}");
            found.push(error(&field, message, "leave out places that get nothing"));
        }
        let covered = distribute.to.keys().find(|other| {
            let is_wider = other.trim_end_matches('*');
            *other != place
                && (place.starts_with(&format!("{}/", is_wider.trim_end_matches('/')))
                    || is_wider.is_empty())
        });
        if let Some(wider) = covered {
            let message = format!("\"{wider}\" covers it already");
            found.push(error(&field, message, "name places that do not overlap"));
        }
    }
    let sum: u64 = distribute
        .to
        .values()
        .map(|weight| u64::from(*weight))
        .sum();
    if sum != 100 {
        let message = format!("the shares add up to {sum}, not to 100");
        found.push(error(&to, message, "they are percentages"));
    }
}

/// Up to three parts, `*` the last of them only.
fn is_place(place: &str) -> bool {
    let parts: Vec<&str> = place.split('/').collect();
    let inner = parts.len() - 1;
    parts.len() <= 3
        && parts.iter().all(|part| !part.is_empty())
        && parts.iter().take(inner).all(|part| !part.contains('*'))
        && (parts[inner] == "*" || !parts[inner].contains('*'))
}

fn error(field: &FieldPath, message: impl Into<String>, hint: &str) -> Diagnostic {
    Diagnostic::error("IST0106", message)
        .field(field.clone())
        .hint(hint)
}
