use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::command::LogArgs;
use crate::{Access, CliError, Io, Method};

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

/// What a query value may hold as it is.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b':')
    .remove(b',')
    .remove(b'_')
    .remove(b'-')
    .remove(b'.');

/// Shows log levels, after setting what is asked for.
pub(super) async fn run(
    args: &LogArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let pod = super::pod(&args.pod, access).await?;
    let asked = if args.reset {
        Some("warning")
    } else {
        args.level.as_deref()
    };
    let path = match asked {
        Some(levels) => format!("/logging?{}", query(levels)?),
        None => "/logging".to_owned(),
    };
    let answer = super::admin(&pod, Method::Post, &path, access).await?;
    let levels = String::from_utf8_lossy(&answer.body);
    io.print(&format!("{}:\n{levels}", pod.id()))
}

/// Envoy's query: `debug` sets all loggers, `http:debug,tls:trace` some.
fn query(levels: &str) -> Result<String, CliError> {
    let settings = levels.split(',').map(str::trim);
    let settings: Vec<&str> = settings.filter(|setting| !setting.is_empty()).collect();
    for setting in &settings {
        let level = setting.split_once(':').map_or(*setting, |(_, level)| level);
        if !LEVELS.contains(&level) {
            let hint = format!("Levels are {}.", LEVELS.join(", "));
            let message = format!("{level:?} is not a log level");
            return Err(CliError::usage(message, hint));
        }
    }
    match settings[..] {
        [level] if !level.contains(':') => Ok(format!("level={level}")),
        _ if settings.iter().all(|setting| setting.contains(':')) => {
            let paths = settings.join(",");
            Ok(format!("paths={}", utf8_percent_encode(&paths, QUERY)))
        }
        _ => Err(CliError::usage(
            format!("{levels:?} mixes one level for all with levels of loggers"),
            "Set all first, then single ones.",
        )),
    }
}
