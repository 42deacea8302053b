//! Rotary position embeddings (Su et al., 2021) in rotate-half order, and how they are stretched for long contexts.

use std::{f64::consts::TAU, ops::Range};

use fedward_native::kernels;
use tch::{Device, Kind, Tensor};

use super::{Llama3RopeScaling, ModelConfig, Result, RopeScaling, Span, YarnRopeScaling};

/// Rotations of some tokens, for each kind of layer.
pub(crate) struct Rotations {
    full: Rotation,
    /// Where sliding layers rotate by other angles.
    sliding: Option<Rotation>,
}

impl Rotations {
    /// The rotations of tokens at `positions`.
    pub(crate) fn new(config: &ModelConfig, positions: &[usize], device: Device, kind: Kind) -> Result<Self> {
        let full = Rotation::new(&Angles::new(config), positions, device, kind)?;
        let theta = config.design.sliding.as_ref().and_then(|sliding| sliding.rope_theta);
        let sliding = theta
            .map(|theta| Rotation::new(&Angles::unstretched(config.head_dim, theta), positions, device, kind))
            .transpose()?;
        Ok(Self { full, sliding })
    }

    /// Those of some of the tokens.
    ///
    /// # Shapes
    ///
    /// `index`: `[selected]`
    fn select(&self, index: &Tensor) -> Result<Self> {
        let sliding = self.sliding.as_ref().map(|rotation| rotation.select(index)).transpose()?;
        Ok(Self { full: self.full.select(index)?, sliding })
    }

    /// Those of a layer.
    pub(crate) fn of(&self, span: Span) -> &Rotation {
        match (&self.sliding, span) {
            (Some(sliding), Span::Sliding) => sliding,
            _ => &self.full,
        }
    }
}

/// Rotations of the positions that rows come to next: computed for many steps at once, since each costs some cosines.
pub(crate) struct RotationsAhead<'c> {
    config: &'c ModelConfig,
    options: (Kind, Device),
    positions: Range<usize>,
    rotations: Rotations,
}

impl<'c> RotationsAhead<'c> {
    /// Steps that are computed at once.
    const STEPS: usize = 64;

    /// Of rows whose next tokens are at `positions`.
    pub(crate) fn new(config: &'c ModelConfig, positions: &[usize], options: (Kind, Device)) -> Result<Self> {
        let first = positions.iter().copied().min().unwrap_or(0);
        let end = positions.iter().max().map_or(first, |last| last + Self::STEPS);
        let all: Vec<usize> = (first..end).collect();
        let rotations = Rotations::new(config, &all, options.1, options.0)?;
        Ok(Self { config, options, positions: first..end, rotations })
    }

    /// Goes on to `positions` if they are new, and says where their rotations are, for [`RotationsAhead::at`].
    pub(crate) fn reach(&mut self, positions: &[usize]) -> Result<Vec<i64>> {
        if !positions.iter().all(|position| self.positions.contains(position)) {
            *self = Self::new(self.config, positions, self.options)?;
        }
        Ok(positions.iter().map(|position| (position - self.positions.start) as i64).collect())
    }

    /// The rotations of some tokens.
    ///
    /// # Shapes
    ///
    /// `places`: `[tokens]`, as [`RotationsAhead::reach`] says.
    pub(crate) fn at(&self, places: &Tensor) -> Result<Rotations> {
        self.rotations.select(places)
    }
}

/// Cosines and sines of the rotation angles of some tokens.
pub(crate) struct Rotation {
    /// # Shapes
    ///
    /// `[tokens, 1, 1, head_dim / 2]`
    cos: Tensor,
    there: Sines,
    back: Sines,
}

/// The sines of one direction.
enum Sines {
    /// For the kernel.
    ///
    /// # Shapes
    ///
    /// `[tokens, 1, 1, head_dim / 2]`
    Plain(Tensor),
    /// What the other half of a head is multiplied by: `-sin` where the first half is computed, `sin` where the second is.
    ///
    /// # Shapes
    ///
    /// `[tokens, 1, 2, head_dim / 2]`
    OfHalves(Tensor),
}

impl Sines {
    fn select(&self, index: &Tensor) -> Result<Self> {
        Ok(match self {
            Self::Plain(sines) => Self::Plain(sines.f_index_select(0, index)?),
            Self::OfHalves(sines) => Self::OfHalves(sines.f_index_select(0, index)?),
        })
    }
}

impl Rotation {
    fn new(angles: &Angles, positions: &[usize], device: Device, kind: Kind) -> Result<Self> {
        // Rows begin anew, so their positions repeat: each is computed once where that is less.
        let distinct = positions.iter().max().map_or(0, |last| last + 1);
        let repeat = distinct < positions.len();
        let [cos, sin] =
            if repeat { angles.turned_to(0..distinct) } else { angles.turned_to(positions.iter().copied()) };
        let place = |values: &[f32]| -> Result<Tensor> {
            let values = Tensor::f_from_slice(values)?.f_view([-1, 1, 1, angles.frequencies.len() as i64])?;
            Ok(values.f_to_device(device)?.f_to_kind(kind)?)
        };
        let (mut cos, mut sin) = (place(&cos)?, place(&sin)?);
        if repeat {
            let index: Vec<i64> = positions.iter().map(|&position| position as i64).collect();
            let index = Tensor::f_from_slice(&index)?.f_to_device(device)?;
            (cos, sin) = (cos.f_index_select(0, &index)?, sin.f_index_select(0, &index)?);
        }
        let neg_sin = sin.f_neg()?;
        let [there, back] = if kernels::fits(&cos) {
            [Sines::Plain(sin), Sines::Plain(neg_sin)]
        } else {
            let of_halves =
                |first, second| -> Result<Sines> { Ok(Sines::OfHalves(Tensor::f_cat(&[first, second], 2)?)) };
            [of_halves(&neg_sin, &sin)?, of_halves(&sin, &neg_sin)?]
        };
        Ok(Self { cos, there, back })
    }

    fn select(&self, index: &Tensor) -> Result<Self> {
        let cos = self.cos.f_index_select(0, index)?;
        Ok(Self { cos, there: self.there.select(index)?, back: self.back.select(index)? })
    }

    /// Rotates the first `heads` heads of each token in place.
    ///
    /// # Shapes
    ///
    /// `states`: `[tokens, at least heads × head_dim]`.
    pub(crate) fn apply(&self, states: &Tensor, heads: i64) -> Result<()> {
        self.rotate(states, heads, &self.there)
    }

    /// Rotates back: the gradient of [`Rotation::apply`].
    ///
    /// # Shapes
    ///
    /// As [`Rotation::apply`].
    pub(crate) fn apply_backward(&self, states: &Tensor, heads: i64) -> Result<()> {
        self.rotate(states, heads, &self.back)
    }

    fn rotate(&self, states: &Tensor, heads: i64, sines: &Sines) -> Result<()> {
        let (tokens, half) = (self.cos.size()[0], self.cos.size()[3]);
        let of_halves = match sines {
            Sines::Plain(sines) => {
                kernels::rotate(states, heads as usize, &self.cos, sines);
                return Ok(());
            }
            Sines::OfHalves(sines) => sines,
        };
        assert_eq!((states.size()[0], states.stride()[1]), (tokens, 1), "a rotation for each line, heads side by side");
        let strides = [states.stride()[0], 2 * half, half, 1];
        let mut halves = states.f_as_strided([tokens, heads, 2, half], strides, None)?;
        let swapped = halves.f_flip([2])?;
        let _ = halves.f_mul_(&self.cos)?.f_addcmul_(&swapped, of_halves)?;
        Ok(())
    }
}

/// How far each pair of dimensions turns from one position to the next.
struct Angles {
    /// In radians.
    frequencies: Vec<f32>,
    /// What rotated states are multiplied by.
    factor: f64,
}

impl Angles {
    fn new(config: &ModelConfig) -> Self {
        let (width, theta) = (config.head_dim, config.rope_theta);
        let stretched = |by: &dyn Fn(f64) -> f64| {
            unstretched(width, theta).map(|frequency| by(frequency) as f32).collect::<Vec<_>>()
        };
        match &config.rope_scaling {
            None => Self::unstretched(width, theta),
            Some(RopeScaling::Linear { factor }) => {
                Self { frequencies: stretched(&|frequency| frequency / factor), factor: 1.0 }
            }
            Some(RopeScaling::Llama3(scaling)) => {
                Self { frequencies: stretched(&|frequency| llama3(scaling, frequency)), factor: 1.0 }
            }
            Some(RopeScaling::Yarn(scaling)) => yarn(scaling, width, theta),
        }
    }

    /// Cosines and sines at `positions`, one for each frequency.
    fn turned_to(&self, positions: impl Iterator<Item = usize>) -> [Vec<f32>; 2] {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for &frequency in &self.frequencies {
                // Rounded to f32 before the cosine, as checkpoints were trained.
                let angle = f64::from(position as f32 * frequency);
                cos.push((angle.cos() * self.factor) as f32);
                sin.push((angle.sin() * self.factor) as f32);
            }
        }
        [cos, sin]
    }

    fn unstretched(width: i64, theta: f64) -> Self {
        Self { frequencies: unstretched(width, theta).map(|frequency| frequency as f32).collect(), factor: 1.0 }
    }
}

fn unstretched(width: i64, theta: f64) -> impl Iterator<Item = f64> {
    (0..width / 2).map(move |pair| 1.0 / theta.powf(2.0 * pair as f64 / width as f64))
}

fn llama3(scaling: &Llama3RopeScaling, frequency: f64) -> f64 {
    let wavelength = TAU / frequency;
    let context = scaling.original_max_position_embeddings;
    let (low, high) = (scaling.low_freq_factor, scaling.high_freq_factor);
    let stretched = frequency / scaling.factor;
    if wavelength > context / low {
        stretched
    } else if wavelength < context / high {
        frequency
    } else {
        let smooth = (context / wavelength - low) / (high - low);
        (1.0 - smooth).mul_add(stretched, smooth * frequency)
    }
}

/// Between the dimensions that turn `beta_fast` and `beta_slow` times within the original context, frequencies go over
/// from their own to the stretched ones on a line.
fn yarn(scaling: &YarnRopeScaling, width: i64, theta: f64) -> Angles {
    let border = |turns: f64| {
        let context = scaling.original_max_position_embeddings;
        width as f64 * (context / (turns * TAU)).ln() / (2.0 * theta.ln())
    };
    let (mut first, mut last) = (border(scaling.beta_fast), border(scaling.beta_slow));
    if scaling.truncate {
        (first, last) = (first.floor(), last.ceil());
    }
    let (first, last) = (first.max(0.0), last.min(width as f64 - 1.0));
    // A ramp of no length would divide by zero.
    let length = if (last - first).abs() < f64::EPSILON { 0.001 } else { last - first };
    let frequencies = (0_i32..)
        .zip(unstretched(width, theta))
        .map(|(pair, frequency)| {
            let share = ((f64::from(pair) - first) / length).clamp(0.0, 1.0);
            (frequency / scaling.factor).mul_add(share, frequency * (1.0 - share)) as f32
        })
        .collect();
    let sharper = if scaling.factor > 1.0 { 0.1 * scaling.factor.ln() + 1.0 } else { 1.0 };
    Angles { frequencies, factor: scaling.attention_factor.unwrap_or(sharper) }
}
