//! Integration tests, in one binary so that libtorch is linked once.

mod engine_behaviour;
mod engine_default;
mod engine_small;
mod engine_speed;
mod engine_support;
mod hugging_face;
mod loading;
mod peft;
mod tokenizer;

use std::path::PathBuf;

/// The default model's GGUF file, if this machine has it.
fn default_model() -> Option<PathBuf> {
    let home = std::env::var_os("FEDWARD_HOME").map_or_else(|| PathBuf::from(".fedward"), PathBuf::from);
    let path = home.join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not there (fedward fetch smollm2-135m-instruct)", path.display());
    None
}

/// A file of `tests/reference/fixtures`, parsed.
fn fixture(name: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
