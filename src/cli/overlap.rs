//! What `fedward eval` measures with, held against rows that other commands train on.

use std::collections::BTreeMap;

use fedward_actors::protocol::ChatMessage;

use crate::{
    data::{AdvBench, GoalParts, GoalSplit, GoalUse, MeasuredTexts, Repeats, catalogue, describe_repeats},
    eval::{BenchName, prompts_of},
    report::Console,
};

/// Says how many rows repeat what `fedward eval` measures with where nobody names other data, another split
/// or seed, and returns the counts. What has
/// not been fetched measures nothing here.
pub(super) fn tell_of_overlap<'i, T: 'i, C: IntoIterator<Item = &'i [ChatMessage]>>(
    rows: &'i [T],
    conversations: impl Fn(&'i T) -> C,
    console: &Console,
) -> BTreeMap<&'static str, Repeats> {
    let repeats = measured_by_eval().repeats(rows, conversations);
    if !repeats.is_empty() {
        let count: usize = repeats.values().map(|repeats| repeats.same + repeats.near).sum();
        console.line(&format!(
            "overlap: {count} of the {} rows repeat what fedward eval measures with ({}), and are trained on: a measurement of \
             the result with these is not held out",
            rows.len(),
            describe_repeats(&repeats)
        ));
    }
    repeats
}

fn measured_by_eval() -> MeasuredTexts {
    let mut texts = MeasuredTexts::default();
    if let Ok(advbench) = catalogue::fetched("advbench").and_then(|path| AdvBench::load(&path)) {
        let parts = GoalParts::new(&advbench, GoalSplit::default(), 0);
        texts.add_prompts("held-out AdvBench goals", parts.of(GoalUse::Evaluation).iter().map(|goal| &goal.text));
    }
    for (bench, name) in [(BenchName::Hhh, "HHH items"), (BenchName::MtBench, "MT-Bench questions")] {
        if let Ok(prompts) = prompts_of(bench, &BTreeMap::new()) {
            texts.add_prompts(name, prompts);
        }
    }
    texts
}
