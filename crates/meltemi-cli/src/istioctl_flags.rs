//! The flags that istioctl takes anywhere: before a command, behind it, or at the end.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, Subcommand as _};

/// Flags that choose a cluster. They are taken so that command lines written for istioctl run.
const OF_CLUSTERS: [(&str, Option<char>, &str); 3] = [
    ("istioNamespace", Some('i'), "istio-system"),
    ("context", None, ""),
    ("kubeconfig", Some('c'), ""),
];
const NAMESPACE: &str = "namespace";

/// Lets the commands of this crate take istioctl's global flags, also before a command's own commands.
pub fn with_istioctl_flags(program: Command) -> Command {
    let own = crate::Command::augment_subcommands(Command::new("own"));
    let names: Vec<String> = own
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    names.into_iter().fold(program, |program, name| {
        program.mut_subcommand(name, with_flags)
    })
}

fn with_flags(command: Command) -> Command {
    let hidden = |name: &'static str| {
        Arg::new(name)
            .long(name)
            .global(true)
            .hide(true)
            .value_name("VALUE")
    };
    let command = OF_CLUSTERS
        .into_iter()
        .fold(command, |command, (name, short, _)| {
            let flag = hidden(name);
            command.arg(match short {
                Some(short) => flag.short(short),
                None => flag,
            })
        });
    // A command without commands has its own already.
    if command.has_subcommands() {
        command.arg(hidden(NAMESPACE).short('n'))
    } else {
        command
    }
}

/// Moves the flags that stand before the command behind its name, where commands know them.
pub fn behind_the_command(words: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut words = words.into_iter();
    let mut line: Vec<OsString> = words.next().into_iter().collect();
    let mut flags = Vec::new();
    let mut command = None;
    while let Some(word) = words.next() {
        match word.to_str().and_then(is_flag) {
            None => {
                command = Some(word);
                break;
            }
            Some(has_value) => {
                flags.push(word);
                flags.extend(if has_value { None } else { words.next() });
            }
        }
    }
    line.extend(command);
    line.extend(flags);
    line.extend(words);
    line
}

/// Whether a word is one of the flags, and if so whether it brings its value.
fn is_flag(word: &str) -> Option<bool> {
    let (name, value) = match word.split_once('=') {
        Some((name, _)) => (name, true),
        None => (word, false),
    };
    let known = OF_CLUSTERS
        .iter()
        .map(|(name, short, _)| (*name, *short))
        .chain([(NAMESPACE, Some('n'))]);
    let mut forms = known.flat_map(|(long, short)| {
        let short = short.map(|short| format!("-{short}"));
        std::iter::once(format!("--{long}")).chain(short)
    });
    forms.any(|form| form == name).then_some(value)
}

/// The flags that were given and say nothing to a mesh that is no cluster.
pub fn unused_istioctl_flags(matches: &ArgMatches) -> Vec<&'static str> {
    let mut leaf = matches;
    while let Some((_, inner)) = leaf.subcommand() {
        leaf = inner;
    }
    let is_unused = |(name, _, usual): &(&'static str, Option<char>, &'static str)| {
        let given = leaf.try_get_one::<String>(name).ok().flatten();
        given.is_some_and(|given| given != usual)
    };
    let unused = OF_CLUSTERS.iter().filter(|flag| is_unused(flag));
    unused.map(|(name, ..)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        let program = crate::Command::augment_subcommands(Command::new("istioctl"));
        with_istioctl_flags(program)
    }

    #[test]
    fn flags_may_stand_anywhere() {
        program().debug_assert();
        for line in [
            "istioctl -n shop proxy-config clusters web",
            "istioctl --namespace=shop proxy-config clusters web",
            "istioctl proxy-config -n shop clusters web",
            "istioctl proxy-config clusters web -n shop",
            "istioctl --context kind -i istio-system -n shop pc clusters web",
        ] {
            let words = behind_the_command(line.split(' ').map(OsString::from));
            let matches = program().try_get_matches_from(words).unwrap();
            let (_, command) = matches.subcommand().unwrap();
            let (_, leaf) = command.subcommand().unwrap();
            let namespace = leaf.get_one::<String>("namespace");
            assert_eq!(namespace.map(String::as_str), Some("shop"), "{line}");
        }
    }

    #[test]
    fn what_a_lab_has_no_use_for_is_told() {
        let unused = |line: &str| {
            let matches = program().try_get_matches_from(line.split(' ')).unwrap();
            unused_istioctl_flags(&matches)
        };
        assert_eq!(
            unused("istioctl proxy-status --context kind -c config"),
            ["context", "kubeconfig"]
        );
        assert_eq!(
            unused("istioctl proxy-status -i istio-system"),
            Vec::<&str>::new()
        );
    }
}
