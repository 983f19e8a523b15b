//! `manifest generate`: the objects of an installation. YAML on standard output, warnings on standard error.

use meltemi_install::{InstallError, Layer, Values};

use crate::command::ManifestArgs;
use crate::kube_inject::read;
use crate::{CliError, Io};

pub(crate) fn generate(args: &ManifestArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let values = values(args, Vec::new(), io)?;
    let objects = meltemi_install::generate(&values).map_err(|error| refused(&error))?;
    let text = meltemi_install::yaml(&objects)
        .map_err(|error| CliError::answer(format!("printing the objects: {error}")))?;
    io.print(&text)
}

/// The defaults, then `layers`, then the files, then what the command line says.
pub(crate) fn values(
    args: &ManifestArgs,
    mut layers: Vec<Layer>,
    io: &mut Io<'_>,
) -> Result<Values, CliError> {
    for file in &args.files {
        layers.push(Layer::File {
            name: file.display().to_string(),
            text: read(file, io)?,
        });
    }
    layers.extend(args.set.iter().cloned().map(Layer::Set));
    let revision = args.revision.iter();
    layers.extend(revision.map(|revision| Layer::Set(format!("revision={revision}"))));
    let (values, warnings) = Values::read(&layers).map_err(|error| refused(&error))?;
    for warning in &warnings {
        io.note(&warning.to_string())?;
    }
    Ok(values)
}

/// The defaults, with what is set over them.
pub(crate) fn read_values(set: &[String]) -> Result<Values, CliError> {
    let layers: Vec<Layer> = set.iter().cloned().map(Layer::Set).collect();
    let read = Values::read(&layers).map_err(|error| refused(&error))?;
    Ok(read.0)
}

pub(crate) fn refused(error: &InstallError) -> CliError {
    CliError::data(error.to_string(), "")
}
