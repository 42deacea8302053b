//! What was there before a run: the base model and the adapter that it starts from, measured once for all runs of a command.

use std::collections::HashMap;

use fedward_actors::{ports::Evaluation, protocol::RoundId};
use miette::IntoDiagnostic;
use serde_json::json;

use super::SingleRun;
use crate::{lora::initial_adapter, report::Summary, scenario::StartSection, wiring::Prepared};

/// What runs of one command share beside the workshop: evaluations of what they start from, by
/// [`SingleRun::evaluation_key`].
pub(in crate::cli) type StartEvaluations = HashMap<String, Evaluation>;

/// What the evaluation of the base model is known by, in place of an adapter's checksum.
const BASE: &str = "base";

/// What a run begins with.
#[derive(Clone, Copy)]
pub(super) enum Before {
    /// The base model without an adapter.
    Base,
    /// The adapter that round 1 starts from.
    Start,
}

impl SingleRun<'_> {
    /// The evaluation of what was there before the run, unless it is known; `None` if it was interrupted.
    pub(super) async fn evaluate_before(
        &self,
        prepared: &Prepared,
        before: Before,
        known: &mut StartEvaluations,
    ) -> miette::Result<Option<Evaluation>> {
        let starts_from_base = self.scenario.start == StartSection::Fresh;
        let (name, adapter, what) = match before {
            Before::Base if !starts_from_base => (
                BASE.to_owned(),
                // A fresh adapter adds nothing to the base.
                initial_adapter(&self.scenario.lora, prepared.model.base.config(), self.scenario.training_seed()),
                "the base model",
            ),
            Before::Base | Before::Start => (prepared.start.sha256(), prepared.start.clone(), "the starting adapter"),
        };
        let key = self.evaluation_key(&name)?;
        if let Some(evaluation) = known.get(&key) {
            return Ok(Some(evaluation.clone()));
        }
        let evaluation = self.evaluate(prepared, RoundId::START, &adapter, what).await?;
        known.extend(evaluation.clone().map(|evaluation| (key, evaluation)));
        Ok(evaluation)
    }

    /// What a summary knows of the base model and of the adapter that its run started from.
    pub(super) fn evaluations_of(&self, summary: &Summary, start_sha256: &str) -> miette::Result<StartEvaluations> {
        let start = Some(&summary.start_eval).filter(|start| !start.is_empty());
        let known = [(BASE, summary.base_eval.as_ref()), (start_sha256, start)];
        let known = known.into_iter().filter_map(|(name, evaluation)| Some((name, evaluation?)));
        known.map(|(name, evaluation)| Ok((self.evaluation_key(name)?, evaluation.clone()))).collect()
    }

    /// Names an evaluation: what of, and all that the benchmarks depend on, the judge among it.
    fn evaluation_key(&self, of: &str) -> miette::Result<String> {
        let mut scenario = serde_json::to_value(self.scenario).into_diagnostic()?;
        // Whether the base is measured, too, changes no measurement.
        scenario["evaluation"].as_object_mut().map(|evaluation| evaluation.remove("base"));
        let depends_on = ["seed", "seeds", "model", "lora", "data", "evaluation"].map(|section| &scenario[section]);
        Ok(json!([of, depends_on, serde_json::to_value(self.job.judge()).into_diagnostic()?]).to_string())
    }
}
