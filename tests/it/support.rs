//! What integration tests share.

use std::{path::PathBuf, process::Command};

/// Where models and data sets are: `$FEDWARD_HOME`, else the checkout's own.
pub(crate) fn home() -> PathBuf {
    std::env::var_os("FEDWARD_HOME")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".fedward"), PathBuf::from)
}

/// The default model's GGUF file.
pub(crate) fn default_model_path() -> PathBuf {
    let path = home().join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing; `make fetch` fetches it", path.display());
    path
}

/// The program, with the checkout's models and data sets.
pub(crate) fn fedward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedward"));
    command.env("FEDWARD_HOME", home());
    command
}
