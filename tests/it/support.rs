//! What integration tests share.

use std::{path::PathBuf, process::Command};

/// Where models and data sets are: `$FEDWARD_HOME`, else the checkout's own.
pub fn home() -> PathBuf {
    std::env::var_os("FEDWARD_HOME")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".fedward"), PathBuf::from)
}

/// The program, with the checkout's models and data sets.
pub fn fedward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedward"));
    command.env("FEDWARD_HOME", home());
    command
}
