//! The output head and the loss, on response tokens alone and a few at a time.

use fedward_native::kernels;
use tch::{Kind, Tensor};

use super::{
    PackedRows, Portions, Result, TokenizedRow,
    norm::{NormTape, norm_backward},
    transformer::Transformer,
};

/// Which hidden states predict which tokens.
pub(crate) struct Predictions {
    /// Where each predicting hidden state lies on the packed axis.
    ///
    /// # Shapes
    ///
    /// `[predictions]`
    indices: Tensor,
    /// # Shapes
    ///
    /// `[predictions]`
    targets: Tensor,
    /// How many predictions each row has.
    counts: Vec<usize>,
}

impl Predictions {
    /// The response tokens of rows packed in this order. Nothing predicts a row's first token.
    pub(crate) fn new(packed: &PackedRows, rows: &[&TokenizedRow]) -> Result<Self> {
        let (mut indices, mut targets, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (number, row) in rows.iter().enumerate() {
            let first = row.response_start.max(1);
            for (position, &id) in row.ids.iter().enumerate().skip(first) {
                indices.push(packed.index(number, position - 1));
                targets.push(i64::from(id));
            }
            counts.push(row.ids.len().saturating_sub(first));
        }
        let device = packed.ids.device();
        Ok(Self {
            indices: Tensor::f_from_slice(&indices)?.f_to_device(device)?,
            targets: Tensor::f_from_slice(&targets)?.f_to_device(device)?,
            counts,
        })
    }

    /// How many predictions each row has.
    pub(crate) fn counts(&self) -> &[usize] {
        &self.counts
    }
}

/// Negative log-likelihoods of predicted tokens, and on demand what their gradient needs.
pub(crate) struct ResponseLoss {
    /// In nats, in the order of the predictions.
    pub(crate) losses: Vec<f32>,
    gradient: Option<(Tensor, NormTape)>,
}

impl ResponseLoss {
    /// # Shapes
    ///
    /// `hidden`: `[tokens, hidden]`, before the final norm.
    pub(crate) fn new(
        model: &Transformer,
        hidden: &Tensor,
        predictions: &Predictions,
        with_gradient: bool,
    ) -> Result<Self> {
        let (normed, tape) = model.final_norm(&hidden.f_index_select(0, &predictions.indices)?)?;
        let count = normed.size()[0];
        let most = Portions::on(model.device).logit_tokens as i64;
        let mut losses = Vec::new();
        let gradient = with_gradient.then(|| normed.f_empty_like()).transpose()?;
        let mut start = 0;
        while start < count {
            model.check_cancelled()?;
            let length = most.min(count - start);
            let targets = predictions.targets.f_narrow(0, start, length)?;
            let normed = normed.f_narrow(0, start, length)?;
            let (chunk, grad_logits) = losses_of(model, &normed, &targets, with_gradient)?;
            losses.push(chunk);
            if let (Some(gradient), Some(grad_logits)) = (&gradient, grad_logits) {
                gradient.f_narrow(0, start, length)?.f_copy_(&grad_logits.f_mm(&model.weights.head)?)?;
            }
            start += length;
        }
        // Read last: the device works on while nobody waits for a number.
        let losses = if losses.is_empty() { Vec::new() } else { Vec::try_from(Tensor::f_cat(&losses, 0)?)? };
        Ok(Self { losses, gradient: gradient.map(|gradient| (gradient, tape)) })
    }

    /// Gradient of the weighted sum of losses with respect to the hidden states before the final norm.
    ///
    /// # Shapes
    ///
    /// `weights`: one a prediction; → like `hidden`, which is `[tokens, hidden]`.
    pub(crate) fn backward(
        self,
        model: &Transformer,
        hidden: &Tensor,
        predictions: &Predictions,
        weights: &[f32],
    ) -> Result<Tensor> {
        let mut grad = hidden.f_zeros_like()?;
        let Some((grad_normed, tape)) = self.gradient else { return Ok(grad) };
        let weights =
            Tensor::f_from_slice(weights)?.f_unsqueeze(1)?.f_to_device(model.device)?.f_to_kind(model.kind)?;
        let grad_normed = grad_normed.f_mul(&weights)?;
        let mut selected = grad_normed.f_zeros_like()?;
        norm_backward(&mut selected, grad_normed, &tape, &model.weights.norm)?;
        Ok(grad.f_index_add_(0, &predictions.indices, &selected)?)
    }
}

/// Negative log-likelihoods of targets, and their gradient with respect to the logits.
///
/// # Shapes
///
/// `normed`: `[targets, hidden]`, `targets`: `[targets]` → `[targets]`, `[targets, vocab_size]`.
fn losses_of(
    model: &Transformer,
    normed: &Tensor,
    targets: &Tensor,
    with_gradient: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    if model.config.design.final_logit_softcapping.is_none() && kernels::fits(normed) {
        let logits = model.unbounded_logits(normed)?;
        if kernels::fits(&logits) {
            let losses = kernels::cross_entropy(&logits, &Vec::<i64>::try_from(targets)?, with_gradient);
            return Ok((Tensor::f_from_slice(&losses)?, with_gradient.then_some(logits)));
        }
    }
    let targets = targets.f_unsqueeze(1)?;
    let logits = model.logits(normed)?;
    let slope = if with_gradient { model.logits_slope(&logits)? } else { None };
    let mut log_probabilities = logits.f_log_softmax(-1, None::<Kind>)?;
    drop(logits);
    let chosen = log_probabilities.f_gather(1, &targets, false)?.f_squeeze_dim(1)?.f_neg()?;
    if !with_gradient {
        return Ok((chosen, None));
    }
    // The gradient of −log softmax is the distribution minus the target's one-hot vector.
    let mut grad_logits = log_probabilities.f_exp_()?;
    let ones = Tensor::f_full(targets.size(), -1.0, (grad_logits.kind(), grad_logits.device()))?;
    let mut grad_logits = grad_logits.f_scatter_add_(1, &targets, &ones)?;
    if let Some(slope) = slope {
        let _ = grad_logits.f_mul_(&slope)?;
    }
    Ok((chosen, Some(grad_logits.f_to_kind(model.kind)?)))
}
