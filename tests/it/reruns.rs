//! What the engine's tests ask for, once more where it computes by other means.

use std::process::Command;

use fedward_native::{cuda::flash_attention_refusal, kernels};

use crate::support::TEST_DEVICE;

/// Modules whose tests compute on `test_device`, and have been seen to pass on CUDA.
const ENGINE: [&str; 13] = [
    "architectures::",
    "dpo::",
    "engine_behaviour::",
    "engine_bf16::",
    "engine_default::",
    "engine_small::",
    "greedy::",
    "llama_guard::",
    "memory::",
    "progress::",
    "quantization::",
    "scaffold::",
    "weighted_loss::",
];

/// Modules that know the engine's numbers.
const NUMBERS: [&str; 5] =
    ["architectures::", "engine_behaviour::", "engine_bf16::", "engine_default::", "engine_small::"];

/// Runs the tests of `modules` in a process of their own with a variable set. A few side by side: memory is for all.
fn rerun(modules: &[&str], threads: usize, (variable, value): (&str, &str)) {
    let tests = std::env::current_exe().unwrap();
    let mut command = Command::new(tests);
    command.args(modules).arg(format!("--test-threads={threads}")).env(variable, value);
    let done = command.output().unwrap();
    let told = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(done.status.success(), "tests fail with {variable}={value}:\n{}\n{}", told[0], told[1]);
    for module in modules {
        let passed = |line: &str| line.starts_with(&format!("test {module}")) && line.ends_with("... ok");
        assert!(told[0].lines().any(passed), "no test of {module} was run");
    }
}

#[test]
fn the_engine_passes_the_same_tests_on_a_cuda_device() {
    fedward::model::init_backend();
    if !tch::Cuda::is_available() {
        eprintln!("skipped: libtorch finds no CUDA device");
        return;
    }
    if std::env::var_os(TEST_DEVICE).is_some() {
        eprintln!("skipped: {TEST_DEVICE} says what is tested");
        return;
    }
    if let Some(refusal) = flash_attention_refusal(tch::Device::Cuda(0)) {
        assert!(refusal.contains("Ampere"), "only an older device may go without FlashAttention: {refusal}");
    }
    // One that is not the first shows what was made on the first by mistake.
    for device in 0..tch::Cuda::device_count().min(2) {
        rerun(&ENGINE, 4, (TEST_DEVICE, &format!("cuda:{device}")));
    }
}

/// As on processors for which there are no kernels.
#[test]
fn the_engine_passes_the_same_tests_without_its_kernels() {
    if !kernels::available() {
        eprintln!("skipped: there are none for this processor, or {} is set", kernels::SWITCH);
        return;
    }
    rerun(&NUMBERS, 2, (kernels::SWITCH, "off"));
}
