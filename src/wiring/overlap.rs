//! What a run measures with, held against the files and the labels that it trains on.

use std::path::Path;

use fedward_actors::protocol::{ChatMessage, ChatRow};

use super::SetupError;
use crate::{
    data::{
        self, DataError, GoalParts, GoalSplit, GoalUse, Labels, MeasuredTexts, Overlap, OverlapPolicy,
        describe_repeats, overlap::TextIndex,
    },
    eval::{BenchName, RefusalPrompt, prompt_sets::PROMPT_SETS, prompts_of, prompts_of_own},
    scenario::{CaiSection, GuardSection, GuardSource, RowSource, Scenario},
};

/// What a run measures with, and what has been found to repeat it.
pub(super) struct Measured {
    texts: MeasuredTexts,
    /// Goals that the server trains on.
    server: TextIndex,
    policy: OverlapPolicy,
    overlaps: Vec<Overlap>,
    kept: Vec<String>,
}

impl Measured {
    /// Reads what the benchmarks of a scenario measure with, as far as there is anything to be held against it.
    ///
    /// # Errors
    ///
    /// [`DataError`] if the data of a benchmark cannot be read.
    pub(super) fn of(scenario: &Scenario, goals: &GoalParts, prompts: &[RefusalPrompt]) -> Result<Self, DataError> {
        let mut measured = Self {
            texts: MeasuredTexts::default(),
            server: TextIndex::new(SERVER.iter().flat_map(|of| goals.of(*of)).map(|goal| &goal.text)),
            policy: scenario.data.overlap,
            overlaps: Vec::new(),
            kept: Vec::new(),
        };
        let evaluation = &scenario.evaluation;
        if [BenchName::AdvBench, BenchName::Jailbreak].iter().any(|bench| evaluation.benches.contains(bench)) {
            measured.texts.add_prompts("AdvBench goals", prompts.iter().map(|prompt| &prompt.text));
        }
        if has_files(scenario) {
            let sets = PROMPT_SETS.iter().map(|set| (set.bench, set.title));
            for (bench, name) in PROMPTS.into_iter().chain(sets) {
                if evaluation.benches.contains(&bench) {
                    measured.texts.add_prompts(name, prompts_of(bench, &evaluation.data)?);
                }
            }
            for own in &evaluation.own {
                measured.texts.add_prompts("prompts of evaluation.own", prompts_of_own(own)?);
            }
        }
        // A split by cluster keeps them from the guard.
        let is_embedded = |guard: &GuardSection| matches!(guard.source, GuardSource::Embedded { .. });
        if evaluation.split == GoalSplit::Fixed && scenario.guard.as_ref().is_some_and(is_embedded) {
            measured.look_at_judged_responses()?;
        }
        Ok(measured)
    }

    /// Adds what was found elsewhere, in words.
    pub(super) fn add_finding(&mut self, finding: Option<String>) {
        self.kept.extend(finding);
    }

    /// Adds held-out rows.
    pub(super) fn add_rows(&mut self, rows: &[ChatRow]) {
        self.texts.add_rows(rows);
    }

    /// Leaves out of a file what repeats what is measured with, unless it is to be kept.
    ///
    /// # Errors
    ///
    /// [`DataError`] if nothing would be left.
    pub(super) fn sift<T>(
        &mut self,
        (key, path): (&'static str, &Path),
        items: Vec<T>,
        conversations: impl for<'i> Fn(&'i T) -> Vec<&'i [ChatMessage]>,
    ) -> Result<Vec<T>, DataError> {
        let (items, overlap) = self.texts.sift((key, path), self.policy, items, conversations)?;
        self.overlaps.extend(overlap);
        Ok(items)
    }

    /// As [`Measured::sift`], of rows that clients hold. Those that repeat goals of the server are counted.
    ///
    /// # Errors
    ///
    /// As [`Measured::sift`].
    pub(super) fn sift_clients(
        &mut self,
        key: &'static str,
        path: &Path,
        rows: Vec<ChatRow>,
    ) -> Result<Vec<ChatRow>, SetupError> {
        let rows = self.sift((key, path), rows, |row| vec![&row.messages])?;
        let asks_as_the_server =
            |row: &&ChatRow| row.prompt().iter().any(|turn| self.server.near(&turn.content).is_some());
        let shared = rows.iter().filter(asks_as_the_server).count();
        if shared > 0 {
            self.kept.push(format!(
                "overlap: {key}: {shared} rows of {} repeat AdvBench goals that the server trains on, and stay",
                path.display()
            ));
        }
        Ok(rows)
    }

    /// Says how many of the judged responses that guards are fitted on answer what is measured with. They are part of the
    /// catalogue and stay: without them every guard would be another.
    fn look_at_judged_responses(&mut self) -> Result<(), DataError> {
        let rows = data::load_labelled(Path::new(data::SCORED_RESPONSES), Labels::Told, None)?;
        let mut repeats = self.texts.repeats(&rows, |row| [row.row.messages.as_slice()]);
        // Of parts of the catalogue only equal prompts count, as between the parts of AdvBench.
        repeats.retain(|_, counts| {
            counts.near = 0;
            counts.same > 0
        });
        if !repeats.is_empty() {
            self.kept.push(format!(
                "overlap: the guard is fitted on some of {} judged responses, of which these answer what is measured with, \
                 and stay ({})",
                rows.len(),
                describe_repeats(&repeats)
            ));
        }
        Ok(())
    }

    pub(super) fn overlaps(&self) -> &[Overlap] {
        &self.overlaps
    }

    /// What was found in files, and in words what else stays.
    pub(super) fn into_findings(self) -> (Vec<Overlap>, Vec<String>) {
        (self.overlaps, self.kept)
    }
}

/// What the server trains on.
const SERVER: [GoalUse; 4] = [GoalUse::Alignment, GoalUse::Guard, GoalUse::RedPrompts, GoalUse::Judge];

const PROMPTS: [(BenchName, &str); 3] =
    [(BenchName::Hhh, "HHH items"), (BenchName::MtBench, "MT-Bench questions"), (BenchName::XsTest, "XSTest prompts")];

/// Whether anything is trained on that comes from a file, or was written for something else.
fn has_files(scenario: &Scenario) -> bool {
    let is_file = |source: &RowSource| {
        matches!(source, RowSource::File { .. } | RowSource::ClientFiles { .. } | RowSource::ScoredResponses)
    };
    let of_cai = |cai: &CaiSection| cai.prompts.is_some() || cai.data.is_some();
    is_file(&scenario.data.benign) || is_file(&scenario.data.harmful) || scenario.cai.as_ref().is_some_and(of_cai)
}
