//! A control of Constitutional AI: fine-tuning on fixed refusals of the same red prompts, for as many steps.

use fedward_actors::{
    cancel::CancelFlag,
    ports::{PortResult, Realignment, RealignmentReport},
    protocol::{ChatMessage, ChatRow, GlobalModel, Role, RoundId},
};
use serde::{Deserialize, Serialize};

use super::{
    CaiGenerator,
    generator::Work,
    screening::{for_preferences, reply_row},
};
use crate::data::{refusal_of, refusals::REFUSALS};

/// How the global adapter is realigned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By Constitutional AI: answers, critiques, revisions, training on revisions and preferences.
    #[default]
    Constitutional,
    /// By supervised fine-tuning on fixed refusals, a control: the same red prompts in the same rounds, as many examples and as many
    /// optimizer steps as Constitutional AI plans, but no answer, critique, revision, preference or guard.
    Refusals,
}

impl CaiGenerator {
    /// Fine-tunes on refusals of this round's red prompts.
    pub(super) fn refuse(
        &self,
        round: RoundId,
        global: &GlobalModel,
        prompts: &[Vec<ChatMessage>],
        cancel: &CancelFlag,
    ) -> PortResult<Realignment> {
        let refusals = self.refusals(round, prompts);
        let red_prompts = refusals.len();
        let mut done = Realignment {
            adapter: global.trainable().clone(),
            report: RealignmentReport { red_prompts: red_prompts as u64, ..RealignmentReport::default() },
            warnings: Vec::new(),
        };
        if red_prompts > 0 {
            let work = Work { round, frozen: global.frozen(), cancel };
            self.add_tuning(work, refusals, Some(self.planned_steps(red_prompts)), &mut done)?;
        }
        Ok(done)
    }

    /// This round's red prompts, each refused in the same words whenever it is drawn.
    pub(super) fn refusals(&self, round: RoundId, prompts: &[Vec<ChatMessage>]) -> Vec<ChatRow> {
        let refused = |prompt: Vec<ChatMessage>| {
            let request = prompt.iter().rfind(|message| message.role == Role::User);
            let request = request.map_or("", |message| message.content.as_str());
            let refusal = refusal_of(&REFUSALS, request, self.settings.seed);
            reply_row(&prompt, refusal.to_owned())
        };
        self.drawn(round, prompts).into_iter().map(refused).collect()
    }

    /// Steps of both trainings of Constitutional AI where every answer to so many red prompts is revised and no pair left out.
    fn planned_steps(&self, red_prompts: usize) -> usize {
        let settings = &self.settings;
        let pairs = for_preferences(red_prompts, settings.sft_share);
        let answers = red_prompts - pairs;
        let steps = |items: usize, configured: usize, batch_size| match items {
            0 => 0,
            items => settings.effort.steps(configured, items, batch_size),
        };
        let rows = if answers > 0 { answers + self.benign_rows_beside(answers) } else { 0 };
        steps(rows, settings.sft.steps, settings.sft.batch_size)
            + steps(pairs, settings.dpo.steps, settings.dpo.batch_size)
    }
}
