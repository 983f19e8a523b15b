//! What to write instead of a command that is not there.

use clap::error::{ContextKind, ContextValue};

/// Takes suggestions away that are no slip of the fingers: clap takes `get` for `edit`, and `--selector` for `--field-selector`.
pub(crate) fn forget_far_suggestions(error: &mut clap::Error) {
    for (written, suggested) in [
        (
            ContextKind::InvalidSubcommand,
            ContextKind::SuggestedSubcommand,
        ),
        (ContextKind::InvalidArg, ContextKind::SuggestedArg),
    ] {
        let Some(ContextValue::String(written)) = error.get(written).cloned() else {
            continue;
        };
        let is_near = |name: &String| is_slip(bare(&written), bare(name));
        let is_far = match error.get(suggested) {
            Some(ContextValue::String(name)) => !is_near(name),
            Some(ContextValue::Strings(names)) => !names.iter().any(is_near),
            _ => false,
        };
        if is_far {
            error.remove(suggested);
        }
    }
}

/// A flag's name without its dashes and value.
fn bare(flag: &str) -> &str {
    let name = flag.trim_start_matches('-');
    name.split([' ', '=']).next().unwrap_or(name)
}

/// Whether one may have been meant by the other: one letter in four is wrong, at least one may be, or only the end is missing.
fn is_slip(written: &str, meant: &str) -> bool {
    let is_begun = written.len() >= 3 && meant.starts_with(written);
    is_begun || distance(written, meant) <= (written.chars().count() / 4).max(1)
}

/// How many letters must be put in, taken out or replaced to make one the other (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut next = vec![line + 1];
        for (column, other) in to.iter().enumerate() {
            let replaced =
                row.get(column).copied().unwrap_or_default() + usize::from(letter != *other);
            let taken_out = row.get(column + 1).copied().unwrap_or_default() + 1;
            let put_in = next.last().copied().unwrap_or_default() + 1;
            next.push(replaced.min(taken_out).min(put_in));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// What does the work of a command that is not there. `lab_commands` are those of the lab.
pub(crate) fn instead_of(command: &str, in_lab: bool, lab_commands: &[&str]) -> Option<String> {
    if !in_lab {
        let is_labs = lab_commands.contains(&command);
        return is_labs.then(|| format!("it is a command of the lab: `meltemi lab {command}`"));
    }
    let tip = match command {
        "edit" | "patch" | "replace" | "set" => {
            "change the manifest, and `meltemi lab apply -f FILE`"
        }
        "run" | "expose" | "autoscale" => "write a manifest, and `meltemi lab apply -f FILE`",
        "cp" => {
            "`meltemi lab exec POD -- cat FILE` reads a file of a pod, `meltemi lab exec -i POD -- sh -c 'cat > FILE'` writes one"
        }
        "version" => "`meltemi version`",
        "top" => "containers are processes of this machine: its own top shows them",
        _ => return None,
    };
    Some(tip.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near() {
        for (written, meant, expected) in [
            ("aply", "apply", true),
            ("appply", "apply", true),
            ("desc", "describe", true),
            ("selectr", "selector", true),
            ("edit", "get", false),
            ("cp", "capture", false),
            ("field-selector", "selector", false),
        ] {
            assert_eq!(is_slip(written, meant), expected, "{written} {meant}");
        }
    }

    #[test]
    fn far_suggestions_are_forgotten() {
        let told = |words: &[&str]| {
            let program = clap::Command::new("lab")
                .subcommands(["get", "apply"].map(clap::Command::new))
                .arg(clap::Arg::new("selector").long("selector"));
            let mut error = program.try_get_matches_from(words).unwrap_err();
            forget_far_suggestions(&mut error);
            error.to_string().contains("similar")
        };
        assert!(!told(&["lab", "edit"]) && told(&["lab", "aply"]));
        assert!(!told(&["lab", "--field-selector=a"]) && told(&["lab", "--selectr=a"]));
    }

    #[test]
    fn commands_that_are_elsewhere() {
        let tip = |command, in_lab| instead_of(command, in_lab, &["get", "apply"]);
        assert!(tip("get", false).unwrap().contains("meltemi lab get"));
        assert!(tip("edit", true).unwrap().contains("lab apply"));
        assert_eq!(tip("edit", false), None);
        assert_eq!(tip("wat", true), None);
    }
}
