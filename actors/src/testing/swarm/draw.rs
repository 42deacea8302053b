//! Federations drawn from seeds.
//!
//! Each setting has a random stream of its own, keyed by its name, so that a new setting changes no other.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng, SeedableRng},
};
use sha2::{Digest, Sha256};

use super::super::{Conduct, FakeBenchmarks, FakeRealigner, FakeRows, FakeScreen, Rehearsal, layout_of_rank};
use crate::{
    devices::DeviceProfile,
    faults::{ClientFault, FaultPlan, ServerFault},
    federation::Schedule,
    gather::{Gather, Late},
    policy::GuardPolicy,
    protocol::{ClientId, ClientRanks, RoundId},
    sampler::CohortSampler,
    streams::unit,
};

/// Federation drawn from a seed.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The seed, also that of the run.
    pub seed: u64,
    /// Clients in the federation.
    pub clients: u32,
    /// Clients selected per round.
    pub cohort: u32,
    /// Rounds.
    pub rounds: u32,
    /// Minimum number of updates for an aggregation.
    pub quorum: u32,
    /// Compute slots of the first run and of the second.
    pub slots: [usize; 2],
    /// Maximum number of attempts per request.
    pub max_attempts: u32,
    /// Sampler of the cohorts.
    pub sampler: CohortSampler,
    /// Devices of the clients, if time is simulated.
    pub devices: Option<DeviceProfile>,
    /// When a round stops waiting for clients.
    pub gather: Gather,
    /// Ranks of the clients, if they differ.
    pub ranks: Option<Vec<usize>>,
    /// Injected faults.
    pub faults: FaultPlan,
    /// The federated algorithm.
    pub algorithm: Algorithm,
    /// Failures of the strategy, by round.
    pub strategy: Mishap,
    /// Failures of training, by client and round.
    pub training: Mishap,
    /// Policy for unsafe rows, if there is a guard.
    pub guard: Option<GuardPolicy>,
    /// Failures of the guard, by client.
    pub assessing: Mishap,
    /// Norm that the update screen clips deltas to, and its behavior, if there is a screen.
    pub screen: Option<(f64, Conduct)>,
    /// Share of malicious clients and behavior of their attack, if there are any.
    pub adversary: Option<(f64, Conduct)>,
    /// Schedule and behavior of realignment.
    pub align: (Schedule, Conduct),
    /// Schedule and behavior of evaluation.
    pub evaluate: (Schedule, Conduct),
    /// Interruption of the third run.
    pub interruption: Interruption,
}

/// Federated algorithm, by where it keeps state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Momentum on the server.
    Momentum,
    /// Control variates on the server and its clients.
    Memory,
}

/// Failures of a share of the work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mishap {
    /// The share, from 0 to 1.
    pub share: f64,
    /// The failure.
    pub conduct: Conduct,
    /// Number of consecutive calls of the same work that fail.
    pub calls: u32,
}

/// When a run is interrupted, and where it is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interruption {
    /// Index of the event at which it is cancelled.
    pub event: u32,
    /// Round whose checkpoint fails, if any.
    pub fails_in: Option<RoundId>,
    /// Duration of each checkpoint.
    pub checkpoint_takes: Duration,
    /// Number of stored rounds that are dropped before it is resumed.
    pub rounds_back: u32,
}

/// Number of slots and order of replies of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    First,
    Second,
}

/// Random stream of one setting.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hash = Sha256::new();
    hash.update(b"fedward swarm 1");
    hash.update(seed.to_le_bytes());
    hash.update(name.as_bytes());
    ChaCha8Rng::from_seed(hash.finalize().into())
}

fn among<T: Clone>(seed: u64, name: &str, choices: &[T]) -> T {
    let drawn = stream(seed, name).next_u64() as usize % choices.len();
    choices[drawn].clone()
}

fn between(seed: u64, name: &str, from: u32, to: u32) -> u32 {
    from + stream(seed, name).next_u32() % (to - from + 1)
}

impl Mishap {
    fn of(seed: u64, name: &str, conducts: &[Conduct]) -> Self {
        Self {
            share: among(seed, &format!("{name} share"), &[0.0, 0.0, 0.0, 0.1, 0.4]),
            conduct: among(seed, &format!("{name} conduct"), conducts),
            calls: among(seed, &format!("{name} calls"), &[1, 2, u32::MAX]),
        }
    }

    /// Returns the behavior of the piece of work called `name` in its n-th call, from 1.
    pub(super) fn befalls(self, seed: u64, name: &str, call: u32) -> Conduct {
        let is_hit = self.share > 0.0 && call <= self.calls && unit(&mut stream(seed, name)) < self.share;
        if is_hit { self.conduct } else { Conduct::Honest }
    }
}

impl Drawn {
    /// Draws the federation of a seed.
    pub fn of(seed: u64) -> Self {
        let clients = between(seed, "clients", 1, 12);
        let cohort = between(seed, "cohort", 1, clients.min(6));
        let quorum = among(seed, "quorum", &[1, 1, cohort.div_ceil(2), cohort]);
        let rounds = between(seed, "rounds", 1, 6);
        let devices = among(seed, "devices", &[false, true, true]).then(|| drawn_devices(seed));
        let schedules = [Schedule::Never, Schedule::Every(NonZeroU32::MIN), Schedule::LastRound];
        let conducts = [Conduct::Honest, Conduct::Honest, Conduct::Fails, Conduct::Panics, Conduct::NotFinite];
        let judging = [Conduct::Honest, Conduct::Honest, Conduct::Honest, Conduct::Fails, Conduct::WrongShape];
        let attacks = [Conduct::Honest, Conduct::Honest, Conduct::Fails];
        let training = [Conduct::Fails, Conduct::Panics, Conduct::Panics, Conduct::NotFinite, Conduct::WrongShape];
        let assessing = [Conduct::Fails, Conduct::NotFinite, Conduct::WrongShape, Conduct::Panics];
        Self {
            seed,
            clients,
            cohort,
            rounds,
            quorum,
            slots: [between(seed, "slots", 1, 4) as usize, between(seed, "slots again", 1, 6) as usize],
            max_attempts: between(seed, "attempts", 1, 3),
            sampler: among(seed, "sampler", &[CohortSampler::Seeded, CohortSampler::Seeded, CohortSampler::OpenFedLlm]),
            devices,
            gather: devices.map_or(Gather::BARRIER, |_| drawn_gather(seed, quorum, cohort)),
            ranks: among(seed, "ranks", &[None, None, Some(vec![1, 4, 3]), Some(vec![2])]),
            faults: drawn_faults(seed, rounds),
            algorithm: among(seed, "algorithm", &[Algorithm::Momentum, Algorithm::Memory]),
            strategy: Mishap::of(seed, "strategy", &[Conduct::Fails, Conduct::Panics, Conduct::WrongShape]),
            training: Mishap::of(seed, "training", &training),
            guard: among(
                seed,
                "guard",
                &[None, Some(GuardPolicy::Drop), Some(GuardPolicy::Reweight), Some(refusals())],
            ),
            assessing: Mishap::of(seed, "assessing", &assessing),
            screen: among(seed, "screen", &[false, true])
                .then(|| (among(seed, "bound", &[0.1, 0.7, 5.0]), among(seed, "screening", &judging))),
            adversary: among(seed, "adversary", &[false, false, true])
                .then(|| (among(seed, "malicious", &[0.2, 0.6]), among(seed, "attack", &attacks))),
            align: (among(seed, "align", &schedules), among(seed, "aligning", &conducts)),
            evaluate: (among(seed, "evaluate", &schedules), among(seed, "evaluating", &conducts)),
            interruption: Interruption {
                event: between(seed, "interruption", 0, rounds * (2 * cohort + 5)),
                fails_in: among(seed, "store fails", &[false, false, true])
                    .then(|| RoundId(between(seed, "store fails in", 1, rounds))),
                checkpoint_takes: Duration::from_micros(among(seed, "checkpoints take", &[0, 0, 300])),
                rounds_back: among(seed, "rounds back", &[0, 0, 1, 2]),
            },
        }
    }

    /// Returns the federation as fakes.
    pub(super) fn rehearsal(&self, pace: Pace) -> Rehearsal {
        let mut rehearsal = Rehearsal::new(self.clients, self.cohort, self.rounds);
        let config = &mut rehearsal.config;
        (config.seed, config.attack_seed) = (self.seed, self.seed ^ 1);
        (config.quorum, config.slots, config.max_attempts) =
            (self.quorum, self.slots[pace as usize], self.max_attempts);
        (config.sampler, config.devices, config.gather) = (self.sampler, self.devices, self.gather);
        config.ranks = self.ranks.clone().and_then(ClientRanks::new);
        (config.faults, config.align, config.evaluate) = (self.faults.clone(), self.align.0, self.evaluate.0);
        if self.ranks.is_some() {
            rehearsal.layout = layout_of_rank(4);
        }
        rehearsal.rows = Arc::new(FakeRows::new(among(self.seed, "rows", &[3, 8]), false));
        rehearsal.realigner = (self.align.0 != Schedule::Never).then(|| Arc::new(FakeRealigner(self.align.1)));
        rehearsal.benchmarks = (self.evaluate.0 != Schedule::Never).then(|| Arc::new(FakeBenchmarks(self.evaluate.1)));
        rehearsal.screen = self.screen.map(|(bound, conduct)| {
            let refused =
                (0..self.clients).map(ClientId).filter(|client| self.is_in(0.1, "refused", *client)).collect();
            Arc::new(FakeScreen { bound, refused, conduct })
        });
        let (seed, training, strategy) = (self.seed, self.training, self.strategy);
        let rehearsal = rehearsal.with_trainer(move |client, round, call| {
            training.befalls(seed, &format!("training of {client} in {round}"), call)
        });
        let befalls = move |round: RoundId| strategy.befalls(seed, &format!("strategy in {round}"), 1);
        match self.algorithm {
            Algorithm::Momentum => rehearsal.with_strategy(move |round, _| befalls(round)),
            Algorithm::Memory => rehearsal.with_memory(befalls),
        }
    }

    /// Returns whether a client belongs to a share of all clients.
    pub(super) fn is_in(&self, share: f64, of: &str, client: ClientId) -> bool {
        unit(&mut stream(self.seed, &format!("{of}: {client}"))) < share
    }

    /// Returns the delay of a client's task, which determines the order of replies.
    pub(super) fn delay(&self, pace: Pace, client: ClientId, round: RoundId) -> Duration {
        let drawn = stream(self.seed, &format!("delay of {client} in {round}, {pace:?}")).next_u32();
        Duration::from_micros(u64::from(drawn % 4) * 60)
    }
}

fn refusals() -> GuardPolicy {
    GuardPolicy::Replace(["no", "never"].map(str::to_owned).into())
}

fn drawn_devices(seed: u64) -> DeviceProfile {
    DeviceProfile {
        tokens_per_second: 10.0,
        down_bytes_per_second: 100.0,
        up_bytes_per_second: 100.0,
        spread: among(seed, "spread", &[0.0, 0.5, 1.5]),
        jitter: among(seed, "jitter", &[0.0, 0.3]),
        latency_seconds: among(seed, "latency", &[0.0, 0.1]),
    }
}

fn drawn_gather(seed: u64, quorum: u32, cohort: u32) -> Gather {
    let first = among(seed, "first", &[false, true, true]).then(|| between(seed, "how many first", quorum, cohort));
    Gather {
        first,
        deadline_seconds: among(seed, "deadline", &[None, None, Some(4.0), Some(12.0)]),
        late: among(
            seed,
            "late",
            &[
                Late::Discard,
                Late::Count { exponent: 0.0 },
                Late::Count { exponent: 0.5 },
                Late::Count { exponent: 1.0 },
            ],
        ),
    }
}

fn drawn_faults(seed: u64, rounds: u32) -> FaultPlan {
    if among(seed, "faults", &[true, true, false]) {
        return FaultPlan::default();
    }
    let share = |name: &str| among(seed, &format!("share of {name}"), &[0.0, 0.0, 0.0, 0.2, 0.5]);
    let clients = ClientFault::ALL.map(|fault| (fault, share(fault.name())));
    let server = ServerFault::ALL.map(|fault| (fault, share(fault.name())));
    let struck = |shares: &BTreeMap<ServerFault, f64>| shares.values().any(|share| *share > 0.0);
    let server: BTreeMap<ServerFault, f64> = server.into_iter().filter(|(_, share)| *share > 0.0).collect();
    let only_some = struck(&server) && among(seed, "rounds with faults", &[false, true]);
    FaultPlan {
        rounds: only_some.then(|| (1..=rounds).step_by(2).map(RoundId).collect()),
        clients: clients.into_iter().filter(|(_, share)| *share > 0.0).collect(),
        server,
    }
}
