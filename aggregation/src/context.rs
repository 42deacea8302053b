//! What a rule may use beside the updates: memory, random numbers.

use rand_chacha::ChaCha8Rng;

use crate::Memory;

/// What a rule may use beside the updates.
#[derive(Debug)]
pub struct Context<'a> {
    /// What it remembers of earlier rounds, and leaves for later ones.
    pub memory: &'a mut Memory,
    /// Where random numbers come from: the same generator gives the same result.
    pub random: &'a mut ChaCha8Rng,
}

/// Draws from the normal distribution of mean 0 and standard deviation 1, two at a time (Box and Muller 1958).
pub(crate) fn normal_pair(random: &mut ChaCha8Rng) -> [f64; 2] {
    use rand_chacha::rand_core::Rng;
    let mut unit = || ((random.next_u64() >> 11) as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64);
    let (radius, angle) = ((-2.0 * unit().ln()).sqrt(), std::f64::consts::TAU * unit());
    [radius * angle.cos(), radius * angle.sin()]
}

/// Adds noise of this standard deviation to every value.
pub(crate) fn add_noise(values: &mut [f32], deviation: f64, random: &mut ChaCha8Rng) {
    for pair in values.chunks_mut(2) {
        for (value, noise) in pair.iter_mut().zip(normal_pair(random)) {
            *value = (f64::from(*value) + deviation * noise) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn noise_has_its_mean_and_deviation() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut values = vec![1.0_f32; 100_001];
        add_noise(&mut values, 0.5, &mut random);
        let n = values.len() as f64;
        let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
        let variance = values.iter().map(|&value| (f64::from(value) - mean).powi(2)).sum::<f64>() / n;
        // Five standard errors.
        assert!((mean - 1.0).abs() < 5.0 * 0.5 / n.sqrt(), "{mean}");
        assert!((variance.sqrt() - 0.5).abs() < 5.0 * 0.5 / (2.0 * n).sqrt(), "{variance}");
    }
}
