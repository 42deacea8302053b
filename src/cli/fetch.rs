//! `fedward fetch`.

use clap::Args;
use miette::IntoDiagnostic;

use super::{Ending, print_line};
use crate::data::catalogue;

#[derive(Debug, Args)]
pub(super) struct FetchArgs {
    /// Names of the catalogue; none lists it
    names: Vec<String>,
}

/// Fetches entries of the catalogue one after another; what is there and intact is left alone.
pub(super) fn fetch(args: &FetchArgs) -> miette::Result<Ending> {
    if args.names.is_empty() {
        for entry in catalogue::entries() {
            print_line(format_args!("{:24} {:12} {}", entry.name, entry.licence, entry.description))?;
        }
        return Ok(Ending::Done);
    }
    let entries: Result<Vec<_>, _> = args.names.iter().map(|name| catalogue::named(name)).collect();
    for entry in entries.into_diagnostic()? {
        let path = catalogue::fetch(entry, &|step| tell!("{}: {step}", entry.name)).into_diagnostic()?;
        tell!("{} is in {}", entry.name, path.display());
    }
    Ok(Ending::Done)
}
