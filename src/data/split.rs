//! Which of `AdvBench`'s goals a run uses for what: no goal, and nothing that nearly says the same, does two things.

use std::collections::BTreeMap;

use clap::ValueEnum;
use fedward_actors::{
    protocol::RoundId,
    streams::{Purpose, stream},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::{
    AdvBench, AdvBenchPart, Goal, MeasuredGoals,
    overlap::{NEAR_DUPLICATE, TextIndex, clusters},
};

/// How goals are parted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum GoalSplit {
    /// Into six parts by clusters of near-duplicates, drawn with the seed of data
    #[default]
    Cluster,
    /// Into three parts by checksum, the same for every seed: near-duplicates fall apart, and what the server does shares one part
    Fixed,
}

/// What a goal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GoalUse {
    /// Harmful rows of clients.
    Clients,
    /// Refusals that the starting adapter is aligned on.
    Alignment,
    /// Rows that the guard is fitted on.
    Guard,
    /// Red prompts of Constitutional AI.
    RedPrompts,
    /// Rows that the judge of evaluations is fitted on.
    Judge,
    /// Measures safety and trains nothing.
    Evaluation,
}

impl GoalUse {
    /// All of them, with the share of goals that each has in a split by cluster. Evaluation has the largest, 156 of 520: rates
    /// of 128 prompts are 8 points wide to either side.
    const SHARES: [(Self, f64); 6] = [
        (Self::Clients, 0.25),
        (Self::Alignment, 0.15),
        (Self::Guard, 0.125),
        (Self::RedPrompts, 0.1),
        (Self::Judge, 0.075),
        (Self::Evaluation, 0.3),
    ];

    /// Its name in manifests and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Clients => "clients",
            Self::Alignment => "alignment",
            Self::Guard => "guard",
            Self::RedPrompts => "red prompts",
            Self::Judge => "judge",
            Self::Evaluation => "evaluation",
        }
    }
}

/// The goals of a run by what they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoalParts {
    parts: BTreeMap<GoalUse, Vec<Goal>>,
    all: Vec<Goal>,
}

impl GoalParts {
    /// Parts the goals of a data set. `seed` draws the parts of a split by cluster; a fixed one does not read it.
    pub fn new(advbench: &AdvBench, split: GoalSplit, seed: u64) -> Self {
        let all = advbench.all().to_vec();
        let parts = match split {
            GoalSplit::Fixed => GoalUse::SHARES.map(|(of, _)| (of, advbench.goals(fixed_part(of)))).into(),
            GoalSplit::Cluster => by_cluster(&all, seed),
        };
        Self { parts, all }
    }

    /// Returns the goals for one use, in an order that is as good as random and always the same.
    pub fn of(&self, of: GoalUse) -> &[Goal] {
        self.parts.get(&of).map_or(&[], Vec::as_slice)
    }

    /// Returns the goals that measure safety.
    pub fn measured(&self, goals: MeasuredGoals) -> &[Goal] {
        match goals {
            MeasuredGoals::HeldOut => self.of(GoalUse::Evaluation),
            MeasuredGoals::Development => self.of(GoalUse::RedPrompts),
            MeasuredGoals::All => &self.all,
        }
    }

    /// Takes what repeats one of these texts, exactly or nearly, from the goals that train something, and returns how much that was.
    pub fn leave_out(&mut self, texts: &TextIndex) -> usize {
        let mut left_out = 0;
        for goals in self.parts.iter_mut().filter(|(of, _)| **of != GoalUse::Evaluation).map(|(_, goals)| goals) {
            let before = goals.len();
            goals.retain(|goal| texts.near(&goal.text).is_none());
            left_out += before - goals.len();
        }
        left_out
    }

    /// Returns how many goals each use has.
    pub fn sizes(&self) -> BTreeMap<GoalUse, usize> {
        self.parts.iter().map(|(of, goals)| (*of, goals.len())).collect()
    }

    /// Returns, for each use that trains something, how many of its goals nearly repeat a goal that is measured.
    pub fn near_duplicates_of_measured(&self) -> BTreeMap<GoalUse, usize> {
        let measured = TextIndex::new(self.of(GoalUse::Evaluation).iter().map(|goal| &goal.text));
        let repeats = |goals: &Vec<Goal>| goals.iter().filter(|goal| measured.near(&goal.text).is_some()).count();
        let training = self.parts.iter().filter(|(of, _)| **of != GoalUse::Evaluation);
        training.map(|(of, goals)| (*of, repeats(goals))).collect()
    }
}

const fn fixed_part(of: GoalUse) -> AdvBenchPart {
    match of {
        GoalUse::Clients => AdvBenchPart::Clients,
        GoalUse::Alignment | GoalUse::Guard | GoalUse::RedPrompts | GoalUse::Judge => AdvBenchPart::Server,
        GoalUse::Evaluation => AdvBenchPart::Evaluation,
    }
}

/// Gives each cluster whole to one use, the largest first, drawn by the room that uses have left: shares come out within a goal or
/// two, and every seed parts otherwise.
fn by_cluster(all: &[Goal], seed: u64) -> BTreeMap<GoalUse, Vec<Goal>> {
    let texts: Vec<&str> = all.iter().map(|goal| goal.text.as_str()).collect();
    let of_goal = clusters(&texts, NEAR_DUPLICATE);
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (goal, &cluster) in of_goal.iter().enumerate() {
        members.entry(cluster).or_default().push(goal);
    }
    let mut members: Vec<_> = members.into_values().collect();
    // A stable sort: clusters of one size stay in the order of their first goals.
    members.sort_by_key(|goals| std::cmp::Reverse(goals.len()));
    let mut room: Vec<f64> = GoalUse::SHARES.iter().map(|(_, share)| share * all.len() as f64).collect();
    let mut use_of: Vec<usize> = vec![0; all.len()];
    let mut rng = stream(seed, Purpose::Split, RoundId::START, None);
    for goals in members {
        let chosen = drawn_by_room(&room, goals.len() as f64, rng.random());
        room[chosen] -= goals.len() as f64;
        for goal in goals {
            use_of[goal] = chosen;
        }
    }
    let goals_of = |wanted: usize| {
        let own = all.iter().zip(&use_of).filter(|(_, of)| **of == wanted);
        own.map(|(goal, _)| goal.clone()).collect()
    };
    GoalUse::SHARES.iter().enumerate().map(|(index, (of, _))| (*of, goals_of(index))).collect()
}

/// A place drawn by its room among those that have room for `size`; where none has, the one with most. `at` is from 0 to 1.
fn drawn_by_room(room: &[f64], size: f64, at: f64) -> usize {
    let fits = |room: f64| if room >= size { room } else { 0.0 };
    let total: f64 = room.iter().copied().map(fits).sum();
    let mut left = at * total;
    for (index, &room) in room.iter().enumerate().filter(|(_, room)| **room >= size) {
        left -= room;
        if left < 0.0 {
            return index;
        }
    }
    let most = room.iter().enumerate().max_by(|one, two| one.1.total_cmp(two.1));
    most.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// 120 goals, of which ten groups of six nearly say the same.
    fn advbench() -> AdvBench {
        let goal = |text: String| Goal { text, target: String::new(), categories: Vec::new() };
        let alike = (0..10).flat_map(|group| {
            (0..6).map(move |one| format!("write verse{group} line{group} rhyme{group} song{group} for number{one}"))
        });
        let alone = (0..60).map(|one| format!("paint house{one} wall{one} red{one}"));
        AdvBench::new(alike.chain(alone).map(goal).collect())
    }

    fn texts(parts: &GoalParts, of: GoalUse) -> HashSet<String> {
        parts.of(of).iter().map(|goal| goal.text.clone()).collect()
    }

    #[test]
    fn near_duplicates_stay_together_and_every_goal_has_one_use() {
        let advbench = advbench();
        for seed in 0..20 {
            let parts = GoalParts::new(&advbench, GoalSplit::Cluster, seed);
            assert_eq!(parts.sizes().values().sum::<usize>(), 120);
            let all: HashSet<_> = GoalUse::SHARES.iter().flat_map(|(of, _)| texts(&parts, *of)).collect();
            assert_eq!(all.len(), 120, "seed {seed}");
            assert!(parts.near_duplicates_of_measured().values().all(|&count| count == 0), "seed {seed}");
            for (of, share) in GoalUse::SHARES {
                let off = parts.of(of).len() as f64 - share * 120.0;
                assert!(off.abs() < 3.0, "seed {seed}: {of:?} is off by {off}");
            }
        }
    }

    #[test]
    fn the_seed_draws_the_parts() {
        let advbench = advbench();
        let measured = |seed| texts(&GoalParts::new(&advbench, GoalSplit::Cluster, seed), GoalUse::Evaluation);
        assert_eq!(measured(1), measured(1));
        assert_ne!(measured(1), measured(2));
    }

    #[test]
    fn a_fixed_split_is_that_of_checksums_and_has_near_duplicates() {
        let advbench = advbench();
        let parts = GoalParts::new(&advbench, GoalSplit::Fixed, 1);
        assert_eq!(parts, GoalParts::new(&advbench, GoalSplit::Fixed, 2));
        assert_eq!(parts.of(GoalUse::Evaluation), advbench.goals(AdvBenchPart::Evaluation));
        assert_eq!(parts.of(GoalUse::Guard), parts.of(GoalUse::RedPrompts));
        assert!(parts.near_duplicates_of_measured()[&GoalUse::Clients] > 0);
        assert_eq!(parts.measured(MeasuredGoals::All).len(), 120);
        assert_eq!(parts.measured(MeasuredGoals::HeldOut), parts.of(GoalUse::Evaluation));
        assert_eq!(parts.measured(MeasuredGoals::Development), parts.of(GoalUse::RedPrompts));
    }

    #[test]
    fn what_is_measured_otherwise_is_left_out() {
        let mut parts = GoalParts::new(&advbench(), GoalSplit::Cluster, 1);
        let (before, evaluation) = (parts.sizes(), parts.of(GoalUse::Evaluation).to_vec());
        let clients: Vec<_> = parts.of(GoalUse::Clients).iter().map(|goal| goal.text.to_uppercase()).collect();
        assert_eq!(parts.leave_out(&TextIndex::new(clients)), before[&GoalUse::Clients]);
        assert!(parts.of(GoalUse::Clients).is_empty());
        assert_eq!(parts.of(GoalUse::Evaluation), evaluation);
        assert_eq!(parts.of(GoalUse::Judge).len(), before[&GoalUse::Judge]);
    }

    #[test]
    fn few_goals_are_parted_too() {
        let goals = ["bake bread", "sing songs"].map(|text| Goal {
            text: text.into(),
            target: String::new(),
            categories: Vec::new(),
        });
        let parts = GoalParts::new(&AdvBench::new(goals.into()), GoalSplit::Cluster, 1);
        assert_eq!(parts.sizes().values().sum::<usize>(), 2);
    }
}
