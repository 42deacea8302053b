//! The model and adapter of a command.

use std::{num::NonZeroUsize, path::PathBuf, sync::Arc};

use clap::{Args, ValueEnum};
use fedward_actors::protocol::Adapter;
use miette::IntoDiagnostic;

use crate::{
    lora::{LoraConfig, LoraRef, MOST_RANK, peft},
    model::{ChatModel, Quantization},
    report::Console,
    scenario::{DeviceName, ModelSection, PrecisionName},
    wiring::Workshop,
};

/// `--dtype`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum Dtype {
    #[default]
    Auto,
    F32,
    Bf16,
}

/// `--quantize`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum QuantizeArg {
    Int8,
    Nf4,
}

/// `--device`.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum DeviceArg {
    #[default]
    Auto,
    Cpu,
    Cuda,
}

#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// A name of the catalogue, a .gguf file or a Hugging Face directory
    #[arg(long, default_value = "smollm2-135m-instruct")]
    pub model: String,
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// Where and in which numbers a model is computed.
#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// Numbers that the base model is computed in
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Dtype,
    /// Store the linear layers' weights in fewer bits and compute them back at each use: less memory, more time
    #[arg(long, value_enum)]
    pub quantize: Option<QuantizeArg>,
    /// Where it is computed
    #[arg(long, value_enum, default_value_t)]
    pub device: DeviceArg,
}

impl ModelArgs {
    pub(super) fn section(&self) -> ModelSection {
        ModelSection { base: self.model.clone(), ..self.place.section() }
    }

    pub(super) fn load(&self, console: &Console) -> miette::Result<Arc<ChatModel>> {
        Workshop::new().model(&self.section(), console).into_diagnostic()
    }
}

impl PlaceArgs {
    /// No model yet.
    pub(super) fn section(&self) -> ModelSection {
        ModelSection {
            base: String::new(),
            device: match self.device {
                DeviceArg::Auto => DeviceName::Auto,
                DeviceArg::Cpu => DeviceName::Cpu,
                DeviceArg::Cuda => DeviceName::Cuda,
            },
            devices: NonZeroUsize::MIN,
            precision: match self.dtype {
                Dtype::Auto => PrecisionName::Auto,
                Dtype::F32 => PrecisionName::F32,
                Dtype::Bf16 => PrecisionName::Bf16,
            },
            quantize: self.quantize.map(|name| match name {
                QuantizeArg::Int8 => Quantization::Int8,
                QuantizeArg::Nf4 => Quantization::Nf4,
            }),
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct AdapterArgs {
    /// A PEFT directory; without it, the base model as it is
    #[arg(long)]
    pub adapter: Option<PathBuf>,
}

/// An adapter with its configuration.
pub(super) struct LoadedAdapter(Option<(LoraConfig, Adapter)>);

impl AdapterArgs {
    pub(super) fn load(&self, model: &ChatModel) -> miette::Result<LoadedAdapter> {
        let load = |path: &PathBuf| peft::load_for(path, model.base.config(), &model.name);
        Ok(LoadedAdapter(self.adapter.as_ref().map(load).transpose().into_diagnostic()?))
    }
}

impl LoadedAdapter {
    pub(super) fn as_ref(&self) -> Option<LoraRef<'_>> {
        self.0.as_ref().map(|(_, adapter)| adapter.into())
    }

    pub(super) fn into_parts(self) -> Option<(LoraConfig, Adapter)> {
        self.0
    }
}

/// How much memory a training takes.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct PassArgs {
    /// Most tokens computed in one pass; a larger batch is split, with the same gradient, and takes less memory [default:
    /// 1536, on CUDA 8192]
    #[arg(long)]
    pub pass_tokens: Option<usize>,
    /// Compute each layer twice instead of keeping what it computed: the same gradient in less memory
    #[arg(long)]
    pub checkpoint_activations: bool,
}

impl PassArgs {
    pub(super) fn check(&self) -> miette::Result<()> {
        check_tokens("--pass-tokens", self.pass_tokens)
    }
}

/// Whether so many tokens are worth computing.
pub(super) fn check_tokens(option: &str, found: Option<usize>) -> miette::Result<()> {
    match found {
        Some(found @ ..16) => miette::bail!("{option}: found {found}; allowed: 16 tokens or more"),
        _ => Ok(()),
    }
}

/// Whether an adapter can be made of the settings.
pub(super) fn check_lora(rank: usize, alpha: f64) -> miette::Result<()> {
    if !(1..=MOST_RANK).contains(&rank) {
        miette::bail!("--rank: found {rank}; allowed: 1 to {MOST_RANK}");
    }
    if !(alpha > 0.0 && alpha.is_finite()) {
        miette::bail!("--alpha: found {alpha}; allowed: a number above 0");
    }
    Ok(())
}

/// A temperature that can be sampled at.
pub(super) fn temperature(text: &str) -> Result<f64, String> {
    number(text, |value| value >= 0.0, "0, which is greedy, or a number above")
}

/// A share of the likelihood to draw from.
pub(super) fn top_p(text: &str) -> Result<f64, String> {
    number(text, |value| value > 0.0 && value <= 1.0, "a number above 0 and up to 1")
}

fn number(text: &str, allows: impl Fn(f64) -> bool, allowed: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| value.is_finite() && allows(*value));
    value.ok_or_else(|| format!("allowed: {allowed}"))
}
