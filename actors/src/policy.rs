//! What clients show their guard of a row, and what becomes of rows that it calls unsafe: pure functions of rows and
//! verdicts.

use std::sync::Arc;

use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    ports::GuardModel,
    protocol::{ChatMessage, ChatRow, Role, RowLabel, TrainRows, Verdict},
    records::GuardCounts,
};

/// The guard that the server hands out to clients, and how they use it.
#[derive(Clone)]
pub struct RowGuard {
    /// Gives the verdicts.
    pub model: Arc<dyn GuardModel>,
    /// What of a row it is shown.
    pub assessed: Assessed,
    /// Which of a client's rows gets which verdict.
    pub verdicts: VerdictOrder,
    /// What becomes of a row that it calls unsafe.
    pub policy: GuardPolicy,
}

impl RowGuard {
    /// A guard that is shown whole rows, and whose unsafe rows are left out.
    pub fn new(model: Arc<dyn GuardModel>) -> Self {
        Self { model, assessed: Assessed::default(), verdicts: VerdictOrder::default(), policy: GuardPolicy::Drop }
    }
}

/// What of a row a guard is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Assessed {
    /// The turns before the response.
    Query,
    /// The response alone, behind a user's turn without text, since chat templates want one.
    Response,
    /// The whole conversation.
    #[default]
    Both,
}

/// Which of a client's rows gets which of its verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictOrder {
    /// Each row its own.
    #[default]
    Own,
    /// Any, by the seed: a control, which treats as many rows of each client as the guard does, and knows nothing of them.
    Shuffled,
}

/// What becomes of a row that the guard calls unsafe; all others are trained on as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardPolicy {
    /// It is left out.
    Drop,
    /// Its response gives way to one of these refusals, drawn by the seed (`FedDetox`, arXiv 2604.06833). It is left out
    /// if there are none.
    Replace(Arc<[String]>),
    /// Its loss counts `1 − P(unsafe)` times.
    Reweight,
}

/// What became of one row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate<'a> {
    Kept,
    Filtered,
    Replaced(&'a str),
    /// Its loss weight.
    Reweighted(f64),
}

impl Assessed {
    /// What a guard is shown of rows, one for one.
    pub(crate) fn shown(self, rows: &Arc<[ChatRow]>) -> Arc<[ChatRow]> {
        match self {
            Self::Both => Arc::clone(rows),
            Self::Query | Self::Response => rows.iter().map(|row| self.part(row)).collect(),
        }
    }

    /// What a guard is shown of one row; a row that lacks the part is shown whole.
    #[must_use]
    pub fn part(self, row: &ChatRow) -> ChatRow {
        let is_said = |message: &ChatMessage| message.role == Role::Assistant;
        // A response may be in pieces.
        let query =
            row.messages.iter().rposition(|message| !is_said(message)).map_or(&[][..], |end| &row.messages[..=end]);
        let messages = match (self, query, row.response()) {
            (Self::Query, [_, ..], _) => query.to_vec(),
            (Self::Response, _, Some(response)) => {
                vec![ChatMessage::new(Role::User, ""), ChatMessage::new(Role::Assistant, response)]
            }
            _ => row.messages.clone(),
        };
        ChatRow { messages, ..row.clone() }
    }
}

impl VerdictOrder {
    /// Returns the verdicts that count, one for one with the rows; `rng` shuffles them.
    pub(crate) fn arranged(self, mut verdicts: Vec<Verdict>, rng: &mut ChaCha8Rng) -> Vec<Verdict> {
        match self {
            Self::Own => {}
            Self::Shuffled => verdicts.shuffle(rng),
        }
        verdicts
    }
}

impl GuardPolicy {
    /// The rows to train on, and how the verdicts compare with the rows' labels. `rng` decides which refusal takes the
    /// place of which response, and is drawn from once a row, so that a row's refusal does not depend on other verdicts.
    ///
    /// # Errors
    ///
    /// In words, if there is not one verdict a row: nothing is then trained on (invariant S-1).
    pub(crate) fn apply(
        &self,
        rows: &Arc<[ChatRow]>,
        verdicts: &[Verdict],
        rng: &mut ChaCha8Rng,
    ) -> Result<(TrainRows, GuardCounts), String> {
        if verdicts.len() != rows.len() {
            return Err(format!("the guard gave {} verdicts for {} rows", verdicts.len(), rows.len()));
        }
        let fates: Vec<Fate<'_>> = verdicts.iter().map(|verdict| self.fate(verdict, rng)).collect();
        let mut counts = count(rows, &fates);
        counts.malformed = verdicts.iter().filter(|verdict| verdict.is_malformed).count() as u64;
        counts.cut = verdicts.iter().filter(|verdict| verdict.is_cut).count() as u64;
        let rows = match self {
            Self::Drop | Self::Replace(_) if counts.called_unsafe() > 0 => {
                TrainRows::new(rows.iter().zip(&fates).filter_map(|(row, fate)| trained_on(row, *fate)).collect())
            }
            Self::Drop | Self::Replace(_) => TrainRows::new(Arc::clone(rows)),
            Self::Reweight => TrainRows::weighted(Arc::clone(rows), |row| fates[row].weight()),
        };
        Ok((rows, counts))
    }

    fn fate(&self, verdict: &Verdict, rng: &mut ChaCha8Rng) -> Fate<'_> {
        let refusal = match self {
            Self::Replace(refusals) => refusals.choose(rng),
            Self::Drop | Self::Reweight => None,
        };
        match (self, refusal) {
            _ if !verdict.is_unsafe => Fate::Kept,
            (_, Some(refusal)) => Fate::Replaced(refusal),
            // `max` makes nothing of a probability that is no number.
            (Self::Reweight, None) => Fate::Reweighted((1.0 - f64::from(verdict.unsafe_probability)).max(0.0)),
            (Self::Drop | Self::Replace(_), None) => Fate::Filtered,
        }
    }
}

impl Fate<'_> {
    const fn weight(self) -> f64 {
        match self {
            Self::Kept | Self::Replaced(_) => 1.0,
            Self::Filtered => 0.0,
            Self::Reweighted(weight) => weight,
        }
    }
}

fn trained_on(row: &ChatRow, fate: Fate<'_>) -> Option<ChatRow> {
    match fate {
        Fate::Filtered => None,
        Fate::Kept | Fate::Reweighted(_) => Some(row.clone()),
        Fate::Replaced(refusal) => {
            let mut messages = row.prompt().to_vec();
            messages.push(ChatMessage::new(Role::Assistant, refusal));
            Some(ChatRow { messages, topic: row.topic.clone(), label: Some(RowLabel::Safe) })
        }
    }
}

/// What is counted where there is no guard: every row is kept.
pub(crate) fn count_unguarded(rows: &[ChatRow]) -> GuardCounts {
    count(rows, &vec![Fate::Kept; rows.len()])
}

fn count(rows: &[ChatRow], fates: &[Fate<'_>]) -> GuardCounts {
    let mut counts = GuardCounts::default();
    for (row, fate) in rows.iter().zip(fates) {
        let is = |label| u64::from(row.label == Some(label));
        match *fate {
            Fate::Kept => counts.kept += 1,
            Fate::Filtered => counts.filtered += 1,
            Fate::Replaced(_) => counts.replaced += 1,
            Fate::Reweighted(weight) => {
                counts.reweighted += 1;
                counts.reweighted_weight += weight;
                counts.reweighted_unsafe_weight += weight * is(RowLabel::Unsafe) as f64;
            }
        }
        match fate {
            Fate::Kept => counts.kept_unsafe += is(RowLabel::Unsafe),
            _ => counts.filtered_safe += is(RowLabel::Safe),
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng;

    use super::*;
    use RowLabel::{Safe, Unsafe};

    fn row(number: usize, label: Option<RowLabel>) -> ChatRow {
        ChatRow { label, ..ChatRow::single_turn(format!("question {number}"), "answer") }
    }

    fn rows() -> Arc<[ChatRow]> {
        [Some(Safe), Some(Unsafe), Some(Safe), Some(Unsafe), None]
            .into_iter()
            .enumerate()
            .map(|(n, l)| row(n, l))
            .collect()
    }

    fn verdicts(probabilities: [f32; 5]) -> Vec<Verdict> {
        probabilities.map(|probability: f32| Verdict::of_probability(probability.into(), 0.5)).into()
    }

    /// One unsafe row is missed, one safe row is taken for unsafe.
    const MISTAKEN: [f32; 5] = [0.25, 0.75, 0.5, 0.0, 1.0];

    fn apply(policy: &GuardPolicy, probabilities: [f32; 5]) -> (TrainRows, GuardCounts) {
        policy.apply(&rows(), &verdicts(probabilities), &mut ChaCha8Rng::seed_from_u64(5)).unwrap()
    }

    fn refusals() -> GuardPolicy {
        GuardPolicy::Replace((0..50).map(|number| format!("no, {number}")).collect())
    }

    #[test]
    fn shuffled_verdicts_treat_as_many_rows_whatever_the_rows_are() {
        let rows: Arc<[ChatRow]> =
            (0..200).map(|n| row(n, Some(if n % 4 == 0 { Unsafe } else { Safe }))).collect::<Vec<_>>().into();
        let verdicts: Vec<_> =
            (0..200).map(|n| Verdict::of_probability(if n % 4 == 0 { 0.9 } else { 0.1 }, 0.5)).collect();
        let counts = |order: VerdictOrder, seed| {
            let verdicts = order.arranged(verdicts.clone(), &mut ChaCha8Rng::seed_from_u64(seed));
            GuardPolicy::Drop.apply(&rows, &verdicts, &mut ChaCha8Rng::seed_from_u64(5)).unwrap()
        };
        let (own, found) = counts(VerdictOrder::Own, 1);
        assert_eq!((found.kept, found.filtered, found.kept_unsafe, found.filtered_safe), (150, 50, 0, 0));
        assert_eq!((&counts(VerdictOrder::Own, 2).0, counts(VerdictOrder::Own, 2).1), (&own, found));
        let (shuffled, found) = counts(VerdictOrder::Shuffled, 1);
        assert_eq!((found.kept, found.filtered), (150, 50));
        // A quarter of the rows is unsafe, and so is about a quarter of those that are left out: 12.5 ± 3.
        let dropped_unsafe = 50 - found.kept_unsafe;
        assert_eq!(found.filtered_safe + dropped_unsafe, 50);
        assert!((4..=22).contains(&dropped_unsafe), "{dropped_unsafe}");
        assert_eq!(counts(VerdictOrder::Shuffled, 1).0, shuffled);
        assert_ne!(counts(VerdictOrder::Shuffled, 2).0, shuffled);
    }

    #[test]
    fn s_1_only_rows_with_a_verdict_of_safe_are_kept() {
        let (kept, counts) = apply(&GuardPolicy::Drop, MISTAKEN);
        assert_eq!(kept, TrainRows::new([row(0, Some(Safe)), row(3, Some(Unsafe))].into()));
        let expected = GuardCounts { kept: 2, filtered: 3, kept_unsafe: 1, filtered_safe: 1, ..GuardCounts::default() };
        assert_eq!(counts, expected);
        let too_few = &verdicts(MISTAKEN)[1..];
        for policy in [GuardPolicy::Drop, refusals(), GuardPolicy::Reweight] {
            assert!(policy.apply(&rows(), too_few, &mut ChaCha8Rng::seed_from_u64(5)).is_err());
        }
    }

    #[test]
    fn s_1_rows_whose_answer_could_not_be_read_are_counted_under_every_policy_and_weigh_nothing() {
        let mut verdicts = verdicts(MISTAKEN);
        verdicts[4].is_malformed = true;
        for policy in [GuardPolicy::Drop, refusals(), GuardPolicy::Reweight] {
            let (rows, counts) = policy.apply(&rows(), &verdicts, &mut ChaCha8Rng::seed_from_u64(5)).unwrap();
            assert_eq!((counts.malformed, counts.called_unsafe()), (1, 3));
            assert!(rows.iter().all(|(left, weight)| *left != row(4, None) || weight < 1e-12));
        }
    }

    #[test]
    fn a_replaced_row_keeps_its_query_and_gets_a_refusal_that_other_verdicts_do_not_change() {
        let (replaced, counts) = apply(&refusals(), MISTAKEN);
        let expected = GuardCounts { kept: 2, replaced: 3, kept_unsafe: 1, filtered_safe: 1, ..GuardCounts::default() };
        assert_eq!(counts, expected);
        let found = replaced.rows();
        assert_eq!((&found[0], &found[3]), (&rows()[0], &rows()[3]));
        for number in [1, 2, 4] {
            assert_eq!(found[number].prompt(), rows()[number].prompt());
            assert!(found[number].response().unwrap().starts_with("no, "));
            assert_eq!(found[number].label, Some(Safe));
        }
        let responses = |rows: &TrainRows| -> Vec<String> {
            [1, 4].map(|row: usize| rows.rows()[row].response().unwrap().to_owned()).into()
        };
        let (with_fewer, _) = apply(&refusals(), [0.0, 0.75, 0.0, 0.0, 1.0]);
        assert_eq!(responses(&replaced), responses(&with_fewer));
        assert_ne!(responses(&replaced)[0], responses(&replaced)[1], "fifty refusals, and always the same");
        // Without a refusal to give, a row is left out.
        assert_eq!(apply(&GuardPolicy::Replace(Arc::new([])), MISTAKEN), apply(&GuardPolicy::Drop, MISTAKEN));
    }

    #[test]
    fn a_row_without_a_response_is_answered_by_a_refusal() {
        let mut silent = row(0, Some(Unsafe));
        silent.messages.pop();
        let replaced = trained_on(&silent, Fate::Replaced("no")).unwrap();
        assert_eq!(replaced, ChatRow { label: Some(Safe), ..ChatRow::single_turn("question 0", "no") });
    }

    #[test]
    fn a_reweighted_row_weighs_what_the_guard_leaves_of_it() {
        let (reweighted, counts) = apply(&GuardPolicy::Reweight, MISTAKEN);
        assert_eq!(reweighted.rows(), &*rows());
        let weights: Vec<f64> = reweighted.iter().map(|(_, weight)| weight).collect();
        assert_eq!(weights, [1.0, 0.25, 0.5, 1.0, 0.0]);
        assert_eq!(reweighted.weight_sum().to_bits(), 2.75_f64.to_bits());
        let expected = GuardCounts {
            kept: 2,
            reweighted: 3,
            kept_unsafe: 1,
            filtered_safe: 1,
            reweighted_weight: 0.75,
            reweighted_unsafe_weight: 0.25,
            ..GuardCounts::default()
        };
        assert_eq!(counts, expected);
    }

    #[test]
    fn s_1_nothing_is_left_of_a_row_whose_probability_is_no_number() {
        let verdict = Verdict::of_probability(f64::NAN, 0.5);
        assert_eq!(GuardPolicy::Reweight.fate(&verdict, &mut ChaCha8Rng::seed_from_u64(5)), Fate::Reweighted(0.0));
    }

    #[test]
    fn rows_that_all_are_safe_are_what_they_were_under_every_policy() {
        for policy in [GuardPolicy::Drop, refusals(), GuardPolicy::Reweight] {
            let (kept, counts) = apply(&policy, [0.25; 5]);
            assert!(kept.iter().zip(rows().iter()).all(|((kept, weight), row)| kept == row && weight >= 1.0));
            assert_eq!(counts, count_unguarded(&rows()));
            assert_eq!(counts, GuardCounts { kept: 5, kept_unsafe: 2, ..GuardCounts::default() });
        }
    }

    #[test]
    fn a_guard_is_shown_the_part_that_it_is_to_assess() {
        let system = ChatMessage::new(Role::System, "be brief");
        let mut long = row(0, Some(Unsafe));
        long.messages.insert(0, system.clone());
        let mut silent = row(1, None);
        silent.messages.pop();
        let rows: Arc<[ChatRow]> = [long.clone(), silent.clone()].into();
        let user = |text: &str| ChatMessage::new(Role::User, text);
        let shown =
            |assessed: Assessed| assessed.shown(&rows).iter().map(|row| row.messages.clone()).collect::<Vec<_>>();
        assert_eq!(shown(Assessed::Both), [long.messages, silent.messages.clone()]);
        assert_eq!(shown(Assessed::Query), [vec![system, user("question 0")], silent.messages.clone()]);
        let response = vec![user(""), ChatMessage::new(Role::Assistant, "answer")];
        assert_eq!(shown(Assessed::Response), [response, silent.messages]);
        assert!(Arc::ptr_eq(&Assessed::Both.shown(&rows), &rows));
        let alone = ChatRow { messages: vec![ChatMessage::new(Role::Assistant, "answer")], ..row(0, None) };
        assert_eq!(*Assessed::Query.shown(&[alone.clone()].into()), [alone]);
    }
}
