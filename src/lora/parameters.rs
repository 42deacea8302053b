//! An adapter as tensors on a device, and the low-rank half of each linear layer, forward and backward.

use std::sync::Arc;

use fedward_actors::protocol::{Adapter, GlobalModel};
use tch::{Device, Kind, Tensor};

use super::{
    Dropout, Target,
    placement::{Pair, Placement},
    stack::{misfit, stack},
};
use crate::model::{ModelConfig, Result};

/// An adapter, on top of what is frozen beneath it: each term says by its layout where it belongs and how it is scaled.
#[derive(Clone, Copy, Debug)]
pub struct LoraRef<'a> {
    /// What is not trained.
    pub frozen: &'a [Arc<Adapter>],
    /// What may be.
    pub trainable: &'a Adapter,
}

impl<'a> From<&'a Adapter> for LoraRef<'a> {
    fn from(trainable: &'a Adapter) -> Self {
        Self { frozen: &[], trainable }
    }
}

impl<'a> From<&'a GlobalModel> for LoraRef<'a> {
    fn from(model: &'a GlobalModel) -> Self {
        Self { frozen: model.frozen(), trainable: model.trainable() }
    }
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

/// A whole adapter on a device, in the kind that the model computes in, with what is frozen beneath it.
pub(crate) struct LoraTensors {
    layers: Vec<[Option<LoraLinear>; 4]>,
}

/// The adapters of one [`LinearGroup`] in one layer.
pub(crate) struct LoraLinear {
    /// The A of each part, one above the other.
    ///
    /// # Shapes
    ///
    /// `[ranks of all parts, inputs]`
    a: Tensor,
    /// # Shapes
    ///
    /// `[inputs, ranks of all parts]`
    a_transposed: Tensor,
    parts: Vec<LoraPart>,
    scaling: f64,
    /// What is added beneath, and not trained.
    frozen: Option<Box<Self>>,
}

struct LoraPart {
    /// First of its rows in A of the group.
    row: i64,
    rank: i64,
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
    /// `[tokens, ranks of all parts]`
    reduced: Tensor,
    /// One a part: zero where dropped, else 1 / keep.
    ///
    /// # Shapes
    ///
    /// `[tokens, inputs]` each
    masks: Vec<Tensor>,
}

/// Frozen terms on a device: one stack of all of them.
pub(crate) struct FrozenTerms(LoraTensors);

impl FrozenTerms {
    /// Puts the frozen terms of `lora` on `device`; `None` if there are none.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`](crate::model::ModelError::Unusable) if one does not fit the model, or adapts a layer that the trainable adapter does not.
    pub(crate) fn of(lora: LoraRef, model: &ModelConfig, device: Device, kind: Kind) -> Result<Option<Self>> {
        if lora.frozen.is_empty() {
            return Ok(None);
        }
        let terms: Vec<&Adapter> = lora.frozen.iter().map(AsRef::as_ref).collect();
        let stacked = stack(&terms)?;
        let names =
            |adapter: &Adapter| adapter.layout().tensors().iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>();
        if names(&stacked) != names(lora.trainable) {
            return Err(misfit());
        }
        let placement = Placement::of(stacked.layout(), model)?;
        let flat = Tensor::f_from_slice(stacked.values())?.f_to_device(device)?;
        Ok(Some(Self(LoraTensors::from_flat(&flat, &placement, model, kind, None)?)))
    }
}

impl LoraTensors {
    /// Puts the values of `lora` on `device`.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`](crate::model::ModelError::Unusable) if the adapter's layout does not fit the model.
    pub(crate) fn from_adapter(lora: LoraRef, model: &ModelConfig, device: Device, kind: Kind) -> Result<Self> {
        let placement = Placement::of(lora.trainable.layout(), model)?;
        let frozen = FrozenTerms::of(lora, model, device, kind)?;
        let flat = Tensor::f_from_slice(lora.trainable.values())?.f_to_device(device)?;
        Self::from_flat(&flat, &placement, model, kind, frozen.as_ref())
    }

    /// Cuts a flat buffer into tensors, and puts them on top of what is frozen.
    ///
    /// # Shapes
    ///
    /// `flat`: `[layout.len()]`
    pub(crate) fn from_flat(
        flat: &Tensor,
        placement: &Placement,
        model: &ModelConfig,
        kind: Kind,
        frozen: Option<&FrozenTerms>,
    ) -> Result<Self> {
        // All values at once: a GPU takes as long for one tensor as for all of them.
        let scaling = placement.scaling();
        let flat = Rounded { a: flat.f_to_kind(kind)?, b: flat.f_mul_scalar(scaling)?.f_to_kind(kind)?, scaling };
        let mut layers = Vec::with_capacity(model.num_hidden_layers);
        for (index, pairs) in placement.layers().iter().enumerate() {
            let mut groups = [const { None }; 4];
            for (group, slot) in LinearGroup::ALL.into_iter().zip(&mut groups) {
                let beneath = frozen.and_then(|frozen| frozen.0.linear(index, group)).map(LoraLinear::share);
                *slot = LoraLinear::cut(group, &flat, pairs, model, beneath)?;
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

/// A flat buffer in the kind that is computed in: as it is, for its As, and times the adapter's scaling, for its Bs.
///
/// # Shapes
///
/// `[layout.len()]` each
struct Rounded {
    a: Tensor,
    b: Tensor,
    scaling: f64,
}

impl LoraLinear {
    fn cut(
        group: LinearGroup,
        flat: &Rounded,
        pairs: &[Option<Pair>; Target::ALL.len()],
        model: &ModelConfig,
        frozen: Option<Self>,
    ) -> Result<Option<Self>> {
        let (mut a, mut parts, mut column, mut row) = (Vec::new(), Vec::new(), 0, 0);
        for &target in group.members() {
            let (inputs, outputs) = target.widths(model);
            if let Some(Pair { rank, a_offset, b_offset }) = pairs[target as usize] {
                a.push(piece(&flat.a, a_offset, [rank, inputs])?);
                let b = piece(&flat.b, b_offset, [outputs, rank])?;
                parts.push(LoraPart { row, rank, column, outputs, b_transposed: b.f_tr()?, b, a_offset, b_offset });
                row += rank;
            }
            column += outputs;
        }
        if parts.is_empty() {
            return Ok(None);
        }
        let a = Tensor::f_cat(&a, 0)?;
        Ok(Some(Self { a_transposed: a.f_tr()?, a, parts, scaling: flat.scaling, frozen: frozen.map(Box::new) }))
    }

    /// The same tensors once more, which costs no memory.
    fn share(&self) -> Self {
        let share = |part: &LoraPart| LoraPart {
            b: part.b.shallow_clone(),
            b_transposed: part.b_transposed.shallow_clone(),
            ..*part
        };
        Self {
            a: self.a.shallow_clone(),
            a_transposed: self.a_transposed.shallow_clone(),
            parts: self.parts.iter().map(share).collect(),
            scaling: self.scaling,
            frozen: self.frozen.as_ref().map(|frozen| Box::new(frozen.share())),
        }
    }

    fn part_a(&self, part: &LoraPart) -> Result<Tensor> {
        Ok(self.a.f_narrow(0, part.row, part.rank)?)
    }

    /// Adds what is frozen beneath, if anything is.
    fn add_frozen_to(&self, input: &Tensor, output: &Tensor) -> Result<()> {
        let Some(frozen) = &self.frozen else { return Ok(()) };
        frozen.expand_into(&input.f_mm(&frozen.a_transposed)?, output)
    }

    /// Adds `scaling · B` times what A made of the input.
    ///
    /// # Shapes
    ///
    /// `reduced`: `[tokens, ranks of all parts]`, `output`: `[tokens, fused outputs]`.
    fn expand_into(&self, reduced: &Tensor, output: &Tensor) -> Result<()> {
        for part in &self.parts {
            let reduced = reduced.f_narrow(1, part.row, part.rank)?;
            let _ = output.f_narrow(1, part.column, part.outputs)?.f_addmm_(&reduced, &part.b_transposed)?;
        }
        Ok(())
    }

    /// Adds the gradient of the input that comes through what is frozen beneath.
    fn add_frozen_gradient(&self, grad_output: &Tensor, grad_input: &mut Tensor) -> Result<()> {
        let Some(frozen) = &self.frozen else { return Ok(()) };
        let through = |part: &LoraPart| Ok(grad_output.f_narrow(1, part.column, part.outputs)?.f_mm(&part.b)?);
        let reduced = frozen.parts.iter().map(through).collect::<Result<Vec<_>>>()?;
        let _ = grad_input.f_addmm_(&Tensor::f_cat(&reduced, 1)?, &frozen.a)?;
        Ok(())
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
                for part in &self.parts {
                    let mask = dropout.mask(&input.size(), input.kind(), input.device())?;
                    reduced.push(input.f_mul(&mask)?.f_mm(&self.part_a(part)?.f_tr()?)?);
                    masks.push(mask);
                }
                Tensor::f_cat(&reduced, 1)?
            }
        };
        self.expand_into(&reduced, output)?;
        self.add_frozen_to(input, output)?;
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
        mut grad_input: Option<&mut Tensor>,
        grads: &Tensor,
    ) -> Result<()> {
        if let Some(grad_input) = grad_input.as_deref_mut() {
            self.add_frozen_gradient(grad_output, grad_input)?;
        }
        let mut grad_reduced = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let grad_output = grad_output.f_narrow(1, part.column, part.outputs)?;
            let reduced = tape.reduced.f_narrow(1, part.row, part.rank)?;
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
        for part in &self.parts {
            accumulate(grads, part.a_offset, &grad_a.f_narrow(0, part.row, part.rank)?)?;
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
                let _ = grad_input.f_addcmul_(&grad_reduced[index].f_mm(&self.part_a(part)?)?, mask)?;
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
