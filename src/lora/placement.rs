//! Where the matrices of an adapter lie in its flat buffer, as its layout says.

use fedward_actors::protocol::{AdapterLayout, AdapterTensor};

use super::Target;
use crate::model::{ModelConfig, ModelError, Result};

/// What comes before the layer's number in the name of a tensor.
const LAYERS: &str = "base_model.model.model.layers.";

/// The matrices of each adapted layer, in the order of layers and targets.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placement {
    layers: Vec<[Option<Pair>; Target::ALL.len()]>,
    scaling: f64,
}

/// A and B of one linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) rank: i64,
    /// Where A begins in the flat buffer.
    pub(super) a_offset: i64,
    /// Where B begins in it.
    pub(super) b_offset: i64,
}

impl Placement {
    /// Reads a layout: each A is followed by its B, and both are as large as the model's layer asks for.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] names the first tensor that does not fit the model.
    pub(crate) fn of(layout: &AdapterLayout, model: &ModelConfig) -> Result<Self> {
        let mut layers = vec![[None; Target::ALL.len()]; model.num_hidden_layers];
        let mut tensors = layout.tensors().iter();
        while let Some(a) = tensors.next() {
            let (layer, target) = module(&a.name, ".lora_A.weight").ok_or_else(|| misfit(a, "no A of a layer"))?;
            let place = layers.get_mut(layer).map(|layer| &mut layer[target as usize]);
            let place = place.ok_or_else(|| misfit(a, "a layer that the model does not have"))?;
            let b = tensors.next().ok_or_else(|| misfit(a, "no B behind it"))?;
            if module(&b.name, ".lora_B.weight") != Some((layer, target)) {
                return Err(misfit(a, &format!("{} behind it, expected its B", b.name)));
            }
            let (inputs, outputs) = target.widths(model);
            let rank = a.shape[0];
            for (tensor, expected) in [(a, [rank, inputs as usize]), (b, [outputs as usize, rank])] {
                if tensor.shape != expected {
                    return Err(misfit(tensor, &format!("shape {:?}, expected {expected:?}", tensor.shape)));
                }
            }
            let pair = Pair { rank: rank as i64, a_offset: a.offset as i64, b_offset: b.offset as i64 };
            if place.replace(pair).is_some() {
                return Err(misfit(a, "the same tensor twice"));
            }
        }
        Ok(Self { layers, scaling: layout.scaling() })
    }

    /// What `B A` is multiplied by.
    pub(super) const fn scaling(&self) -> f64 {
        self.scaling
    }

    /// The layers, first to last.
    pub(super) fn layers(&self) -> &[[Option<Pair>; Target::ALL.len()]] {
        &self.layers
    }
}

fn misfit(tensor: &AdapterTensor, found: &str) -> ModelError {
    ModelError::Unusable(format!("the adapter does not fit the model: tensor {}: found {found}", tensor.name))
}

/// The layer and the target of a tensor of this name.
fn module(name: &str, end: &str) -> Option<(usize, Target)> {
    let (layer, module) = name.strip_prefix(LAYERS)?.strip_suffix(end)?.split_once('.')?;
    let (block, target) = module.split_once('.')?;
    let target: Target = target.parse().ok()?;
    (target.block() == block).then_some((layer.parse().ok()?, target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lora::LoraConfig, model::Design};

    fn model() -> ModelConfig {
        ModelConfig {
            vocab_size: 32,
            hidden_size: 8,
            intermediate_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            head_dim: 4,
            rms_norm_eps: 1e-5,
            rope_theta: 1e4,
            rope_scaling: None,
            max_position_embeddings: 64,
            tie_word_embeddings: true,
            design: Design::LLAMA,
        }
    }

    fn layout(change: impl Fn(usize, &mut (String, [usize; 2]))) -> AdapterLayout {
        let targets = [Target::QProj, Target::DownProj].into();
        let config = LoraConfig { rank: 3, alpha: 6.0, dropout: 0.0, targets, use_rslora: false };
        let tensors = config.layout(&model()).tensors().to_vec();
        let mut tensors: Vec<_> = tensors.into_iter().map(|tensor| (tensor.name, tensor.shape)).collect();
        for (index, tensor) in tensors.iter_mut().enumerate() {
            change(index, tensor);
        }
        AdapterLayout::new(tensors).with_scaling(2.0)
    }

    #[test]
    fn a_layout_says_where_everything_lies_whatever_the_ranks() {
        let found = Placement::of(&layout(|_, _| {}), &model()).unwrap();
        let down = found.layers()[1][Target::DownProj as usize].unwrap();
        // Before it: one layer of q (3 × 8, 8 × 3) and down (3 × 12, 8 × 3), and q once more.
        assert_eq!(down, Pair { rank: 3, a_offset: 48 + 60 + 48, b_offset: 48 + 60 + 48 + 36 });
        assert_eq!((found.scaling().to_bits(), found.layers()[0][Target::KProj as usize]), (2.0_f64.to_bits(), None));
        let other = layout(|index, tensor| match index {
            0 => tensor.1 = [5, 8],
            1 => tensor.1 = [8, 5],
            _ => {}
        });
        assert_eq!(Placement::of(&other, &model()).unwrap().layers()[0][0].unwrap().rank, 5);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let problem = |change: fn(usize, &mut (String, [usize; 2]))| {
            Placement::of(&layout(change), &model()).unwrap_err().to_string()
        };
        let q = "base_model.model.model.layers.0.self_attn.q_proj";
        let begin = format!("the adapter does not fit the model: tensor {q}");
        let found = problem(|index, tensor| {
            if index == 1 {
                tensor.1 = [8, 4];
            }
        });
        assert_eq!(found, format!("{begin}.lora_B.weight: found shape [8, 4], expected [8, 3]"));
        let found = problem(|index, tensor| {
            if index == 1 {
                tensor.0 = tensor.0.replace("q_proj", "k_proj");
            }
        });
        assert!(found.ends_with("k_proj.lora_B.weight behind it, expected its B"), "{found}");
        let found = problem(|_, tensor| tensor.0 = tensor.0.replace("layers.1", "layers.9"));
        assert!(found.ends_with("layers.9.self_attn.q_proj.lora_A.weight: found a layer that the model does not have"));
        let found = problem(|_, tensor| tensor.0 = tensor.0.replace("layers.1", "layers.0"));
        assert_eq!(found, format!("{begin}.lora_A.weight: found the same tensor twice"));
        let found = problem(|_, tensor| tensor.0 = tensor.0.replace("self_attn", "mlp"));
        assert!(found.ends_with("mlp.q_proj.lora_A.weight: found no A of a layer"), "{found}");
    }
}
