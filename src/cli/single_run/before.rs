//! What was there before a run: the base model and the adapter that it starts from, measured once for all runs of a command.

use std::collections::HashMap;

use fedward_actors::{ports::Evaluation, protocol::RoundId};
use miette::IntoDiagnostic;
use serde_json::{Value, json};

use super::SingleRun;
use crate::{lora::initial_adapter, report::Summary, scenario::StartSection, wiring::Prepared};

/// What runs of one command share beside the workshop: evaluations of what they start from, by
/// [`SingleRun::evaluation_key`].
pub(in crate::cli) type StartEvaluations = HashMap<String, Evaluation>;

/// What the evaluation of the base model is known by, in place of an adapter's checksum.
const BASE: &str = "base";

/// The places in a manifest of what evaluations depend on beside the scenario.
const COMPUTED_WITH: [&str; 9] = [
    "/versions",
    "/code",
    "/instructions",
    "/resumed",
    "/device",
    "/precision",
    "/checksums/model_sha256",
    "/checksums/measured_sha256",
    "/judge/version",
];

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
        let key = self.evaluation_key(&name, &self.manifest(prepared)?)?;
        if let Some(evaluation) = known.get(&key) {
            return Ok(Some(evaluation.clone()));
        }
        let evaluation = self.evaluate(prepared, RoundId::START, &adapter, what).await?;
        known.extend(evaluation.clone().map(|evaluation| (key, evaluation)));
        Ok(evaluation)
    }

    /// What a run knows, by its summary, of the base model and of the adapter that it started from; `manifest` says what it was
    /// computed with.
    pub(super) fn evaluations_of(&self, summary: &Summary, manifest: &Value) -> miette::Result<StartEvaluations> {
        let start_sha256 = manifest["checksums"]["start_adapter_sha256"].as_str().unwrap_or_default();
        let start = Some(&summary.start_eval).filter(|start| !start.is_empty());
        let known = [(BASE, summary.base_eval.as_ref()), (start_sha256, start)];
        let known = known.into_iter().filter_map(|(name, evaluation)| Some((name, evaluation?)));
        known.map(|(name, evaluation)| Ok((self.evaluation_key(name, manifest)?, evaluation.clone()))).collect()
    }

    /// Names an evaluation: what of, and all that the benchmarks depend on, the judge among it.
    fn evaluation_key(&self, of: &str, manifest: &Value) -> miette::Result<String> {
        let mut scenario = serde_json::to_value(self.scenario).into_diagnostic()?;
        // Whether the base is measured, too, changes no measurement.
        scenario["evaluation"].as_object_mut().map(|evaluation| evaluation.remove("base"));
        let depends_on = ["seed", "seeds", "model", "lora", "data", "evaluation"].map(|section| &scenario[section]);
        Ok(json!([of, depends_on, computed_with(manifest)]).to_string())
    }
}

/// What of a manifest evaluations depend on. A run that has been gone on with by other code, or on another processor, has
/// evaluations of both, which no other run's are.
fn computed_with(manifest: &Value) -> Vec<Value> {
    COMPUTED_WITH.iter().map(|pointer| manifest.pointer(pointer).cloned().unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_of_other_code_model_processor_data_or_judge_are_others() {
        let manifest = json!({
            "started_unix_seconds": 1,
            "versions": {"libtorch": "2"},
            "code": "a",
            "instructions": {"libtorch": "AVX2"},
            "device": "Cpu",
            "precision": "F32",
            "checksums": {"model_sha256": "m", "measured_sha256": "p", "client_rows_sha256": "r"},
            "judge": {"version": "j"},
        });
        let mut later = manifest.clone();
        later["started_unix_seconds"] = json!(2);
        later["checksums"]["client_rows_sha256"] = json!("s");
        assert_eq!(computed_with(&later), computed_with(&manifest));
        for (pointer, value) in [
            ("/code", json!("b")),
            ("/instructions/libtorch", json!("AVX512")),
            ("/device", json!("Cuda(0)")),
            ("/checksums/model_sha256", json!("n")),
            ("/checksums/measured_sha256", Value::Null),
            ("/judge/version", json!("k")),
        ] {
            let mut other = manifest.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            assert_ne!(computed_with(&other), computed_with(&manifest), "{pointer}");
        }
        let mut resumed = manifest.clone();
        resumed["resumed"] = json!([{"after_round": 1, "code": "b", "instructions": {}}]);
        assert_ne!(computed_with(&resumed), computed_with(&manifest));
    }
}
