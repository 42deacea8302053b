//! An adapter in training: gradients of any loss of row likelihoods, clipping, AdamW.

use std::sync::Arc;

use fedward_actors::{
    CancelFlag,
    protocol::{Adapter, AdapterLayout},
};
use rand_chacha::ChaCha8Rng;
use tch::{Kind, Tensor};

use super::optimizer::{AdamSettings, AdamW};
use crate::{
    lora::{Dropout, FrozenTerms, LoraRef, LoraTensors, Placement},
    model::{
        BaseModel, ModelError, Predictions, ResponseLoss, Result, RowScore, TokenizedRow, scoring::row_scores,
        transformer::Transformer,
    },
};

/// How steps are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainerSettings {
    /// AdamW's constants.
    pub adam: AdamSettings,
    /// Longest gradient; longer ones are scaled down to it.
    pub max_grad_norm: Option<f64>,
    /// Compute the tokens that all rows of a pass begin with only once. The gradient stays the same but for rounding;
    /// with dropout the option has no effect, since each row then draws its own.
    pub share_prefix: bool,
    /// Keep only what enters each layer, and compute the layer once more for its backward pass: the same gradient with
    /// less memory and a third more work.
    pub checkpoint_activations: bool,
}

impl Default for TrainerSettings {
    fn default() -> Self {
        Self { adam: AdamSettings::default(), max_grad_norm: None, share_prefix: true, checkpoint_activations: false }
    }
}

/// An adapter in training on one thread.
pub struct AdapterTrainer<'a> {
    transformer: Transformer<'a>,
    settings: TrainerSettings,
    layout: Arc<AdapterLayout>,
    placement: Placement,
    frozen: Option<FrozenTerms>,
    /// # Shapes
    ///
    /// `[layout.len()]`, as all flat buffers here.
    values: Tensor,
    grads: Tensor,
    optimizer: AdamW,
    dropout: Option<Dropout>,
}

impl<'a> AdapterTrainer<'a> {
    /// Starts from `start`, of which the frozen terms stay; the share `dropout` of A's inputs is zeroed, which ones `rng` says.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] if the adapter does not fit the model.
    pub fn new<'s>(
        model: &'a BaseModel,
        start: impl Into<LoraRef<'s>>,
        settings: TrainerSettings,
        dropout: f64,
        rng: ChaCha8Rng,
        cancel: &'a CancelFlag,
    ) -> Result<Self> {
        let _no_autograd = fedward_native::no_autograd();
        let start: LoraRef<'_> = start.into();
        if !(0.0..1.0).contains(&dropout) {
            return Err(ModelError::Unusable(format!("dropout is {dropout}; it must lie in 0..1")));
        }
        let values = Tensor::f_from_slice(start.trainable.values())?.f_to_device(model.device())?;
        Ok(Self {
            placement: Placement::of(start.trainable.layout(), model.config())?,
            frozen: FrozenTerms::of(start, model.config(), model.device(), model.kind())?,
            transformer: Transformer::new(model, None, cancel)?,
            settings,
            layout: Arc::clone(start.trainable.layout()),
            grads: values.f_zeros_like()?,
            optimizer: AdamW::new(&values, settings.adam)?,
            values,
            dropout: (dropout > 0.0).then(|| Dropout::new(rng, dropout)),
        })
    }

    /// Adds the gradient of a loss of these rows to what [`AdapterTrainer::step`] will use.
    ///
    /// The loss is any function of the rows' log-likelihoods: `weights_of` is shown them and answers, for each row, the
    /// derivative of the loss with respect to the *negative* log-likelihood. Rows of one call are computed in one pass;
    /// memory grows with their tokens.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] for rows that the model cannot take; [`ModelError::Cancelled`] soon after the flag was
    /// raised.
    pub fn accumulate(
        &mut self,
        rows: &[&TokenizedRow],
        weights_of: &mut dyn FnMut(&[RowScore]) -> Vec<f64>,
    ) -> Result<Vec<RowScore>> {
        let _no_autograd = fedward_native::no_autograd();
        let shares_prefix = self.shares_prefix();
        let model = &mut self.transformer;
        model.check_rows(rows.iter().map(|row| row.ids.as_slice()))?;
        if model.lora.is_none() {
            let frozen = self.frozen.as_ref();
            model.lora = Some(LoraTensors::from_flat(&self.values, &self.placement, model.config, model.kind, frozen)?);
        }
        let ids: Vec<&[u32]> = rows.iter().map(|row| row.ids.as_slice()).collect();
        let packed = model.pack(&ids, shares_prefix)?;
        let predictions = Predictions::new(&packed, rows)?;
        let checkpoints = self.settings.checkpoint_activations;
        let (hidden, tape) = model.forward_taped(&packed, self.dropout.as_mut(), checkpoints)?;
        let loss = ResponseLoss::new(model, &hidden, &predictions, true)?;
        let scores = row_scores(&loss.losses, predictions.counts());
        let mut weights = Vec::with_capacity(loss.losses.len());
        for (weight, score) in weights_of(&scores).into_iter().zip(&scores) {
            weights.resize(weights.len() + score.response_tokens, weight as f32);
        }
        let grad = loss.backward(model, &hidden, &predictions, &weights)?;
        model.backward(&packed, tape, grad, &self.grads)?;
        Ok(scores)
    }

    /// Tokens at the begin of `rows` that a pass over them, or over some of them, computes once.
    pub(crate) fn counted_once(&self, rows: &[&[u32]]) -> usize {
        if self.shares_prefix() { self.transformer.counted_once(rows) } else { 0 }
    }

    const fn shares_prefix(&self) -> bool {
        self.settings.share_prefix && self.dropout.is_none()
    }

    /// The layout of the adapter.
    pub fn layout(&self) -> &AdapterLayout {
        &self.layout
    }

    /// The gradient so far, for algorithms that correct it in place.
    ///
    /// # Shapes
    ///
    /// `[layout.len()]`
    pub fn grads_mut(&mut self) -> &mut Tensor {
        &mut self.grads
    }

    /// The adapter's values, for algorithms that correct them in place between steps.
    ///
    /// # Shapes
    ///
    /// `[layout.len()]`
    pub fn values_mut(&mut self) -> &mut Tensor {
        self.transformer.lora = None;
        &mut self.values
    }

    /// Takes one step along the accumulated gradient and forgets it. Returns its norm before clipping.
    ///
    /// # Errors
    ///
    /// [`ModelError::Unusable`] if the gradient is not finite.
    pub fn step(&mut self, learning_rate: f64) -> Result<f64> {
        let _no_autograd = fedward_native::no_autograd();
        let norm = self.grads.f_norm()?.f_to_kind(Kind::Double)?.f_double_value(&[])?;
        if !norm.is_finite() {
            return Err(ModelError::Unusable(
                "the gradient is not finite; lower the learning rate or check the adapter and the rows".into(),
            ));
        }
        if let Some(longest) = self.settings.max_grad_norm {
            // torch.nn.utils.clip_grad_norm_ adds the same small number.
            let factor = longest / (norm + 1e-6);
            if factor < 1.0 {
                let _ = self.grads.f_mul_scalar_(factor)?;
            }
        }
        self.transformer.lora = None;
        self.optimizer.step(&mut self.values, &self.grads, learning_rate)?;
        let _ = self.grads.f_zero_()?;
        Ok(norm)
    }

    /// The gradient so far, on the CPU, in the adapter's layout.
    ///
    /// # Errors
    ///
    /// [`ModelError::Torch`] if the device fails.
    pub fn gradient(&self) -> Result<Adapter> {
        self.to_adapter(&self.grads)
    }

    /// The adapter as it stands.
    ///
    /// # Errors
    ///
    /// [`ModelError::Torch`] if the device fails.
    pub fn adapter(&self) -> Result<Adapter> {
        self.to_adapter(&self.values)
    }

    fn to_adapter(&self, flat: &Tensor) -> Result<Adapter> {
        let values = Vec::<f32>::try_from(flat)?;
        Adapter::new(Arc::clone(&self.layout), values).map_err(|error| ModelError::Unusable(error.to_string()))
    }
}
