//! What the engine's tests ask for, on a CUDA device.

use std::process::Command;

use fedward_native::cuda::flash_attention_refusal;

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
    let tests = std::env::current_exe().unwrap();
    // Four side by side: the device's memory is for all of them.
    let done = Command::new(tests).args(ENGINE).arg("--test-threads=4").env(TEST_DEVICE, "cuda").output().unwrap();
    let told = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(done.status.success(), "some of the engine's tests fail on the CUDA device:\n{}\n{}", told[0], told[1]);
    for module in ENGINE {
        let passed = |line: &str| line.starts_with(&format!("test {module}")) && line.ends_with("... ok");
        assert!(told[0].lines().any(passed), "no test of {module} was run");
    }
}
