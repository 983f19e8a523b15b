//! Logs to standard error, with Istio's flags `--log_output_level` and `--log_as_json`.

use std::fmt::Write as _;

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    #[error("log level {0:?} is none of none, error, warn, info, debug, trace")]
    Level(String),
    #[error("log scope {0:?} may hold letters, digits, '-' and '_'")]
    Scope(String),
    #[error("log filter")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    #[error("another logger is already installed")]
    Installed(#[from] tracing_subscriber::util::TryInitError),
    #[error("the logger is gone")]
    Reload(#[from] reload::Error),
}

/// What the flags say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// `--log_output_level`: `[scope:]level` separated by commas, `default:info` when empty.
    pub levels: String,
    /// `--log_as_json`
    pub json: bool,
}

/// Changes levels while the process runs (`POST /logging`).
#[derive(Clone, Debug)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

impl LogControl {
    /// # Errors
    /// The text is not `[scope:]level,...`.
    pub fn set_levels(&self, levels: &str) -> Result<(), LoggingError> {
        let filter = EnvFilter::try_new(filter_directives(levels)?)?;
        Ok(self.0.reload(filter)?)
    }
}

/// Installs the process-wide logger.
///
/// # Errors
/// The levels do not parse, or a logger is already installed.
pub fn init(options: &LogOptions) -> Result<LogControl, LoggingError> {
    let filter = EnvFilter::try_new(filter_directives(&options.levels)?)?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if options.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(LogControl(handle))
}

/// Translates Istio's levels to a filter. `default` means our crates, `all` libraries too, any other scope is a
/// crate of ours (`xds`, `ca`, `proxy-core`...); libraries otherwise stay at warnings.
fn filter_directives(levels: &str) -> Result<String, LoggingError> {
    let mut libraries = "warn";
    let mut ours = "info";
    let mut scopes = String::new();
    for part in levels.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (scope, level) = part.split_once(':').unwrap_or(("default", part));
        let level = level_name(level)?;
        match scope {
            "default" => ours = level,
            "all" => (libraries, ours) = (level, level),
            scope => {
                let target = scope_target(scope)?;
                // Writing to a String cannot fail.
                let _written = write!(scopes, ",{target}={level}");
            }
        }
    }
    // A directive matches every target that starts with its own, so `meltemi` covers all our crates.
    Ok(format!("{libraries},meltemi={ours}{scopes}"))
}

fn level_name(level: &str) -> Result<&'static str, LoggingError> {
    Ok(match level {
        "none" | "off" => "off",
        "fatal" | "critical" | "error" => "error",
        "warn" | "warning" => "warn",
        "info" => "info",
        "debug" => "debug",
        "trace" => "trace",
        other => return Err(LoggingError::Level(other.to_owned())),
    })
}

fn scope_target(scope: &str) -> Result<String, LoggingError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if scope.is_empty() || !scope.chars().all(allowed) {
        return Err(LoggingError::Scope(scope.to_owned()));
    }
    Ok(match scope {
        // Istio's names of what we have under another.
        "ads" | "delta" => "meltemi_xds".to_owned(),
        "citadel" | "secretcontroller" => "meltemi_ca".to_owned(),
        scope => format!("meltemi_{}", scope.replace('-', "_")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_become_directives() {
        let check = |levels, expected: &str| {
            assert_eq!(filter_directives(levels).unwrap(), expected, "{levels}");
            assert!(EnvFilter::try_new(expected).is_ok());
        };
        check("", "warn,meltemi=info");
        check("debug", "warn,meltemi=debug");
        check(
            "default:error,ads:debug",
            "warn,meltemi=error,meltemi_xds=debug",
        );
        check("all:trace", "trace,meltemi=trace");
        check(
            "proxy-core:none",
            "warn,meltemi=info,meltemi_proxy_core=off",
        );
    }

    #[test]
    fn typos_are_refused() {
        assert!(matches!(
            filter_directives("default:inof"),
            Err(LoggingError::Level(_))
        ));
        assert!(matches!(
            filter_directives("a=b:info"),
            Err(LoggingError::Scope(_))
        ));
    }
}
