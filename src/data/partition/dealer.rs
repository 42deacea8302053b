//! Deals rows to clients, topic by topic.

use std::collections::{BTreeMap, HashSet};

use fedward_actors::protocol::ChatRow;
use rand::{Rng, RngExt, seq::SliceRandom};

use super::PartitionScheme;

/// Deals rows from one shuffled deck a topic; once all decks are empty, all are filled again.
pub(super) struct Dealer<R> {
    full: Vec<Vec<u32>>,
    left: Vec<Vec<u32>>,
    scheme: PartitionScheme,
    rng: R,
}

impl<R: Rng> Dealer<R> {
    pub(super) fn new(rows: &[ChatRow], scheme: PartitionScheme, rng: R) -> Self {
        let mut decks: BTreeMap<Option<&str>, Vec<u32>> = BTreeMap::new();
        for (index, row) in (0..).zip(rows) {
            let topic = match scheme {
                PartitionScheme::Dirichlet { .. } => row.topic.as_deref(),
                PartitionScheme::Iid | PartitionScheme::Value | PartitionScheme::ClientFiles => None,
            };
            decks.entry(topic).or_default().push(index);
        }
        let mut dealer = Self { full: decks.into_values().collect(), left: Vec::new(), scheme, rng };
        dealer.refill();
        dealer
    }

    fn refill(&mut self) {
        self.left.clone_from(&self.full);
        for deck in &mut self.left {
            deck.shuffle(&mut self.rng);
        }
    }

    /// Deals `n` different rows to one client, whose own stream is `rng`. There must be `n` rows in all.
    pub(super) fn deal(&mut self, n: usize, rng: &mut impl Rng) -> Vec<u32> {
        let shares = match self.scheme {
            PartitionScheme::Dirichlet { alpha } => dirichlet(alpha, self.full.len(), rng),
            PartitionScheme::Iid | PartitionScheme::Value | PartitionScheme::ClientFiles => vec![1.0; self.full.len()],
        };
        let mut rows = Vec::with_capacity(n);
        let mut held = HashSet::with_capacity(n);
        let mut aside = Vec::new();
        while rows.len() < n {
            let Some(topic) = self.draw_topic(&shares, rng) else {
                self.refill();
                continue;
            };
            match self.left[topic].pop() {
                Some(row) if held.insert(row) => rows.push(row),
                // Dealt to this client before the decks were filled again: the next client may have it.
                Some(row) => aside.push((topic, row)),
                None => {}
            }
        }
        for (topic, row) in aside {
            self.left[topic].push(row);
        }
        rows
    }

    /// Draws a topic that has rows left, by its share; `None` if none has.
    fn draw_topic(&self, shares: &[f64], rng: &mut impl Rng) -> Option<usize> {
        let open: Vec<usize> = (0..self.left.len()).filter(|&topic| !self.left[topic].is_empty()).collect();
        if open.len() < 2 {
            return open.first().copied();
        }
        let total: f64 = open.iter().map(|&topic| shares[topic]).sum();
        if total <= 0.0 {
            return Some(open[rng.random_range(0..open.len())]);
        }
        let mut point = rng.random::<f64>() * total;
        for &topic in &open {
            point -= shares[topic];
            if point < 0.0 {
                return Some(topic);
            }
        }
        open.last().copied()
    }
}

/// A draw from a symmetric Dirichlet distribution of `n` shares, in logarithms: with a small `alpha` most gamma variates
/// are too small for a float.
pub(super) fn dirichlet(alpha: f64, n: usize, rng: &mut impl Rng) -> Vec<f64> {
    let logs: Vec<f64> = (0..n).map(|_| ln_gamma_variate(alpha, rng)).collect();
    let max = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = logs.iter().map(|log| (log - max).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / sum).collect()
}

/// The logarithm of a gamma variate of shape `alpha` and scale 1 (Marsaglia and Tsang, 2000).
fn ln_gamma_variate(alpha: f64, rng: &mut impl Rng) -> f64 {
    if alpha < 1.0 {
        let uniform = 1.0 - rng.random::<f64>();
        return ln_gamma_variate(alpha + 1.0, rng) + uniform.ln() / alpha;
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let normal = normal_variate(rng);
        let v = (1.0 + c * normal).powi(3);
        let uniform = 1.0 - rng.random::<f64>();
        if v > 0.0 && uniform.ln() < 0.5 * normal * normal + d - d * v + d * v.ln() {
            return (d * v).ln();
        }
    }
}

/// A standard normal variate (Box and Muller, 1958).
fn normal_variate(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
