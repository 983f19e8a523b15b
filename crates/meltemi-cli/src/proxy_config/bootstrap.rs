use super::dump::Dump;
use crate::command::PodArgs;
use crate::output::structured;
use crate::{CliError, Format, Io};

/// Prints the bootstrap; JSON where no format is named, as it has no table.
pub(super) fn run(dump: &Dump, args: &PodArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let Some(bootstrap) = dump.bootstrap() else {
        return Err(CliError::answer("the dump holds no bootstrap"));
    };
    let format = match args.output {
        Format::Yaml => Format::Yaml,
        Format::Short | Format::Json => Format::Json,
    };
    io.print(&structured(bootstrap, format)?.unwrap_or_default())
}
