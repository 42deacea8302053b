//! Frozen weights of linear layers: as they are, or in fewer bits and computed back each time they are used.

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use super::{Precision, Result};

/// How linear layers' weights are stored in fewer bits than they are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantization {
    /// 8-bit integers with a scale for each output: 1 byte a weight.
    Int8,
    /// 4-bit `NormalFloat` (Dettmers et al., 2023, appendix E) in blocks of 64 weights: 0.56 bytes a weight.
    Nf4,
}

/// How a model's numbers are stored and computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberFormat {
    /// What is computed in.
    pub precision: Precision,
    /// How the linear layers' weights are stored, if not in that. Embeddings, head, norms and adapters never are.
    pub quantization: Option<Quantization>,
}

impl From<Precision> for NumberFormat {
    fn from(precision: Precision) -> Self {
        Self { precision, quantization: None }
    }
}

/// Weights that share a scale in [`Quantization::Nf4`].
const BLOCK: i64 = 64;

/// The 16 values of [`Quantization::Nf4`]: quantiles of the normal distribution, scaled to -1..1, zero among them.
pub(crate) const NORMAL_FLOATS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The weights of a linear layer.
///
/// # Shapes
///
/// `[outputs, inputs]`
#[derive(Debug)]
pub(crate) enum FrozenLinear {
    Dense {
        weight: Tensor,
        /// The same numbers.
        ///
        /// # Shapes
        ///
        /// `[inputs, outputs]`
        transposed: Tensor,
    },
    Int8 {
        /// # Shapes
        ///
        /// `[outputs, inputs]`
        integers: Tensor,
        /// # Shapes
        ///
        /// `[outputs, 1]`, `f32`.
        scales: Tensor,
        kind: Kind,
    },
    Nf4 {
        /// Two neighbours a byte, the first in the upper half.
        ///
        /// # Shapes
        ///
        /// `[blocks × 32]`
        codes: Tensor,
        /// The largest magnitude of each block.
        ///
        /// # Shapes
        ///
        /// `[blocks, 1]`, `f32`.
        largest: Tensor,
        /// The two values of each byte.
        ///
        /// # Shapes
        ///
        /// `[256, 2]`, `f32`.
        pairs: Tensor,
        outputs: i64,
        inputs: i64,
        kind: Kind,
    },
}

impl FrozenLinear {
    /// Stores `weight`, `[outputs, inputs]`, on `device`.
    pub(crate) fn new(weight: &Tensor, format: NumberFormat, device: Device) -> Result<Self> {
        let kind = format.precision.kind();
        match format.quantization {
            None => {
                let weight = weight.f_to_kind(kind)?.f_to_device(device)?;
                Ok(Self::Dense { transposed: weight.f_tr()?, weight })
            }
            Some(Quantization::Int8) => Self::int8(weight, kind, device),
            Some(Quantization::Nf4) => Self::nf4(weight, kind, device),
        }
    }

    /// Each row by its largest magnitude, which becomes 127; halves round to even.
    fn int8(weight: &Tensor, kind: Kind, device: Device) -> Result<Self> {
        let weight = weight.f_to_device(device)?.f_to_kind(Kind::Float)?;
        let scales = scale_of(&weight.f_abs()?.f_amax([1_i64].as_slice(), true)?)?.f_mul_scalar_(1.0 / 127.0)?;
        let integers = weight.f_div(&scales)?.f_round_()?.f_to_kind(Kind::Int8)?;
        Ok(Self::Int8 { integers, scales, kind })
    }

    /// Each block by its largest magnitude, and each weight to the nearest value.
    fn nf4(weight: &Tensor, kind: Kind, device: Device) -> Result<Self> {
        let (outputs, inputs) = weight.size2()?;
        let flat = weight.f_to_device(device)?.f_to_kind(Kind::Float)?.f_reshape([-1])?;
        let missing = (BLOCK - outputs * inputs % BLOCK) % BLOCK;
        let blocks = flat.f_constant_pad_nd([0, missing])?.f_view([-1, BLOCK])?;
        let largest = scale_of(&blocks.f_abs()?.f_amax([1_i64].as_slice(), true)?)?;
        let book = Tensor::f_from_slice(&NORMAL_FLOATS)?.f_to_device(device)?;
        let middles: Vec<f32> = NORMAL_FLOATS.windows(2).map(|pair| f32::midpoint(pair[0], pair[1])).collect();
        let middles = Tensor::f_from_slice(&middles)?.f_to_device(device)?;
        let codes = blocks.f_div(&largest)?.f_bucketize(&middles, true, false)?.f_view([-1, 2])?;
        let (first, second) = (codes.f_select(1, 0)?, codes.f_select(1, 1)?);
        let codes = first.f_mul_scalar(16)?.f_add_(&second)?.f_to_kind(Kind::Uint8)?;
        let grid = |repeat: [i64; 2], shape: [i64; 2]| book.f_view(shape)?.f_repeat(repeat)?.f_reshape([256]);
        let pairs = Tensor::f_stack(&[grid([1, 16], [16, 1])?, grid([16, 1], [1, 16])?], 1)?;
        Ok(Self::Nf4 { codes, largest, pairs, outputs, inputs, kind })
    }

    /// The weights in the kind that is computed in: the stored ones themselves, or computed from what is stored.
    pub(crate) fn dense(&self) -> Result<Tensor> {
        match self {
            Self::Dense { weight, .. } => Ok(weight.shallow_clone()),
            Self::Int8 { integers, scales, kind } => {
                Ok(integers.f_to_kind(Kind::Float)?.f_mul_(scales)?.f_to_kind(*kind)?)
            }
            Self::Nf4 { codes, largest, pairs, outputs, inputs, kind } => {
                let values = pairs.f_index_select(0, &codes.f_to_kind(Kind::Int)?)?.f_view([-1, BLOCK])?;
                let values = { values }.f_mul_(largest)?.f_view([-1])?.f_narrow(0, 0, outputs * inputs)?;
                Ok(values.f_view([*outputs, *inputs])?.f_to_kind(*kind)?)
            }
        }
    }

    /// [`FrozenLinear::dense`], transposed.
    ///
    /// # Shapes
    ///
    /// → `[inputs, outputs]`
    pub(crate) fn transposed(&self) -> Result<Tensor> {
        match self {
            Self::Dense { transposed, .. } => Ok(transposed.shallow_clone()),
            Self::Int8 { .. } | Self::Nf4 { .. } => Ok(self.dense()?.f_tr()?),
        }
    }

    /// Handles to the same tensors.
    pub(crate) fn shallow_clone(&self) -> Self {
        match self {
            Self::Dense { weight, transposed } => {
                Self::Dense { weight: weight.shallow_clone(), transposed: transposed.shallow_clone() }
            }
            Self::Int8 { integers, scales, kind } => {
                Self::Int8 { integers: integers.shallow_clone(), scales: scales.shallow_clone(), kind: *kind }
            }
            Self::Nf4 { codes, largest, pairs, outputs, inputs, kind } => Self::Nf4 {
                codes: codes.shallow_clone(),
                largest: largest.shallow_clone(),
                pairs: pairs.shallow_clone(),
                outputs: *outputs,
                inputs: *inputs,
                kind: *kind,
            },
        }
    }
}

/// Magnitudes to divide by: 1 where everything is zero.
fn scale_of(largest: &Tensor) -> Result<Tensor> {
    Ok(largest.f_masked_fill(&largest.f_eq(0.0)?, 1.0)?)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// What `tests/reference/quantization.py` computes with numpy.
    fn reference() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/reference/fixtures/quantization.json");
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    fn reals(value: &Value) -> Vec<f32> {
        value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
    }

    fn integers(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.to_kind(Kind::Int64).reshape([-1])).unwrap()
    }

    fn expected(value: &Value) -> Vec<i64> {
        value.as_array().unwrap().iter().map(|number| number.as_i64().unwrap()).collect()
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor.to_kind(Kind::Float).reshape([-1])).unwrap()
    }

    fn assert_near(found: &[f32], expected: &[f32], relative: f32) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= relative * expected.abs(), "{found} instead of {expected}");
        }
    }

    fn stored(case: &Value, quantization: Quantization) -> FrozenLinear {
        let weight = Tensor::from_slice(&reals(&case["weights"])).view([-1, case["inputs"].as_i64().unwrap()]);
        let format = NumberFormat { precision: Precision::F32, quantization: Some(quantization) };
        FrozenLinear::new(&weight, format, Device::Cpu).unwrap()
    }

    #[test]
    fn the_code_book_is_that_of_normal_quantiles() {
        // The published values were computed in f32, by way of differences.
        assert_near(&NORMAL_FLOATS, &reals(&reference()["normal_floats"]), 1e-6);
    }

    #[test]
    fn integers_and_scales_are_those_of_numpy() {
        for case in reference()["cases"].as_array().unwrap() {
            let FrozenLinear::Int8 { integers: found, scales, .. } = stored(case, Quantization::Int8) else { panic!() };
            assert_eq!(integers(&found), expected(&case["int8"]["integers"]));
            assert_eq!(flat(&scales), reals(&case["int8"]["scales"]));
            assert_eq!(flat(&stored(case, Quantization::Int8).dense().unwrap()), reals(&case["int8"]["dense"]));
        }
    }

    #[test]
    fn codes_and_blocks_are_those_of_numpy() {
        for case in reference()["cases"].as_array().unwrap() {
            let FrozenLinear::Nf4 { codes, largest, .. } = stored(case, Quantization::Nf4) else { panic!() };
            assert_eq!(integers(&codes), expected(&case["nf4"]["codes"]));
            assert_eq!(flat(&largest), reals(&case["nf4"]["largest"]));
            assert_near(&flat(&stored(case, Quantization::Nf4).dense().unwrap()), &reals(&case["nf4"]["dense"]), 1e-6);
        }
    }
}
