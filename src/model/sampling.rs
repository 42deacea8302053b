//! Drawing a token from logits.

mod on_device;

use fedward_actors::streams::unit;
use rand_chacha::ChaCha8Rng;

/// How tokens are drawn: temperature, then the `top_k` most likely, then the nucleus of `top_p`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    /// Above 0.
    pub(crate) temperature: f64,
    pub(crate) top_p: f64,
    pub(crate) top_k: Option<usize>,
}

/// A token and its weight, which is its probability but for a factor that all share.
type Candidate = (u32, f64);

impl Sampler {
    /// Draws one token.
    ///
    /// # Shapes
    ///
    /// `logits`: `[vocab_size]`
    pub(crate) fn draw(&self, logits: &[f32], rng: &mut ChaCha8Rng) -> u32 {
        let mut candidates = self.candidates(logits);
        if let Some(top_k) = self.top_k
            && top_k < candidates.len()
        {
            candidates.select_nth_unstable_by(top_k.max(1) - 1, by_weight);
            candidates.truncate(top_k.max(1));
            // What is left lies in an order that the others had a part in, and sums are rounded by their order.
            candidates.sort_unstable_by(by_weight);
        }
        let total = candidates.iter().map(|candidate| candidate.1).sum();
        self.draw_from(candidates, total, rng)
    }

    /// All tokens, in their order.
    fn candidates(&self, logits: &[f32]) -> Vec<Candidate> {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |&logit: &f32| (f64::from(logit - highest) / self.temperature).exp();
        (0..).zip(logits).map(|(id, logit)| (id, weight(logit))).collect()
    }

    /// Draws one of the candidates; `total` is the weight of all tokens that the nucleus is a part of.
    fn draw_from(&self, mut candidates: Vec<Candidate>, total: f64, rng: &mut ChaCha8Rng) -> u32 {
        if self.top_p < 1.0 {
            keep_nucleus(&mut candidates, self.top_p * total);
        }
        // By likelihood, rounding would swap neighbours that are almost equally likely, and what lies between would be another.
        candidates.sort_unstable_by_key(|candidate| candidate.0);
        let total: f64 = candidates.iter().map(|candidate| candidate.1).sum();
        let mut rest = unit(rng) * total;
        for &(id, weight) in &candidates {
            rest -= weight;
            if rest < 0.0 {
                return id;
            }
        }
        // Rounding can leave a remainder of almost nothing.
        candidates.last().map_or(0, |candidate| candidate.0)
    }
}

/// From likely to unlikely, ties by id, so that the order is one whatever came before.
fn by_weight(left: &Candidate, right: &Candidate) -> std::cmp::Ordering {
    right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
}

/// Keeps the fewest most likely candidates whose weights add up to at least `enough`.
fn keep_nucleus(candidates: &mut Vec<Candidate>, enough: f64) {
    // Sorting a whole vocabulary costs more than a layer, and the nucleus is nearly always small.
    let mut sorted = 256.min(candidates.len());
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted - 1, by_weight);
        }
        candidates[..sorted].sort_unstable_by(by_weight);
        let mut sum = 0.0;
        let reached = candidates[..sorted].iter().position(|candidate| {
            sum += candidate.1;
            sum >= enough
        });
        if let Some(last) = reached {
            candidates.truncate(last + 1);
            return;
        }
        if sorted == candidates.len() {
            return;
        }
        sorted = (sorted * 16).min(candidates.len());
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    fn frequencies(sampler: Sampler, logits: &[f32]) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[sampler.draw(logits, &mut rng) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    fn logits() -> Vec<f32> {
        [0.1_f32, 0.4, 0.2, 0.3].iter().map(|probability| probability.ln() + 3.0).collect()
    }

    fn assert_close(found: &[f64], expected: &[f64]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() < 0.015, "{found} against {expected}");
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let plain = Sampler { temperature: 1.0, top_p: 1.0, top_k: None };
        assert_close(&frequencies(plain, &logits()), &[0.1, 0.4, 0.2, 0.3]);
        let cold = Sampler { temperature: 0.5, ..plain };
        assert_close(&frequencies(cold, &logits()), &[1.0 / 30.0, 16.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0]);
    }

    #[test]
    fn top_k_and_top_p_cut_the_unlikely() {
        let plain = Sampler { temperature: 1.0, top_p: 1.0, top_k: None };
        assert_close(&frequencies(Sampler { top_k: Some(2), ..plain }, &logits()), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0]);
        // The token that crosses the threshold belongs to the nucleus.
        assert_close(
            &frequencies(Sampler { top_p: 0.75, ..plain }, &logits()),
            &[0.0, 4.0 / 9.0, 2.0 / 9.0, 3.0 / 9.0],
        );
        assert_close(&frequencies(Sampler { top_p: 0.0, ..plain }, &logits()), &[0.0, 1.0, 0.0, 0.0]);
    }

    /// Logits of tokens that cannot be drawn differ by what is computed beside them.
    #[test]
    fn a_draw_does_not_depend_on_tokens_below_top_k() {
        let likely = [(17, 9.0_f32), (400, 9.5), (41, 8.0), (900, 9.2), (3, 8.5)];
        let logits = |noise: usize| -> Vec<f32> {
            let mut logits: Vec<f32> = (0..1_000).map(|id| (id * noise % 997) as f32 / 997.0).collect();
            for (id, logit) in likely {
                logits[id] = logit;
            }
            logits
        };
        let sampler = Sampler { temperature: 1.0, top_p: 1.0, top_k: Some(5) };
        let drawn = |noise: usize| -> Vec<u32> {
            let mut rng = ChaCha8Rng::seed_from_u64(5);
            (0..50).map(|_| sampler.draw(&logits(noise), &mut rng)).collect()
        };
        for noise in [3, 31, 313] {
            assert_eq!(drawn(noise), drawn(7), "{noise}");
        }
    }

    #[test]
    fn a_wide_nucleus_is_found_in_several_passes() {
        let mut candidates: Vec<Candidate> = (0..10_000).map(|id| (id, 1.0)).collect();
        keep_nucleus(&mut candidates, 5_000.0);
        assert_eq!(candidates.len(), 5_000);
    }
}
