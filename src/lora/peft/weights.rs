//! `adapter_model.safetensors`, brought into the form of one rank and one scaling.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use fedward_actors::protocol::{Adapter, AdapterLayout};
use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::{config::Settings, modules::Module};
use crate::{lora::LoraConfig, model::ModelConfig};

const PREFIX: &str = "base_model.model.";
/// Adapters up to this size may be filled up with zeros however much that adds, in numbers.
const MAX_PADDED: usize = 1 << 28;
/// Larger ones may grow so many times.
const MAX_GROWTH: usize = 4;

/// Reads the tensors of `modules` from the file `bytes`.
///
/// # Errors
///
/// Names the tensor, what was found and what is expected.
pub(super) fn read(
    bytes: &[u8],
    settings: &Settings,
    modules: &[Module],
    model: &ModelConfig,
) -> Result<(LoraConfig, Adapter), String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("not a whole safetensors file: {error}"))?;
    let mut tensors = by_name(&file)?;
    let mut pairs = Vec::with_capacity(modules.len());
    for module in modules {
        let (inputs, outputs) = module.target.widths(model);
        let mut take = |part: &str, shape: [usize; 2]| {
            let name = format!("{PREFIX}{}.lora_{part}.weight", module.name);
            let view = tensors.remove(&name).ok_or_else(|| format!("tensor {name} of shape {shape:?} is missing"))?;
            if view.shape() != shape {
                return Err(format!("tensor {name}: found shape {:?}, expected {shape:?}", view.shape()));
            }
            widened(&view).map_err(|problem| format!("tensor {name}: {problem}"))
        };
        pairs.push([take("A", [module.rank, inputs as usize])?, take("B", [outputs as usize, module.rank])?]);
    }
    if let Some(name) = tensors.keys().min() {
        return Err(does_not_belong(name, modules, model));
    }
    let config = common_config(settings, modules);
    let adapter = lay_out(&config, modules, &pairs, model)?;
    adapter.check_finite().map_err(|error| error.to_string())?;
    Ok((config, adapter))
}

/// Reads the tensors of `layout` from the file `bytes`, which has them in `f32` and nothing else.
///
/// # Errors
///
/// Names the tensor, what was found and what is expected.
pub(super) fn read_saved(bytes: &[u8], layout: &Arc<AdapterLayout>) -> Result<Adapter, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("not a whole safetensors file: {error}"))?;
    let mut values = Vec::with_capacity(layout.len());
    for tensor in layout.tensors() {
        let view = file.tensor(&tensor.name).map_err(|error| error.to_string())?;
        if (view.dtype(), view.shape()) != (Dtype::F32, &tensor.shape[..]) {
            let (dtype, shape) = (view.dtype(), view.shape());
            return Err(format!("tensor {}: expected F32 {:?}, found {dtype:?} {shape:?}", tensor.name, tensor.shape));
        }
        values.extend(view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)));
    }
    let expected = layout.tensors().len();
    if file.len() != expected {
        return Err(format!("expected {expected} tensors, found {}", file.len()));
    }
    Adapter::new(Arc::clone(layout), values).map_err(|error| error.to_string())
}

/// The file's tensors under the names that `peft` gives them today.
fn by_name<'f>(file: &'f SafeTensors<'_>) -> Result<HashMap<String, TensorView<'f>>, String> {
    let mut tensors = HashMap::new();
    for (found, view) in file.tensors() {
        let name = canonical(&found);
        if tensors.insert(name.clone(), view).is_some() {
            return Err(format!("tensor {name} is there twice, also as {found}"));
        }
    }
    Ok(tensors)
}

/// Others write names with the adapter's own in them, with a mark of compiled models, or without the wrapper's.
fn canonical(name: &str) -> String {
    let name = name.replace("_orig_mod.", "").replace(".default.weight", ".weight");
    if name.starts_with(PREFIX) { name } else { format!("{PREFIX}{name}") }
}

fn does_not_belong(name: &str, modules: &[Module], model: &ModelConfig) -> String {
    if name.contains("lora_embedding_") || name.contains("lm_head") || name.contains("embed_tokens") {
        return format!(
            "tensor {name} does not belong to a linear layer; embeddings and the head are not adapted here"
        );
    }
    let targets: BTreeSet<_> = modules.iter().map(|module| module.target).collect();
    let layers: BTreeSet<_> = modules.iter().map(|module| module.layer).collect();
    let targets: Vec<_> = targets.iter().map(|target| target.name()).collect();
    format!(
        "tensor {name} does not belong to a LoRA of {} in {} of {} layers, as the configuration says",
        targets.join(", "),
        layers.len(),
        model.num_hidden_layers
    )
}

/// The largest rank and the largest scaling of all modules.
fn common_config(settings: &Settings, modules: &[Module]) -> LoraConfig {
    let targets = modules.iter().map(|module| module.target).collect();
    let Settings { dropout, use_rslora, .. } = *settings;
    let first = &modules[0];
    if modules.iter().all(|module| module.rank == first.rank && module.scaling.to_bits() == first.scaling.to_bits()) {
        let rank = first.rank as f64;
        let as_given = LoraConfig { rank: first.rank, alpha: settings.alpha, dropout, targets, use_rslora };
        if as_given.scaling().to_bits() == first.scaling.to_bits() {
            return as_given;
        }
        let alpha = first.scaling * if use_rslora { rank.sqrt() } else { rank };
        return LoraConfig { alpha, ..as_given };
    }
    let rank = modules.iter().map(|module| module.rank).max().unwrap_or(1);
    let scaling = modules.iter().map(|module| module.scaling).max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(1.0);
    let divisor = if use_rslora { (rank as f64).sqrt() } else { rank as f64 };
    LoraConfig { rank, alpha: scaling * divisor, dropout, targets, use_rslora }
}

fn lay_out(
    config: &LoraConfig,
    modules: &[Module],
    pairs: &[[Vec<f32>; 2]],
    model: &ModelConfig,
) -> Result<Adapter, String> {
    let layout = config.layout(model);
    let found: usize = pairs.iter().flatten().map(Vec::len).sum();
    if layout.len() > MAX_PADDED.max(MAX_GROWTH * found) {
        return Err(format!(
            "found {found} numbers of ranks up to {}, which become {} where all modules have that rank; expected less \
             different ranks",
            config.rank,
            layout.len()
        ));
    }
    let scaling = config.scaling();
    let mut values = vec![0.0; layout.len()];
    let targets: Vec<_> = config.targets.iter().copied().collect();
    for (module, [a, b]) in modules.iter().zip(pairs) {
        let place = targets.iter().position(|target| *target == module.target).unwrap_or(0);
        let index = 2 * (module.layer * targets.len() + place);
        let [to_a, to_b] = [&layout.tensors()[index], &layout.tensors()[index + 1]];
        values[to_a.range()][..a.len()].copy_from_slice(a);
        // 1 where the module has the common scaling, and then exact; also where both are 0.
        let is_common = module.scaling.to_bits() == scaling.to_bits() || scaling == 0.0;
        let factor = if is_common { 1.0 } else { module.scaling / scaling };
        let to_b = &mut values[to_b.range()];
        for (to, from) in to_b.chunks_exact_mut(config.rank).zip(b.chunks_exact(module.rank)) {
            for (to, from) in to.iter_mut().zip(from) {
                *to = (f64::from(*from) * factor) as f32;
            }
        }
    }
    Adapter::new(layout, values).map_err(|error| error.to_string())
}

fn widened(view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let data = view.data();
    Ok(match view.dtype() {
        Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => data.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect(),
        Dtype::BF16 => data.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect(),
        other => return Err(format!("found type {other:?}, allowed: F64, F32, F16, BF16")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_makes_are_those_of_peft() {
        let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
        for other in [
            name,
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "model.layers.0.self_attn.q_proj.lora_A.weight",
            "_orig_mod.base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
            "base_model.model._orig_mod.model.layers.0.self_attn.q_proj.lora_A.default.weight",
        ] {
            assert_eq!(canonical(other), name);
        }
    }
}
