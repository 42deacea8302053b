//! Which clients take part in a round.

use std::collections::HashSet;

use rand_chacha::{ChaCha8Rng, rand_core::Rng};
use serde::{Deserialize, Serialize};

use crate::{
    protocol::{ClientId, RoundId},
    streams::{Purpose, stream},
};

/// How a round's cohort is drawn: without replacement, every client equally likely.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CohortSampler {
    /// From the run's seed.
    Seeded,
    /// As OpenFedLLM draws it, whatever the run's seed: Python's `random.seed(round)` with rounds from 0, then
    /// `sorted(random.sample(range(clients), cohort))`. For comparisons with its published runs alone.
    OpenFedLlm,
    /// The same one client in every round, for training without a federation.
    Only(ClientId),
}

impl CohortSampler {
    /// The cohort of a round, in order of id: `cohort` of the clients `0..clients`, or all of them if there are fewer. Of one client
    /// alone it is that client, if there is such a one.
    pub fn cohort(self, seed: u64, round: RoundId, clients: u32, cohort: u32) -> Vec<ClientId> {
        self.fill_up(&[], seed, round, clients, cohort)
    }

    /// Those who make a cohort of `busy`, whose work is under way (in order of id): in order of id, each of the others equally
    /// likely.
    pub(crate) fn fill_up(
        self,
        busy: &[ClientId],
        seed: u64,
        round: RoundId,
        clients: u32,
        cohort: u32,
    ) -> Vec<ClientId> {
        let count = cohort.min(clients);
        let drawn = match self {
            Self::Seeded => sample(&mut SeededBits(stream(seed, Purpose::Selection, round, None)), clients, count),
            Self::OpenFedLlm => sample(&mut Mt19937::seeded(round.0.saturating_sub(1)), clients, count),
            Self::Only(ClientId(client)) => (client < clients).then_some(client).into_iter().collect(),
        };
        // A whole cohort is drawn, so enough are left whoever of them is busy. Taken in the order drawn: by id, the last
        // clients would be left out more often.
        let free = drawn.into_iter().map(ClientId).filter(|client| busy.binary_search(client).is_err());
        let mut filling: Vec<ClientId> = free.take((count as usize).saturating_sub(busy.len())).collect();
        filling.sort_unstable();
        filling
    }
}

/// A source of random bits.
trait Bits {
    /// `k` random bits, 1 ≤ k ≤ 32, as a number.
    fn bits(&mut self, k: u32) -> u32;
}

struct SeededBits(ChaCha8Rng);

impl Bits for SeededBits {
    fn bits(&mut self, k: u32) -> u32 {
        self.0.next_u32() >> (32 - k)
    }
}

/// `count` different numbers below `population`, in the order drawn: `random.sample` of CPython 3.
fn sample(random: &mut impl Bits, population: u32, count: u32) -> Vec<u32> {
    if u64::from(population) <= pool_limit(count) {
        let mut pool: Vec<u32> = (0..population).collect();
        (0..count).map(|drawn| pool.swap_remove(below(random, population - drawn) as usize)).collect()
    } else {
        let mut seen = HashSet::with_capacity(count as usize);
        std::iter::repeat_with(|| below(random, population))
            .filter(|&number| seen.insert(number))
            .take(count as usize)
            .collect()
    }
}

/// The largest population that CPython copies into a list: 21, and with more than five draws 4^⌈log₄(3·count)⌉ more.
fn pool_limit(count: u32) -> u64 {
    let set_of_draws = if count > 5 {
        std::iter::successors(Some(1_u64), |power| Some(power * 4)).find(|&power| power >= 3 * u64::from(count))
    } else {
        None
    };
    21 + set_of_draws.unwrap_or(0)
}

/// A number below `bound`, by rejection: `_randbelow_with_getrandbits` of CPython 3.
fn below(random: &mut impl Bits, bound: u32) -> u32 {
    let k = u32::BITS - bound.leading_zeros();
    loop {
        let number = random.bits(k);
        if number < bound {
            return number;
        }
    }
}

const STATE_WORDS: usize = 624;
const MIDDLE_WORD: usize = 397;

/// The Mersenne Twister (Matsumoto and Nishimura, 1998), seeded as CPython seeds it from an int.
struct Mt19937 {
    state: [u32; STATE_WORDS],
    next: usize,
}

impl Mt19937 {
    /// `init_by_array` with the one word of `seed` as its key.
    fn seeded(seed: u32) -> Self {
        let mut state = [0_u32; STATE_WORDS];
        state[0] = 19_650_218;
        for i in 1..STATE_WORDS {
            state[i] = mixed(state[i - 1]).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        let mut i = 1;
        // With a key of one word the key index that the original adds is always 0.
        for _ in 0..STATE_WORDS {
            state[i] = (state[i] ^ mixed(state[i - 1]).wrapping_mul(1_664_525)).wrapping_add(seed);
            i = next_word(&mut state, i);
        }
        for _ in 1..STATE_WORDS {
            state[i] = (state[i] ^ mixed(state[i - 1]).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i = next_word(&mut state, i);
        }
        state[0] = 0x8000_0000;
        Self { state, next: STATE_WORDS }
    }

    fn twist(&mut self) {
        for i in 0..STATE_WORDS {
            let joined = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % STATE_WORDS] & 0x7fff_ffff);
            let magic = if joined & 1 == 0 { 0 } else { 0x9908_b0df };
            self.state[i] = self.state[(i + MIDDLE_WORD) % STATE_WORDS] ^ (joined >> 1) ^ magic;
        }
        self.next = 0;
    }
}

impl Bits for Mt19937 {
    fn bits(&mut self, k: u32) -> u32 {
        if self.next == STATE_WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^= word >> 18;
        word >> (32 - k)
    }
}

const fn mixed(word: u32) -> u32 {
    word ^ (word >> 30)
}

/// The index after `i`; past the end the last word is carried to the front, and counting goes on from 1.
const fn next_word(state: &mut [u32; STATE_WORDS], i: usize) -> usize {
    if i + 1 == STATE_WORDS {
        state[0] = state[STATE_WORDS - 1];
        1
    } else {
        i + 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open_fed_llm(round_from_zero: u32, clients: u32, cohort: u32) -> Vec<u32> {
        let round = RoundId(round_from_zero + 1);
        CohortSampler::OpenFedLlm.cohort(99, round, clients, cohort).into_iter().map(|client| client.0).collect()
    }

    /// `random.seed(s); [random.getrandbits(32) for _ in range(4)]`, CPython 3.11.7.
    #[test]
    fn the_twister_gives_cpythons_words() {
        for (seed, words) in [
            (0, [3_626_764_237, 1_654_615_998, 3_255_389_356, 3_823_568_514]),
            (1, [577_090_037, 2_444_712_010, 3_639_700_191, 3_445_702_192]),
            (100, [625_644_691, 1_973_661_107, 1_953_896_601, 4_087_596_401]),
        ] {
            let mut twister = Mt19937::seeded(seed);
            assert_eq!([(); 4].map(|()| twister.bits(32)), words, "seed {seed}");
        }
    }

    /// The cohorts of rui-ye/OpenFedLLM at 14c6af2.
    #[test]
    fn open_fed_llm_cohorts_are_reproduced() {
        let of_five = [[1, 8, 12, 13, 15], [2, 3, 4, 8, 18], [1, 2, 5, 11, 18], [4, 7, 11, 17, 18]];
        let of_two = [[12, 13], [4, 18], [1, 2], [7, 18]];
        for round in 0..4 {
            assert_eq!(open_fed_llm(round, 20, 5), of_five[round as usize]);
            assert_eq!(open_fed_llm(round, 20, 2), of_two[round as usize]);
        }
    }

    /// `random.seed(r); s = sorted(random.sample(range(n), k)); s[:3], sum(i * x for i, x in enumerate(s))`,
    /// CPython 3.11.7: both sides of the choice between list and set.
    #[test]
    fn other_sizes_agree_with_cpython() {
        for (round, clients, cohort, first, checksum) in [
            (7, 1000, 100, [38, 47, 49], 3_041_134),
            (6, 1100, 100, [0, 25, 34], 3_756_414),
            (12_345, 747, 10, [10, 165, 198], 18_547),
            (9, 22, 6, [4, 5, 8], 205),
            (2, 21, 5, [1, 2, 5], 121),
            (8, 85, 6, [5, 16, 24], 579),
            (8, 86, 6, [5, 16, 24], 579),
            (5, 10_000, 3, [4185, 5874, 8684], 23_242),
        ] {
            let drawn = open_fed_llm(round, clients, cohort);
            let sum: u64 = drawn.iter().zip(0..).map(|(&id, i)| u64::from(id) * i).sum();
            assert_eq!((&drawn[..3], sum), (&first[..], checksum), "round {round}, {cohort} of {clients}");
        }
        assert_eq!(open_fed_llm(11, 1, 1), [0]);
    }

    #[test]
    fn whoever_is_not_busy_is_equally_likely_to_fill_a_cohort_up() {
        let busy = [ClientId(2), ClientId(7)];
        let mut times = [0_u32; 12];
        for round in 1..=4_000 {
            let filling = CohortSampler::Seeded.fill_up(&busy, 5, RoundId(round), 12, 6);
            assert_eq!(filling.len(), 4);
            assert!(filling.is_sorted() && filling.iter().all(|client| !busy.contains(client)));
            for client in &filling {
                times[client.0 as usize] += 1;
            }
        }
        // 4 of 10 are 1,600 of 4,000 rounds, give or take five standard deviations of 31.
        let of_others = (0..12).filter(|client| !busy.contains(&ClientId(*client as u32))).map(|client| times[client]);
        assert!(of_others.clone().all(|times| times.abs_diff(1_600) < 155), "{:?}", of_others.collect::<Vec<_>>());
    }

    #[test]
    fn one_client_alone_is_drawn_whatever_the_seed_and_round() {
        for (seed, round) in [(1, 1), (1, 2), (2, 1)] {
            let cohort =
                |clients, cohort| CohortSampler::Only(ClientId(3)).cohort(seed, RoundId(round), clients, cohort);
            assert_eq!(cohort(8, 1), [ClientId(3)]);
            assert_eq!(cohort(3, 1), []);
        }
    }

    #[test]
    fn every_client_is_drawn_equally_often() {
        let mut drawn = [0_u32; 10];
        for round in 1..=3000 {
            for client in CohortSampler::Seeded.cohort(5, RoundId(round), 10, 3) {
                drawn[client.0 as usize] += 1;
            }
        }
        // 900 expected, standard deviation about 25.
        assert!(drawn.iter().all(|&times| (800..1000).contains(&times)), "{drawn:?}");
    }

    proptest! {
        #[test]
        fn a_cohort_is_sorted_without_repeats_and_in_range(
            seed: u64, round in 1_u32.., clients in 1_u32..3000, cohort in 1_u32..200,
        ) {
            for sampler in [CohortSampler::Seeded, CohortSampler::OpenFedLlm] {
                let drawn = sampler.cohort(seed, RoundId(round), clients, cohort);
                prop_assert_eq!(drawn.len() as u32, cohort.min(clients));
                prop_assert!(drawn.is_sorted_by(|a, b| a < b));
                prop_assert!(drawn.iter().all(|client| client.0 < clients));
                prop_assert_eq!(&drawn, &sampler.cohort(seed, RoundId(round), clients, cohort));
            }
        }
    }
}
