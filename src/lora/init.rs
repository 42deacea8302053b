//! Where an adapter starts.

use fedward_actors::protocol::{Adapter, AdapterLayout, Factor, RoundId};
use fedward_actors::streams::{Purpose, stream, unit};
use rand_chacha::ChaCha8Rng;

use super::LoraConfig;
use crate::model::ModelConfig;

/// An adapter that changes nothing yet, as `peft` makes it: A uniform in ±1/√inputs (Kaiming's bound with a = √5), B
/// zero.
///
/// # Panics
///
/// Never: the values are made for the layout.
pub fn initial_adapter(config: &LoraConfig, model: &ModelConfig, seed: u64) -> Adapter {
    let layout = config.layout(model);
    let values = fresh_values(&layout, &mut stream(seed, Purpose::Initialization, RoundId(0), None));
    Adapter::new(layout, values).expect("one value was made for each number of the layout")
}

/// The values of an adapter of this layout that changes nothing yet.
pub(crate) fn fresh_values(layout: &AdapterLayout, rng: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values = Vec::with_capacity(layout.len());
    for tensor in layout.tensors() {
        if Factor::of(tensor) == Some(Factor::A) {
            let bound = 1.0 / (tensor.shape[1] as f64).sqrt();
            values.extend((0..tensor.len()).map(|_| ((2.0 * unit(rng) - 1.0) * bound) as f32));
        } else {
            values.resize(values.len() + tensor.len(), 0.0);
        }
    }
    values
}
