//! `[model]`: the base model.

use std::{num::NonZeroUsize, path::Path};

use serde::{Deserialize, Serialize};

use super::rules::Rules;
use crate::{
    data::catalogue::{self, EntryKind},
    model::Quantization,
};

/// The base model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelSection {
    /// A name of the catalogue, a `.gguf` file or a Hugging Face directory.
    pub base: String,
    /// Where it is computed.
    pub device: DeviceName,
    /// CUDA devices that clients train on, each with a base model of its own. The first one does everything else, too.
    #[serde(skip_serializing_if = "is_one")]
    pub devices: NonZeroUsize,
    /// In which numbers it is computed.
    pub precision: PrecisionName,
    /// How the linear layers' weights are stored, if in fewer bits than they are computed in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantize: Option<Quantization>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
fn is_one(devices: &NonZeroUsize) -> bool {
    devices.get() == 1
}

impl ModelSection {
    /// What runs with it take for granted.
    pub(super) fn assumptions(&self) -> Option<String> {
        let quantization = match self.quantize? {
            Quantization::Int8 => "8-bit integers",
            Quantization::Nf4 => "4-bit NormalFloat",
        };
        Some(format!(
            "the base model's linear layers are stored as {quantization}, so it is not quite the model itself"
        ))
    }
}

/// Where tensors are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceName {
    /// CUDA where there is a device, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA devices: the first, or the first [`ModelSection::devices`].
    Cuda,
}

/// In which numbers the base model is computed; adapters are always `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionName {
    /// `bf16` on CUDA, `f32` on the CPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawModel {
    pub base: String,
    pub device: DeviceName,
    pub devices: usize,
    pub precision: PrecisionName,
    pub quantize: Option<Quantization>,
}

impl Default for RawModel {
    fn default() -> Self {
        Self {
            base: "smollm2-135m-instruct".into(),
            device: DeviceName::Auto,
            devices: 1,
            precision: PrecisionName::Auto,
            quantize: None,
        }
    }
}

impl RawModel {
    pub(super) fn check(&self, rules: &mut Rules) {
        rules.at_least_one("model.devices", self.devices);
        rules.check(self.device != DeviceName::Cpu || self.devices <= 1, "model.devices", || {
            format!("found {}; allowed with model.device = \"cpu\": 1", self.devices)
        });
    }

    /// Whether there is such a model: a typo otherwise shows when everything else has been prepared.
    pub(super) fn check_base(&self, folder: &Path, rules: &mut Rules) {
        let is_model = |entry: &&catalogue::CatalogueEntry| entry.kind == EntryKind::Model;
        let names: Vec<_> = catalogue::entries().iter().filter(is_model).map(|entry| entry.name).collect();
        if names.contains(&self.base.as_str()) {
            return;
        }
        let allowed = format!("allowed: {}, a .gguf file or a Hugging Face directory", names.join(", "));
        if catalogue::find(&self.base).is_some() {
            rules.complain("model.base", format!("found {:?}, which is a data set; {allowed}", self.base));
            return;
        }
        let path = folder.join(&self.base);
        if !path.exists() {
            let place = path.display();
            rules.lacks(
                "model.base",
                format!("found {:?}, but there is no file or directory {place}; {allowed}", self.base),
            );
        } else if path.is_dir() && !path.join("config.json").is_file() {
            rules.complain("model.base", format!("found no config.json in {}; {allowed}", path.display()));
        }
    }

    pub(super) fn resolve(&self, folder: &Path) -> ModelSection {
        ModelSection {
            base: resolve_base(&self.base, folder),
            device: self.device,
            devices: NonZeroUsize::new(self.devices).unwrap_or(NonZeroUsize::MIN),
            precision: self.precision,
            quantize: self.quantize,
        }
    }
}

/// A path is relative to the file; a name of the catalogue is left alone.
fn resolve_base(base: &str, folder: &Path) -> String {
    if catalogue::find(base).is_some() { base.to_owned() } else { folder.join(base).display().to_string() }
}
