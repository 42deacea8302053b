//! Models whose linear layers are stored in fewer bits compute as models do whose weights were rounded beforehand.

use fedward::{
    model::{
        BaseModel, Generated, GenerationSettings, ModelError, NumberFormat, Precision, Quantization, WeightSource,
        generate, score,
    },
    train::TrainerSettings,
};
use fedward_actors::CancelFlag;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use tch::{Device, Tensor};

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
fn with(weights: &dyn WeightSource, precision: Precision, quantization: Option<Quantization>) -> Small {
    let small = Small::new("stretched", precision);
    let format = NumberFormat { precision, quantization };
    let model = BaseModel::load(small.model.config().clone(), weights, test_device(), format).unwrap();
    Small { model, ..small }
}

fn likelihoods(small: &Small) -> Vec<f64> {
    let scores = score(&small.model, Some(small.lora_ref()), &small.rows, &CancelFlag::new()).unwrap();
    scores.iter().map(|score| score.log_likelihood).collect()
}

/// The same numbers stored in fewer bits, and rounded beforehand.
fn both(quantization: Quantization, precision: Precision) -> [Small; 2] {
    [with(&FormulaWeights, precision, Some(quantization)), with(&Rounded(quantization), precision, None)]
}

/// What rows' prompts are continued by: few tokens at a time take another way through the layers.
fn continuations(small: &Small) -> Vec<Generated> {
    let prompts: Vec<Vec<u32>> = small.rows.iter().map(|row| row.ids[..row.response_start.max(1)].to_vec()).collect();
    let settings = GenerationSettings {
        max_new_tokens: 24,
        temperature: 0.0,
        top_p: 1.0,
        top_k: None,
        batch_size: prompts.len(),
        stop_ids: vec![],
    };
    let (rng_of, cancel) = (|_| ChaCha8Rng::seed_from_u64(0), CancelFlag::new());
    generate(&small.model, Some(small.lora_ref()), &prompts, &settings, &rng_of, &cancel, &mut |_| {}).unwrap()
}

#[test]
fn continuations_are_those_of_rounded_weights() {
    for quantization in [Quantization::Int8, Quantization::Nf4] {
        let [stored, rounded] = both(quantization, Precision::F32);
        assert_eq!(continuations(&stored), continuations(&rounded), "{quantization:?}");
    }
    let [four_bits, _] = both(Quantization::Nf4, Precision::F32);
    assert_ne!(continuations(&four_bits), continuations(&with(&FormulaWeights, Precision::F32, None)));
    if test_device() != Device::Cpu {
        eprintln!("skipped in bf16: nobody has seen how a device rounds there");
        return;
    }
    // The code book of the other is not good enough to be rounded to the same number in bf16.
    let [stored, rounded] = both(Quantization::Int8, Precision::Bf16);
    assert_eq!(continuations(&stored), continuations(&rounded));
    assert_eq!(likelihoods(&stored), likelihoods(&rounded));
}

#[test]
fn likelihoods_and_gradients_are_those_of_rounded_weights() {
    let whole = with(&FormulaWeights, Precision::F32, None);
    let mut moved = Vec::new();
    for quantization in [Quantization::Int8, Quantization::Nf4] {
        let [stored, rounded] = both(quantization, Precision::F32);
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
