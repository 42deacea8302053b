//! Integration tests, in one binary so that libtorch is linked once.

mod architectures;
mod attacks;
mod benchmarks;
mod checked;
mod choice;
mod client_rows;
mod commands;
mod company;
mod controls;
mod dpo;
mod engine_behaviour;
mod engine_bf16;
mod engine_default;
mod engine_small;
mod engine_speed;
mod engine_support;
mod examples;
mod faults;
mod greedy;
mod grid;
mod guard_program;
mod hhh;
mod hugging_face;
mod llama_guard;
mod loading;
mod lora_rules;
mod memory;
mod metrics;
mod mutations;
mod overlap;
mod peft;
mod progress;
mod quantization;
mod realignment;
mod replicas;
mod reruns;
mod run;
mod scaffold;
mod secrets;
mod shipped;
mod support;
mod tokenizer;
mod weighted_loss;

use std::path::PathBuf;

/// A file of `tests/reference/fixtures`, parsed.
fn fixture(name: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/reference/fixtures").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
