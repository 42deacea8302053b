//! The `fedward` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    fedward::cli::main()
}
