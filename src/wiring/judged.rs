//! Responses that people have judged: which of them the guard is fitted on, which the judge of evaluations, and which clients hold.

use fedward_actors::{
    protocol::{ClientId, RoundId},
    streams::{Purpose, stream},
};
use rand::RngExt;

use crate::{
    data::{
        GoalParts, GoalSplit, GoalUse, LabelledRow,
        overlap::{NEAR_DUPLICATE, TextIndex, clusters},
    },
    scenario::{HeadRows, RowSource},
};

/// What judged responses are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JudgedUse {
    /// Rows of clients, where those are to be of this source.
    Clients,
    /// The guard is fitted on them.
    Guard,
    /// The judge of evaluations is.
    Judge,
}

impl From<HeadRows> for JudgedUse {
    fn from(rows: HeadRows) -> Self {
        match rows {
            HeadRows::Guard => Self::Guard,
            HeadRows::Judge => Self::Judge,
        }
    }
}

/// How judged responses are parted.
pub(super) struct JudgedParts {
    split: GoalSplit,
    seed: u64,
    /// Whether clients hold some: half of what the guard has otherwise. The judge is the same one way or the other.
    clients_hold_some: bool,
    /// What is measured with.
    measured: TextIndex,
    /// Goals of the judge.
    judge: TextIndex,
    /// Goals that anything else is trained on.
    others: TextIndex,
}

impl JudgedParts {
    /// For clients that hold harmful rows of `source`.
    pub(super) fn new<'p>(
        (split, seed): (GoalSplit, u64),
        goals: &GoalParts,
        prompts: impl IntoIterator<Item = &'p str>,
        source: &RowSource,
    ) -> Self {
        let texts = |uses: &[GoalUse]| TextIndex::new(uses.iter().flat_map(|of| goals.of(*of)).map(|goal| &goal.text));
        Self {
            split,
            seed,
            clients_hold_some: *source == RowSource::ScoredResponses,
            measured: TextIndex::new(prompts),
            judge: texts(&[GoalUse::Judge]),
            others: texts(&[GoalUse::Clients, GoalUse::Alignment, GoalUse::Guard, GoalUse::RedPrompts]),
        }
    }

    /// Prompts that nearly say the same go to one side by the toss of a coin, but for those that repeat goals: they go with the goals,
    /// and to nobody where those are measured.
    pub(super) fn of(&self, of: JudgedUse, rows: Vec<LabelledRow>) -> Vec<LabelledRow> {
        if self.split == GoalSplit::Fixed {
            return rows;
        }
        let asked = |row: &LabelledRow| row.row.messages.first().map_or(String::new(), |turn| turn.content.clone());
        let prompts: Vec<String> = rows.iter().map(asked).collect();
        let cluster = clusters(&prompts, NEAR_DUPLICATE);
        let is_in = |texts: &TextIndex, index: usize| texts.near(&prompts[index]).is_some();
        let is_wanted = |index: usize| {
            let mut coin = stream(self.seed, Purpose::Split, RoundId(1), Some(ClientId(cluster[index] as u32)));
            let drawn = match (coin.random_bool(0.5), self.clients_hold_some && coin.random_bool(0.5)) {
                (true, _) => JudgedUse::Judge,
                (false, true) => JudgedUse::Clients,
                (false, false) => JudgedUse::Guard,
            };
            let repeats_what_is_not_its_own = match of {
                JudgedUse::Judge => is_in(&self.others, index),
                JudgedUse::Guard | JudgedUse::Clients => is_in(&self.judge, index),
            };
            drawn == of && !repeats_what_is_not_its_own && !is_in(&self.measured, index)
        };
        rows.into_iter().enumerate().filter(|(index, _)| is_wanted(*index)).map(|(_, row)| row).collect()
    }
}

#[cfg(test)]
mod tests {
    use fedward_actors::protocol::ChatRow;

    use super::*;
    use crate::{
        data::{AdvBench, Goal},
        eval::harmful_prompts,
    };

    fn row(prompt: &str) -> LabelledRow {
        let row = ChatRow::single_turn(prompt, "Yes.");
        LabelledRow { row, is_unsafe: false, hazards: None, source: "judged".into() }
    }

    fn prompts(rows: &[LabelledRow]) -> Vec<&str> {
        rows.iter().map(|row| row.row.messages[0].content.as_str()).collect()
    }

    /// Forty goals that have nothing in common, each repeated by a judged response, and sixty other prompts in pairs that nearly say
    /// the same.
    #[test]
    fn guard_and_judge_share_nothing_and_know_nothing_that_is_measured() {
        let text = |n: usize| format!("bake cake{n} with icing{n} and fruit{n}");
        let goal = |n| Goal { text: text(n), target: String::new(), categories: Vec::new() };
        let advbench = AdvBench::new((0..40).map(goal).collect());
        let pairs = (0..30)
            .flat_map(|n| ["red", "blue"].map(|colour| format!("paint wall{n} door{n} roof{n} gate{n} in {colour}")));
        let rows: Vec<_> = (0..40).map(|n| text(n).to_uppercase()).chain(pairs).map(|prompt| row(&prompt)).collect();
        for seed in 0..10 {
            let goals = GoalParts::new(&advbench, GoalSplit::Cluster, seed);
            let measured = harmful_prompts(goals.of(GoalUse::Evaluation));
            let texts = || measured.iter().map(|prompt| prompt.text.as_str());
            let parts = |source| JudgedParts::new((GoalSplit::Cluster, seed), &goals, texts(), &source);
            let of = |source, of| parts(source).of(of, rows.clone());
            let [guard, judge] = [JudgedUse::Guard, JudgedUse::Judge].map(|uses| of(RowSource::AdvBench, uses));
            assert_eq!(of(RowSource::AdvBench, JudgedUse::Clients), []);
            // What clients hold comes out of the guard's part, and the judge stays the same.
            let [clients, less, same] = [JudgedUse::Clients, JudgedUse::Guard, JudgedUse::Judge]
                .map(|uses| of(RowSource::ScoredResponses, uses));
            assert_eq!(same, judge);
            assert!(clients.len() > 3 && less.len() > 3, "seed {seed}: {} and {}", clients.len(), less.len());
            assert_eq!(clients.len() + less.len(), guard.len());
            let held = TextIndex::new(prompts(&clients));
            assert!(prompts(&less).iter().all(|prompt| held.near(prompt).is_none()), "seed {seed}");
            let guards = TextIndex::new(prompts(&guard));
            assert!(guard.len() > 10 && judge.len() > 10, "seed {seed}: {} and {}", guard.len(), judge.len());
            assert!(prompts(&judge).iter().all(|prompt| guards.near(prompt).is_none()), "seed {seed}");
            let repeats = |of: &[LabelledRow], uses: &[GoalUse]| {
                let index = TextIndex::new(uses.iter().flat_map(|of| goals.of(*of)).map(|goal| &goal.text));
                prompts(of).iter().any(|prompt| index.near(prompt).is_some())
            };
            assert!(!repeats(&guard, &[GoalUse::Evaluation, GoalUse::Judge]), "seed {seed}");
            let others =
                [GoalUse::Evaluation, GoalUse::Clients, GoalUse::Alignment, GoalUse::Guard, GoalUse::RedPrompts];
            assert!(!repeats(&judge, &others), "seed {seed}");
        }
        let fixed = GoalParts::new(&advbench, GoalSplit::Fixed, 0);
        let parts = JudgedParts::new((GoalSplit::Fixed, 0), &fixed, [], &RowSource::AdvBench);
        let all = parts.of(JudgedUse::Judge, rows.clone());
        assert_eq!(all.len(), rows.len());
    }
}
