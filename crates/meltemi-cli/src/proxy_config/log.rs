use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::command::LogArgs;
use crate::{Access, CliError, Io, Method};

const LEVELS: [&str; 7] = [
    "trace", "debug", "info", "warning", "error", "critical", "off",
];

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
    let settings = asked
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|setting| !setting.is_empty());
    let queries = settings.map(query).collect::<Result<Vec<_>, _>>()?;
    for query in &queries {
        super::admin(&pod, Method::Post, &format!("/logging?{query}"), access).await?;
    }
    let levels = super::admin(&pod, Method::Post, "/logging", access).await?;
    io.print(&format!(
        "{}:\n{}",
        pod.id(),
        String::from_utf8_lossy(&levels.body)
    ))
}

/// `debug` sets all loggers, `http:debug` one.
fn query(setting: &str) -> Result<String, CliError> {
    let (logger, level) = setting.split_once(':').unwrap_or(("level", setting));
    if !LEVELS.contains(&level) {
        let hint = format!("Levels are {}.", LEVELS.join(", "));
        return Err(CliError::usage(
            format!("{level:?} is not a log level"),
            hint,
        ));
    }
    let logger = utf8_percent_encode(logger, NON_ALPHANUMERIC);
    Ok(format!("{logger}={level}"))
}
