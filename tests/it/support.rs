//! What integration tests share.

use std::{path::PathBuf, process::Command};

use fedward::{
    eval::{Benchmark, Measurement, Subject},
    model::{ChatModel, Precision},
    progress::Silent,
};
use fedward_actors::CancelFlag;
use tch::Device;

/// Where models and data sets are: `$FEDWARD_HOME`, else the checkout's own.
pub(crate) fn home() -> PathBuf {
    std::env::var_os("FEDWARD_HOME")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".fedward"), PathBuf::from)
}

/// Where models compute: on the CPU, or with `FEDWARD_TEST_DEVICE=cuda` on the first CUDA device, with `cuda:1` on the second.
pub(crate) fn test_device() -> Device {
    fedward::model::init_backend();
    match std::env::var(TEST_DEVICE).as_deref() {
        Err(_) | Ok("cpu") => Device::Cpu,
        Ok(name) => {
            let place =
                if name == "cuda" { Some(0) } else { name.strip_prefix("cuda:").and_then(|at| at.parse().ok()) };
            let place: usize =
                place.unwrap_or_else(|| panic!("{TEST_DEVICE}: found {name:?}; allowed: cpu, cuda, cuda:1"));
            let found = tch::Cuda::device_count();
            assert!((place as i64) < found, "{TEST_DEVICE} is {name}, but libtorch finds {found} CUDA devices");
            Device::Cuda(place)
        }
    }
}

/// Names the variable that [`test_device`] reads.
pub(crate) const TEST_DEVICE: &str = "FEDWARD_TEST_DEVICE";

/// The default model's GGUF file.
pub(crate) fn default_model_path() -> PathBuf {
    let path = home().join("models/smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(path.exists(), "{} is missing; `make fetch` fetches it", path.display());
    path
}

/// The program, with the checkout's models and data sets, on the device that is tested.
pub(crate) fn fedward() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fedward"));
    command.env("FEDWARD_HOME", home());
    if test_device() == Device::Cpu {
        // What it writes on the CPU is known to the byte.
        command.env("CUDA_VISIBLE_DEVICES", "");
    }
    if let Device::Cuda(place @ 1..) = test_device() {
        // The program computes on the first that it sees.
        command.env("CUDA_VISIBLE_DEVICES", place.to_string());
    }
    command
}

/// The default model in `f32`, on two threads.
pub(crate) fn default_chat_model() -> ChatModel {
    fedward::model::init_backend();
    ChatModel::open("default", &default_model_path(), test_device(), Precision::F32, 2).unwrap()
}

/// What a benchmark measures of a model without an adapter.
pub(crate) fn measured(model: &ChatModel, bench: &dyn Benchmark) -> Measurement {
    let cancel = CancelFlag::new();
    bench.measure(&Subject { model, adapter: None, seed: 1, limit: None, cancel: &cancel, progress: &Silent }).unwrap()
}
