//! Logs to standard error, with Istio's flags `--log_output_level` and `--log_as_json`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

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

/// Shows and changes levels while the process runs (`POST /logging`).
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
    levels: Arc<Mutex<Levels>>,
}

impl LogControl {
    /// Changes the levels that the text names; those of other scopes stay.
    ///
    /// # Errors
    /// The text is not `[scope:]level,...`.
    pub fn set_levels(&self, text: &str) -> Result<(), LoggingError> {
        let mut levels = self.levels.lock();
        let mut changed = levels.clone();
        changed.set(text)?;
        self.filter.reload(changed.filter()?)?;
        *levels = changed;
        Ok(())
    }

    /// Every scope with its level.
    pub fn levels(&self) -> Levels {
        self.levels.lock().clone()
    }
}

/// Installs the process-wide logger.
///
/// # Errors
/// The levels do not parse, or a logger is already installed.
pub fn init(options: &LogOptions) -> Result<LogControl, LoggingError> {
    let mut levels = Levels::default();
    levels.set(&options.levels)?;
    let (filter, handle) = reload::Layer::new(levels.filter()?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if options.json {
        lines.json().flatten_event(true).boxed()
    } else {
        lines.with_ansi(false).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()?;
    Ok(LogControl {
        filter: handle,
        levels: Arc::new(Mutex::new(levels)),
    })
}

/// Levels by Istio's scopes: `default` means our crates, `all` libraries too, any other scope is a crate of ours (`xds`,
/// `ca`, `proxy-core`...). Libraries otherwise stay at warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    libraries: &'static str,
    ours: &'static str,
    scopes: BTreeMap<String, &'static str>,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            libraries: "warn",
            ours: "info",
            scopes: BTreeMap::new(),
        }
    }
}

impl Levels {
    /// Applies `[scope:]level,...` in order. A level for many scopes replaces what single ones had before.
    fn set(&mut self, text: &str) -> Result<(), LoggingError> {
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (scope, level) = part.split_once(':').unwrap_or(("default", part));
            let level = level_name(level)?;
            match scope {
                "default" | "all" => {
                    self.ours = level;
                    self.scopes.clear();
                    if scope == "all" {
                        self.libraries = level;
                    }
                }
                scope => {
                    check_scope(scope)?;
                    self.scopes.insert(scope.to_owned(), level);
                }
            }
        }
        Ok(())
    }

    fn filter(&self) -> Result<EnvFilter, LoggingError> {
        Ok(EnvFilter::try_new(self.directives())?)
    }

    /// A directive matches every target that starts with its own, so `meltemi` covers all our crates.
    fn directives(&self) -> String {
        let mut text = format!("{},meltemi={}", self.libraries, self.ours);
        for (scope, level) in &self.scopes {
            // Writing to a String cannot fail.
            let _written = write!(text, ",{}={level}", scope_target(scope));
        }
        text
    }
}

/// Lines of `scope: level`, as Envoy's `/logging` lists its loggers; `all` stands for libraries.
impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.scopes.iter().map(|(scope, level)| (&**scope, *level));
        let groups = [("all", self.libraries), ("default", self.ours)];
        for (scope, level) in groups.into_iter().chain(named) {
            let level = if level == "warn" { "warning" } else { level };
            writeln!(f, "  {scope}: {level}")?;
        }
        Ok(())
    }
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

fn check_scope(scope: &str) -> Result<(), LoggingError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if scope.is_empty() || !scope.chars().all(allowed) {
        return Err(LoggingError::Scope(scope.to_owned()));
    }
    Ok(())
}

fn scope_target(scope: &str) -> String {
    match scope {
        // Istio's names of what we have under another.
        "ads" | "delta" => "meltemi_xds".to_owned(),
        "citadel" | "secretcontroller" => "meltemi_ca".to_owned(),
        scope => format!("meltemi_{}", scope.replace('-', "_")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> Result<Levels, LoggingError> {
        let mut levels = Levels::default();
        levels.set(text)?;
        Ok(levels)
    }

    #[test]
    fn levels_become_directives() {
        let check = |text, expected: &str| {
            let levels = levels(text).unwrap();
            assert_eq!(levels.directives(), expected, "{text}");
            assert!(levels.filter().is_ok());
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
    fn a_change_keeps_other_scopes_and_all_are_listed() {
        let mut levels = levels("ads:debug").unwrap();
        levels.set("proxy:trace").unwrap();
        assert_eq!(
            levels.to_string(),
            "  all: warning\n  default: info\n  ads: debug\n  proxy: trace\n"
        );
        levels.set("error").unwrap();
        assert_eq!(levels.to_string(), "  all: warning\n  default: error\n");
    }

    #[test]
    fn typos_are_refused() {
        assert!(matches!(
            levels("default:inof"),
            Err(LoggingError::Level(_))
        ));
        assert!(matches!(levels("a=b:info"), Err(LoggingError::Scope(_))));
    }
}
