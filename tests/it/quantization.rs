//! Models whose linear layers are stored in fewer bits compute as models do whose weights were rounded beforehand.

use fedward::{
    lora::LoraRef,
    model::{BaseModel, ModelError, NumberFormat, Precision, Quantization, WeightSource, score},
    train::TrainerSettings,
};
use fedward_actors::CancelFlag;
use tch::Tensor;

use crate::{
    engine_small::Small,
    engine_support::{FormulaWeights, reals_of, relative_error},
    fixture,
    support::test_device,
};

/// Weights by formula, rounded one by one as a quantization would.
struct Rounded(Quantization);

impl WeightSource for Rounded {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, ModelError> {
        let weight = FormulaWeights.tensor(name, shape)?;
        if !name.contains("_proj") {
            return Ok(weight);
        }
        let mut values = Vec::<f32>::try_from(weight.reshape([-1])).unwrap();
        match self.0 {
            Quantization::Int8 => values.chunks_mut(shape[1] as usize).for_each(round_to_int8),
            Quantization::Nf4 => values.chunks_mut(64).for_each(round_to_nf4),
        }
        Ok(Tensor::from_slice(&values).view(shape))
    }
}

fn largest(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |largest, value| largest.max(value.abs()))
}

fn round_to_int8(row: &mut [f32]) {
    let scale = largest(row) * (1.0 / 127.0);
    for value in row {
        *value = (*value / scale).round_ties_even() * scale;
    }
}

fn round_to_nf4(block: &mut [f32]) {
    let book = reals_of(&fixture("quantization.json")["normal_floats"]);
    let scale = largest(block);
    for value in block {
        let distance = |book: f64| (book - f64::from(*value / scale)).abs();
        let nearest = book.iter().copied().min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap();
        *value = nearest as f32 * scale;
    }
}

/// A model of the "stretched" kind, all of whose matrices are whole blocks.
fn with(weights: &dyn WeightSource, quantization: Option<Quantization>) -> Small {
    let small = Small::new("stretched", Precision::F32);
    let format = NumberFormat { precision: Precision::F32, quantization };
    let model = BaseModel::load(small.model.config().clone(), weights, test_device(), format).unwrap();
    Small { model, ..small }
}

fn likelihoods(small: &Small) -> Vec<f64> {
    let lora = LoraRef { config: &small.lora, adapter: &small.adapter };
    let scores = score(&small.model, Some(lora), &small.rows, &CancelFlag::new()).unwrap();
    scores.iter().map(|score| score.log_likelihood).collect()
}

#[test]
fn likelihoods_and_gradients_are_those_of_rounded_weights() {
    let whole = with(&FormulaWeights, None);
    let mut moved = Vec::new();
    for quantization in [Quantization::Int8, Quantization::Nf4] {
        let (stored, rounded) = (with(&FormulaWeights, Some(quantization)), with(&Rounded(quantization), None));
        // The values of the code book are good to 3e-7.
        let error = relative_error(&likelihoods(&stored), &likelihoods(&rounded));
        assert!(error < 1e-6, "{quantization:?}: likelihoods {error:e}");
        let gradient = |small: &Small| small.gradient(TrainerSettings::default(), &small.rows, 0);
        let (found, expected) = (gradient(&stored), gradient(&rounded));
        let error = found.delta_from(&expected).unwrap().l2_norm() / expected.l2_norm();
        assert!(error < 1e-5, "{quantization:?}: gradient {error:e}");
        moved.push(relative_error(&likelihoods(&stored), &likelihoods(&whole)));
    }
    // 8 bits round visibly, 4 bits more.
    assert!(1e-5 < moved[0] && moved[0] < moved[1] && moved[1] < 0.2, "{moved:?}");
}
