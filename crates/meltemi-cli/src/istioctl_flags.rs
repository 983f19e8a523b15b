//! The flags that istioctl takes anywhere: before a command, behind it, or at the end.

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command, Subcommand as _};

/// Flags that choose a cluster, and a control plane in it.
const OF_CLUSTERS: [(&str, Option<char>); 3] = [
    ("istioNamespace", Some('i')),
    ("context", None),
    ("kubeconfig", Some('c')),
];
const NAMESPACE: &str = "namespace";
const REVISION: &str = "revision";
/// Commands that ask control planes: those of one revision, if one is named.
const ASKING: [&str; 4] = ["proxy-status", "authn", "version", "analyze"];

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
        .fold(command, |command, (name, short)| {
            let flag = hidden(name);
            command.arg(match short {
                Some(short) => flag.short(short),
                None => flag,
            })
        });
    let command = if ASKING.contains(&command.get_name()) {
        command.arg(
            hidden(REVISION)
                .hide(false)
                .help("Ask control planes of this revision only"),
        )
    } else {
        command
    };
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
    let known = OF_CLUSTERS.iter().copied().chain([(NAMESPACE, Some('n'))]);
    let mut forms = known.flat_map(|(long, short)| {
        let short = short.map(|short| format!("-{short}"));
        std::iter::once(format!("--{long}")).chain(short)
    });
    forms.any(|form| form == name).then_some(value)
}

/// What the flags say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFlags {
    pub kubeconfig: Option<String>,
    pub context: Option<String>,
    pub istio_namespace: Option<String>,
    pub revision: Option<String>,
}

/// Reads the flags that choose a cluster, wherever they stand.
pub fn cluster_flags(matches: &ArgMatches) -> ClusterFlags {
    let mut leaf = matches;
    while let Some((_, inner)) = leaf.subcommand() {
        leaf = inner;
    }
    let value = |wanted: &str| {
        let given = leaf.try_get_one::<String>(wanted).ok().flatten().cloned();
        given.filter(|given| !given.is_empty())
    };
    ClusterFlags {
        kubeconfig: value("kubeconfig"),
        context: value("context"),
        istio_namespace: value("istioNamespace"),
        revision: value(REVISION),
    }
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
    fn the_cluster_is_chosen_by_flags() {
        let flags = |line: &str| {
            let matches = program().try_get_matches_from(line.split(' ')).unwrap();
            cluster_flags(&matches)
        };
        let chosen = flags("istioctl proxy-status --context kind -c config -i mesh");
        assert_eq!(chosen.context.as_deref(), Some("kind"));
        assert_eq!(chosen.kubeconfig.as_deref(), Some("config"));
        assert_eq!(chosen.istio_namespace.as_deref(), Some("mesh"));
        let canary = flags("istioctl proxy-status --revision canary");
        assert_eq!(canary.revision.as_deref(), Some("canary"));
        let usual = flags("istioctl proxy-status");
        assert_eq!((usual.context, usual.kubeconfig), (None, None));
        assert_eq!((usual.istio_namespace, usual.revision), (None, None));
    }
}
