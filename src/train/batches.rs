//! In which order training sees its items.

use rand_chacha::{ChaCha8Rng, rand_core::Rng};

/// An endless walk through shuffled rows.
pub(super) struct Batches {
    order: Vec<usize>,
    next: usize,
    size: usize,
    rng: ChaCha8Rng,
}

impl Batches {
    pub(super) fn new(rows: usize, size: usize, rng: ChaCha8Rng) -> Self {
        Self { order: (0..rows).collect(), next: rows, size: size.min(rows), rng }
    }

    /// The next batch, as indices.
    pub(super) fn next_batch(&mut self) -> Vec<usize> {
        let mut batch = Vec::with_capacity(self.size);
        while batch.len() < self.size {
            if self.next == self.order.len() {
                self.shuffle();
            }
            let wanted = self.size - batch.len();
            let taken = wanted.min(self.order.len() - self.next);
            batch.extend_from_slice(&self.order[self.next..self.next + taken]);
            self.next += taken;
        }
        batch
    }

    /// Fisher and Yates.
    fn shuffle(&mut self) {
        for last in (1..self.order.len()).rev() {
            let other = below(&mut self.rng, last as u64 + 1) as usize;
            self.order.swap(last, other);
        }
        self.next = 0;
    }
}

/// A number below `bound` (Lemire's multiplication, whose bias is below 2⁻⁴⁰ for row counts).
fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;

    #[test]
    fn every_epoch_sees_every_row_once() {
        let mut batches = Batches::new(10, 4, ChaCha8Rng::seed_from_u64(1));
        let seen: Vec<usize> = (0..10).flat_map(|_| batches.next_batch()).collect();
        for epoch in seen.chunks(10) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(seen[..10], seen[10..20]);
    }

    #[test]
    fn few_rows_make_a_smaller_batch() {
        let mut batches = Batches::new(3, 16, ChaCha8Rng::seed_from_u64(1));
        assert_eq!(batches.next_batch().len(), 3);
    }
}
