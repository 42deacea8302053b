//! An adapter as tensors on a device, and the low-rank half of each linear layer, forward and backward.

use fedward_actors::protocol::Adapter;
use rand_chacha::{ChaCha8Rng, rand_core::Rng};
use tch::{Device, Kind, Tensor};

use super::{LoraConfig, Target};
use crate::model::{ModelConfig, ModelError, Result};

/// An adapter together with the configuration that gives it its meaning.
#[derive(Clone, Copy, Debug)]
pub struct LoraRef<'a> {
    /// Rank, scaling and targets.
    pub config: &'a LoraConfig,
    /// The values.
    pub adapter: &'a Adapter,
}

/// The base model's linear layers, fused where they read the same input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinearGroup {
    Qkv,
    Output,
    GateUp,
    Down,
}

impl LinearGroup {
    const ALL: [Self; 4] = [Self::Qkv, Self::Output, Self::GateUp, Self::Down];

    /// Its layers, in the order of the fused columns.
    const fn members(self) -> &'static [Target] {
        match self {
            Self::Qkv => &[Target::QProj, Target::KProj, Target::VProj],
            Self::Output => &[Target::OProj],
            Self::GateUp => &[Target::GateProj, Target::UpProj],
            Self::Down => &[Target::DownProj],
        }
    }
}

/// A whole adapter on a device, in the kind that the model computes in.
pub(crate) struct LoraTensors {
    layers: Vec<[Option<LoraLinear>; 4]>,
}

/// The adapters of one [`LinearGroup`] in one layer.
pub(crate) struct LoraLinear {
    /// The A of each part, one above the other.
    ///
    /// # Shapes
    ///
    /// `[parts × rank, inputs]`
    a: Tensor,
    /// # Shapes
    ///
    /// `[inputs, parts × rank]`
    a_transposed: Tensor,
    parts: Vec<LoraPart>,
    rank: i64,
    scaling: f64,
}

struct LoraPart {
    /// First of its columns in the fused output.
    column: i64,
    /// How many.
    outputs: i64,
    /// Scaled already.
    ///
    /// # Shapes
    ///
    /// `[outputs, rank]`
    b: Tensor,
    /// # Shapes
    ///
    /// `[rank, outputs]`
    b_transposed: Tensor,
    /// Where A begins in the adapter's flat buffer.
    a_offset: i64,
    /// Where B begins in the adapter's flat buffer.
    b_offset: i64,
}

/// What the backward pass of a [`LoraLinear`] needs.
pub(crate) struct LoraTape {
    /// # Shapes
    ///
    /// `[tokens, inputs]`
    input: Tensor,
    /// `A x` of each part side by side.
    ///
    /// # Shapes
    ///
    /// `[tokens, parts × rank]`
    reduced: Tensor,
    /// One a part: zero where dropped, else 1 / keep.
    ///
    /// # Shapes
    ///
    /// `[tokens, inputs]` each
    masks: Vec<Tensor>,
}

/// Draws which inputs of A are dropped, from a stream of its own.
#[derive(Clone)]
pub(crate) struct Dropout {
    rng: ChaCha8Rng,
    probability: f64,
}

impl Dropout {
    /// Drops with `probability`, rounded to a multiple of 1/65536.
    pub(crate) const fn new(rng: ChaCha8Rng, probability: f64) -> Self {
        Self { rng, probability }
    }

    fn mask(&mut self, shape: &[i64], kind: Kind, device: Device) -> Result<Tensor> {
        let threshold = (self.probability * 65536.0).round() as u32;
        let kept = (1.0 / (1.0 - self.probability)) as f32;
        if device != Device::Cpu {
            let mask = hashed(self.rng.next_u64(), shape, device)?.f_ge(i64::from(threshold))?;
            return Ok(mask.f_to_kind(kind)?.f_mul_scalar_(f64::from(kept))?);
        }
        let count = shape.iter().product::<i64>() as usize;
        let mut values = Vec::with_capacity(count + 3);
        while values.len() < count {
            let draw = self.rng.next_u64();
            for shift in [0, 16, 32, 48] {
                let sixteen = (draw >> shift) as u32 & 0xffff;
                values.push(if sixteen < threshold { 0.0 } else { kept });
            }
        }
        Ok(Tensor::f_from_slice(&values[..count])?.f_view(shape)?.f_to_device(device)?.f_to_kind(kind)?)
    }
}

/// Sixteen bits for each element, from a seed and the element's place: a device makes them itself, instead of waiting for
/// what one thread draws. The finalizer of `MurmurHash3` (Appleby, 2008), between two halves of the seed.
fn hashed(seed: u64, shape: &[i64], device: Device) -> Result<Tensor> {
    // Scalars of 32 bits; products wrap around.
    let scalar = |bits: u32| i64::from(bits.cast_signed());
    let shifted = |x: &Tensor, by: i64| -> Result<Tensor> {
        // The shift copies the sign, which a number without one does not have.
        Ok(x.f_bitwise_right_shift_tensor_scalar(by)?.f_bitwise_and_(scalar(u32::MAX >> by))?)
    };
    let count = shape.iter().product::<i64>();
    if i32::try_from(count).is_err() {
        let problem = format!("dropout cannot mask {count} inputs at once; lower training.pass_tokens");
        return Err(ModelError::Unusable(problem));
    }
    let mut x = Tensor::f_arange(count, (Kind::Int, device))?;
    x = x.f_mul_scalar_(scalar(0x9E37_79B9))?.f_add_scalar_(scalar(seed as u32))?;
    for (shift, factor) in [(16, 0x85EB_CA6B), (13, 0xC2B2_AE35)] {
        let high = shifted(&x, shift)?;
        x = x.f_bitwise_xor_tensor_(&high)?.f_mul_scalar_(scalar(factor))?;
        x = x.f_add_scalar_(scalar((seed >> 32) as u32))?;
    }
    let high = shifted(&x, 16)?;
    Ok(x.f_bitwise_xor_tensor_(&high)?.f_bitwise_and_(0xffff)?.f_view(shape)?)
}

impl LoraTensors {
    /// Puts the values of `lora` on `device`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] if the adapter's layout is not that of the configuration and model.
    pub(crate) fn from_adapter(lora: LoraRef, model: &ModelConfig, device: Device, kind: Kind) -> Result<Self> {
        check_layout(lora.config, lora.adapter, model)?;
        let flat = Tensor::f_from_slice(lora.adapter.values())?.f_to_device(device)?;
        Self::from_flat(&flat, lora.config, model, kind)
    }

    /// Cuts a flat buffer in layout order into tensors.
    ///
    /// # Shapes
    ///
    /// `flat`: `[layout.len()]`
    pub(crate) fn from_flat(flat: &Tensor, config: &LoraConfig, model: &ModelConfig, kind: Kind) -> Result<Self> {
        // All values at once: a GPU takes as long for one tensor as for all of them.
        let flat = Rounded { a: flat.f_to_kind(kind)?, b: flat.f_mul_scalar(config.scaling())?.f_to_kind(kind)? };
        let rank = config.rank as i64;
        let mut offset = 0;
        let mut layers = Vec::with_capacity(model.num_hidden_layers);
        for _ in 0..model.num_hidden_layers {
            let mut groups = [const { None }; 4];
            // Targets sort in forward order, so a group's parts are neighbours in the buffer.
            for (group, slot) in LinearGroup::ALL.into_iter().zip(&mut groups) {
                *slot = LoraLinear::cut(group, &flat, &mut offset, config, model, rank)?;
            }
            layers.push(groups);
        }
        Ok(Self { layers })
    }

    /// The adapters of one group, if it has any.
    pub(crate) fn linear(&self, layer: usize, group: LinearGroup) -> Option<&LoraLinear> {
        self.layers[layer][group as usize].as_ref()
    }

    /// Whether the attention half of a layer has adapters.
    pub(crate) fn adapts_attention(&self, layer: usize) -> bool {
        [LinearGroup::Qkv, LinearGroup::Output].into_iter().any(|group| self.linear(layer, group).is_some())
    }
}

/// Checks that an adapter has the layout that a configuration gives it on a model.
pub(crate) fn check_layout(config: &LoraConfig, adapter: &Adapter, model: &ModelConfig) -> Result<()> {
    match config.layout(model).first_difference(adapter.layout()) {
        None => Ok(()),
        Some(difference) => {
            Err(ModelError::Unusable(format!("the adapter does not fit the model and its LoRA settings: {difference}")))
        }
    }
}

/// A flat buffer in the kind that is computed in: as it is, for its As, and times the adapter's scaling, for its Bs.
///
/// # Shapes
///
/// `[layout.len()]` each
struct Rounded {
    a: Tensor,
    b: Tensor,
}

impl LoraLinear {
    fn cut(
        group: LinearGroup,
        flat: &Rounded,
        offset: &mut i64,
        config: &LoraConfig,
        model: &ModelConfig,
        rank: i64,
    ) -> Result<Option<Self>> {
        let scaling = config.scaling();
        let (mut a, mut parts, mut column) = (Vec::new(), Vec::new(), 0);
        for &target in group.members() {
            let (inputs, outputs) = target.widths(model);
            if config.targets.contains(&target) {
                let (a_offset, b_offset) = (*offset, *offset + rank * inputs);
                *offset = b_offset + outputs * rank;
                a.push(piece(&flat.a, a_offset, [rank, inputs])?);
                let b = piece(&flat.b, b_offset, [outputs, rank])?;
                parts.push(LoraPart { column, outputs, b_transposed: b.f_tr()?, b, a_offset, b_offset });
            }
            column += outputs;
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let a = Tensor::f_cat(&a, 0)?;
        Ok(Some(Self { a_transposed: a.f_tr()?, a, parts, rank, scaling }))
    }

    fn part_a(&self, index: usize) -> Result<Tensor> {
        Ok(self.a.f_narrow(0, index as i64 * self.rank, self.rank)?)
    }

    /// Adds `scaling · B A x` to `output` in place.
    ///
    /// # Shapes
    ///
    /// `input`: `[tokens, inputs]`, `output`: `[tokens, fused outputs]`.
    pub(crate) fn add_to(&self, input: &Tensor, output: &Tensor, dropout: Option<&mut Dropout>) -> Result<LoraTape> {
        let mut masks = Vec::new();
        let reduced = match dropout {
            None => input.f_mm(&self.a_transposed)?,
            Some(dropout) => {
                let mut reduced = Vec::with_capacity(self.parts.len());
                for index in 0..self.parts.len() {
                    let mask = dropout.mask(&input.size(), input.kind(), input.device())?;
                    reduced.push(input.f_mul(&mask)?.f_mm(&self.part_a(index)?.f_tr()?)?);
                    masks.push(mask);
                }
                Tensor::f_cat(&reduced, 1)?
            }
        };
        for (index, part) in self.parts.iter().enumerate() {
            let reduced = reduced.f_narrow(1, index as i64 * self.rank, self.rank)?;
            let _ = output.f_narrow(1, part.column, part.outputs)?.f_addmm_(&reduced, &part.b_transposed)?;
        }
        Ok(LoraTape { input: input.shallow_clone(), reduced, masks })
    }

    /// Adds the gradients of A and B to the flat `grads`, and that of the input to `grad_input` where one is wanted.
    ///
    /// # Shapes
    ///
    /// `grad_output`: `[tokens, fused outputs]`, `grad_input`: `[tokens, inputs]`, `grads`: `[layout.len()]`.
    pub(crate) fn backward(
        &self,
        tape: &LoraTape,
        grad_output: &Tensor,
        grad_input: Option<&mut Tensor>,
        grads: &Tensor,
    ) -> Result<()> {
        let mut grad_reduced = Vec::with_capacity(self.parts.len());
        for (index, part) in self.parts.iter().enumerate() {
            let grad_output = grad_output.f_narrow(1, part.column, part.outputs)?;
            let reduced = tape.reduced.f_narrow(1, index as i64 * self.rank, self.rank)?;
            // Transposed on purpose: the product with the narrow matrix on the left is the faster one.
            let grad_b = reduced.f_tr()?.f_mm(&grad_output)?.f_mul_scalar_(self.scaling)?;
            accumulate(grads, part.b_offset, &grad_b.f_tr()?)?;
            grad_reduced.push(grad_output.f_mm(&part.b)?);
        }
        if tape.masks.is_empty() {
            self.backward_fused(tape, &grad_reduced, grad_input, grads)
        } else {
            self.backward_masked(tape, &grad_reduced, grad_input, grads)
        }
    }

    fn backward_fused(
        &self,
        tape: &LoraTape,
        grad_reduced: &[Tensor],
        grad_input: Option<&mut Tensor>,
        grads: &Tensor,
    ) -> Result<()> {
        let grad_reduced = Tensor::f_cat(grad_reduced, 1)?;
        let grad_a = grad_reduced.f_tr()?.f_mm(&tape.input)?;
        for (index, part) in self.parts.iter().enumerate() {
            accumulate(grads, part.a_offset, &grad_a.f_narrow(0, index as i64 * self.rank, self.rank)?)?;
        }
        if let Some(grad_input) = grad_input {
            let _ = grad_input.f_addmm_(&grad_reduced, &self.a)?;
        }
        Ok(())
    }

    fn backward_masked(
        &self,
        tape: &LoraTape,
        grad_reduced: &[Tensor],
        mut grad_input: Option<&mut Tensor>,
        grads: &Tensor,
    ) -> Result<()> {
        for (index, (part, mask)) in self.parts.iter().zip(&tape.masks).enumerate() {
            let grad_a = grad_reduced[index].f_tr()?.f_mm(&tape.input.f_mul(mask)?)?;
            accumulate(grads, part.a_offset, &grad_a)?;
            if let Some(grad_input) = grad_input.as_deref_mut() {
                let _ = grad_input.f_addcmul_(&grad_reduced[index].f_mm(&self.part_a(index)?)?, mask)?;
            }
        }
        Ok(())
    }
}

/// Adds a matrix to its place in a flat buffer.
fn accumulate(flat: &Tensor, offset: i64, matrix: &Tensor) -> Result<()> {
    let (rows, columns) = matrix.size2()?;
    let _ = piece(flat, offset, [rows, columns])?.f_add_(matrix)?;
    Ok(())
}

/// A matrix in a flat buffer, which is no part of a larger one.
fn piece(flat: &Tensor, offset: i64, [rows, columns]: [i64; 2]) -> Result<Tensor> {
    Ok(flat.f_as_strided([rows, columns], [columns, 1], offset)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(seed: u64) -> Vec<i64> {
        Vec::try_from(hashed(seed, &[300, 400], Device::Cpu).unwrap().to_kind(Kind::Int64).reshape([-1])).unwrap()
    }

    #[test]
    fn hashed_bits_are_spread_evenly_and_belong_to_their_seed() {
        let (first, again, other) = (bits(7), bits(7), bits(7 << 32));
        assert_eq!(first, again);
        for seed in [&first, &other] {
            assert!(seed.iter().all(|&bits| (0..65536).contains(&bits)));
            for threshold in [655, 6554, 32768, 58982] {
                let share = seed.iter().filter(|&&bits| bits < threshold).count() as f64 / seed.len() as f64;
                // Four standard deviations of 120,000 draws.
                assert!((share - threshold as f64 / 65536.0).abs() < 4.0 * 0.5 / 120_000_f64.sqrt(), "{share}");
            }
        }
        // What neighbours, lines and seeds do says nothing of one another: half of the pairs are on the same side.
        let agree = |left: &[i64], right: &[i64]| {
            let same = left.iter().zip(right).filter(|(left, right)| (**left < 32768) == (**right < 32768)).count();
            same as f64 / left.len().min(right.len()) as f64
        };
        for share in [agree(&first, &other), agree(&first, &first[1..]), agree(&first, &first[400..])] {
            assert!((share - 0.5).abs() < 0.01, "{share}");
        }
    }
}
