use clap::ValueEnum;
use serde_json::Value;

use crate::CliError;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table
    #[default]
    #[value(alias = "table")]
    Short,
    Json,
    Yaml,
}

/// A value as JSON or YAML; `None` where a table is asked for.
pub(crate) fn structured(value: &Value, format: Format) -> Result<Option<String>, CliError> {
    let failed =
        |error: &dyn std::fmt::Display| CliError::answer(format!("printing the answer: {error}"));
    match format {
        Format::Short => Ok(None),
        Format::Json => serde_json::to_string_pretty(value)
            .map(|text| Some(text + "\n"))
            .map_err(|error| failed(&error)),
        Format::Yaml => yaml(value).map(Some),
    }
}

/// One YAML document.
pub(crate) fn yaml(value: &Value) -> Result<String, CliError> {
    let text = serde_saphyr::to_string(value)
        .map_err(|error| CliError::answer(format!("printing the answer: {error}")))?;
    Ok(if text.ends_with('\n') {
        text
    } else {
        text + "\n"
    })
}
